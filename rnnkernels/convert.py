"""Swapping torch.nn's recurrent modules for ours, in a model or in torch itself."""

import contextlib

import torch

from . import cells, layers
from .options import beyond_torch_nn
from .support import plain_class

_NAMES = ("LSTM", "GRU", "RNN", "LSTMCell", "GRUCell", "RNNCell")
_OURS = {getattr(torch.nn, name): getattr(layers, name, None) or getattr(cells, name) for name in _NAMES}
_THEIRS = {ours: theirs for theirs, ours in _OURS.items()}


def convert(module):
    """Makes every torch.nn recurrent module in `module`, itself included, ours. Returns `module`.

    The module objects stay what they are and change their class only: parameters, hooks, names, the training flag and
    every reference somebody holds (an optimizer's, another module's) remain valid. A user's own subclass of a torch.nn
    module may rely on the forward it inherits and is left alone. TorchScript, torch.fx and quantize_dynamic
    know torch.nn's modules by their exact type: `revert` before those.
    """
    return _change_classes(module, _OURS)


def revert(module):
    """Undoes `convert`: makes every recurrent module of ours in `module` torch.nn's again. Returns `module`.

    Raises TypeError, before anything is changed, for what torch.nn cannot express: a subclass of ours, recompute=True,
    reset_after=False, or nonlinearity="sigmoid".
    """
    for name, m in module.named_modules():
        if not isinstance(m, tuple(_THEIRS)):
            continue
        for option in beyond_torch_nn(m) + ["recompute=True"] * getattr(m, "recompute", False):
            raise TypeError(f"cannot revert {name or 'the module'}: torch.nn has no {option}")
        if plain_class(m) not in _THEIRS:
            raise TypeError(f"cannot revert {name or 'the module'}: {type(m).__qualname__} is a subclass of ours")
    return _change_classes(module, _THEIRS)


@contextlib.contextmanager
def patch_torch():
    """Inside it, torch.nn.LSTM, GRU, RNN and their cells are ours (in torch.nn, torch.nn.modules, torch.nn.modules.rnn).

    For code that builds its own modules. It changes names in torch for all threads; modules built inside stay ours. Inside,
    `isinstance(m, torch.nn.LSTM)` is true of ours only, and a module of torch.nn's own cannot be pickled.
    """
    places = torch.nn, torch.nn.modules, torch.nn.modules.rnn
    before = [(place, name, getattr(place, name)) for place in places for name in _NAMES]
    try:
        for theirs, ours in _OURS.items():
            for place in places:
                setattr(place, theirs.__name__, ours)
        yield
    finally:
        for place, name, value in before:
            setattr(place, name, value)


def _change_classes(module, new_classes):
    for m in module.modules():
        old = plain_class(m)
        new = new_classes.get(old)
        if new is None:
            continue
        if old is not type(m):  # the class that parametrize made for this object: the same again over the new base
            new = type(f"Parametrized{new.__name__}", (new,), dict(vars(type(m))))
        m.__class__ = new
    return module
