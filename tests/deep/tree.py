"""A scratch copy of the checkout under build/deep, built there: deep checks change sources, and nobody else may see that."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
SCRATCH = ROOT / "build" / "deep"
COPIED = ("csrc", "rnnkernels", "tests", "bench", "examples", "requirements", "setup.py", "pyproject.toml", "README.md")
BUILT = {".so", ".pyc"}
MAX_JOBS = int(os.environ.get("MAX_JOBS", "2"))

# As csrc/cpu/kernels.cpp decides.
NEEDED_FLAGS = {"avx512": {"avx512f", "avx512dq", "avx512bw", "avx512vl"}, "avx2": {"avx2", "fma"}, "baseline": set()}
ONE_ISA = """#include "cpu/kernels.h"

namespace rnnk::cpu {
const Kernels& kernels() {
  static const Kernels only = ISA::table();
  return only;
}
}
"""


def best_isa():
    cpuinfo = Path("/proc/cpuinfo").read_text()
    flags = set(next(line for line in cpuinfo.splitlines() if line.startswith("flags")).split())
    return next(isa for isa, needed in NEEDED_FLAGS.items() if needed <= flags)


def files(folder):
    return {path.relative_to(folder) for name in COPIED for path in (folder / name).rglob("*") if path.is_file() and path.suffix not in BUILT} | {
        Path(name) for name in COPIED if (folder / name).is_file()}


def mirror(source, target, changes):
    """Makes target's files those of source with `changes` (path -> text, or None to leave it out); equal ones keep their time
    stamps, so that ninja builds what differs."""
    wanted = files(source) - {path for path, text in changes.items() if text is None}
    for path in files(target) - wanted:
        if path.name != "_build.py":
            (target / path).unlink()
    for path in wanted:
        content = changes[path].encode() if path in changes else (source / path).read_bytes()
        to = target / path
        if not to.exists() or to.read_bytes() != content:
            to.parent.mkdir(parents=True, exist_ok=True)
            to.write_bytes(content)


class Tree:
    """A copy that builds and knows one ISA's kernels only, because each of them takes long to compile."""

    def __init__(self, name, cflags, jobs=MAX_JOBS):
        self.path = SCRATCH / name
        self.environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "RNNKERNELS_CFLAGS": cflags,
                                         "MAX_JOBS": str(jobs)}
        isa = best_isa()
        others = {Path(f"csrc/cpu/isa_{other}.cpp"): None for other in NEEDED_FLAGS if other != isa}
        mirror(ROOT, self.path, others | {Path("csrc/cpu/kernels.cpp"): ONE_ISA.replace("ISA", isa)})

    def run(self, *command, environment=None, **options):
        return subprocess.run(command, cwd=self.path, env=self.environment | (environment or {}), text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options)

    def build(self):
        return self.run(sys.executable, "setup.py", "build_ext", "--inplace")

    def fast_tests(self, **options):
        """Stops at the first failure; files of a few seconds come first, then those that see most."""
        order = ("cells", "rounded", "recompute", "beyond_torch", "equivalence", "lengths", "gradients")
        paths = sorted(self.path.glob("tests/test_*.py"), key=lambda path: (*(path.stem != f"test_{name}" for name in order), path.stem))
        return self.run(sys.executable, "-m", "pytest", "-q", "-x", "-m", "fast", "-p", "no:cacheprovider", *paths, **options)

    def cuda_tests(self, first="R0", **options):
        """They build what they run. Stops at the first failure; the regime `first` comes first."""
        file = self.path / "tests/test_cuda_layers.py"
        for names in (first, f"not {first}"):
            result = self.run(sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-k", names, file, **options)
            if result.returncode:
                break
        return result
