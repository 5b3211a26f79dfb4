"""torch.compile: lets Dynamo trace our layers.

Dynamo refuses to trace any instance of torch.nn.LSTM, GRU or RNN, so ours too, unless torch._dynamo.config.allow_rnn is set. With
that flag set, torch.nn's own layers are unrolled over time and, in torch 2.13, an LSTM fails in training. So we set it
around the one method of Dynamo that asks for it, and only for a module of ours: everybody else's are treated as before.

`torch._dynamo` takes seconds to import. The method is therefore wrapped when somebody else imports it.
"""

import functools
import importlib.abc
import importlib.util
import sys

_BUILDER = "torch._dynamo.variables.builder"


def trace(cls):
    """Lets Dynamo trace instances of cls."""
    if _BUILDER in sys.modules:
        _wrap(sys.modules[_BUILDER], cls)
    else:
        sys.meta_path.insert(0, _WhenImported(cls))


class _WhenImported(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds and loads the module as ever, then wraps the method."""

    def __init__(self, cls):
        self.cls = cls

    def find_spec(self, name, path=None, target=None):
        if name != _BUILDER:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        self.loader, spec.loader = spec.loader, self
        return spec

    def create_module(self, spec):
        return self.loader.create_module(spec)

    def exec_module(self, module):
        self.loader.exec_module(module)
        _wrap(module, self.cls)


def _wrap(builder, cls):
    from torch._dynamo import config

    wrap_module = builder.VariableBuilder.wrap_module

    @functools.wraps(wrap_module)
    def wrapped(self, value):
        if not isinstance(value, cls):
            return wrap_module(self, value)
        with config.patch(allow_rnn=True):
            return wrap_module(self, value)

    builder.VariableBuilder.wrap_module = wrapped
