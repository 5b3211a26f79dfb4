"""torch.autocast: the result dtypes of torch.nn's recurrent modules. On the CPU, measured on torch 2.13:

                                     out, h_n   c_n        low:   the dtype autocast was entered with
    LSTM                             low        low        state: the dtype of hx, or of x where hx was not given
    LSTM with proj_size              low        state
    LSTM on a PackedSequence         state      state
    GRU, LSTMCell, GRUCell           state      state
    RNN, RNNCell                     low        low

We compute in the dtype of `out`. Where that is f32 we therefore do not round to bf16 at all: torch.nn keeps the state
in f32 in those rows because a state rounded at every step stalls, and the values in between cost us nothing.
f64 is left alone, as autocast leaves it.

On CUDA every result is low, for there autocast casts x, the states and the weights of torch.nn's layers (cuDNN) and cells. Read from
torch's source (AutocastRNN.cpp, autocast_mode.h) and its binary, and not yet seen on a card. One difference is intended: torch 2.11 casts
the layers to float16 even where autocast was entered with bfloat16, which overflows; ours follow autocast.
"""

import torch

from .extension import DTYPES


def enabled(x):
    """Whether a call on x is under autocast."""
    device = x.device.type
    return torch._C._is_any_autocast_enabled() and torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def mixes(dtypes):
    """Whether torch.nn accepts these dtypes together under autocast."""
    return torch.float64 not in dtypes and dtypes <= DTYPES


def run(fn, kind, x, states, weights, *args):
    """Calls fn(x, states, weights, *args) with everything cast (a weight may be None, and a state but the first), outside autocast.

    Casts c_n last. The cells of an LSTM come as c_n does.

    kind: "lstm", "lstm proj", "lstm packed", "rnn", or "state" for what follows the state's dtype.
    """
    low, state = torch.get_autocast_dtype(x.device.type), states[0].dtype
    if x.dtype is torch.float64:
        low = state
    elif x.device.type == "cuda":
        state = low
    dtype = state if kind in ("state", "lstm packed") else low
    with torch.autocast(x.device.type, enabled=False):  # the reference is made of ops that autocast would cast again
        cast = lambda tensors: [t if t is None else t.to(dtype) for t in tensors]
        result = fn(x.to(dtype), cast(states), cast(weights), *args)
    if kind == "lstm proj":
        return *result[:2], *(c.to(state) for c in result[2:])
    return result
