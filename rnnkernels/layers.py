"""LSTM, GRU and RNN: torch.nn's modules with our forward. Everything else is inherited and stays torch.nn's."""

import torch
from torch.autograd import forward_ad
from torch.compiler import is_compiling
from torch.nn.utils.rnn import PackedSequence

from . import dynamo, functional
from .extension import _C
from .options import Recompute, ResetAfter
from .support import decline, fits, read_parameters, state_widths

__all__ = ["LSTM", "GRU", "RNN"]


class _Fused:
    """The forward that the three layers share; it stands before a torch.nn module among the bases.

    Whatever does not fit the kernels goes to `super().forward`, so that torch.nn refuses it in its own words.
    """

    _has_cells = False

    def forward(self, input, hx=None, *, lengths=None, reset=None, reset_hx=None, return_cells=False):
        """As torch.nn's, and with keywords of our own; see `rnnkernels.functional`. Returns (output, h_n), of an LSTM (output, (h_n, c_n)).

        input     [T, B, I] ([B, T, I] when batch_first), unbatched [T, I], or a PackedSequence
        hx        h_0 [L*D, B, H], of an LSTM (h_0 [L*D, B, P], c_0 [L*D, B, H]) with P = proj_size or H; without B for unbatched input.
                  Zero by default; h_n and c_n are like it
        output    like input, with D*H columns, of an LSTM D*P
        lengths   int64 [B], any order, for padded input
        reset     bool, as input without its last dimension (a PackedSequence or its data for a packed input): where a row's state is
                  set anew before a step
        reset_hx  what it is set to, like hx; zero by default
        return_cells  an LSTM then returns (output, (h_n, c_n), cells): the c of every step of the last layer, like output, with D*H columns

        Raises torch.nn's own errors; for bad lengths and resets TypeError or ValueError; TypeError for return_cells of a GRU or RNN.
        """
        plain = lengths is None and reset is None and reset_hx is None and not return_cells
        if plain and _C is not None and not is_compiling() and forward_ad._current_level < 0:
            result = _C.run_module(self, input, hx)
            if result is not None:
                return result
        return self._forward(input, hx, lengths, reset, reset_hx, return_cells)

    def _forward(self, input, hx, lengths, reset, reset_hx, return_cells):
        """What `_C.run_module` leaves: packed, unbatched, lengths, resets, cells, compiled code, autocast, most of torch.func, and invalid calls."""
        if return_cells and not self._has_cells:
            raise TypeError(f"return_cells is an option of an LSTM: a {type(self).__name__} has no c")
        own = {"return_cells": True} if return_cells else {}  # what only one of the functions takes
        x, batch_sizes, order, unorder = input, None, None, None
        if isinstance(input, PackedSequence):
            x, batch_sizes, order, unorder = input
        elif not isinstance(input, torch.Tensor):
            return super().forward(input, hx)
        weights = read_parameters(self, self._flat_weights_names)
        unbatched = batch_sizes is None and x.dim() == 2
        batch_dim = 0 if self.batch_first else 1
        if unbatched:
            x = x.unsqueeze(batch_dim)
        known = self.mode in _MODES and isinstance(self.dropout, (int, float))  # they may have been set to anything since
        batch = self._batch(x, hx, batch_sizes, order) if known else None
        states = None if batch is None else self._states(x, batch, hx, unbatched)
        if states is None or not fits(x, states, self._flat_weights_names, weights):
            given = {"lengths": lengths, "reset": reset, "reset_hx": reset_hx, **own}
            asked = [name for name, value in given.items() if value is not None]
            return decline(lambda module: super(_Fused, module).forward(input, hx), self, x, asked)
        if order is not None and hx is not None:
            states = [s.index_select(1, order) for s in states]
        if reset is not None:
            reset, reset_hx = self._resets(input, reset, reset_hx, states, batch_dim if unbatched else None)

        options = {"batch_sizes": batch_sizes, "lengths": lengths, "reset": reset, "reset_hx": reset_hx, **own}
        out, *last = self._run(x, states, weights, options)
        last, sequences = last[: len(states)], [out, *last[len(states) :]]

        if unbatched:
            sequences, last = [s.squeeze(batch_dim) for s in sequences], [s.squeeze(1) for s in last]
        if batch_sizes is not None:
            sequences = [PackedSequence(s, batch_sizes, order, unorder) for s in sequences]
            if unorder is not None:
                last = [s.index_select(1, unorder) for s in last]
        out, *cells = sequences
        return out, (last[0] if len(last) == 1 else tuple(last)), *cells

    def _batch(self, x, hx, batch_sizes, order):
        """B, or None where x is not an input for this module."""
        shape = x.shape
        if not shape or shape[-1] != self.input_size:
            return None
        if batch_sizes is not None:
            if len(shape) != 2 or not len(batch_sizes):
                return None
            if is_compiling() and order is not None:  # Dynamo cannot compare a number read from batch_sizes
                return len(order)
            if is_compiling() and hx is not None:
                return (hx if isinstance(hx, torch.Tensor) else hx[0]).shape[1]
            return int(batch_sizes[0])
        if len(shape) != 3:
            return None
        steps, batch = (1, 0) if self.batch_first else (0, 1)
        return shape[batch] if shape[steps] else None

    def _states(self, x, batch, hx, unbatched):
        """hx as a sequence of [L*D, B, *], zeros when not given; None where torch.nn would refuse it."""
        rows = self.num_layers * (2 if self.bidirectional else 1)
        widths = state_widths(self)
        if hx is None:
            zeros = torch.zeros(rows, batch, widths[0], dtype=x.dtype, device=x.device)
            if len(widths) == 1:
                return [zeros]
            same = widths[0] == widths[1]  # only read, so one tensor serves twice
            return [zeros, zeros if same else zeros.new_zeros(rows, batch, widths[1])]
        if len(widths) == 1:
            hx = (hx,)
        elif not isinstance(hx, (tuple, list)) or len(hx) != 2:
            return None
        for s, width in zip(hx, widths):
            if not isinstance(s, torch.Tensor) or s.shape != ((rows, width) if unbatched else (rows, batch, width)):
                return None
        return [s.unsqueeze(1) for s in hx] if unbatched else hx

    def _resets(self, input, reset, reset_hx, states, batch_dim):
        """Both as `functional` takes them. batch_dim: of unbatched input, None otherwise."""
        packed, order = isinstance(input, PackedSequence), None
        if packed:
            order = input.sorted_indices
            if isinstance(reset, PackedSequence):
                reset = _data_of_same_rows(reset, input)
        functional.check_reset(reset, input.data if packed else input)
        if batch_dim is not None:
            reset = reset.unsqueeze(batch_dim)
        if reset_hx is None:
            return reset, None
        tensors = (reset_hx,) if isinstance(reset_hx, torch.Tensor) else reset_hx
        if batch_dim is not None and isinstance(tensors, (tuple, list)):
            tensors = [s.unsqueeze(1) if isinstance(s, torch.Tensor) and s.dim() == 2 else s for s in tensors]
        functional.check_reset_hx(tensors, states)
        if order is not None:
            tensors = [s if s.shape[1] == 1 else s.index_select(1, order) for s in tensors]
        return reset, (tensors[0] if len(states) == 1 else tuple(tensors))

    def _load_from_state_dict(self, *args, **kwargs):
        swaps = torch.__future__.get_swap_module_params_on_conversion()
        if swaps:  # torch.nn's weak references forbid it; its own _apply drops them in the same way
            self._flat_weight_refs = []
        super()._load_from_state_dict(*args, **kwargs)
        if swaps:
            self._init_flat_weights()

    def _flags(self):
        return self.bias, self.num_layers, self.dropout, self.training, self.bidirectional, self.batch_first


def _data_of_same_rows(packed, other):
    """packed.data; ValueError unless both have the same lengths in the same order."""
    same = lambda a, b: a is b or (a is not None and b is not None and torch.equal(a, b))
    if not is_compiling() and not (same(packed.batch_sizes, other.batch_sizes) and same(packed.sorted_indices, other.sorted_indices)):
        raise ValueError("reset is packed with other lengths, or in another order, than input")
    return packed.data


class LSTM(Recompute, _Fused, torch.nn.LSTM):
    """torch.nn.LSTM, with `forward` in fused kernels and keywords of its own. Same constructor, state_dict and repr.

    recompute=True, a keyword of our own: training keeps only h and c of each step, and the backward pass computes the gates again.
    A third more arithmetic, on a CPU the same bits. Of what an LSTM keeps, 2 of 6 numbers a unit
    and step remain, of a GRU 1 of 5.
    """

    __module__ = "rnnkernels"  # pickles name the public path, not this file
    _has_cells = True

    def _run(self, x, states, weights, options):
        return functional.lstm(x, states, weights, *self._flags(), **options, recompute=self.recompute)


class GRU(ResetAfter, Recompute, _Fused, torch.nn.GRU):
    """torch.nn.GRU, with `forward` in fused kernels and keywords of its own. Same constructor, state_dict and repr.

    recompute=True as of `LSTM`: training keeps only h.
    reset_after=False, a keyword of our own, is the GRU of Cho et al. 2014 (Keras' reset_after=False, ONNX' linear_before_reset=0): the reset gate
    acts on h before the recurrent product.
    """

    __module__ = "rnnkernels"

    def _run(self, x, states, weights, options):
        return functional.gru(x, states[0], weights, *self._flags(), **options, recompute=self.recompute, reset_after=self.reset_after)


class RNN(_Fused, torch.nn.RNN):
    """torch.nn.RNN, with `forward` in fused kernels and keywords of its own. Same constructor, state_dict and repr.

    nonlinearity may also be "sigmoid".
    """

    __module__ = "rnnkernels"

    def __init__(self, *args, **kwargs):
        if len(args) > 3 and "nonlinearity" not in kwargs:  # where torch.nn takes it, too
            kwargs["nonlinearity"], args = args[3], (*args[:3], *args[4:])
        sigmoid = kwargs.get("nonlinearity") == "sigmoid"
        if not sigmoid and kwargs.get("nonlinearity", "tanh") not in ("tanh", "relu"):  # torch.nn's words would leave sigmoid out
            raise ValueError(f"Unknown nonlinearity '{kwargs['nonlinearity']}'. Select from 'tanh', 'relu' or 'sigmoid'.")
        super().__init__(*args, **(kwargs | {"nonlinearity": "tanh"} if sigmoid else kwargs))
        if sigmoid:
            self.mode, self.nonlinearity = "RNN_SIGMOID", "sigmoid"

    def extra_repr(self):
        return super().extra_repr() + (", nonlinearity=sigmoid" if self.mode == "RNN_SIGMOID" else "")

    def _run(self, x, states, weights, options):
        return functional.rnn(x, states[0], weights, *self._flags(), self.mode.removeprefix("RNN_").lower(), **options)


_MODES = ("LSTM", "GRU", "RNN_TANH", "RNN_RELU", "RNN_SIGMOID")
_FORWARDS = {cls.forward for cls in (torch.nn.LSTM, torch.nn.GRU, torch.nn.RNN, _Fused)}


def check_layer(module, reader):
    """TypeError unless `module` is an LSTM, GRU or RNN with torch.nn's forward or ours, for `reader` runs its parameters without it."""
    if not isinstance(module, torch.nn.RNNBase) or module.mode not in _MODES:
        raise TypeError(f"{reader}: expected an LSTM, GRU or RNN module, got {type(module).__name__}")
    if type(module).forward not in _FORWARDS:
        raise TypeError(f"{reader}: {type(module).__name__} has a forward of its own, which {reader} does not run")


dynamo.trace(_Fused)
