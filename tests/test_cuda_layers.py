"""The layers of csrc/cuda, run on the host (tests/cuda_host) against plain loops: tests/cpp/test_cuda_layers.cpp."""

import os
import shutil
import subprocess

import pytest
from filelock import FileLock
from cuda_host.build import CXX, build_layers


@pytest.fixture(scope="session")
def program(tmp_path_factory):
    """Built once, by the first of pytest-xdist's workers that needs it."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cuda_layers"
    with FileLock(f"{folder}.lock"):
        return folder / "program" if (folder / "program").exists() else build_layers(folder)


@pytest.mark.skipif(shutil.which(CXX) is None, reason="no C++ compiler")
@pytest.mark.parametrize("dtype, regime", [("f64", "R0"), ("f32", "R0"), ("bf16", "R0"), ("f16", "R0"),
                                           ("f32", "R1"), ("tf32", "R1"), ("bf16", "R1"), ("f16", "R1"),
                                           ("f32", "R2"), ("tf32", "R2"), ("bf16", "R2"), ("f16", "R2"),
                                           ("f32", "R3"), ("tf32", "R3"), ("bf16", "R3"), ("f16", "R3"),
                                           ("tf32", "R4"), ("bf16", "R4"), ("f16", "R4")])
def test_layers(program, dtype, regime):
    result = subprocess.run([program, dtype, regime], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert result.returncode == 0, result.stdout
