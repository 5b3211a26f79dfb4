"""test_kernels.cpp under AddressSanitizer + UBSan and under ThreadSanitizer, test_pieces.cpp and test_team.cpp under the latter, CUDA code on the
host and the fast Python tests under AddressSanitizer.

    python tests/deep/sanitizers.py [WORD ...]     only the steps whose name contains a word

Each sanitizer must also report a fault planted for it, or its silence would mean nothing. Builds in build/deep and exits 1 if
anything is not as it should be.
"""

import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from tree import MAX_JOBS, NEEDED_FLAGS, ONE_ISA, ROOT, SCRATCH, Tree, best_isa, files, mirror

sys.path.insert(0, str(ROOT / "tests"))

from cuda_host.build import SANITIZED, build as build_cuda_host, build_layers  # noqa: E402
from cuda_host.faults import OFF_BY_ONE, SELFTEST, plant  # noqa: E402

CXX = os.environ.get("CXX", "c++")
FLAGS = ["-std=c++17", "-O1", "-g1", "-fopenmp", "-ffp-contract=off", "-Wno-psabi", "-Icsrc"]
ADDRESS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined")
THREAD = ("-fsanitize=thread",)
FORWARD, PIECES = Path("csrc/cpu/forward.h"), Path("csrc/cpu/pieces.cpp")


@dataclass(frozen=True)
class Check:
    name: str
    folder: str
    flags: tuple
    words: tuple = ()  # for the program
    plant: tuple = ()  # (file, old, new)
    report: str = ""  # what the sanitizer must say; "" for nothing
    one_isa: bool = True
    program: str = "test_kernels"
    sources: str = "*.cpp"  # of csrc/cpu


CHECKS = [
    Check("AddressSanitizer and UBSan, every ISA", "address", ADDRESS, one_isa=False),
    Check("ThreadSanitizer", "thread", THREAD, ("quick",)),
    Check("ThreadSanitizer, pieces", "thread-pieces", THREAD, program="test_pieces", sources="pieces.cpp"),
    Check("ThreadSanitizer, team", "thread-team", THREAD, program="test_team", sources="team.cpp"),
    Check("AddressSanitizer sees a vector stored past a row's end", "planted-overrun", ADDRESS, ("quick",),
          (FORWARD, "store_upto(next.h.part[j], state_rows[row(j)] + u, s_.H - u);", "next.h.part[j].store(state_rows[row(j)] + u);"),
          "SUMMARY: AddressSanitizer"),
    Check("ThreadSanitizer sees a missing barrier", "planted-race", THREAD, ("quick",),
          (FORWARD, "    meet(task);\n    if (projected_) {", "    if (projected_) {"), "data race"),
    Check("ThreadSanitizer sees a piece that is not waited for", "planted-race-pieces", THREAD,
          plant=(PIECES, "    wait_for_helpers();\n", ""), report="data race", program="test_pieces", sources="pieces.cpp"),
]


def copy_sources(check):
    changes = {}
    if check.one_isa:
        isa = best_isa()
        changes = {Path(f"csrc/cpu/isa_{other}.cpp"): None for other in NEEDED_FLAGS if other != isa}
        changes[Path("csrc/cpu/kernels.cpp")] = ONE_ISA.replace("ISA", isa)
    if check.plant:
        path, old, new = check.plant
        text = (ROOT / path).read_text()
        assert text.count(old) == 1, f"{check.name}: the text to replace occurs {text.count(old)} times in {path}"
        changes[path] = text.replace(old, new)
    mirror(ROOT, SCRATCH / check.folder, changes)


def compile_one(check, source):
    """Skips what is newer than every header."""
    folder = SCRATCH / check.folder
    target = folder / "objects" / f"{source.stem}.o"
    inputs = [source, *(path for path in files(folder) if path.suffix in (".h", ".inc"))]
    if target.exists() and target.stat().st_mtime > max((folder / path).stat().st_mtime for path in inputs):
        return target
    target.parent.mkdir(exist_ok=True)
    define = ["-DRNNK_ONE_ISA"] if check.one_isa else []
    subprocess.run([CXX, *FLAGS, *check.flags, *define, "-c", source, "-o", target], cwd=folder, check=True)
    return target


def build(check):
    copy_sources(check)
    folder = SCRATCH / check.folder
    sources = [path.relative_to(folder) for path in sorted((folder / "csrc/cpu").glob(check.sources))]
    if check.flags == THREAD:  # libgomp is not instrumented
        sources = [Path("tests/cpp/team_std_thread.cpp") if source.name == "team.cpp" else source for source in sources]
    sources.append(Path(f"tests/cpp/{check.program}.cpp"))
    with ThreadPoolExecutor(MAX_JOBS) as pool:
        objects = list(pool.map(lambda source: compile_one(check, source), sources))
    program = folder / check.program
    subprocess.run([CXX, "-fopenmp", "-pthread", *check.flags, *objects, "-o", program], check=True)
    return program


def run(check):
    """None if all is well, otherwise what was wrong."""
    command = [build(check), *check.words]
    if check.flags == THREAD and shutil.which("setarch"):
        command = ["setarch", "-R", *command]  # gcc 12's TSan cannot live with much address space randomisation
    environment = os.environ | {"ASAN_OPTIONS": "detect_leaks=1", "TSAN_OPTIONS": "halt_on_error=1"}
    result = subprocess.run(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if check.report:
        return None if result.returncode and check.report in result.stdout else f"expected a report of a {check.report}\n" + result.stdout[-2000:]
    return result.stdout[-6000:] if result.returncode else None


def cuda_host():
    """100 seeds of the self-test, then one with an index beyond a block's shared memory."""
    folder = SCRATCH / "cuda-host"
    whole = subprocess.run([build_cuda_host(folder, SELFTEST, flags=SANITIZED), "100"], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if whole.returncode:
        return whole.stdout[-6000:]
    planted = folder / "planted"
    program = build_cuda_host(planted, plant(OFF_BY_ONE, planted), flags=SANITIZED)
    result = subprocess.run([program, "1", OFF_BY_ONE.test], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return None if "heap-buffer-overflow" in result.stdout else "expected a report of an index beyond shared memory\n" + result.stdout[-2000:]


def cuda_layers():
    """All of test_cuda_layers.cpp, then with threads past the last unit."""
    folder = SCRATCH / "cuda-layers"
    text, guard, planted = (ROOT / "csrc/cuda/recompute.cu").read_text(), "if (u >= H) return;", folder / "planted"
    assert guard in text
    whole = subprocess.run([build_layers(folder, SANITIZED)], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if whole.returncode:
        return whole.stdout[-6000:]
    planted.mkdir(exist_ok=True)
    (planted / "recompute.cu").write_text(text.replace(guard, ""))
    program = build_layers(planted, SANITIZED, [planted / "recompute.cu"])
    result = subprocess.run([program, "f64"], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return None if "heap-buffer-overflow" in result.stdout else "expected a report of threads past the last unit\n" + result.stdout[-2000:]


def library(name):
    return subprocess.run([CXX, f"-print-file-name={name}"], text=True, capture_output=True, check=True).stdout.strip()


def python_tests():
    """The extension alone is instrumented: torch is not, but its allocations go through ASan's malloc all the same."""
    tree = Tree("python-address", "-O1 -g1 -fsanitize=address")
    result = tree.build()
    if result.returncode:
        return result.stdout[-4000:]
    # libstdc++ too, or ASan looks for __cxa_throw before torch has brought it in.
    preload = f"{library('libasan.so')}:{library('libstdc++.so')}"
    result = tree.fast_tests(environment={"LD_PRELOAD": preload, "ASAN_OPTIONS": "detect_leaks=0"})
    return result.stdout[-6000:] if result.returncode else None


def main(words):
    console = Console()
    failed = False
    steps = [(check.name, lambda check=check: run(check)) for check in CHECKS] + [
        ("CUDA on the host under AddressSanitizer and UBSan", cuda_host), ("The CUDA layers under AddressSanitizer and UBSan", cuda_layers),
        ("The fast Python tests under AddressSanitizer", python_tests)]
    for name, step in steps:
        if words and not any(word in name for word in words):
            continue
        start = time.monotonic()
        with console.status(name):
            wrong = step()
        console.print(f"{'[red]FAILED[/]' if wrong else 'ok'}  {name}  ({time.monotonic() - start:.0f} s)", highlight=False)
        if wrong:
            failed = True
            console.print(wrong, markup=False)
    sys.exit(failed)


if __name__ == "__main__":
    main(sys.argv[1:])
