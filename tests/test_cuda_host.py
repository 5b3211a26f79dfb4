"""CUDA code run on the host (tests/cuda_host): its self-test with many seeds, under sanitizers, and with faults that it must report."""

import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest
from cuda_host.build import CXX, HERE, SANITIZED, SCHEDULER, build, compile_all
from cuda_host.faults import FAULTS

SELFTEST, KERNELS = HERE / "selftest.cu", HERE / "selftest_kernels.cuh"
SEEDS = "20"
QUICK = ("-O0", "-g0")  # to compile

pytestmark = pytest.mark.skipif(shutil.which(CXX) is None, reason="no C++ compiler")


def run(program, *words):
    """(exit status, everything it printed)."""
    result = subprocess.run([program, *words], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120)
    print(result.stdout)
    return result.returncode, result.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cuda_host")


@pytest.fixture(scope="module")
def scheduler(folder):
    return compile_all(folder / "scheduler", SCHEDULER)


@pytest.fixture(scope="module")
def faulty(folder, scheduler):
    """Fault -> the self-test with it."""
    text = KERNELS.read_text()

    def plant(i):
        fault = FAULTS[i]
        assert text.count(fault.old) == 1, f"{fault.name}: its text occurs {text.count(fault.old)} times"
        copy = folder / f"fault{i}"
        copy.mkdir()
        shutil.copy(SELFTEST, copy)
        (copy / KERNELS.name).write_text(text.replace(fault.old, fault.new))
        return build(copy, copy / SELFTEST.name, flags=QUICK, scheduler=scheduler)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip(FAULTS, pool.map(plant, range(len(FAULTS)))))


def test_selftest(folder, scheduler):
    status, said = run(build(folder / "selftest", SELFTEST, scheduler=scheduler), SEEDS)
    assert status == 0 and "SKIP" not in said


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_fault_is_reported(fault, faulty):
    status, said = run(faulty[fault], SEEDS, fault.test)
    assert status == 1 and re.search(fault.report, said)


def test_sanitizers(folder):
    status, said = run(build(folder / "sanitized", SELFTEST, flags=(*SANITIZED, *QUICK)), "5")
    assert status == 0 and "SKIP" not in said
