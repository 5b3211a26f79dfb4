"""One recurrent layer, by the fastest way that is open: `lstm`, `lstm_with_cells`, `gru`, `gru_reset_before` and `rnn` with the ops' own signatures.

    compiled code      torch.ops.rnnkernels.*, which Dynamo can trace; for torch.onnx ONNX' own operators
    torch.func, jvp    transforms.py: a C++ autograd function has no vmap and no forward-mode rule
    tensor subclasses  torch.ops.rnnkernels.*, which calls their __torch_function__
    no extension       the reference, with one warning
    otherwise          _C.*, the same ops by a shorter way from Python (torch.ops costs microseconds a call)
"""

import torch
from torch.overrides import has_torch_function

from . import fallback, onnx, reference, transforms
from .extension import _C


def _choose(name):
    if _C is None:
        return _without_extension(name)
    fused, op = getattr(_C, name), getattr(torch.ops.rnnkernels, name)

    def layer(*args):
        if torch.compiler.is_compiling():
            exports = torch.compiler.is_exporting() and onnx.exporting()
            return onnx.layer(name, *args) if exports else op(*args)
        if transforms.active():
            return transforms.layer(name, *args)
        if has_torch_function(args):
            return op(*args)
        return fused(*args)

    layer.__name__ = name
    return layer


def _without_extension(name):
    slow = getattr(reference, name)

    def layer(*args):
        fallback.note("the extension was not built; the slow plain-PyTorch reference runs instead")
        return slow(*args)

    layer.__name__ = name
    return layer


lstm, lstm_with_cells, gru, gru_reset_before, rnn = map(_choose, ("lstm", "lstm_with_cells", "gru", "gru_reset_before", "rnn"))
