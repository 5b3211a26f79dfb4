"""Stepper: a recurrent module fed one time step at a time, for streams and real-time use."""

import torch

from .extension import _C, DTYPES

__all__ = ["Stepper"]


class Stepper:
    """Runs a module's layers one time step per call, with the state kept inside and the weights packed once.

        stepper = Stepper(module)          # an LSTM, GRU or RNN, ours or torch.nn's
        for x in stream:                   # x [B, I]
            h = stepper.step(x)            # [B, H], with a projection [B, P]; clone it to keep it

    The outputs have the bits of the module's own for the whole sequence (of one that is in eval(): a Stepper applies no dropout).
    On kernels a step allocates no memory, takes no lock and releases the GIL; in real-time code call `step` a few times first.
    There is no autograd through it.

    module        torch.nn.LSTM, GRU, RNN or ours, any number of layers. ValueError for a bidirectional one, whose first output needs
                  the last input
    batch_size    B, the rows of every x
    weight_dtype  torch.bfloat16 keeps weight_ih and weight_hh of a float32 module in bfloat16, which halves what a step reads: the
                  results, to the bit, of the module with these weights rounded (by at most 1 part in 256; biases, projections,
                  states and all arithmetic stay float32). Default: the module's own

    Other threads may use other Steppers at the same time; a second call of this one is refused with RuntimeError.
    """

    def __init__(self, module, batch_size=1, *, weight_dtype=None):
        if not isinstance(module, torch.nn.RNNBase) or module.mode not in ("LSTM", "GRU", "RNN_TANH", "RNN_RELU"):
            raise TypeError(f"Stepper: expected an LSTM, GRU or RNN module, got {type(module).__name__}")
        if module.bidirectional:
            raise ValueError("Stepper: expected a module of one direction, got a bidirectional one: it needs the whole sequence")
        if not isinstance(batch_size, int) or batch_size < 1:
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
        and contiguous rows; RuntimeError, and an untouched state, for anything else.
        """
        return self._core.step(x, out)

    def reset(self, hx=None):
        """Sets the state to hx, as the module takes it (h [L, B, P] or (h, c)), or to zero."""
        states = self._states()
        given = [0] * len(states) if hx is None else [hx] if isinstance(hx, torch.Tensor) else list(hx)
        if len(given) != len(states):
            raise ValueError(f"Stepper: expected {len(states)} states, got {len(given)}")
        for name, state, value in zip(("h", "c"), states, given):
            if hx is not None and value.shape != state.shape:
                raise ValueError(f"Stepper: expected {name} of size {tuple(state.shape)}, got {tuple(value.shape)}")
        with torch.no_grad():
            for state, value in zip(states, given):
                state.fill_(0) if hx is None else state.copy_(value)

    @property
    def hx(self):
        """A copy of the state: h [L, B, P], or (h, c) with c [L, B, H]; float32 where the module is bfloat16 or float16."""
        states = tuple(state.clone() for state in self._states())
        return states if len(states) == 2 else states[0]

    def refresh(self):
        """Reads the module's parameters again; to be called after they changed. The state stays."""
        self._core.refresh(self.module)

    def _states(self):
        return [self._core.h] if self._core.c is None else [self._core.h, self._core.c]


class _ModuleSteps:
    """The same on a device or dtype without kernels: the module itself runs each step."""

    def __init__(self, module, batch_size):
        weight, rows = module.weight_ih_l0, (module.num_layers, batch_size)
        self._module, self._shape = module, (batch_size, module.input_size)
        self.h = torch.zeros(*rows, module.proj_size or module.hidden_size, dtype=weight.dtype, device=weight.device)
        self.c = self.h.new_zeros(*rows, module.hidden_size) if module.mode == "LSTM" else None
        self._out = torch.empty_like(self.h[-1])

    @torch.no_grad()
    def step(self, x, out=None):
        if x.shape != self._shape:
            raise RuntimeError(f"Stepper: expected x of size {list(self._shape)}, got {list(x.shape)}")
        training = self._module.training
        self._module.eval()
        try:
            x = x.unsqueeze(1 if self._module.batch_first else 0)
            _, hx = self._module(x, self.h if self.c is None else (self.h, self.c))
        finally:
            self._module.train(training)
        for state, new in zip((self.h, self.c), (hx,) if self.c is None else hx):
            state.copy_(new)
        return (self._out if out is None else out).copy_(self.h[-1])

    def refresh(self, module):
        """Nothing is packed here."""
