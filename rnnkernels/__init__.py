"""Drop-in LSTM, GRU and RNN for PyTorch, forward and backpropagation through time in fused kernels."""

from . import extension

if extension._C is not None:
    from . import autograd, flops  # noqa: F401  register what the ops need from Python

from . import diagnostics, functional, init, reference
from .cells import GRUCell, LSTMCell, RNNCell
from .convert import convert, patch_torch, revert
from .info import info
from .init import flip_update_gate
from .layers import GRU, LSTM, RNN
from .stepper import Stepper
from .tbptt import tbptt

__all__ = ["LSTM", "GRU", "RNN", "LSTMCell", "GRUCell", "RNNCell",
           "Stepper", "convert", "revert", "patch_torch", "flip_update_gate", "tbptt",
           "functional", "reference", "init", "diagnostics", "info"]
