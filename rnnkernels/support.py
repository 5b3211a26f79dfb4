"""What layers and cells share: which calls the kernels take, for every other goes to torch.nn, which runs it or raises its own error; and an option."""

import torch

from . import autocast, fallback
from .extension import DEVICES, DTYPES


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


def decline(forward, x, beyond):
    """Leaves a call to torch.nn's `forward`, which runs it or raises its own error.

    beyond  names of what the call asks for that torch.nn does not have: ValueError where it would run without them
    """
    note_unsupported(x)
    if not beyond:
        return forward()
    try:
        forward()
    except AssertionError:  # a mode that torch.nn does not know
        pass
    raise ValueError(f"{' and '.join(beyond)} needs one of {', '.join(sorted(map(str, DTYPES)))} on {', '.join(sorted(DEVICES))}, "
                     f"got {x.dtype} on {x.device.type}")


def note_unsupported(x):
    """Tells, once, that x has a device or dtype without kernels. An x that has them was refused as an error: nothing to tell."""
    if x.device.type not in DEVICES or x.dtype not in DTYPES and (x.is_floating_point() or x.is_complex()):
        fallback.note(f"no kernel for {x.dtype} on {x.device.type}: torch.nn runs instead")


class ResetAfter:
    """The option reset_after of a GRU and a GRUCell; it stands first among their bases."""

    reset_after = True  # an instance has the attribute only where it is False

    def __init__(self, *args, reset_after=True, **kwargs):
        super().__init__(*args, **kwargs)
        if not reset_after:
            self.reset_after = False

    def extra_repr(self):
        return super().extra_repr() + ("" if self.reset_after else ", reset_after=False")

    def _beyond_torch_nn(self):
        return [] if self.reset_after else ["reset_after=False"]
