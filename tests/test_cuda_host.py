"""CUDA code run on the host: its self-test with many seeds, under sanitizers, and with faults that it must report."""

import re
import shutil
import subprocess

import pytest
from cuda_host.build import CXX, SANITIZED, SCHEDULER, build, compile_all
from cuda_host.faults import FAULTS, SELFTEST, plant

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


@pytest.fixture
def faulty(tmp_path, scheduler):
    """The self-test with a fault, built."""
    return lambda fault: build(tmp_path, plant(fault, tmp_path), flags=QUICK, scheduler=scheduler)


def test_selftest(folder, scheduler):
    status, said = run(build(folder / "selftest", SELFTEST, scheduler=scheduler), SEEDS)
    assert status == 0 and "SKIP" not in said


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_fault_is_reported(fault, faulty):
    status, said = run(faulty(fault), SEEDS, fault.test)
    assert status == 1 and re.search(fault.report, said)


def test_a_seed_is_an_order(faulty):
    """The report names the first thread that comes to the other barrier."""
    fault = next(fault for fault in FAULTS if fault.name == "half a block is at another barrier")
    program = faulty(fault)
    assert len({run(program, SEEDS, fault.test) for _ in range(3)}) == 1


def test_sanitizers(folder):
    status, said = run(build(folder / "sanitized", SELFTEST, flags=(*SANITIZED, *QUICK)), "5")
    assert status == 0 and "SKIP" not in said
