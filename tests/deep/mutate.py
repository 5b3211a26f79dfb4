"""Plants each fault of mutants/ in a scratch copy, rebuilds it and runs the fast tests, or those
of the CUDA layers, which must fail.

    python tests/deep/mutate.py [WORD ...]     only the mutants whose name contains a word

Prints which test kills which mutant, writes the table to build/deep/mutants.md, and exits 1 if one survives, does not
compile, or no longer finds its text.
"""

import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

from mutants import MUTANTS
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from tree import MAX_JOBS, ROOT, SCRATCH, Tree

TIMEOUT = 900
TESTS_FAILED = 1  # pytest's exit status; any other but a crash says nothing about the mutant
CRASHES = {-signal.SIGSEGV, -signal.SIGABRT, -signal.SIGBUS, -signal.SIGFPE, -signal.SIGILL}


def stale(mutant):
    count = (ROOT / mutant.file).read_text().count(mutant.old)
    return None if count == 1 else f"{mutant.name}: its text occurs {count} times in {mutant.file}"


def killer(result):
    """The first failing test's name, or how the run ended."""
    failed = re.search(r"^(?:FAILED|ERROR) tests/(.+?)(?: - |$)", result.stdout, re.MULTILINE)
    return failed.group(1) if failed else f"ended with {result.returncode}"


def is_cuda(mutant):
    """Whether it is in what only the host tests of the CUDA layers run, which build it themselves."""
    return mutant.file.startswith("csrc/cuda/")


def verdict(tree, mutant):
    """(killed, by what)."""
    source = tree.path / mutant.file
    original = source.read_text()
    source.write_text(original.replace(mutant.old, mutant.new))
    try:
        if is_cuda(mutant):
            result = tree.cuda_tests(timeout=TIMEOUT)
            broken = re.search("^ERROR tests/", result.stdout, re.MULTILINE)
        else:
            result = tree.build()
            broken = result.returncode
        if broken:
            return False, "does not compile: " + next((line for line in result.stdout.splitlines() if "error:" in line), "")
        if not is_cuda(mutant):
            result = tree.fast_tests(timeout=TIMEOUT)
        return result.returncode == TESTS_FAILED or result.returncode in CRASHES, killer(result) if result.returncode else "survived"
    except subprocess.TimeoutExpired:
        return False, f"no verdict after {TIMEOUT} s"
    finally:
        source.write_text(original)


def prepare(mutants):
    """One tree per job, built, of which one has passed without a fault the tests that the mutants need."""
    trees = [Tree(f"mutants-{job}", "-O1 -g0", jobs=1) for job in range(MAX_JOBS)]
    results = []
    if not all(map(is_cuda, mutants)):
        with ThreadPoolExecutor(MAX_JOBS) as pool:
            results = list(pool.map(Tree.build, trees))
        if not any(result.returncode for result in results):
            results = [trees[0].fast_tests()]
    if any(map(is_cuda, mutants)):
        results.append(trees[0].cuda_tests())
    for result in results:
        if result.returncode:
            sys.exit(result.stdout[-4000:] + "\nThe unchanged copy fails.")
    return trees


def run(trees, mutants, console):
    free = SimpleQueue()
    for tree in trees:
        free.put(tree)
    columns = (TextColumn("{task.description:60.60}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress, ThreadPoolExecutor(len(trees)) as pool:
        bar = progress.add_task("", total=len(mutants))

        def one(mutant):
            tree, start = free.get(), time.monotonic()
            progress.update(bar, description=mutant.name)
            killed, by = verdict(tree, mutant)
            free.put(tree)
            progress.console.print(f"{'killed' if killed else '[red]SURVIVED[/]'}  {mutant.name}: {by}", highlight=False)
            progress.advance(bar)
            return mutant, killed, by, time.monotonic() - start

        return list(pool.map(one, mutants))


def report(rows, console):
    table = Table("mutant", "killed by", "s", title=f"{sum(killed for _, killed, _, _ in rows)} of {len(rows)} mutants killed")
    for mutant, killed, by, seconds in rows:
        table.add_row(mutant.name, by if killed else f"[red]{by}[/]", f"{seconds:.0f}")
    console.print(table)
    lines = [f"| {mutant.name} | {'' if killed else '**'}`{by}`{'' if killed else '**'} |" for mutant, killed, by, _ in rows]
    (SCRATCH / "mutants.md").write_text("\n".join(["| mutant | killed by |", "|---|---|", *lines, ""]))


def main(words):
    console = Console()
    mutants = [m for m in MUTANTS if not words or any(word in m.name for word in words)]
    gone = [message for message in map(stale, mutants) if message]
    if gone:
        sys.exit("\n".join(gone))
    with console.status("building the copies and running the fast tests without a fault"):
        trees = prepare(mutants)
    rows = run(trees, mutants, console)
    report(rows, console)
    sys.exit(not all(killed for _, killed, _, _ in rows))


if __name__ == "__main__":
    main(sys.argv[1:])
