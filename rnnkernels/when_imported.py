"""Acting on a module of torch's that takes long to import, when and if somebody else imports it."""

import importlib.abc
import sys


def when_imported(name, action):
    """Calls action(module): at once if the module `name` has been imported, else right after it will have been."""
    if name in sys.modules:
        action(sys.modules[name])
    else:
        sys.meta_path.insert(0, _Finder(name, action))


class _Finder(importlib.abc.MetaPathFinder):
    """Finds one module as ever, for a loader that then acts. It stays until the module was loaded: who finds need not load."""

    def __init__(self, name, action):
        self.name, self.action = name, action

    def find_spec(self, name, path=None, target=None):
        if name != self.name or self not in (finders := list(sys.meta_path)):
            return None
        for finder in finders[finders.index(self) + 1 :]:  # others of our kind may stand among them
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                spec.loader = _Loader(spec.loader, self)
                return spec
        return None


class _Loader(importlib.abc.Loader):
    """`loader`, and then the finder's action."""

    def __init__(self, loader, finder):
        self.loader, self.finder = loader, finder

    def __getattr__(self, name):  # source, resources and so on
        return getattr(self.loader, name)

    def create_module(self, spec):
        return self.loader.create_module(spec)

    def exec_module(self, module):
        module.__spec__.loader = module.__loader__ = self.loader
        self.loader.exec_module(module)
        if self.finder in sys.meta_path:
            sys.meta_path.remove(self.finder)
            self.finder.action(module)
