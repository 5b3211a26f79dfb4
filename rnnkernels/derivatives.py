"""Which of an op's arguments and results have derivatives, and the derivative of its *_bwd op.

It recomputes the reference from x, the initial states and the weights, never from the saved gates, and differentiates that
twice; it is again differentiable, so any order works, and in torch.func too.
"""

import torch

from . import reference

# Number of arguments with a gradient (x, states, weights, reset states) that stand first in each op's schema.
DIFFERENTIABLE = {"lstm": 15, "lstm_with_cells": 15, "gru": 11, "gru_reset_before": 11, "rnn": 11}
# Of these x and the initial states, which come first.
DATA = {"lstm": 3, "lstm_with_cells": 3, "gru": 2, "gru_reset_before": 2, "rnn": 2}
# Number of results: out, a final state for each initial one, and c_out.
RESULTS = {"lstm": 3, "lstm_with_cells": 4, "gru": 2, "gru_reset_before": 2, "rnn": 2}
# Which of the arguments are weights: those of the forward direction, then as many of the reverse one.
WEIGHTS = {"lstm": slice(3, 13), "lstm_with_cells": slice(3, 13), "gru": slice(2, 10), "gru_reset_before": slice(2, 10), "rnn": slice(2, 10)}


def second_derivative(name, needs, cotangents, arguments, d_gradients):
    """The derivative of a *_bwd op: from the gradients of its results to those of its cotangents and x, states, weights.

    arguments     the layer's, all of them
    d_gradients   for each of its gradients, or None; of those without their bit in `needs` there is nothing to follow
    """
    n, layer = DIFFERENTIABLE[name], getattr(reference, name)
    inputs, rest = arguments[:n], arguments[n:]
    wanted = [k for k in range(n) if needs >> k & 1 and inputs[k] is not None and d_gradients[k] is not None]
    used = [k for k, c in enumerate(cotangents) if c is not None]
    given = [k for k in range(n) if inputs[k] is not None]
    if not wanted or not used:
        return [None] * (len(cotangents) + n)

    def results(*given_inputs):
        every = layer(*_scatter(given_inputs, given, n), *rest)
        return tuple(every[k] for k in used)

    def gradients(cotangents, inputs):
        _, pullback = torch.func.vjp(results, *inputs)
        return tuple(d for k, d in zip(given, pullback(cotangents)) if k in wanted)

    with torch.autocast(inputs[0].device.type, enabled=False):
        _, pullback = torch.func.vjp(gradients, tuple(cotangents[k] for k in used), tuple(inputs[k] for k in given))
        d_cotangents, d_inputs = pullback(tuple(d_gradients[k] for k in wanted))
    return [*_scatter(d_cotangents, used, len(cotangents)), *_scatter(d_inputs, given, n)]


def _scatter(tensors, indices, n):
    """n places, None but for those of the indices."""
    places = [None] * n
    for k, t in zip(indices, tensors):
        places[k] = t
    return places
