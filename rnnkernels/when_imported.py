"""Acting on a module of torch's that takes long to import, when and if somebody else imports it."""

import importlib.abc
import importlib.util
import sys


def when_imported(name, action):
    """Calls action(module): at once if the module `name` has been imported, else right after it will have been."""
    if name in sys.modules:
        action(sys.modules[name])
    else:
        sys.meta_path.insert(0, _Once(name, action))


class _Once(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds and loads one module as ever, then acts."""

    def __init__(self, name, action):
        self.name, self.action = name, action

    def find_spec(self, name, path=None, target=None):
        if name != self.name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        self.loader, spec.loader = spec.loader, self
        return spec

    def create_module(self, spec):
        return self.loader.create_module(spec)

    def exec_module(self, module):
        self.loader.exec_module(module)
        module.__spec__.loader = module.__loader__ = self.loader
        self.action(module)
