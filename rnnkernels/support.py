"""What layers and cells share: how their parameters are read, whether the kernels can run a call, and what becomes of it if they cannot.

Such a call goes to the forward of torch.nn, which runs it (a dtype or device without kernels) or raises its own error (bad input).
"""

import torch

from . import autocast, fallback
from .extension import DEVICES, DTYPES
from .options import SIGMOID, beyond_torch_nn


def fits(x, states, names, weights):
    """Whether the kernels take x, the states and the weights of these names together."""
    dtype, device = x.dtype, x.device
    if dtype not in DTYPES or device.type not in DEVICES or x.layout is not torch.strided:
        return False
    mixed = False
    for t in (*states, *weights):
        if not isinstance(t, torch.Tensor) or t.device != device or t.layout is not torch.strided:
            return False
        if t.dtype is not dtype:
            mixed = True
    if any(w.dim() != (2 if name.startswith("weight") else 1) for name, w in zip(names, weights)):
        return False  # with a dimension more the ops would take them for an ensemble's
    return not mixed or (autocast.enabled(x) and autocast.mixes({dtype, *(t.dtype for t in (*states, *weights))}))


CELL_PARAMETERS = "weight_ih", "weight_hh", "bias_ih", "bias_hh"


def parameter_names(module):
    """Of a layer, in the order of its `_flat_weights`, or of a cell, where without a bias two of them are None."""
    return getattr(module, "_flat_weights_names", CELL_PARAMETERS)


def read_parameters(module, names):
    """The parameters as they are now: weight_norm, parametrize and functional_call replace them between calls."""
    held = module._parameters
    try:
        return [held[name] for name in names]  # ten times faster than Module.__getattr__
    except KeyError:
        return [getattr(module, name) for name in names]


def state_widths(module):
    """The columns of a layer's states: of h and, for an LSTM, of c."""
    P = module.proj_size or module.hidden_size
    return (P, module.hidden_size) if module.mode == "LSTM" else (P,)


def plain_class(module):
    """The class of a module, looking through the one that torch.nn.utils.parametrize puts on top."""
    cls = type(module)
    return cls.__bases__[0] if torch.nn.utils.parametrize.is_parametrized(module) else cls


def twin(module, **attributes):
    """A module that shares everything with `module` but these attributes. What is set on one of them later, the other does not see."""
    other = object.__new__(type(module))
    vars(other).update(vars(module) | attributes)
    return other


def decline(forward, module, x, asked=()):
    """Leaves a call to torch.nn: forward(module) runs it or raises torch.nn's own error.

    asked  names of what the call asks for that torch.nn does not have. With any of these, or options of such a kind, a call that
           torch.nn would run without them is a ValueError
    """
    note_unsupported(x)
    beyond = [*asked, *beyond_torch_nn(module)]
    if not beyond:
        return forward(module)
    forward(twin(module, mode="RNN_TANH", nonlinearity="tanh") if SIGMOID in beyond else module)  # torch.nn must know its options
    raise ValueError(f"{' and '.join(beyond)} needs input, states and parameters of one dtype, one of {', '.join(sorted(map(str, DTYPES)))}, "
                     f"on {' or '.join(sorted(DEVICES - {'meta'}))}; got input of {x.dtype} on {x.device.type}")


def note_unsupported(x):
    """Tells, once, that x has a device or dtype without kernels. An x that has them was refused as an error: nothing to tell."""
    if x.device.type not in DEVICES or x.dtype not in DTYPES and (x.is_floating_point() or x.is_complex()):
        fallback.note(f"no kernel for {x.dtype} on {x.device.type}: torch.nn runs instead")
