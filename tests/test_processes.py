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


# Helper threads are kept off their caller's core by their affinity, which a child could still set: their ids are its parent's.
ENSEMBLE = """
import os, sys, torch, rnnkernels
from torch.func import functional_call, stack_module_state, vmap
torch.set_num_threads(2)
model = rnnkernels.GRU(64, 64)
weights, _ = stack_module_state([rnnkernels.GRU(64, 64) for _ in range(8)])
x = torch.randn(1, 1, 64)
def steps():
    with torch.no_grad():
        for _ in range(20): vmap(lambda w: functional_call(model, w, (x,))[0])(weights)
affinities = lambda: {thread: os.sched_getaffinity(int(thread)) for thread in os.listdir("/proc/self/task")}
steps()
for thread in os.listdir("/proc/self/task"): os.sched_setaffinity(int(thread), os.sched_getaffinity(0))
before = affinities()
child = os.fork()
if child == 0:
    steps()
    os._exit(0)
code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
sys.exit(code or int(any(before[thread] != own for thread, own in affinities().items())))
"""


@needs_extension
def test_a_child_leaves_its_parents_threads_alone():
    assert subprocess.run([sys.executable, "-c", ENSEMBLE], timeout=60).returncode == 0
