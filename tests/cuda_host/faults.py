"""Faults that running CUDA code on the host must find.

Each is an exact replacement in a kernel of the self-test, which must find its text exactly once, and what must be
reported for at least one of the seeds (a regular expression).
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

from cuda_host.build import HERE, ROOT

SELFTEST, KERNELS = HERE / "selftest.cu", HERE / "selftest_kernels.cuh"
PTX = ROOT / "csrc/cuda/ptx.cuh"


@dataclass(frozen=True)
class Fault:
    name: str
    test: str  # a word of the self-test's name
    old: str
    new: str
    report: str
    file: Path = KERNELS


def plant(fault, folder):
    """A copy of the self-test in `folder`, with the fault."""
    text = fault.file.read_text()
    count = text.count(fault.old)
    assert count == 1, f"{fault.name}: its text occurs {count} times in {fault.file}"
    (folder / "cuda").mkdir(parents=True, exist_ok=True)
    for path, copy in ((SELFTEST, SELFTEST.name), (KERNELS, KERNELS.name), (PTX, "cuda/ptx.cuh")):
        shutil.copy(path, folder / copy)
        if path == fault.file:
            (folder / copy).write_text(text.replace(fault.old, fault.new))
    return folder / SELFTEST.name


OFF_BY_ONE = Fault("an index is off by one", "160 KB", "all[n - 1 - i]", "all[n - i]", "FAIL")

FAULTS = [
    Fault("a barrier before reading what others wrote is missing", "__syncthreads",
          "  parts[threadIdx.x] = sum;\n  __syncthreads();", "  parts[threadIdx.x] = sum;", "FAIL"),
    Fault("a barrier before others' copies are read is missing", "copy_async",
          "ptx::copy_wait<stages - 2>();\n    __syncthreads();", "ptx::copy_wait<stages - 2>();", "FAIL"),
    Fault("some threads leave before a barrier", "__syncthreads",
          "  parts[threadIdx.x] = sum;", "  if (sum % 16 == 3) return;\n  parts[threadIdx.x] = sum;",
          r"ends while others wait at a barrier of the block: \d+ of 96 at __syncthreads, \S+:\d+"
          r"|waits at __syncthreads, \S+:\d+; \d+ threads that should come have ended"),
    Fault("half a block is at another barrier", "__syncthreads",
          "    count = half;\n", "    count = half;\n    if (threadIdx.x < 48) __syncthreads();\n    else\n",
          r"is at __syncthreads, \S+:\d+ while others of its block wait at __syncthreads, \S+:\d+"),
    Fault("half a warp goes another way", "__shfl_sync",
          "  __syncwarp();\n  mine[3]", "  if (lane < 16) __syncwarp();\n  mine[3]",
          r"is at __\w+, \S+:\d+ while others of its warp wait at __\w+, \S+:\d+"),
    OFF_BY_ONE,
    Fault("an output is not written", "store_async",
          "  for (int v = 0; v < values; ++v) out[", "  for (int v = 0; v < values && threadIdx.x > 0; ++v) out[",
          r"element 0 is 4\.2949673e\+09, expected"),
    Fault("a copy is not waited for", "copy_async",
          "ptx::copy_wait<stages - 2>();", "ptx::copy_wait<stages - 1>();", "FAIL|copies in flight"),
    Fault("a thread does not arrive", "store_async",
          "for (int b = 0; b < 2; ++b) ptx::mbarrier_arrive_expect", "for (int b = 0; b < 1; ++b) ptx::mbarrier_arrive_expect",
          r"deadlock(.*\n)+  block \(\d, 0, 0\) threads 0-31: at mbarrier_wait, selftest_kernels.cuh:\d+"),
    Fault("nobody waits for remote stores", "store_async",
          "    ptx::mbarrier_wait(full + t % 2, uint32_t(t / 2 & 1));\n", "",
          "FAIL|ends its block while store_async|has shared memory|more often"),
    Fault("an mbarrier is waited for with the wrong parity", "store_async",
          "uint32_t(t / 2 & 1));\n    if", "uint32_t(t & 1));\n    if",
          "FAIL|deadlock|more often|ends its block while"),
    Fault("remote stores go to the buffer that is being read", "store_async",
          "uint32_t* now = h + t % 2 * width;", "uint32_t* now = h;", "FAIL"),
    Fault("fewer bytes are announced than come", "store_async",
          "(full + t % 2, width * 4);  // of the next", "(full + t % 2, width * 4 - 4);  // of the next",
          "FAIL|deadlock|more often|ends its block while"),
    Fault("the cluster's barrier after the initialisation is missing", "store_async",
          "  ptx::cluster_arrive();\n  ptx::cluster_wait();\n  uint32_t mine", "  uint32_t mine",
          "nobody has initialised"),
    Fault("a block ends while others still read its shared memory", "load_cluster",
          "  ptx::cluster_arrive();\n  out[i] = sum;\n  ptx::cluster_wait();", "  out[i] = sum;", "no block of its cluster that has not ended"),
    Fault("the cluster's barrier before remote loads is missing", "load_cluster",
          "  mine[threadIdx.x] = in[i];\n  ptx::cluster_arrive();\n  ptx::cluster_wait();", "  mine[threadIdx.x] = in[i];", "FAIL|has not ended"),
    Fault("the grid before is not waited for", "dependent", "  ptx::grid_dependency_wait();\n", "", "before it has waited for the one before"),
    Fault("the grid before is not waited for, nor the next one let go", "dependent",
          "  ptx::grid_dependency_wait();\n  ptx::grid_dependency_launch();\n", "", "ends without having waited for the grid before"),
    Fault("a flag is set before all have written", "load_acquire",
          "uint32_t(at);\n    __syncthreads();", "uint32_t(at);", "FAIL"),
    Fault("a flag is not waited for", "load_acquire",
          "ptx::wait_at_least(flags + 2 * (b - 1), uint32_t(t + 1));", ";", "FAIL"),
    Fault("a flag is never set", "load_acquire", "if (threadIdx.x < 2) ptx::store", "if (threadIdx.x < 1) ptx::store",
          r"deadlock(.*\n)+  block \(1, 0, 0\) thread 0: at load_acquire, selftest_kernels.cuh:\d+"),
    Fault("another block's piece is not waited for", "load_relaxed",
          "    if (threadIdx.x < gridDim.x) ptx::wait_at_least(flags + threadIdx.x, uint32_t(t + 1));\n", "", "FAIL"),
    Fault("the number of a message is one too small", "load_relaxed",
          "wait_at_least(flags + threadIdx.x, uint32_t(t + 1))", "wait_at_least(flags + threadIdx.x, uint32_t(t))", "FAIL"),
    Fault("one place for two messages", "load_relaxed", "uint4* now = messages + t % 2 * n;", "uint4* now = messages;", "FAIL"),
    Fault("a fragment's rows are interleaved", "mma<float>",
          "a[(g + r % 2 * 8) * k", "a[(2 * g + r % 2) * k", "FAIL"),
]
