"""Layers on top of layers: the one place that knows how torch.nn orders weights, joins directions and draws dropout.

`stack` is parametrised by the function that runs one layer, an op or its reference.
"""

import torch


def stack(layer, x, states, weights, has_biases=True, num_layers=1, dropout=0.0, train=False, bidirectional=False,
          batch_first=False, batch_sizes=None, lengths=None, *extra):
    """Runs `num_layers` layers; returns (out, h_n) or (out, h_n, c_n).

    layer    lstm, gru or rnn of `ops` or `reference`
    x        [T, B, I], or [B, T, I] when batch_first (ignored for packed data), or packed [N, I] with batch_sizes
    states   (h0,) or (h0, c0), each [L*D, B, *]
    weights  flat, in the order of torch.nn's _flat_weights
    extra    what `layer` takes last: `relu` for an RNN

    Between layers dropout acts on the [T, B, D*P] (or packed) output of a whole layer, by torch.dropout: from the same
    seed the masks are torch.nn's.
    """
    directions = 2 if bidirectional else 1
    per_layer = len(weights) // num_layers
    with_w_hr = len(states) == 2  # only the LSTM's op has the argument
    batch_first = batch_first and batch_sizes is None
    if batch_first:
        x = x.transpose(0, 1)
    last = []
    for l in range(num_layers):
        if l > 0 and train and dropout:
            x = torch.dropout(x, dropout, True)
        at = l * directions
        own = states if num_layers == 1 else [s[at : at + directions] for s in states]
        w = _layer_arguments(weights[l * per_layer : (l + 1) * per_layer], has_biases, bidirectional, with_w_hr)
        x, *ends = layer(x, *own, *w, batch_sizes, lengths, None, *extra)
        last.append(ends)
    if batch_first:
        x = x.transpose(0, 1)
    return x, *(last[0] if num_layers == 1 else map(torch.cat, zip(*last)))


def _layer_arguments(weights, has_biases, bidirectional, with_w_hr):
    """Flat weights of one layer -> the op's weight arguments: None for what is absent."""
    per_direction = len(weights) // 2 if bidirectional else len(weights)
    arguments = []
    for at in range(0, len(weights), per_direction):
        w = list(weights[at : at + per_direction])
        w_hr = [w.pop() if len(w) % 2 else None] if with_w_hr else []  # w_ih w_hh [b_ih b_hh] [w_hr]
        arguments += w + ([] if has_biases else [None, None]) + w_hr
    return arguments if bidirectional else arguments + [None] * len(arguments)
