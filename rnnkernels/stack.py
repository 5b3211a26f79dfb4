"""Layers on top of layers: the one place that knows how torch.nn orders weights, joins directions and draws dropout.

`stack` is parametrised by the function that runs one layer, an op or its reference.
"""

from functools import cache
from operator import itemgetter

import torch


def stack(layer, x, states, weights, has_biases, num_layers, dropout, train, bidirectional, batch_first, batch_sizes, lengths, reset,
          reset_states, *extra, last_layer=None):
    """Runs `num_layers` layers; returns (out, h_n) or (out, h_n, c_n), and what `last_layer` returns beyond these.

    layer    lstm, gru or rnn of `ops` or `reference`
    x        [T, B, I], or [B, T, I] when batch_first (ignored for packed data), or packed [N, I] with batch_sizes
    states   (h0,) or (h0, c0), each [L*D, B, *]
    weights  flat, in the order of torch.nn's _flat_weights
    reset    as x without its last dimension, and reset_states for each of the states: None, or [L*D, B, *]
    extra    what `layer` takes last: `recompute`, or `nonlinearity` for an RNN
    last_layer  runs the last one, if not `layer`: `lstm_with_cells`

    Between layers dropout acts on the [T, B, D*P] (or packed) output of a whole layer, by torch.dropout: from the same
    seed the masks are torch.nn's.
    """
    directions, last_layer = 2 if bidirectional else 1, last_layer or layer
    per_layer = len(weights) // num_layers
    arguments_of = _arguments.__wrapped__ if torch.compiler.is_compiling() else _arguments  # Dynamo warns of a cache
    arguments = arguments_of(per_layer, has_biases, bidirectional, len(states) == 2)
    batch_first = batch_first and batch_sizes is None
    reset_states = reset_states[: len(states)]
    if batch_first:
        x = x.transpose(0, 1)
        reset = None if reset is None else reset.transpose(0, 1)
    if num_layers == 1:
        x, *last = last_layer(x, *states, *arguments((*weights, None)), *reset_states, batch_sizes, lengths, reset, *extra)
    else:
        ends = []
        for l in range(num_layers):
            if l > 0 and train and dropout:
                x = torch.dropout(x, dropout, True)
            own, own_reset = ([s if s is None else s[l * directions : (l + 1) * directions] for s in ss] for ss in (states, reset_states))
            w = arguments((*weights[l * per_layer : (l + 1) * per_layer], None))
            run = layer if l < num_layers - 1 else last_layer
            x, *last = run(x, *own, *w, *own_reset, batch_sizes, lengths, reset, *extra)
            ends.append(last)
        last = [*map(torch.cat, zip(*ends)), *last[len(states) :]]  # the final states, which all layers have, are zipped
    if batch_first:
        x, last = x.transpose(0, 1), [*last[: len(states)], *(s.transpose(0, 1) for s in last[len(states) :])]
    return x, *last


@cache
def _arguments(n, has_biases, bidirectional, with_w_hr):
    """A function from the n flat weights of one layer, followed by None, to the op's weight arguments.

    Which weight goes where is settled once per layout: a call at T=1 lasts a few microseconds.
    """
    absent = n
    n_direction = n // 2 if bidirectional else n
    slots = []
    for first in (0, n_direction) if bidirectional else (0,):
        w = list(range(first, first + n_direction))  # w_ih w_hh [b_ih b_hh] [w_hr]
        w_hr = [w.pop() if n_direction % 2 else absent] if with_w_hr else []  # only the LSTM's op has the argument
        slots += w + ([] if has_biases else [absent, absent]) + w_hr
    if not bidirectional:
        slots += [absent] * len(slots)
    return itemgetter(*slots)
