"""python -m bench: times ours against torch.nn and every other installed peer, in one process, interleaved."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bench import machine, peers, report
from bench.gpu import stages
from bench.point import CELLS, MODES, Point
from bench.problem import TOLERANCE, Mismatch
from bench.roofline import Limits
from bench.shapes import SUITES
from bench.timing import measure


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.split(": ")[1])
    parser.add_argument("--suite", choices=SUITES, default="default")
    parser.add_argument("--cell", nargs="+", type=str.upper, choices=CELLS)
    parser.add_argument("--mode", nargs="+", choices=MODES)
    parser.add_argument("--steps", nargs="+", type=int, metavar="T", help="only these numbers of time steps")
    parser.add_argument("--batch", nargs="+", type=int, metavar="B")
    parser.add_argument("--hidden", nargs="+", type=int, metavar="H")
    dtypes = [dtype for dtype in TOLERANCE if hasattr(torch, dtype)]
    parser.add_argument("--dtype", choices=dtypes, help="measure every point in this one instead of its own")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="for every contender")
    parser.add_argument("--peers", nargs="+", choices=peers.PEERS, help="default: all that are installed")
    parser.add_argument("--out", type=Path, help="the JSON; a PNG goes beside it (bench/out/SUITE.json). gpu: a folder (bench/results/gpu)")
    parser.add_argument("--check", action="store_true", help="print each bar with its figure; exit 1 if one is missed or cannot be judged")
    parser.add_argument("--stage", type=int, choices=(1, 2, 3), help="gpu: only this one")
    parser.add_argument("--minutes", type=float, help="gpu: how long a card may be used (8 a stage)")
    args = parser.parse_args(argv)
    if args.suite == "gpu":
        if args.dtype or args.peers:
            parser.error("--suite gpu has its own dtypes and peers")
        args.minutes = args.minutes or (8 if args.stage else 24)
        args.out = args.out or Path("bench/results/gpu")
        return args
    args.peers = args.peers or [name for name in peers.PEERS if peers.installed(name)]
    args.out = args.out or Path("bench/out") / f"{args.suite}.json"
    if args.check and "torch" not in args.peers:
        parser.error("--check compares with torch.nn: --peers must contain torch")
    return args


def selected(args: argparse.Namespace) -> list[Point]:
    """The suite's points that pass the filters."""
    filters = {"cell": args.cell, "mode": args.mode, "T": args.steps, "B": args.batch, "H": args.hidden}
    wanted = lambda point: all(not allowed or getattr(point, key) in allowed for key, allowed in filters.items())
    own = {"dtype": args.dtype} if args.dtype else {}
    return [replace(point, **own) for point in SUITES[args.suite].points if wanted(point)]


def main(argv: list[str] | None = None) -> int:
    args = arguments(argv)
    torch.set_num_threads(args.threads)
    points, suite = selected(args), SUITES[args.suite]
    if not points:
        sys.exit("no point of this suite passes the filters")
    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False)
    if args.suite == "gpu":
        return stages.main(args, points, console)
    contenders = peers.load(args.peers)
    limits = Limits.measure(args.threads)
    run = {"suite": args.suite, "machine": machine.describe(args.threads, args.peers), "limits": limits and limits.as_json(), "points": []}
    args.out.parent.mkdir(parents=True, exist_ok=True)

    console.print(machine.line(run["machine"]), machine.build(run["machine"]), sep="\n")
    console.print(machine.warning(run["machine"]), style="bold yellow")
    console.print(str(limits) if limits else "no C++ compiler or no AVX2: the machine's limits are unknown")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=len(points))
        for point in points:
            note = lambda text: progress.update(task, description=f"{point}: {text}")
            try:
                run["points"].append(measure(point, contenders, args.threads, suite.bars_of(point), note, limits))
            except Mismatch as wrong:
                sys.exit(str(wrong))
            console.print(report.line(run["points"][-1]))
            progress.advance(task)
            args.out.write_text(json.dumps(run, indent=1) + "\n")  # after every point: an aborted run keeps its figures

    from bench import plot, plot_bound  # matplotlib is missing on some machines with a card

    console.print("", report.table(run))
    pictures = [args.out.with_suffix(".png")]
    plot.draw(run, pictures[0])
    if plot_bound.draw(run, plot_bound.path_beside(args.out)):
        pictures.append(plot_bound.path_beside(args.out))
    console.print("wrote", args.out, *pictures)
    if not args.check:
        return 0
    verdicts = report.verdicts(run)
    console.print("", *map(str, verdicts), sep="\n")
    return int(any(verdict.word in ("FAIL", "unknown") for verdict in verdicts))


if __name__ == "__main__":
    sys.exit(main())
