"""The layer ops under torch.func: Python autograd functions over the raw ops, with rules for vmap.

torch.func cannot enter a C++ autograd function, so these stand in while grad, vjp or vmap is active. Forward-mode
derivatives and functionalize run the reference, and so do layers with resets or whose cells are wanted.

    vmap over x, states or lengths           folded into the batch: one call
    vmap over weights, an ensemble           one call for each set
    vmap over cotangents alone, in jacrev    one call for each
    vmap(grad(f)) of weights that all share  one forward call, one backward call for each element
"""

import torch
from torch._C._functorch import TransformType, get_interpreter_stack, maybe_current_level
from torch.autograd import forward_ad

from . import reference
from .derivatives import DIFFERENTIABLE, RESULTS, second_derivative
from .folding import elements, fold, refuse_batched_sizes, unfold


def active():
    """Whether a call may meet what the C++ ops do not know."""
    return maybe_current_level() is not None or forward_ad._current_level >= 0


def layer(name, *args):
    """The op `name` on args, under the active transforms."""
    kinds = {i.key() for i in get_interpreter_stack() or ()}
    beyond_rules, lengths = args[-2] is not None or name == "lstm_with_cells", args[-3]
    if beyond_rules and lengths is not None and torch._C._functorch.is_batchedtensor(lengths):
        raise NotImplementedError("rnnkernels: vmap over `lengths` together with `reset` or `return_cells`; loop over the elements instead")
    if beyond_rules or forward_ad._current_level >= 0 or not kinds <= {TransformType.Grad, TransformType.Vmap}:
        return getattr(reference, name)(*args)
    save = TransformType.Grad in kinds or torch.is_grad_enabled()
    dtype, n = args[0].dtype, DIFFERENTIABLE[name]
    if dtype in (torch.bfloat16, torch.float16):  # as in C++: the whole layer in float32
        args = [*(a if a is None else a.float() for a in args[:n]), *args[n:]]
    return tuple(result.to(dtype) for result in Layer.apply(name, save, *args)[: RESULTS[name]])


class Layer(torch.autograd.Function):
    """apply(name, save, *arguments of the op): the op's results, then, if `save`, what its *_train op keeps for backward."""

    @staticmethod
    def forward(name, save, *args):
        return getattr(torch.ops.rnnkernels, f"{name}_train" if save and name != "rnn" else name).default(*args)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.name, _, *tensors, ctx.flag = inputs
        saved = output[RESULTS[ctx.name] :]
        ctx.save_for_backward(*tensors, output[0], *saved)
        ctx.mark_non_differentiable(*saved)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, *cotangents):
        n, cotangents = DIFFERENTIABLE[ctx.name], cotangents[: RESULTS[ctx.name]]
        needs = sum(wanted << k for k, wanted in enumerate(ctx.needs_input_grad[2 : 2 + n]))
        if not needs or all(c is None for c in cotangents):
            return (None,) * (n + 6)
        tensors = ctx.saved_tensors
        gradients = Backward.apply(ctx.name, needs, *cotangents, *tensors[: n + 3], ctx.flag, *tensors[n + 3 :])
        return None, None, *(g if needs >> k & 1 else None for k, g in enumerate(gradients)), *[None] * 4

    @staticmethod
    def vmap(info, in_dims, name, save, *args):
        V, dims = info.batch_size, in_dims[2:]
        n_data, weights_end = RESULTS[name], DIFFERENTIABLE[name]  # x and the states
        refuse_batched_sizes(dims[weights_end])
        if any(d is not None for d in dims[n_data:weights_end]):
            return _stack([Layer.apply(name, save, *own) for own in elements(args, dims, V)])
        results = Layer.apply(name, save, *_fold(args, dims, V, (*range(n_data), weights_end + 1), weights_end))
        visible = [unfold(r, V) for r in results[: RESULTS[name]]]
        saved = [r.expand(V, *r.shape) for r in results[RESULTS[name] :]]  # each has everybody's; only Backward reads it
        return (*visible, *saved), (*(r.dim() - 2 for r in visible), *[0] * len(saved))


class Backward(torch.autograd.Function):
    """apply(name, needs, *cotangents, *arguments of the op, out, *saved): the gradients, empty without their bit in `needs`."""

    @staticmethod
    def forward(name, needs, *args):
        return getattr(torch.ops.rnnkernels, f"{name}_bwd").default(*args, needs)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.name, ctx.needs, *args = inputs
        flag = RESULTS[ctx.name] + DIFFERENTIABLE[ctx.name] + 3
        ctx.save_for_backward(*args[:flag])
        ctx.flag, ctx.n_after = args[flag], len(args) - flag + 3
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, *d_gradients):
        tensors, n_cotangents = ctx.saved_tensors, RESULTS[ctx.name]
        cotangents, arguments = tensors[:n_cotangents], (*tensors[n_cotangents:], ctx.flag)
        second = second_derivative(ctx.name, ctx.needs, cotangents, arguments, d_gradients)
        return None, None, *second, *[None] * ctx.n_after

    @staticmethod
    def vmap(info, in_dims, name, needs, *args):
        V, dims = info.batch_size, in_dims[2:]
        x = n_data = RESULTS[name]  # as many cotangents stand before x as there are data arguments from x on
        lengths, out = x + DIFFERENTIABLE[name] + 1, x + DIFFERENTIABLE[name] + 4
        refuse_batched_sizes(dims[lengths - 1])
        data = (*range(x, x + n_data), lengths)
        if any(d is not None for d in dims[x + n_data : lengths - 1]) or all(dims[k] is None for k in data):
            return _stack([Backward.apply(name, needs, *own) for own in elements(args, dims, V)])
        saved = [a.select(d, 0) for a, d in zip(args[out + 1 :], dims[out + 1 :])]
        d_data, of_data = [args[x].new_empty(0)] * n_data, needs & (1 << n_data) - 1
        if of_data:
            folded = *_fold(args[: out + 1], dims, V, (*range(x), *data, out), lengths - 1), *saved
            d_data = Backward.apply(name, of_data, *folded)[:n_data]
            d_data = [unfold(d, V) if needs >> k & 1 else d for k, d in enumerate(d_data)]
        d_weights, dims_of_weights = _weight_gradients(name, needs >> n_data << n_data, V, args, dims, saved)
        return (*d_data, *d_weights), (*(d.dim() - 2 if d.dim() > 1 else None for d in d_data), *dims_of_weights)


def _weight_gradients(name, needs, V, args, dims, saved):
    """Of weights that the V elements share, for each element."""
    n_data, n = RESULTS[name], DIFFERENTIABLE[name]
    if not needs:
        return (args[n_data].new_empty(0),) * (n - n_data), (None,) * (n - n_data)
    layer, out = slice(n_data, n_data + n + 4), n_data + n + 4
    saved = [s if s.numel() == 0 else s.unflatten(1, (-1, V)) for s in saved]  # [D, N, V, ...], see folding.py
    gradients = []
    for v, own in enumerate(elements(args[: out + 1], dims[: out + 1], V)):
        if dims[out - 3] is None:
            own += tuple(s.select(2, v).contiguous() if s.dim() > 1 else s for s in saved)
        else:  # of different lengths: their tokens are mixed in `saved`
            own += Layer.apply(name, True, *own[layer])[n_data:]
        gradients.append(Backward.apply(name, needs, *own)[n_data:])
    return _stack(gradients)


def _fold(args, dims, V, batched, batch_sizes):
    """args with those at the indices `batched` folded, and so the one at `batch_sizes`."""
    folded = [fold(a, d, V) if k in batched else a for k, (a, d) in enumerate(zip(args, dims))]
    if folded[batch_sizes] is not None:
        folded[batch_sizes] = folded[batch_sizes] * V
    return folded


def _stack(results):
    return tuple(map(torch.stack, zip(*results))), (0,) * len(results[0])
