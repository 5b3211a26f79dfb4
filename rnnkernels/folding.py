"""A vmap dimension of V elements, folded into the batch B of a layer's tensors and back.

It goes behind B: [T, B, I] becomes [T, B * V, I], packed [N, I] becomes [N * V, I], states [D, B * V, H], lengths [B * V].
So a packed sequence stays one, of V times the rows at each step.
"""

from torch._C._functorch import get_unwrapped, is_batchedtensor, is_functorch_wrapped_tensor


def is_batched(t):
    """Whether some vmap varies t, also where it came through a grad."""
    while is_functorch_wrapped_tensor(t):
        if is_batchedtensor(t):
            return True
        t = get_unwrapped(t)
    return False


def fold(t, dim, V):
    """t with its vmap dimension `dim` (None: t is the same for all elements) in the batch; None stays None."""
    if t is None:
        return None
    if dim is None:
        t, dim = t.expand(V, *t.shape), 0
    behind = -2 if t.is_floating_point() else -1  # lengths are [B], all others end in [B, *] or [N, *]
    return t.movedim(dim, behind).flatten(behind - 1, behind)


def unfold(t, V):
    """The inverse; the vmap dimension is then the last but one."""
    return t.unflatten(-2, (t.shape[-2] // V, V))


def elements(args, dims, V):
    """The arguments of each element, one after the other."""
    return zip(*([a] * V if d is None else a.unbind(d) for a, d in zip(args, dims)))


def refuse_batched_sizes(dim):
    """The steps of a packed sequence are the loop itself."""
    if dim is not None:
        raise NotImplementedError("rnnkernels: no vmap over packed sequences of different batch_sizes; pad them and pass `lengths`")
