"""Is it right on this card: the build, ptx.cuh's self-test, the tests, the sanitizers. Each is a process of its own."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

import torch

from bench import checkout
from bench.gpu import card

SELF_TESTS = "tests/cuda_host/*selftest*.cu"  # programs with a main() that tries every wrapper of ptx.cuh on the card
TESTS = "tests/test_cuda*.py"
NEEDS_A_CARD = "needs_cuda"  # the mark in those of them that run on one; the others take a host's time, not a card's
ALONE = ("test_cuda_streams",)  # watches the clock: no second process on the card meanwhile
SANITIZERS = ("memcheck", "racecheck", "synccheck")
OURS_ALONE = "kns=rnnk"  # our kernels' namespace is in their names; other people's would take minutes
HAS_KERNELS = "import rnnkernels as r; assert 'cuda' in r.info()['devices'], f'no CUDA kernels: {r.info()}'"
STAMP = checkout.ROOT / "build" / "bench-gpu.json"  # what the extension in place was built from

BUILD_SECONDS, TEST_SECONDS, SANITIZER_SECONDS = 300, 300, 120
THREADS = 2  # of each process that runs tests
TAIL = 6000  # characters of a failure's output that the record keeps


def run(command: list, limit: float, **environment: str) -> dict:
    """An outcome: ok is whether the command succeeded within `limit` seconds; what it said last, if it did not."""
    start = time.monotonic()
    path = os.pathsep.join([str(Path(sys.executable).parent), str(Path(card.NVCC).parent), os.environ.get("PATH", "")])
    process = subprocess.Popen(
        list(map(str, command)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=checkout.ROOT,
        env=os.environ | {"PATH": path} | environment,
        start_new_session=True,
    )
    try:
        said, ok = process.communicate(timeout=max(limit, 1))[0], process.returncode == 0
    except subprocess.TimeoutExpired:
        kill_session(process.pid)
        said, ok = process.communicate()[0] + f"\nkilled after {limit:.0f} s", False
    return {"ok": ok, "seconds": round(time.monotonic() - start, 1), "tail": "" if ok else said[-TAIL:]}


def kill_session(leader: int) -> None:
    """All that a process which leads a session has started: a build's compilers too, to which ninja gives process groups of their own."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended by now
            if int(stat.read_text().rpartition(")")[2].split()[3]) == leader:
                os.kill(int(stat.parent.name), signal.SIGKILL)


def skipped(why: str) -> dict:
    return {"ok": None, "seconds": 0, "tail": why}


def build(limit: float) -> dict:
    """The extension in place, if it is not there yet; for this card alone, unless TORCH_CUDA_ARCH_LIST is set.

    C++ at -O1, unless RNNKERNELS_CFLAGS is set: the CPU's kernels, which nobody measures here, would take longer than all of CUDA's,
    five minutes in a single process. A point's host_seconds are those of such a build.
    """
    stamp = {"csrc": checkout.csrc(), "torch": torch.__version__, "python": sys.version}
    built = STAMP.exists() and json.loads(STAMP.read_text()) == stamp and any((checkout.ROOT / "rnnkernels").glob("_C*.so"))
    outcome = skipped("built before")
    if not built:
        outcome = run([sys.executable, "setup.py", "build_ext", "--inplace"], min(limit, BUILD_SECONDS),
                      RNNKERNELS_CUDA="1", RNNKERNELS_CFLAGS=os.environ.get("RNNKERNELS_CFLAGS", "-O1"),
                      MAX_JOBS=os.environ.get("MAX_JOBS", str(os.cpu_count())),
                      TORCH_CUDA_ARCH_LIST=os.environ.get("TORCH_CUDA_ARCH_LIST", card.capability()))  # fmt: skip
        if not outcome["ok"]:
            return outcome
    there = run([sys.executable, "-c", HAS_KERNELS], 60)
    if there["ok"]:
        STAMP.parent.mkdir(exist_ok=True)
        STAMP.write_text(json.dumps(stamp))
    return outcome | {"ok": there["ok"], "tail": there["tail"] or outcome["tail"]}


def self_test(limit: float) -> dict:
    sources = sorted(checkout.ROOT.glob(SELF_TESTS))
    if not sources:
        return skipped(f"there is no {SELF_TESTS}")
    program = checkout.ROOT / "build" / "ptx-self-test"
    program.parent.mkdir(exist_ok=True)
    options = ["-O2", "-std=c++17", "-arch=" + card.arch(card.capability()), "-Icsrc"]
    compiled = run([card.NVCC, *options, "-o", program, *sources], min(limit, BUILD_SECONDS))
    return run([program], min(limit, TEST_SECONDS)) if compiled["ok"] else compiled


def tests(file: Path) -> Callable[[float], dict]:
    """The tests of one file, by as many processes as there are cores for: it is the references that take long."""

    def check(limit: float) -> dict:
        report = checkout.ROOT / "build" / f"{file.stem}.xml"
        report.parent.mkdir(exist_ok=True)
        report.unlink(missing_ok=True)
        side_by_side = importlib.util.find_spec("xdist") and file.stem not in ALONE
        workers = ["-n", str(max(1, os.cpu_count() // THREADS))] if side_by_side else []
        options = ["-q", "--tb=short", "--maxfail=30", f"--junitxml={report}", *workers]
        command = [sys.executable, "-m", "pytest", *options, file]
        outcome = run(command, min(limit, TEST_SECONDS), OMP_NUM_THREADS=str(THREADS))
        outcome |= counts(report) if report.exists() else {}
        all_skipped = outcome["ok"] and outcome["tests"] == outcome["skipped"]
        return outcome | ({"ok": None, "tail": "nothing ran"} if all_skipped else {})

    return check


def counts(report: Path) -> dict:
    """How many tests ran, and which failed."""
    suites = ElementTree.parse(report).getroot().findall("testsuite")
    cases = [case for suite in suites for case in suite.iter("testcase")]
    failed = [case.get("name") for case in cases if {"failure", "error"} & {child.tag for child in case}]
    total = lambda key: sum(int(suite.get(key, 0)) for suite in suites)
    return {"tests": total("tests"), "skipped": total("skipped"), "failed": failed}


def sanitizer(tool: str) -> Callable[[float], dict]:
    def check(limit: float) -> dict:
        program = shutil.which("compute-sanitizer") or Path(card.NVCC).with_name("compute-sanitizer")
        if not Path(program).exists():
            return skipped("there is no compute-sanitizer")
        options = ["--tool", tool, "--kernel-name", OURS_ALONE, "--report-api-errors", "no", "--error-exitcode", "99"]
        command = [program, *options, sys.executable, "-m", "bench.gpu.short"]
        # Each tensor an allocation of its own, or memcheck would not see where it ends.
        return run(command, min(limit, SANITIZER_SECONDS), PYTORCH_NO_CUDA_MEMORY_CACHING="1")

    return check


def all_checks() -> dict[str, Callable[[float], dict]]:
    """By name, in their order."""
    files = [file for file in sorted(checkout.ROOT.glob(TESTS)) if NEEDS_A_CARD in file.read_text()]
    suites = {file.stem: tests(file) for file in files}
    return {"self-test": self_test} | suites | {tool: sanitizer(tool) for tool in SANITIZERS}
