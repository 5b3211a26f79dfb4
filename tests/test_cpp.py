"""The g++-only tests of csrc, built and run. tests/deep/sanitizers.py builds test_kernels.cpp, which takes minutes."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CXX = os.environ.get("CXX", "c++")
# As setup.py; gcc 12 takes AVX-512's undefined operands for uninitialised variables.
FLAGS = ["-std=c++17", "-O2", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", "-Wno-psabi", "-Wno-maybe-uninitialized"]

pytestmark = pytest.mark.skipif(shutil.which(CXX) is None, reason="no C++ compiler")


def compile_cpp(*arguments):
    subprocess.run([CXX, *FLAGS, "-fopenmp", f"-I{ROOT / 'csrc'}", *arguments], check=True)


@pytest.mark.parametrize("name, sources", [("test_cells", []), ("test_activations", []), ("test_pieces", ["csrc/cpu/pieces.cpp"]),
                                           ("test_team", ["csrc/cpu/team.cpp"])])
def test_cpp(name, sources, tmp_path):
    program = tmp_path / name
    sources = [ROOT / "tests/cpp" / f"{name}.cpp", *(ROOT / source for source in sources)]
    compile_cpp(*sources, "-o", program)
    run = subprocess.run([program], capture_output=True, text=True)
    print(run.stdout)
    assert run.returncode == 0, run.stdout + run.stderr


def test_the_slow_test_compiles():
    compile_cpp("-fsyntax-only", ROOT / "tests/cpp/test_kernels.cpp")
