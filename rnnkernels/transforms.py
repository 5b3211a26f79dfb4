"""The layer ops under torch.func: rules for vmap, and Python autograd functions over the raw ops under grad and vjp.

torch.func cannot enter a C++ autograd function, so these stand in for it; under vmap alone there is no need of them.
Forward-mode derivatives and functionalize run the reference, and so do layers with resets.

    vmap over x, states or lengths       folded into the batch: one call
    vmap over weights, an ensemble       one call for all models, see ensemble.py
    vmap over cotangents, in jacrev      likewise: as many models with the same weights
    vmap(grad(f)) of weights that all    one forward call, folded; one backward call, each element a model with the same
    elements share                       weights. Both are folded for gradients of the data alone
    vmap of a call for several models    one call for each element
"""

import torch
from torch._C._functorch import (
    TransformType, _add_batch_dim, _unwrap_batched, get_interpreter_stack, maybe_current_level,
)
from torch._functorch.pyfunctorch import retrieve_current_functorch_interpreter
from torch.autograd import forward_ad

from . import reference
from .derivatives import DATA, DIFFERENTIABLE, RESULTS
from .ensemble import model_dims, second_derivative, sum_over_models
from .extension import _C
from .folding import elements, fold, is_batched, refuse_batched_sizes, unfold


def active():
    """Whether a call may meet what the C++ ops do not know."""
    return maybe_current_level() is not None or forward_ad._current_level >= 0


def layer(name, *args):
    """The op `name` on args, under the active transforms."""
    kinds = {i.key() for i in get_interpreter_stack() or ()}
    resets, lengths = args[-2] is not None, args[-3]
    if resets and lengths is not None and is_batched(lengths):
        raise NotImplementedError("rnnkernels: vmap over `lengths` together with `reset`; loop over the elements instead")
    if resets or forward_ad._current_level >= 0 or not kinds <= {TransformType.Grad, TransformType.Vmap}:
        return getattr(reference, name)(*args)
    if TransformType.Grad not in kinds:
        return _under_vmap(name, *args)
    dtype, n = args[0].dtype, DIFFERENTIABLE[name]
    if dtype in (torch.bfloat16, torch.float16):  # as in C++: the whole layer in float32
        args = [*(a if a is None else a.float() for a in args[:n]), *args[n:]]
    return tuple(result.to(dtype) for result in Layer.apply(name, *args)[: RESULTS[name]])


def _under_vmap(name, *args):
    """Without torch.func's autograd functions, which take longer than a short layer."""
    level = maybe_current_level()
    if level is None:
        return getattr(_C, name)(*args)
    args, dims = zip(*(_unwrap_batched(a, level) if isinstance(a, torch.Tensor) else (a, None) for a in args))
    interpreter = retrieve_current_functorch_interpreter()
    with interpreter.lower():
        if all(d is None for d in dims):
            return _under_vmap(name, *args)
        results, dims = batched(_under_vmap, name, interpreter.batch_size(), dims, args)
    return tuple(_add_batch_dim(result, d, level) for result, d in zip(results, dims))


def batched(run, name, V, dims, args):
    """Results of run(name, *arguments) for V elements, and where they have the vmap dimension."""
    n_data, weights_end = DATA[name], DIFFERENTIABLE[name]
    refuse_batched_sizes(dims[weights_end])
    if any(d is not None for d in dims[n_data:weights_end]):
        return _as_models(run, name, V, dims, args)
    results = run(name, *_fold(args, dims, V, (*range(n_data), weights_end + 1), weights_end))
    visible = [unfold(r, V) for r in results[: RESULTS[name]]]
    saved = [r.expand(V, *r.shape) for r in results[RESULTS[name] :]]  # each has everybody's; only Backward reads it
    return (*visible, *saved), (*(r.dim() - 2 for r in visible), *[0] * len(saved))


def _as_models(run, name, V, dims, args, n_cotangents=0):
    """The V elements as an ensemble, where no element is one already.

    args: a layer's, after so many cotangents, and what a forward pass has saved.
    """
    x, end = n_cotangents, n_cotangents + DIFFERENTIABLE[name] + 4
    ranks = [None if a is None else a.dim() - (d is not None) for a, d in zip(args[: end - 1], dims)]
    if any(d is not None for d in model_dims(name, (*ranks[x:], None), ranks[:x], rank=int)):
        results = [run(name, *own) for own in elements(args, dims, V)]
        return tuple(map(torch.stack, zip(*results))), (0,) * len(results[0])
    results = run(name, *(a if d is None else a.movedim(d, 0) for a, d in zip(args, dims)))
    return results, (0,) * len(results)


class Layer(torch.autograd.Function):
    """apply(name, *arguments of the op): the op's results, then what its *_train op keeps for backward."""

    @staticmethod
    def forward(name, *args):
        return getattr(torch.ops.rnnkernels, name if name == "rnn" else f"{name}_train").default(*args)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.name, *tensors, ctx.flag = inputs
        saved = output[RESULTS[ctx.name] :]
        ctx.save_for_backward(*tensors, output[0], *saved)
        ctx.mark_non_differentiable(*saved)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, *cotangents):
        n, cotangents = DIFFERENTIABLE[ctx.name], cotangents[: RESULTS[ctx.name]]
        needs = sum(wanted << k for k, wanted in enumerate(ctx.needs_input_grad[1 : 1 + n]))
        if not needs or all(c is None for c in cotangents):
            return (None,) * (n + 5)
        tensors = ctx.saved_tensors
        gradients = Backward.apply(ctx.name, needs, *cotangents, *tensors[: n + 3], ctx.flag, *tensors[n + 3 :])
        wanted = (sum_over_models(g, tensors[k]) if needs >> k & 1 else None for k, g in enumerate(gradients))
        return None, *wanted, *[None] * 4

    @staticmethod
    def vmap(info, in_dims, name, *args):
        return batched(Layer.apply, name, info.batch_size, in_dims[1:], args)


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
        x, n_data = RESULTS[name], DATA[name]  # x stands after the cotangents
        batch_sizes, out = x + DIFFERENTIABLE[name], x + DIFFERENTIABLE[name] + 4
        refuse_batched_sizes(dims[batch_sizes])
        data = (*range(x, x + n_data), batch_sizes + 1)
        own_weights, own_data = (any(dims[k] is not None for k in ks) for ks in (range(x + n_data, batch_sizes), data))
        folded = own_data and not own_weights  # so was forward
        saved = [a.select(d, 0) for a, d in zip(args[out + 1 :], dims[out + 1 :])] if folded else []
        if folded and not needs >> n_data:
            arguments = _fold(args[: out + 1], dims, V, (*range(x), *data, out), batch_sizes)
            gradients = Backward.apply(name, needs, *arguments, *saved)
            gradients = [unfold(d, V) if needs >> k & 1 else d for k, d in enumerate(gradients)]
            return tuple(gradients), tuple(d.dim() - 2 if needs >> k & 1 else None for k, d in enumerate(gradients))
        if folded:
            layer = slice(x, out)
            if dims[batch_sizes + 1] is None:
                own = _saved_of_each(saved, V)
            else:  # of different lengths: their tokens are mixed in `saved`
                own = _as_models(Layer.apply, name, V, dims[layer], args[layer])[0][x:]
            args, dims = (*args[: out + 1], *own), (*dims[: out + 1], *[0] * len(own))
        run = lambda name, *args: Backward.apply(name, needs, *args)
        gradients, _ = _as_models(run, name, V, dims, args, n_cotangents=x)
        return gradients, tuple(0 if needs >> k & 1 else None for k in range(len(gradients)))


def _saved_of_each(saved, V):
    """Of what a folded call has saved each element's: gates [D, N * V, S, Hp] become [V, D, N, S, Hp], cells likewise."""
    each = lambda s, tokens: s.unflatten(tokens, (-1, V)).movedim(tokens, 0)
    return [each(s, k - 3) if s.numel() else s.expand(V, *s.shape) for k, s in enumerate(saved)]


def _fold(args, dims, V, batched, batch_sizes):
    """args with those at the indices `batched` folded, and so the one at `batch_sizes`."""
    folded = [fold(a, d, V) if k in batched else a for k, (a, d) in enumerate(zip(args, dims))]
    if folded[batch_sizes] is not None:
        folded[batch_sizes] = folded[batch_sizes] * V
    return folded
