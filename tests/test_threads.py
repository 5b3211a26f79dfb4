"""Callers that share the processor: other threads, more threads than cores, somebody's own parallel region. No hang, the same bits."""

import subprocess
import sys

import pytest

from conftest import needs_extension

PROGRAM = """
import ctypes, os, re, threading, torch, rnnkernels

CORES, CALLERS = len(os.sched_getaffinity(0)), 3
torch.set_num_threads(2 * CORES)
layers = [getattr(rnnkernels, cell)(40, 40, bidirectional=True) for cell in ("LSTM", "GRU", "RNN")]
large, steps = rnnkernels.LSTM(64, 300), torch.randn(1, 1, 64)  # whose threads share one step
x, cotangent = torch.randn(20, 24, 40), torch.randn(20, 24, 80)


def results():
    found = [large(steps)[0]]
    for layer in layers:
        out = layer(x)[0]
        found += [out, *torch.autograd.grad(out, list(layer.parameters()), cotangent)]
    return found


def by_itself(call):
    call()


def in_python_threads(call):
    threads = [threading.Thread(target=call) for _ in range(CALLERS)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()


def in_a_parallel_region(call):
    libgomp = ctypes.CDLL(re.search(r"/\\S*libgomp\\S*", open("/proc/self/maps").read()).group())  # the one torch has loaded
    body = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda _: call())
    libgomp.GOMP_parallel(body, None, CALLERS, 0)


alone, found = results(), []


def call():
    for _ in range(5):
        found.append(results())


{how}(call)
assert len(found) == 5 * {callers}, len(found)
for other in found:
    assert all(torch.equal(a, b) for a, b in zip(alone, other, strict=True))
"""


@needs_extension
@pytest.mark.parametrize("how, callers", (("in_python_threads", "CALLERS"), ("in_a_parallel_region", "CALLERS"), ("by_itself", "1")))
def test_callers_side_by_side(how, callers):
    done = subprocess.run([sys.executable, "-c", PROGRAM.format(how=how, callers=callers)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
