"""The kernels of every instruction set: the fast equivalence and bit tests again, in a process that is held to one that this process has not
taken."""

import os
import subprocess
import sys

import pytest

import rnnkernels
from conftest import needs_extension

NAMES = {"default": "baseline", "avx2": "avx2", "avx512": "avx512"}


@needs_extension
@pytest.mark.parametrize("capability", NAMES)
def test_instruction_set(capability):
    env = {**os.environ, "ATEN_CPU_CAPABILITY": capability}
    if capability == "avx2":
        env["ONEDNN_MAX_CPU_ISA"] = "AVX2"  # oneDNN, behind torch.nn's side of the comparison, does not read torch's variable
    isa = subprocess.run([sys.executable, "-c", "import rnnkernels; print(rnnkernels._C.active_isa())"], env=env, text=True,
                         capture_output=True, check=True).stdout.strip()
    if isa != NAMES[capability]:
        pytest.skip(f"this CPU has no {capability}")
    if isa == rnnkernels._C.active_isa():
        return
    tests = ["tests/test_equivalence.py", "tests/test_bits.py"]
    result = subprocess.run([sys.executable, "-m", "pytest", "-q", "-x", "-m", "fast", "-p", "no:cacheprovider", *tests], env=env,
                            text=True, capture_output=True)
    assert result.returncode == 0, result.stdout[-3000:]
