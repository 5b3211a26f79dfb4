"""Stepper: a recurrent module fed one time step at a time, for streams and real-time use."""

import contextlib
import threading

import torch

from . import rounded
from .extension import _C, DTYPES
from .layers import check_layer
from .support import plain_class, read_parameters, state_widths, twin

__all__ = ["Stepper"]


class Stepper:
    """Runs a module's layers one time step per call, with the state kept inside and the weights packed once.

        stepper = Stepper(module)          # an LSTM, GRU or RNN, ours or torch.nn's
        for x in stream:                   # x [B, I]
            h = stepper.step(x)            # [B, H], with a projection [B, P]; clone it to keep it

    The outputs have the bits of the module's own for the whole sequence (of one that is in eval(): a Stepper applies no dropout).
    A bfloat16 or float16 module rounds between its layers, a Stepper at the very end only. On the CPU's kernels a step allocates no
    memory, takes no lock but the GIL, which it releases meanwhile; on CUDA and elsewhere each step is a call of the module's forward on a
    copy of its weights. In real-time code call `step` a few times first, and choose `torch.set_num_threads(1)`: helper threads have no
    real-time priority. No autograd through it, and no hooks.

    module        torch.nn.LSTM, GRU, RNN or ours, any number of layers
    batch_size    B, the rows of every x
    weight_dtype  torch.bfloat16 keeps weight_ih and weight_hh of a float32 module in bfloat16, which halves what a step reads: the
                  results, to the bit, of the module with these weights rounded (by at most 1 part in 256; biases, projections,
                  states and all arithmetic stay float32). Default: the module's own

    TypeError for another module, or one with a forward of its own; ValueError for a bidirectional one, whose first output needs the last
    input, for a batch_size that is no positive integer, and for another weight_dtype, or one where these kernels do not run.

    Other threads may use other Steppers at the same time; a second call of this one, whichever method, is refused with RuntimeError.
    """

    def __init__(self, module, batch_size=1, *, weight_dtype=None):
        check_layer(module, "Stepper")
        if module.bidirectional:
            raise ValueError("Stepper: expected a module of one direction, got a bidirectional one: it needs the whole sequence")
        if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
            raise ValueError(f"Stepper: expected batch_size to be a positive integer, got {batch_size!r}")
        self.module, self.batch_size = module, batch_size
        weight = module.weight_ih_l0
        rounds = rounded.rounds(weight_dtype, weight.dtype)
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
        """Sets the state to hx, as the module takes it (h [L, B, P] or (h, c)), or to zero. ValueError for other sizes, TypeError for
        what is no tensor."""
        if hx is not None:
            hx = [hx] if isinstance(hx, torch.Tensor) else list(hx)
            expected = [tuple(s.shape) for s in self._core.state()]
            if not all(isinstance(s, torch.Tensor) for s in hx):
                raise TypeError(f"Stepper: expected states to be tensors, got {[type(s).__name__ for s in hx]}")
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
    """The same on a device or dtype without kernels: each step is a call of the module's forward, on a copy of the weights."""

    def __init__(self, module, batch_size):
        self._busy = threading.Lock()
        with torch.inference_mode(False):  # or nothing could be written to outside of it
            like, rows = module.weight_ih_l0, (module.num_layers, batch_size)
            self._states = [like.new_zeros(*rows, width) for width in state_widths(module)]
            self._out = torch.empty_like(self._states[0][-1])
        self._sizes = {"x": [batch_size, module.input_size], "out": list(self._out.shape)}
        self.refresh(module)

    def refresh(self, module):
        with self._turn(), torch.inference_mode(False):
            names = module._flat_weights_names
            weights = [w.detach().clone() for w in read_parameters(module, names)]
            self._module = twin(module, training=False, _parameters=dict(zip(names, weights)), _flat_weights=weights,
                                _flat_weight_refs=[None] * len(weights))  # fmt: skip
            self._module.__class__ = plain_class(module)  # a parametrization would compute weights anew
            self._module.flatten_parameters()  # for cuDNN

    def step(self, x, out=None):
        self._check(x, "x")
        to = self._out if out is None else out
        self._check(to, "out")  # even ours: somebody may have reshaped what they got
        if to.requires_grad and torch.is_grad_enabled():
            raise RuntimeError("Stepper: expected an out that requires no gradient")
        with self._turn(), torch.no_grad():
            hx = self._states[0] if len(self._states) == 1 else tuple(self._states)
            _, hx = self._module.forward(x.unsqueeze(1 if self._module.batch_first else 0), hx)  # without hooks
            states = [hx] if len(self._states) == 1 else list(hx)
            to.copy_(states[0][-1])  # raises before the state has moved
            self._states = states
        return to

    def state(self):
        with self._turn():
            return [s.clone() for s in self._states]

    def set_state(self, states):
        with self._turn(), torch.no_grad():  # all of them are there before the first is replaced
            self._states = [torch.zeros_like(s) if states is None else torch.empty_like(s).copy_(states[i]) for i, s in enumerate(self._states)]

    @contextlib.contextmanager
    def _turn(self):
        if not self._busy.acquire(blocking=False):
            raise RuntimeError("rnnkernels: the Stepper is at work in another thread")
        try:
            yield
        finally:
            self._busy.release()

    def _check(self, t, name):
        if not isinstance(t, torch.Tensor):
            raise TypeError(f"Stepper: expected {name} to be a tensor, got {type(t).__name__}")
        sizes, like = self._sizes[name], self._states[0]
        if list(t.shape) != sizes or t.dtype != like.dtype or t.device != like.device or t.layout is not torch.strided:
            raise RuntimeError(f"Stepper: expected {name} of size {sizes} and dtype {like.dtype} on {like.device}, got "
                               f"{list(t.shape)} and {t.dtype} on {t.device}")
        if t.shape[1] > 1 and t.stride(1) != 1 or t.is_neg():
            raise RuntimeError(f"Stepper: expected {name} with contiguous rows, got strides {t.stride()}{' and a lazy negation' * t.is_neg()}")
