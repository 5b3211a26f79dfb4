"""One recurrent layer, by the fastest way that is open: `lstm`, `gru` and `rnn` with the ops' own signatures.

    compiled code      torch.ops.rnnkernels.*, which Dynamo can trace
    torch.func, jvp    the reference: a C++ autograd function has no vmap and no forward-mode rule
    no extension       the reference, with one warning
    otherwise          _C.*, the same ops by a shorter way from Python (torch.ops costs microseconds a call)
"""

import torch
from torch.autograd import forward_ad

from . import fallback, reference
from .extension import _C

_functorch_level = torch._C._functorch.maybe_current_level


def _choose(name):
    if _C is None:
        return _without_extension(name)
    fused, slow = getattr(_C, name), getattr(reference, name)
    op = getattr(torch.ops.rnnkernels, name)

    def layer(*args):
        if torch.compiler.is_compiling():
            return op(*args)
        if _functorch_level() is not None or forward_ad._current_level >= 0:
            return slow(*args)
        return fused(*args)

    return layer


def _without_extension(name):
    slow = getattr(reference, name)

    def layer(*args):
        fallback.note("the extension was not built; the slow plain-PyTorch reference runs instead")
        return slow(*args)

    return layer


lstm, gru, rnn = _choose("lstm"), _choose("gru"), _choose("rnn")
