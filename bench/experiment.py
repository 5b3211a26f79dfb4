"""A benchmark that is no table of shapes: named results, each with its bars, into one JSON. bench/citizen.py and bench/cliffs.py are such."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console

from bench import machine, timing
from bench.point import CELLS
from bench.report import duration, judge


def result(what: str, rounds: list[dict[str, float]], bars: dict[str, float] | None = None,
           limits: dict[str, tuple[str, float]] | None = None) -> dict:
    """bars: the least ratio to each contender. limits: contenders that may take at most so many seconds more than another one."""
    return {"what": what, **timing.summary(rounds), "bars": bars or {}, "limits": limits or {}}


def seconds(run: Callable) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def verdicts(found: dict) -> list[tuple[str, str]]:
    """Of each bar: what it says, and pass, tie or FAIL."""
    said = []
    for name, least in found["bars"].items():
        ratio = found["ratios"][name]["median"]
        said.append((f"{ratio:.2f}x {name}, bar {least:.2f}", judge(ratio, least)))
    for name, (other, most) in found["limits"].items():
        over = found["seconds"][name]["median"] - found["seconds"][other]["median"]
        said.append((f"{name} {duration(over)} over {other}, limit {duration(most)}", judge(most, over)))
    return said


def line(found: dict) -> str:
    times = "  ".join(f"{name} {duration(spread['median'])}" for name, spread in found["seconds"].items())
    return f"{found['what']:36} {times}   " + "  ".join(f"{text}: {word}" for text, word in verdicts(found))


def main(suite: str, doc: str, peers: tuple[str, ...], measures: tuple[Callable[[str], list[dict]], ...]) -> int:
    """The command line of the module with this docstring: runs measure(cell) of each cell, writes bench/out/SUITE.json after each, and
    returns 1 with --check if a bar is missed."""
    parser = argparse.ArgumentParser(prog=f"python -m bench.{suite}", description=doc.splitlines()[0].split(": ", 1)[1])
    parser.add_argument("--cell", nargs="+", type=str.upper, choices=CELLS, default=CELLS)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=Path("bench/out") / f"{suite}.json")
    parser.add_argument("--check", action="store_true", help="exit 1 if a bar is missed")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    console = Console(width=200, highlight=False)
    run = {"suite": suite, "machine": machine.describe(args.threads, peers), "results": []}
    console.print(machine.line(run["machine"]), machine.warning(run["machine"]), sep="\n")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    for measure in measures:
        for cell in args.cell:
            run["results"] += (found := measure(cell))
            console.print(*map(line, found), sep="\n")
            args.out.write_text(json.dumps(run, indent=1) + "\n")
    console.print("wrote", args.out)
    missed = any(word == "FAIL" for found in run["results"] for _, word in verdicts(found))
    return int(args.check and missed)
