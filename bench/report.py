"""What a run says: the terminal's table, the verdicts, and the README's Markdown.

python -m bench.report bench/results/FILE.json    prints the Markdown: no figure in the README is typed by hand.
"""

from __future__ import annotations

import argparse
import json
from itertools import groupby
from pathlib import Path

from rich import box
from rich.table import Table

from bench import machine
from bench.peers import OURS

TIE = 0.97  # within 3% of its bar a point ties with it
COLOUR = {"pass": "green", "tie": "yellow", "FAIL": "bold red", "": ""}


def verdict(result: dict) -> str:
    """pass, tie, FAIL, or nothing where no bar was set."""
    if result["bar"] is None or "torch" not in result["ratios"]:
        return ""
    share = result["ratios"]["torch"]["median"] / result["bar"]
    return "pass" if share >= 1 else "tie" if share >= TIE else "FAIL"


def kind(result: dict) -> str:
    words = [result["cell"], "packed" * result["packed"], result["mode"]]
    return " ".join(word for word in words + [result["dtype"] * (result["dtype"] != "float32")] if word)


def best(result: dict) -> float:
    """The best peer's time / ours."""
    return min(ratio["median"] for ratio in result["ratios"].values())


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
    return f"{kind(result):19} {shape(result)}"


def line(result: dict) -> str:
    """One point in one line, for the log of a run."""
    ratios = "   ".join(f"{name} {times(ratio)}" for name, ratio in result["ratios"].items())
    return f"{title(result)} {duration(result['seconds'][OURS]['median']):>8}   {ratios}"


def table(run: dict) -> Table:
    """The median and spread of every contender, and how many times as long as ours each peer takes."""
    peers = [name for name in run["machine"]["peers"] if any(name in r["ratios"] for r in run["points"])]
    out = Table(
        title=machine.line(run["machine"]),
        caption="time a call: median and half the distance between its quartiles; ratio = peer / ours",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    out.add_column(max_width=14)
    for heading in (OURS, *peers, "bar"):
        out.add_column(heading, justify="right", no_wrap=True)
    for what, results in groupby(run["points"], kind):
        out.add_row(f"[bold]{what}[/]")
        for result in results:
            cells = [ratio_cell(result, name) for name in peers]
            out.add_row(shape(result), time_cell(result, OURS), *cells, bar_cell(result))
        out.add_section()
    return out


def time_cell(result: dict, name: str) -> str:
    seconds = result["seconds"][name]
    off = f"±{(seconds['q3'] - seconds['q1']) / 2 / seconds['median']:.0%}"
    return f"{duration(seconds['median'])} [dim]{off:<3}[/]"


def ratio_cell(result: dict, name: str) -> str:
    if name not in result["ratios"]:
        return ""
    ratio = result["ratios"][name]
    colour = "red" if ratio["median"] < TIE else "green"
    return f"{time_cell(result, name)} [{colour}]{times(ratio):>5}[/]"


def bar_cell(result: dict) -> str:
    said = verdict(result)
    return f"{result['bar']}x [{COLOUR[said]}]{said}[/]" if said else ""


def verdicts(run: dict) -> list[str]:
    """Each bar with its figure, failures last, where a reader looks first."""
    order = ["pass", "tie", "FAIL"]
    judged = sorted((r for r in run["points"] if verdict(r)), key=lambda r: order.index(verdict(r)))
    figure = lambda r: f"{title(r)} {times(r['ratios']['torch']):>7} torch.nn   bar {r['bar']}x"
    return [f"[{COLOUR[verdict(r)]}]{verdict(r)}[/]  {figure(r)}" for r in judged]


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
