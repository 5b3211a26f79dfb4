"""Drop-in LSTM, GRU and RNN for PyTorch, forward and backpropagation through time in fused kernels."""

from . import extension

if extension._C is not None:
    from . import autograd, flops  # noqa: F401  register what the ops need from Python

from . import functional, reference
from .cells import GRUCell, LSTMCell, RNNCell
from .convert import convert, flip_update_gate, patch_torch, revert
from .info import info
from .layers import GRU, LSTM, RNN
from .stepper import Stepper

__all__ = ["LSTM", "GRU", "RNN", "LSTMCell", "GRUCell", "RNNCell",
           "Stepper", "convert", "revert", "patch_torch", "flip_update_gate", "functional", "reference", "info"]
