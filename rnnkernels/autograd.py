"""What the C++ ops need from Python: shapes without data (fake kernels), and the derivative of the backward ops.

The first derivative is C++ (csrc/torch). The second recomputes the reference from x, the initial states and the weights,
never from the saved gates, and differentiates that twice; it is again differentiable, so any order works.
"""

import torch
from torch.library import register_autograd, register_fake

from . import reference

# Number of arguments with a gradient (x, states, weights) that stand first in each op's schema.
_DIFFERENTIABLE = {"lstm": 13, "gru": 10, "rnn": 10}


def _results(x, h0, w_ih_r):
    """Fake (out, h_n): out [T, B, D*P] or packed [N, D*P]."""
    directions = 1 if w_ih_r is None else 2
    return x.new_empty(*x.shape[:-1], directions * h0.shape[-1]), x.new_empty(h0.shape)


def _tokens(x):
    """Rows of the saved tensors: T*B, also when lengths leaves some unused, or the N of a packed sequence."""
    return x.shape[0] * x.shape[1] if x.dim() == 3 else x.shape[0]


def _padded(H):
    """Units are saved in blocks of 16, a vector register of f32."""
    return (H + 15) // 16 * 16


def _gates(x, h0_or_c0, recompute):
    """What is saved of the four gates of an LSTM or a GRU: [D, N, 4, Hp]."""
    D, _, H = h0_or_c0.shape
    return x.new_empty(0) if recompute else x.new_empty(D, _tokens(x), 4, _padded(H))


def _cells(x, c0):
    """The c of each token [D, N, Hp], in the type of the arithmetic."""
    D, _, H = c0.shape
    wide = torch.float32 if x.dtype in (torch.bfloat16, torch.float16) else x.dtype
    return x.new_empty(D, _tokens(x), _padded(H), dtype=wide)


def _lstm(x, h0, c0, w_ih, w_hh, b_ih, b_hh, w_hr, w_ih_r, *rest):
    return *_results(x, h0, w_ih_r), x.new_empty(c0.shape)


def _lstm_train(x, h0, c0, w_ih, w_hh, b_ih, b_hh, w_hr, w_ih_r, *rest):
    return *_results(x, h0, w_ih_r), x.new_empty(c0.shape), _gates(x, c0, rest[-1]), _cells(x, c0)


def _gru(x, h0, w_ih, w_hh, b_ih, b_hh, w_ih_r, *rest):
    return _results(x, h0, w_ih_r)


def _gru_train(x, h0, w_ih, w_hh, b_ih, b_hh, w_ih_r, *rest):
    return *_results(x, h0, w_ih_r), _gates(x, h0, rest[-1])


def _backward_fake(name, n_cotangents):
    n = _DIFFERENTIABLE[name]

    def fake(*args):
        inputs, needs = args[n_cotangents : n_cotangents + n], args[-1]
        return tuple(inputs[0].new_empty(i.shape if needs >> k & 1 else 0) for k, i in enumerate(inputs))

    return fake


def _register_double_backward(name, n_cotangents):
    layer, n = getattr(reference, name), _DIFFERENTIABLE[name]
    n_arguments = len(_schema(name).arguments)

    def setup_context(ctx, inputs, output):
        # Held as they are: out, gates and cells stand after these and are functions of them, so their gradient is None.
        tensors, ctx.rest = inputs[: n_cotangents + n], inputs[n_cotangents + n : n_cotangents + n_arguments]
        ctx.needs, ctx.n_inputs = inputs[-1], len(inputs)
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)

    def backward(ctx, *d_gradients):
        cotangents, inputs = ctx.saved_tensors[:n_cotangents], ctx.saved_tensors[n_cotangents:]
        wanted = [k for k in range(n) if ctx.needs >> k & 1]
        create_graph = torch.is_grad_enabled()
        with torch.enable_grad(), torch.autocast(inputs[0].device.type, enabled=False):
            # Aliases: an input may be a function of another (tied weights), whose path must not be counted here.
            cotangents, inputs = [[None if t is None else _alias(t) for t in ts] for ts in (cotangents, inputs)]
            results = layer(*inputs, *ctx.rest)
            seeded = [(r, c) for r, c in zip(results, cotangents) if c is not None]
            first = torch.autograd.grad([r for r, _ in seeded], [inputs[k] for k in wanted], [c for _, c in seeded],
                                        create_graph=True, allow_unused=True)
            pairs = [(g, d_gradients[k]) for k, g in zip(wanted, first) if g is not None and d_gradients[k] is not None]
            if not pairs:
                return (None,) * ctx.n_inputs
            leaves = [t for t in cotangents + inputs if t is not None]
            second = iter(torch.autograd.grad([g for g, _ in pairs], leaves, [d for _, d in pairs],
                                              create_graph=create_graph, allow_unused=True))
        second = [None if t is None else next(second) for t in cotangents + inputs]
        return *second, *[None] * (ctx.n_inputs - len(second))

    register_autograd(f"rnnkernels::{name}_bwd", backward, setup_context=setup_context)


def _alias(t):
    return t.view_as(t) if t.requires_grad else t.detach().requires_grad_()


def _schema(name):
    return getattr(torch.ops.rnnkernels, name).default._schema


register_fake("rnnkernels::lstm", _lstm)
register_fake("rnnkernels::lstm_train", _lstm_train)
register_fake("rnnkernels::gru", _gru)
register_fake("rnnkernels::gru_train", _gru_train)
register_fake("rnnkernels::rnn", _gru)

for _name, _n_cotangents in (("lstm", 3), ("gru", 2), ("rnn", 2)):
    register_fake(f"rnnkernels::{_name}_bwd", _backward_fake(_name, _n_cotangents))
    _register_double_backward(_name, _n_cotangents)
