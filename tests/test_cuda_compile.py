"""Every CUDA source compiles for sm_80 and sm_90, no kernel spills registers, and those that run many steps keep their weights on the chip; so does
what calls them from torch. Needs nvcc, no card; to look at the machine code cuobjdump, too."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from torch.utils.cpp_extension import include_paths

import cuda_sass

ROOT = Path(__file__).parent.parent
SOURCES = [*sorted(ROOT.glob("csrc/cuda/*.cu")), ROOT / "tests/cuda_host/selftest.cu"]
CARDS = [f"-gencode=arch=compute_{version},code=sm_{version}" for version in (80, 90)]
MANY_STEPS = ("cta_", "cluster_", "grid_")
needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc")


def nvcc(*arguments):
    return subprocess.run(["nvcc", *arguments], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


@needs_nvcc
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_compiles_without_spills(source, tmp_path):
    result = nvcc("-std=c++17", "-Icsrc", *CARDS, "--threads=2", "-Xptxas=-v", "-c", source, "-o", tmp_path / "object.o")
    assert result.returncode == 0, result.stdout
    kernel, spills = None, []
    for line in result.stdout.splitlines():
        if found := re.search(r"Compiling entry function '(.*)' for '(.*)'", line):
            kernel = " for ".join(found.groups())
        elif (found := re.search(r"(\d+) bytes spill stores", line)) and found[1] != "0":
            spills.append(f"{kernel}: {line.strip()}")
    assert kernel is not None and not spills, "\n".join(spills)
    if cuda_sass.CUOBJDUMP and source.name.startswith(MANY_STEPS):
        assert cuda_sass.main([tmp_path / "object.o"]) == 0


@needs_nvcc
@pytest.mark.parametrize("source", sorted(ROOT.glob("csrc/torch/cuda_*.cpp")), ids=lambda path: path.name)
def test_the_torch_side_compiles(source):
    """Against this torch's headers, and stand-ins for those that a build without CUDA and a bare toolkit lack."""
    includes = [f"-I{path}" for path in ("csrc", "tests/cuda_stubs", *include_paths())]
    result = nvcc("-std=c++20", *includes, "-DTORCH_EXTENSION_NAME=_C", "-Xcompiler=-fsyntax-only,-fopenmp", "-c", source)
    assert result.returncode == 0, result.stdout
