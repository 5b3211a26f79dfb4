"""LSTMCell, GRUCell and RNNCell: torch.nn's modules with our forward. A cell is a layer of one step."""

import torch

from . import functional
from .options import ResetAfter
from .support import CELL_PARAMETERS, decline, fits, read_parameters

__all__ = ["LSTMCell", "GRUCell", "RNNCell"]


class _FusedCell:
    """The forward that the three cells share; it stands before a torch.nn module among the bases.

    Whatever does not fit the kernels goes to `super().forward`, so that torch.nn refuses it in its own words.
    """

    def forward(self, input, hx=None):
        """As torch.nn's: input [B, I] or [I], states [B, H] or [H]. Raises torch.nn's own errors."""
        x, states = input, None
        if isinstance(x, torch.Tensor) and x.dim() in (1, 2) and x.shape[-1] == self.input_size:
            states = self._states(x, hx)
        weights = read_parameters(self, CELL_PARAMETERS)  # without a bias it is None
        given = {name: w for name, w in zip(CELL_PARAMETERS, weights) if w is not None}
        if states is None or not fits(x, states, given.keys(), given.values()):
            if not isinstance(x, torch.Tensor):
                return super().forward(input, hx)
            return decline(lambda module: super(_FusedCell, module).forward(input, hx), self, x)
        if x.dim() == 2:
            return self._run(x, states, weights)
        result = self._run(x.unsqueeze(0), [s.unsqueeze(0) for s in states], weights)
        return tuple(r.squeeze(0) for r in result) if isinstance(result, tuple) else result.squeeze(0)

    def _states(self, x, hx):
        """hx as a sequence of tensors like x with H columns, zeros when not given; None where torch.nn would refuse it."""
        shape = (*x.shape[:-1], self.hidden_size)
        if hx is None:
            return [torch.zeros(shape, dtype=x.dtype, device=x.device)] * self._n_states
        if self._n_states == 1:
            hx = (hx,)
        elif not isinstance(hx, (tuple, list)) or len(hx) != 2:
            return None
        return hx if all(isinstance(s, torch.Tensor) and s.shape == shape for s in hx) else None


class LSTMCell(_FusedCell, torch.nn.LSTMCell):
    """torch.nn.LSTMCell, with `forward` in fused kernels. Same constructor, state_dict and repr."""

    __module__ = "rnnkernels"  # pickles name the public path, not this file
    _n_states = 2

    def _run(self, x, states, weights):
        return functional.lstm_cell(x, states, *weights)


class GRUCell(ResetAfter, _FusedCell, torch.nn.GRUCell):
    """torch.nn.GRUCell, with `forward` in fused kernels. Same constructor, state_dict and repr. reset_after=False as of `GRU`."""

    __module__ = "rnnkernels"
    _n_states = 1

    def _run(self, x, states, weights):
        return functional.gru_cell(x, states[0], *weights, reset_after=self.reset_after)


class RNNCell(_FusedCell, torch.nn.RNNCell):
    """torch.nn.RNNCell, with `forward` in fused kernels. Same constructor, state_dict and repr. nonlinearity may also be "sigmoid"."""

    __module__ = "rnnkernels"
    _n_states = 1

    def _states(self, x, hx):
        return super()._states(x, hx) if self.nonlinearity in ("tanh", "relu", "sigmoid") else None  # torch.nn refuses at the call

    def _run(self, x, states, weights):
        return functional.rnn_cell(x, states[0], *weights, nonlinearity=self.nonlinearity)
