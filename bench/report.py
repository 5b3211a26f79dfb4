"""What a run says: the terminal's table, the verdicts, and the README's Markdown.

python -m bench.report bench/results/cpu/MACHINE/SUITE.json    prints the Markdown: no figure in the README is typed by hand.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, fields
from itertools import groupby
from pathlib import Path
from statistics import geometric_mean

from rich import box
from rich.table import Table

from bench import machine
from bench.peers import OURS, OURSELVES, PEERS
from bench.point import Bar, Point
from bench.shapes import SUITES

TIE = 0.97  # within 3% of its bar a point ties with it
COLOUR = {"pass": "green", "tie": "yellow", "unknown": "yellow", "FAIL": "bold red"}


def figure(result: dict, against: str) -> float | None:
    """What a bar looks at (bench/point.py); None where the point has no such figure."""
    if against == "bound":
        return result["bound"]["share"] if result.get("bound") else None
    if against == "best":
        return best(result)
    if against in result.get("published", {}):
        return result["published"][against] / result["seconds"][OURS]["median"] if OURS in result["seconds"] else None
    return result["ratios"][against]["median"] if against in result["ratios"] else None


def judge(value: float, least: float) -> str:
    """pass, tie or FAIL."""
    return "pass" if value >= least else "tie" if value >= TIE * least else "FAIL"


@dataclass(frozen=True)
class Verdict:
    bar: Bar
    value: float | None  # None where the run lacks the peer ("best": any peer), or the machine's limits
    results: tuple[dict, ...]

    @property
    def word(self) -> str:
        return "unknown" if self.value is None else judge(self.value, self.bar.least)

    def __str__(self) -> str:
        number = lambda v: "?" if v is None else f"{v:.0%}" if self.bar.against == "bound" else f"{v:.2f}x"
        points = f"{len(self.results)} points" if self.bar.mean else title(self.results[0])
        figure = f"{number(self.value):>7} {self.bar.against:11} bar {number(self.bar.least)}"
        return f"[{COLOUR[self.word]}]{self.word}[/]  {points:38} {figure}  {self.bar.name}"


def verdicts(run: dict, bars: tuple[Bar, ...] | None = None) -> list[Verdict]:
    """Every bar (of the run's suite) that has a point in it, failures last, where a reader looks first."""
    found = []
    for bar in SUITES[run["suite"]].bars if bars is None else bars:
        own = [r for r in run["points"] if bar.where(point_of(r))]
        values = [figure(r, bar.against) if can_judge(run, bar) else None for r in own]
        if bar.mean and own:
            found.append(Verdict(bar, None if None in values else geometric_mean(values), tuple(own)))
        elif not bar.mean:
            found += [Verdict(bar, value, (r,)) for value, r in zip(values, own)]
    return sorted(found, key=lambda v: list(COLOUR).index(v.word))


def can_judge(run: dict, bar: Bar) -> bool:
    """The best of fewer peers may not be the best."""
    return bar.against != "best" or set(PEERS) <= {*OURSELVES, *run["machine"]["peers"]}


def point_of(result: dict) -> Point:
    return Point(**{f.name: result[f.name] for f in fields(Point) if f.name in result})


def bar_of(run: dict, result: dict) -> Bar | None:
    """The first bar against a peer that the point must clear by itself."""
    return next((bar for bar in SUITES[run["suite"]].bars_of(point_of(result)) if bar.against != "bound"), None)


def kind(result: dict) -> str:
    point = point_of(result)
    words = [point.cell, "packed" * point.packed, "projected" * (point.P > 0), "bidirectional" * (point.D > 1), f"{point.L} layers" * (point.L > 1)]
    words += [point.mode, "recompute" * point.recompute, point.dtype * (point.dtype != "float32")]
    words += [f"{point.threads} thread" * (point.threads is not None)]
    return " ".join(word for word in words if word)


def best(result: dict) -> float | None:
    """The best peer's time / ours."""
    return min((ratio["median"] for name, ratio in result["ratios"].items() if name not in OURSELVES), default=None)


def duration(seconds: float) -> str:
    for unit, size in (("us", 1e-6), ("ms", 1e-3)):
        if seconds < 999.5 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


def times(ratio: dict) -> str:
    return f"{ratio['median']:.2f}x"


def shape(result: dict) -> str:
    return f"T{result['T']:<3} B{result['B']:<3} H{result['H']:<4}"


def title(result: dict) -> str:
    return f"{kind(result):21} {shape(result)}"


def line(result: dict) -> str:
    """One point in one line, for the log of a run."""
    ratios = "   ".join(f"{name} {times(ratio)}" for name, ratio in result["ratios"].items())
    return f"{title(result)} {amount(result, OURS):>8} {share(result):>12}   {ratios}"


def amount(result: dict, name: str) -> str:
    """A contender's median time or memory."""
    return duration(result["seconds"][name]["median"]) if "seconds" in result else f"{result['bytes'][name]['median'] / 1e6:.3g} MB"


def share(result: dict) -> str:
    """How much of the machine's limit, and which limit."""
    bound = result.get("bound")
    return f"{bound['share']:.0%} {bound['kind']}" if bound else ""


def table(run: dict) -> Table:
    """The median and spread of every contender, and how many times as long as ours each peer takes."""
    peers = [name for name in run["machine"]["peers"] if any(name in r["ratios"] for r in run["points"])]
    out = Table(
        title=machine.line(run["machine"]),
        caption="time a call, or memory: median and half the distance between its quartiles; ratio = peer / ours",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    out.add_column(max_width=16)
    for heading in (OURS, "of limit", *peers, "bar"):
        out.add_column(heading, justify="right", no_wrap=True)
    for what, results in groupby(run["points"], kind):
        out.add_row(f"[bold]{what}[/]")
        for result in results:
            cells = [ratio_cell(result, name) for name in peers]
            out.add_row(shape(result), amount_cell(result, OURS), share(result), *cells, bar_cell(run, result))
        out.add_section()
    return out


def amount_cell(result: dict, name: str) -> str:
    spread = result.get("seconds", result.get("bytes"))[name]
    off = f"±{(spread['q3'] - spread['q1']) / 2 / spread['median']:.0%}"
    return f"{amount(result, name)} [dim]{off:<3}[/]"


def ratio_cell(result: dict, name: str) -> str:
    if name not in result["ratios"]:
        return ""
    ratio = result["ratios"][name]
    colour = "red" if ratio["median"] < TIE else "green"
    return f"{amount_cell(result, name)} [{colour}]{times(ratio):>5}[/]"


def bar_cell(run: dict, result: dict) -> str:
    bar = bar_of(run, result)
    value = figure(result, bar.against) if bar else None
    if value is None:
        return ""
    said = judge(value, bar.least)
    return f"{bar.least:.3g}x {bar.against} [{COLOUR[said]}]{said}[/]"


def markdown(run: dict) -> str:
    """One row for each kind and batch, one column for each H: ratio to torch.nn / to the best peer of that point."""
    sizes = sorted({r["H"] for r in run["points"]})
    lines = [
        f"{machine.line(run['machine'])}. Each cell: torch.nn's time / ours, then the best peer's time / ours.",
        "",
        "| | T | B | " + " | ".join(f"H={H}" for H in sizes) + " |",
        "|---|---|---|" + "---|" * len(sizes),
    ]
    for (what, T, B), group in groupby(run["points"], lambda r: (kind(r), r["T"], r["B"])):
        at = {r["H"]: f"{times(r['ratios']['torch'])} / {best(r):.2f}x" for r in group}
        lines.append(f"| {what} | {T} | {B} | " + " | ".join(at.get(H, "") for H in sizes) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.report", description=__doc__.splitlines()[0])
    parser.add_argument("json", type=Path, help="what a run of `python -m bench` wrote")
    print(markdown(json.loads(parser.parse_args().json.read_text())))
