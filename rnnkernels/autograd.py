"""What the C++ ops need from Python: shapes without data (fake kernels), the derivative of the backward ops, and vmap of the raw ops.

The first derivative is C++ (csrc/torch), the second `derivatives.second_derivative`.
"""

import torch
from torch.library import register_autograd, register_fake, register_vmap

from .derivatives import DIFFERENTIABLE, RESULTS
from .ensemble import model_count, model_dims, second_derivative
from .transforms import batched


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


def _gates(x, h0_or_c0, recompute, saved=4):
    """What is saved of the gates of an LSTM or a GRU: [D, N, S, Hp]."""
    D, _, H = h0_or_c0.shape
    return x.new_empty(0) if recompute else x.new_empty(D, _tokens(x), saved, _padded(H))


def _cells(x, c0):
    """The c of each token [D, N, Hp], in the type of the arithmetic."""
    D, _, H = c0.shape
    wide = torch.float32 if x.dtype in (torch.bfloat16, torch.float16) else x.dtype
    return x.new_empty(D, _tokens(x), _padded(H), dtype=wide)


def _lstm(x, h0, c0, w_ih, w_hh, b_ih, b_hh, w_hr, w_ih_r, *rest):
    return *_results(x, h0, w_ih_r), x.new_empty(c0.shape)


def _lstm_train(x, h0, c0, w_ih, w_hh, b_ih, b_hh, w_hr, w_ih_r, *rest):
    return *_results(x, h0, w_ih_r), x.new_empty(c0.shape), _gates(x, c0, rest[-1]), _cells(x, c0)


def _lstm_with_cells(x, h0, c0, *rest):
    directions, _, H = c0.shape
    return *_lstm(x, h0, c0, *rest), x.new_empty(*x.shape[:-1], directions * H)


def _lstm_with_cells_train(x, h0, c0, *rest):
    return *_lstm_with_cells(x, h0, c0, *rest), _gates(x, c0, rest[-1]), _cells(x, c0)


def _gru(x, h0, w_ih, w_hh, b_ih, b_hh, w_ih_r, *rest):
    return _results(x, h0, w_ih_r)


def _gru_train(x, h0, w_ih, w_hh, b_ih, b_hh, w_ih_r, *rest):
    return *_results(x, h0, w_ih_r), _gates(x, h0, rest[-1])


def _gru_reset_before_train(x, h0, w_ih, w_hh, b_ih, b_hh, w_ih_r, *rest):
    return *_results(x, h0, w_ih_r), _gates(x, h0, rest[-1], saved=3)


def _check_devices(args):
    """RuntimeError unless all tensors are on one device; batch_sizes and lengths, the only integers, may stay on the CPU.

    A call on the CPU with one tensor on the meta device gets here, and would get back memory that nobody has written.
    """
    tensors = [a for a in args if isinstance(a, torch.Tensor)]
    devices = {t.device for t in tensors if t.dtype is not torch.int64}
    stray = {t.device for t in tensors} - devices - {torch.device("cpu")}
    if len(devices) > 1 or stray:
        raise RuntimeError(f"rnnkernels: expected all tensors on one device, found {', '.join(sorted(map(str, devices | stray)))}")


def _for_models(name, fake):
    """`fake`, also for a call with the tensors of several models (ensemble.py): the results of one, with a dimension of models in front."""

    def fake_for_models(*args):
        _check_devices(args)
        dims = model_dims(name, args)
        models = model_count(args, dims)
        if models is None:
            return fake(*args)
        one = (a if d is None else a.new_empty(a.shape[1:]) for a, d in zip(args, dims))
        return tuple(result.new_empty(models, *result.shape) for result in fake(*one))

    return fake_for_models


def _backward_fake(name):
    n, n_cotangents = DIFFERENTIABLE[name], RESULTS[name]

    def fake(*args):
        _check_devices(args)
        arguments, needs = args[n_cotangents : n_cotangents + n + 4], args[-1]
        dims = model_dims(name, arguments, args[:n_cotangents])
        models = model_count(args, dims)

        def shape(k):
            if not needs >> k & 1 or arguments[k] is None:
                return (0,)
            shape = arguments[k].shape
            return shape if models is None or dims[n_cotangents + k] == 0 else (models, *shape)

        return tuple(arguments[0].new_empty(shape(k)) for k in range(n))

    return fake


def _register_double_backward(name):
    n, n_cotangents = DIFFERENTIABLE[name], RESULTS[name]
    n_arguments = len(_schema(name).arguments)

    def setup_context(ctx, inputs, output):
        # Held as they are: out, gates and cells stand after these and are functions of them, so their gradient is None.
        tensors, ctx.rest = inputs[: n_cotangents + n], inputs[n_cotangents + n : n_cotangents + n_arguments]
        ctx.needs, ctx.n_inputs = inputs[-1], len(inputs)
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)

    def backward(ctx, *d_gradients):
        cotangents, inputs = ctx.saved_tensors[:n_cotangents], ctx.saved_tensors[n_cotangents:]
        second = second_derivative(name, ctx.needs, cotangents, (*inputs, *ctx.rest), d_gradients)
        return *second, *[None] * (ctx.n_inputs - len(second))

    register_autograd(f"rnnkernels::{name}_bwd", backward, setup_context=setup_context)


def _register_vmap(name):
    op = getattr(torch.ops.rnnkernels, name).default
    register_vmap(op, lambda info, dims, *args: batched(lambda name, *args: op(*args), name, info.batch_size, dims, args))


def _schema(name):
    return getattr(torch.ops.rnnkernels, name).default._schema


_FAKES = {"lstm": _lstm, "lstm_train": _lstm_train, "lstm_with_cells": _lstm_with_cells,
          "lstm_with_cells_train": _lstm_with_cells_train, "gru": _gru, "gru_train": _gru_train, "gru_reset_before": _gru,
          "gru_reset_before_train": _gru_reset_before_train, "rnn": _gru}

for _op, _fake in _FAKES.items():
    register_fake(f"rnnkernels::{_op}", _for_models(_op.removesuffix("_train"), _fake))

for _name in RESULTS:
    register_fake(f"rnnkernels::{_name}_bwd", _backward_fake(_name))
    _register_double_backward(_name)
    _register_vmap(_name)
