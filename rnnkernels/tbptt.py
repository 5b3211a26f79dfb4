"""Truncated backpropagation through time: a long sequence in chunks, with the state carried from each to the next."""

from operator import index

import torch
from torch.utils._pytree import tree_flatten, tree_unflatten

__all__ = ["tbptt"]


def tbptt(sequence, chunk, *, state=None, overlap=0):
    """Iterates over a long sequence in chunks of `chunk` steps and carries a model's state through it, without history.

        chunks = rnnkernels.tbptt((inputs, targets), 64)
        for (x, y), state in chunks:
            out, chunks.state = rnn(x, state)     # handing the state back cuts its history
            loss(out, y).backward()
            ...                                   # any optimizer

    Gradients stop where a chunk begins, the state does not: the model remembers further back than a chunk, and training
    costs the same anywhere in the sequence. Each `for` begins again, with the first step and the given state.

    sequence  a tensor [T, B, ...], or a tuple or list of such with one T. A chunk is a view of it, or a tuple of views;
              the last one is shorter where T demands it
    chunk     steps in a chunk: how far back gradients reach at most (k2 of Williams & Peng 1990, "An efficient
              gradient-based algorithm for on-line training of recurrent network trajectories")
    state     the state before the first step, as the model takes it: None, a tensor, or tuples, lists and dicts of such. It is detached, too: a
              learned one is trained by handing it to the model at the first chunk
    overlap   steps that a chunk shares with the one before it: 0 <= overlap < chunk. A chunk starts `chunk - overlap`
              steps after the one before (k1), so gradients reach back at least `overlap` steps from every new one

    The iterator has

    state   to be set in each round to the state before the NEXT chunk, detached as it is set; None starts from zero.
            After the last round it is the state for what comes next. RuntimeError at the next chunk if it was not set
    stride  chunk - overlap: the next chunk begins after this many steps of the present one
    new     steps of the present chunk that no earlier chunk had: its last `new` ones

    With an overlap the next chunk begins inside the present one, so the call is split there:

        chunks = rnnkernels.tbptt((inputs, targets), 64, overlap=48)
        for (x, y), state in chunks:
            out, middle = rnn(x[:chunks.stride], state)
            if len(x) > chunks.stride:            # else it is the last one
                out = torch.cat([out, rnn(x[chunks.stride:], middle)[0]])
            loss(out[-chunks.new:], y[-chunks.new:]).backward()
            chunks.state = middle

    TypeError for a sequence that is no tensor or tuple of tensors, a state that holds other things, or a chunk or overlap that is no integer;
    ValueError for a chunk < 1, an overlap outside 0..chunk-1, tensors of different lengths, or no step at all.
    """
    return _Chunks(sequence, chunk, state, overlap)


class _Chunks:
    def __init__(self, sequence, chunk, state, overlap):
        for name, value in (("chunk", chunk), ("overlap", overlap)):
            if isinstance(value, bool) or not hasattr(value, "__index__"):
                raise TypeError(f"tbptt: {name} must be an integer, got {type(value).__name__}")
        chunk, overlap = index(chunk), index(overlap)
        if chunk < 1:
            raise ValueError(f"tbptt: chunk must be at least 1 step, got {chunk}")
        if not 0 <= overlap < chunk:
            raise ValueError(f"tbptt: overlap must lie in 0..{chunk - 1}, below chunk={chunk}, got {overlap}")
        self._single = isinstance(sequence, torch.Tensor)
        self._tensors = (sequence,) if self._single else sequence
        self._T = _steps(self._tensors)
        self._chunk, self.stride = chunk, chunk - overlap
        self._first_state = _detach(state)
        iter(self)

    @property
    def state(self):
        return self._state

    @state.setter
    def state(self, state):
        self._state, self._handed_back = _detach(state), True

    def __iter__(self):
        self._start, self.new, self.state = None, 0, self._first_state
        return self

    def __len__(self):
        """The number of chunks in the whole sequence."""
        return 1 + max(0, -(-(self._T - self._chunk) // self.stride))

    def __next__(self):
        if not self._handed_back:
            raise RuntimeError(
                "tbptt: the state was not handed back: write `out, chunks.state = rnn(x, state)` in the loop"
            )
        seen = 0 if self._start is None else min(self._start + self._chunk, self._T)
        if seen == self._T:
            raise StopIteration
        self._start = 0 if self._start is None else self._start + self.stride
        end = min(self._start + self._chunk, self._T)
        self.new, self._handed_back = end - seen, False
        views = tuple(t[self._start : end] for t in self._tensors)
        return (views[0] if self._single else views), self._state


def _steps(tensors):
    """T of all tensors."""
    if not isinstance(tensors, (tuple, list)) or not tensors or not all(isinstance(t, torch.Tensor) for t in tensors):
        raise TypeError(
            f"tbptt: sequence must be a tensor [T, B, ...] or a tuple of such, got {type(tensors).__name__}"
        )
    lengths = [len(t) if t.dim() else 0 for t in tensors]
    if len(set(lengths)) > 1:
        raise ValueError(f"tbptt: the tensors must have the same number of steps, got {lengths}")
    if not lengths[0]:
        raise ValueError("tbptt: the sequence has no step")
    return lengths[0]


def _detach(state):
    """The same numbers without their history."""
    leaves, structure = tree_flatten(state)
    for leaf in leaves:
        if not isinstance(leaf, (torch.Tensor, int, float, type(None))):  # whose history would stay unseen
            raise TypeError(f"tbptt: the state must be made of tensors, tuples, lists and dicts, got {type(leaf).__name__}")
    return tree_unflatten([leaf.detach() if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves], structure)
