"""Plants each fault of mutants/ in a scratch copy, rebuilds it and runs the fast tests, or those
of the CUDA layers, which must fail.

    python tests/deep/mutate.py [--missing] [WORD ...]     only those not killed yet; only those whose name contains a word

Puts each verdict into docs/mutants.md as it comes, and exits 1 if a mutant survives, does not compile, or no longer finds its text.
"""

import argparse
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from queue import SimpleQueue

import verdicts
from mutants import MUTANTS
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from tree import MAX_JOBS, ROOT, Tree
from verdicts import Verdict

sys.path.insert(0, str(ROOT))
from bench import checkout  # noqa: E402

TIMEOUT = 900
TESTS_FAILED = 1  # pytest's exit status; any other but a crash says nothing about the mutant
CRASHES = {-signal.SIGSEGV, -signal.SIGABRT, -signal.SIGBUS, -signal.SIGFPE, -signal.SIGILL}
# Which regime's tests see most of a file in csrc/cuda, by how its name begins; of others R0's.
REGIMES = {"cta": "R1", "loop": "R1", "forward_cells": "R1", "backward_cells": "R1", "fast_float": "R1", "cluster": "R2",
           "grid": "R3", "mailboxes": "R3", "fused": "R4"}


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


def regime(mutant):
    return next((R for start, R in REGIMES.items() if mutant.file.startswith(f"csrc/cuda/{start}")), "R0")


def plant(tree, mutant):
    """(killed, by what)."""
    source = tree.path / mutant.file
    original = source.read_text()
    source.write_text(original.replace(mutant.old, mutant.new))
    try:
        if is_cuda(mutant):
            result = tree.cuda_tests(regime(mutant), timeout=TIMEOUT)
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
    """Whether all of them were killed."""
    free = SimpleQueue()
    for tree in trees:
        free.put(tree)
    commit, known = checkout.commit(), verdicts.read()
    columns = (TextColumn("{task.description:60.60}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress, ThreadPoolExecutor(len(trees)) as pool:
        bar = progress.add_task("", total=len(mutants))

        def one(mutant):
            tree, start = free.get(), time.monotonic()
            progress.update(bar, description=mutant.name)
            killed, by = plant(tree, mutant)
            free.put(tree)
            console.print(f"{'killed' if killed else '[red]SURVIVED[/]'}  {mutant.name}: {by} ({time.monotonic() - start:.0f} s)", highlight=False)
            return mutant, Verdict(killed, by, commit)

        for future in as_completed([pool.submit(one, mutant) for mutant in mutants]):
            mutant, verdict = future.result()
            known[mutant.name] = verdict
            verdicts.write(known, MUTANTS)
            progress.advance(bar)
    return all(known[mutant.name].killed for mutant in mutants)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--missing", action="store_true", help="only the mutants that docs/mutants.md does not have as killed")
    parser.add_argument("words", nargs="*", metavar="WORD", help="only the mutants whose name contains one of these")
    choice = parser.parse_args()
    console = Console()
    done = {name for name, verdict in verdicts.read().items() if verdict.killed} if choice.missing else set()
    mutants = [m for m in MUTANTS if m.name not in done and (not choice.words or any(word in m.name for word in choice.words))]
    gone = [message for message in map(stale, mutants) if message]
    if gone:
        sys.exit("\n".join(gone))
    with console.status("building the copies and running the fast tests without a fault"):
        trees = prepare(mutants)
    sys.exit(not run(trees, mutants, console))


if __name__ == "__main__":
    main()
