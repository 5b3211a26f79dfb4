"""The three stages, each within its minutes, each going on where an earlier run was cut off."""

from __future__ import annotations

import argparse
import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bench import checkout
from bench.gpu import card, checks, grid, kernels, limits, report
from bench.gpu.record import Record
from bench.point import Point

KERNELS_SECONDS = 60
SILENCE = 90  # seconds without a word, after which the process that measures is taken for hung


def main(args: argparse.Namespace, points: list[Point], console: Console) -> int:
    lacking = card.missing()
    if lacking:
        print(f"--suite gpu cannot run here: {lacking}", file=sys.stderr)
        return 2
    machine = card.describe() | {"limits": limits.digest()}
    run = Run(Record(args.out, machine), time.monotonic() + 60 * args.minutes, console)
    console.print(card.line(machine))
    run.check("build", checks.build, again=True)  # this machine may not have what the record's had
    telling = set(grid.points(grid.TELLING))
    stages = {
        1: run.judge_card,
        2: lambda: run.measure([p for p in points if p in telling]),
        3: lambda: run.measure([p for p in points if p not in telling]),
    }
    for stage in [args.stage] if args.stage else stages:
        stages[stage]()
    return report.conclude(run.record.run, run.record.path, console, args.check)


@dataclass
class Run:
    record: Record
    deadline: float
    console: Console

    def left(self) -> float:
        return self.deadline - time.monotonic()

    def judge_card(self):
        """Stage 1. What a later check needs comes first, and so does what tells most."""
        every = checks.all_checks()
        self.check("self-test", every.pop("self-test"))
        self.measure_limits()
        for name, check in every.items():
            if self.record.passed("build"):
                self.check(name, check)
        unknown = [point for point in grid.SUITE.points if str(point) not in self.record.run["kernels"]]
        if unknown and self.left() > 0:
            self.record.add_kernels(dict(kernels.measured(unknown, min(self.left(), KERNELS_SECONDS))))

    def check(self, name: str, check, again: bool = False):
        if (self.record.passed(name) and not again) or self.left() <= 0:
            return
        outcome = check(self.left())
        self.record.add_check(name, outcome)
        self.console.print(report.check_line(name, outcome), markup=False)

    def measure_limits(self):
        known, machine = self.record.run["limits"], self.record.run["machine"]
        for group, figures in limits.groups(known, machine["capability"], self.left):
            self.record.add_limits(group, figures)
            self.console.print(
                f"limits: {group}:", ", ".join(f"{name} {value}" for name, value in figures.items()), markup=False
            )
            if self.left() <= 0:
                return

    def measure(self, points: Iterable[Point]):
        """Stages 2 and 3."""
        todo = self.record.open_points(points, ours=self.record.passed("build"))
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self.console, transient=True) as progress:
            task = progress.add_task("", total=len(todo))
            while todo and self.left() > 0:
                over = 0
                for point, outcome in self.outcomes(todo):
                    over += 1
                    if isinstance(outcome, dict):
                        self.record.add_point(outcome)
                    else:
                        self.record.add_failure(point, outcome)
                    self.console.print(
                        report.line(outcome) if isinstance(outcome, dict) else f"{point}: {outcome}", markup=False
                    )
                    progress.update(task, advance=1, description=str(point))
                if over == 0:
                    return
                todo = todo[over:]

    def outcomes(self, points: list[Point]) -> Iterator[tuple[Point, dict | str]]:
        """Each point with its result, or why there is none; ends early where the process did or time is over."""
        begun = ended = 0
        for answer in answers(points, self.deadline):
            begun += "begin" in answer
            if "ended" in answer and self.left() > 0:
                if begun == 0:
                    self.console.print(f"nothing measured: {answer['ended']}", markup=False)
                if begun > ended:
                    yield points[ended], answer["ended"]
            for key in ("result", "failure"):
                if key in answer:
                    yield points[ended], answer[key]
                    ended += 1


COMMAND = [sys.executable, "-m", "bench.gpu.points"]


def answers(points: list[Point], deadline: float) -> Iterator[dict]:
    """What `bench.gpu.points` answers, and {"ended": why} where it did not come to its end."""
    process = subprocess.Popen(COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=checkout.ROOT)
    lines: queue.Queue[str | None] = queue.Queue()

    def listen():
        for line in process.stdout:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=listen, daemon=True).start()
    try:
        with process.stdin:
            json.dump([asdict(point) for point in points], process.stdin)
    except BrokenPipeError:
        pass  # it has ended; the loop below finds out
    try:
        while (line := lines.get(timeout=max(0.0, min(SILENCE, deadline - time.monotonic())))) is not None:
            if line.endswith("}\n"):  # the last one of a process that crashes may be cut off
                yield json.loads(line)
        if process.wait() != 0:
            yield {"ended": f"the process that measures ended with {process.returncode}"}
    except queue.Empty:
        process.kill()
        yield {"ended": f"no word for {SILENCE} s"}
    finally:
        process.kill()
        process.wait()
