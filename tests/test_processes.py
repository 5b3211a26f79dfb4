"""A forked child, where OpenMP's workers and our helpers are gone: a layer must run there, serially, and not hang."""

import subprocess
import sys

import pytest

from conftest import needs_extension

# torch's own parallel loops do hang in such a child, so it calls nothing but the layer, forward and backward.
PROGRAM = """
import os, sys, torch, rnnkernels
torch.set_num_threads(2)
layer, x, cotangent = rnnkernels.LSTM(64, 64), torch.randn(50, 16, 64), torch.randn(50, 16, 64)
large, step = rnnkernels.LSTM(64, 300), torch.randn(1, 1, 64)
{before}
child = os.fork()
if child == 0:
    torch.autograd.grad(layer(x)[0], list(layer.parameters()), cotangent)
    large(step)
    os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@needs_extension
@pytest.mark.parametrize("before", ("layer(x)[0].backward(cotangent)", "large(step)", "torch.randn(1000, 1000) @ torch.randn(1000, 1000)"))
def test_fork(before):
    """What died in the fork may have been woken by a sequence, by a step or by torch."""
    assert subprocess.run([sys.executable, "-c", PROGRAM.format(before=before)], timeout=60).returncode == 0
