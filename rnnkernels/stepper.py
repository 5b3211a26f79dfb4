"""Stepper: a recurrent module fed one time step at a time, for streams and real-time use."""

import copy

import torch

from .extension import _C, DTYPES
from .layers import LSTM

__all__ = ["Stepper"]

_FORWARDS = {cls.forward for cls in (torch.nn.LSTM, torch.nn.GRU, torch.nn.RNN, LSTM)}  # our three share one


class Stepper:
    """Runs a module's layers one time step per call, with the state kept inside and the weights packed once.

        stepper = Stepper(module)          # an LSTM, GRU or RNN, ours or torch.nn's
        for x in stream:                   # x [B, I]
            h = stepper.step(x)            # [B, H], with a projection [B, P]; clone it to keep it

    The outputs have the bits of the module's own for the whole sequence (of one that is in eval(): a Stepper applies no dropout).
    A bfloat16 or float16 module rounds between its layers, a Stepper at the very end only. On the CPU's kernels a step allocates no
    memory, takes no lock but the GIL, which it releases meanwhile; on CUDA and elsewhere each step is a call of a copy of the module. In
    real-time code call `step` a few times first, and choose `torch.set_num_threads(1)`: helper threads have no real-time priority.
    No autograd through it.

    module        torch.nn.LSTM, GRU, RNN or ours, any number of layers. ValueError for a bidirectional one, whose first output needs
                  the last input
    batch_size    B, the rows of every x
    weight_dtype  torch.bfloat16 keeps weight_ih and weight_hh of a float32 module in bfloat16, which halves what a step reads: the
                  results, to the bit, of the module with these weights rounded (by at most 1 part in 256; biases, projections,
                  states and all arithmetic stay float32). Default: the module's own

    Other threads may use other Steppers at the same time; a second call of this one, whichever method, is refused with RuntimeError.
    """

    def __init__(self, module, batch_size=1, *, weight_dtype=None):
        if not isinstance(module, torch.nn.RNNBase) or module.mode not in ("LSTM", "GRU", "RNN_TANH", "RNN_RELU", "RNN_SIGMOID"):
            raise TypeError(f"Stepper: expected an LSTM, GRU or RNN module, got {type(module).__name__}")
        if type(module).forward not in _FORWARDS:
            raise TypeError(f"Stepper: {type(module).__name__} has a forward of its own, which a Stepper would not run")
        if module.bidirectional:
            raise ValueError("Stepper: expected a module of one direction, got a bidirectional one: it needs the whole sequence")
        if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
            raise ValueError(f"Stepper: expected batch_size to be a positive integer, got {batch_size!r}")
        self.module, self.batch_size = module, batch_size
        weight = module.weight_ih_l0
        rounds = weight_dtype not in (None, weight.dtype)
        if rounds and (weight_dtype, weight.dtype) != (torch.bfloat16, torch.float32):
            raise ValueError(f"Stepper: expected weight_dtype torch.bfloat16 and a torch.float32 module, got {weight_dtype} and {weight.dtype}")
        if _C is not None and weight.device.type == "cpu" and weight.dtype in DTYPES:
            self._core = _C.Stepper(module, batch_size, rounds)
        elif rounds:
            raise ValueError("Stepper: weight_dtype needs the kernels, which were not built or do not run on this device")
        else:
            self._core = _ModuleSteps(module, batch_size)

    def step(self, x, out=None):
        """Feeds x [B, I] and returns the top layer's new state [B, H] (or [B, P]).

        It is written to `out`, or else to one tensor that every such call returns and overwrites. x and out have the module's dtype
        and contiguous rows; RuntimeError (TypeError for what is no tensor), and an untouched state, for anything else.
        """
        return self._core.step(x, out)

    def reset(self, hx=None):
        """Sets the state to hx, as the module takes it (h [L, B, P] or (h, c)), or to zero. ValueError for other sizes."""
        if hx is not None:
            hx = [hx] if isinstance(hx, torch.Tensor) else list(hx)
            expected = [tuple(s.shape) for s in self._core.state()]
            if [tuple(s.shape) for s in hx] != expected:
                raise ValueError(f"Stepper: expected states of sizes {expected}, got {[tuple(s.shape) for s in hx]}")
        self._core.set_state(hx)

    @property
    def hx(self):
        """A copy of the state: h [L, B, P], or (h, c) with c [L, B, H]; on the CPU's kernels float32 where the module is bfloat16 or float16."""
        states = self._core.state()
        return tuple(states) if len(states) == 2 else states[0]

    def refresh(self):
        """Reads the module's parameters again; to be called after they changed. The state stays."""
        self._core.refresh(self.module)


class _ModuleSteps:
    """The same on a device or dtype without kernels: a copy of the module runs each step."""

    def __init__(self, module, batch_size):
        self.refresh(module)
        weight, rows = module.weight_ih_l0, (module.num_layers, batch_size)
        widths = (module.proj_size or module.hidden_size, *([module.hidden_size] if module.mode == "LSTM" else []))
        self._states = [torch.zeros(*rows, width, dtype=weight.dtype, device=weight.device) for width in widths]
        self._x = weight.new_empty(batch_size, module.input_size)
        self._out = torch.empty_like(self._states[0][-1])

    def refresh(self, module):
        self._module = copy.deepcopy(module).eval()

    @torch.no_grad()
    def step(self, x, out=None):
        _check(x, self._x, "x")
        if out is not None:
            _check(out, self._out, "out")
        x = x.unsqueeze(1 if self._module.batch_first else 0)
        hx = tuple(self._states) if len(self._states) == 2 else self._states[0]
        _, hx = self._module(x, hx)
        self.set_state(hx if isinstance(hx, tuple) else (hx,))
        return (self._out if out is None else out).copy_(self._states[0][-1])

    def state(self):
        return [s.clone() for s in self._states]

    @torch.no_grad()
    def set_state(self, states):
        for i, state in enumerate(self._states):
            state.zero_() if states is None else state.copy_(states[i])


def _check(t, like, name):
    if t.shape != like.shape or t.dtype != like.dtype or t.device != like.device:
        raise RuntimeError(f"Stepper: expected {name} of size {list(like.shape)} and dtype {like.dtype} on {like.device}, got "
                           f"{list(t.shape)} and {t.dtype} on {t.device}")
