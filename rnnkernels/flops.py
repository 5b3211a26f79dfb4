"""torch.utils.flop_counter: the multiplications and additions in the ops' matrix products, two for each pair.

The counter sees shapes only: padded steps count, with `lengths` too.
"""

from math import prod

import torch

from .derivatives import DATA, DIFFERENTIABLE, RESULTS, WEIGHTS
from .ensemble import model_dims
from .when_imported import when_imported


def _products(name, arguments):
    """For each direction the sizes of its products over all tokens and models: x W_ih, h W_hh and, with a projection, h W_hr."""
    arguments = arguments[: DIFFERENTIABLE[name] + 4]
    dims = model_dims(name, arguments, rank=len)
    models = next((a[0] for a, d in zip(arguments, dims) if d is not None), 1)
    weights = arguments[WEIGHTS[name]]
    tokens, half = models * prod(arguments[0][:-1] if dims[0] is None else arguments[0][1:-1]), len(weights) // 2
    for w_ih, w_hh, _, _, *w_hr in (weights[:half], weights[half:]):
        if w_ih is not None:
            yield [2 * tokens * prod(w[-2:]) if w is not None else 0 for w in (w_ih, w_hh, *w_hr)]


def _forward(name):
    return lambda *arguments, out_shape=None: sum(map(sum, _products(name, arguments)))


def _backward(name):
    def count(*arguments, out_shape=None):
        arguments, needs = arguments[RESULTS[name] :], arguments[-1]
        n_data, total = DATA[name], 0
        stride = (WEIGHTS[name].stop - n_data) // 2
        for direction, (by_w_ih, *recurrent) in enumerate(_products(name, arguments)):
            wanted = needs >> n_data + direction * stride
            total += sum(recurrent) + (needs & 1) * by_w_ih  # through the recurrence, and to x
            total += (wanted & 1) * by_w_ih + sum((wanted >> k & 1) * size for k, size in zip((1, 4), recurrent))
        recomputes = name != "rnn" and arguments[DIFFERENTIABLE[name] + 3]
        return total + (sum(map(sum, _products(name, arguments))) if recomputes else 0)

    return count


def _register(flop_counter):
    ops = torch.ops.rnnkernels
    for name in RESULTS:
        forward = [getattr(ops, name)] + ([getattr(ops, f"{name}_train")] if name != "rnn" else [])
        flop_counter.register_flop_formula(forward)(_forward(name))
        flop_counter.register_flop_formula([getattr(ops, f"{name}_bwd")])(_backward(name))


when_imported("torch.utils.flop_counter", _register)
