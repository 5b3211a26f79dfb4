"""One picture of a run: for each cell and mode, how many times as long as ours each peer takes.

python -m bench.plot FILE.json    draws FILE.png again.
"""

from __future__ import annotations

import argparse
import json
import textwrap
from itertools import groupby
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import FuncFormatter, NullFormatter

from bench import machine
from bench.point import CELLS, MODES
from bench.report import bar_of, kind, point_of

COLOUR = {"torch": "#d1495b", "onnxruntime": "#2e86ab", "openvino": "#6a4c93", "jax": "#3c9d5d", "padded": "#888888", "plain": "#bbbbbb"}
MARK = {"torch": "o", "onnxruntime": "s", "openvino": "D", "jax": "^", "padded": "v", "plain": "x"}


def draw(run: dict, path: Path):
    """A row of panels for each cell, a panel for each kind (forward, train, packed, step), wide as its points need."""
    panels = {what: list(results) for what, results in groupby(sorted(run["points"], key=order), kind)}
    cells = [cell for cell in CELLS if any(what.startswith(cell) for what in panels)]
    rows = [[results for what, results in panels.items() if what.startswith(cell)] for cell in cells]
    widest = max(sum(len(results) + 2 for results in row) for row in rows)

    figure = plt.figure(figsize=(max(7, 0.36 * widest + 1), 3.2 * len(rows) + 1), layout="constrained")
    for parent, row in zip(figure.subfigures(len(rows), 1, squeeze=False)[:, 0], rows):
        filler = widest - sum(len(results) + 2 for results in row)  # rows with fewer points leave the rest empty
        widths = [len(results) + 2 for results in row] + [filler] * (filler > 0)
        axes = parent.subplots(1, len(widths), width_ratios=widths, sharey=True, squeeze=False)[0]
        for axis, results in zip(axes, row):
            panel(axis, results, run)
        if filler:
            axes[-1].axis("off")
        axes[0].set_ylabel("peer's time / ours")
    legend(figure, run)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def order(result: dict) -> tuple:
    point = point_of(result)
    return CELLS.index(point.cell), point.dtype != "float32", point.packed, point.L, point.D, MODES.index(point.mode), point.T, point.B, point.H


def panel(axis, results: list[dict], run: dict):
    """Points by batch, then by H; median and quartiles; the bar as a tick."""
    axis.set_title(kind(results[0]).replace("packed ", "packed\n"), fontsize=10, fontweight="bold")
    axis.axhline(1, color="black", linewidth=1)
    axis.set_yscale("log", base=2)
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}x"))
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.grid(axis="y", color="#dddddd", linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)
    axis.margins(y=0.12)  # room for the B= labels
    axis.set_xlim(-0.8, len(results) - 0.2)
    axis.set_xticks(range(len(results)), [str(r["H"]) for r in results], fontsize=8)
    axis.set_xlabel("H", fontsize=8)

    start = 0
    for (T, B), group in groupby(results, lambda r: (r["T"], r["B"])):
        count = len(list(group))
        axis.text(start + (count - 1) / 2, 1.0, f"B={B}", transform=axis.get_xaxis_transform(), ha="center", va="top",
                  fontsize=8, color="#555555")  # fmt: skip
        if start:
            axis.axvline(start - 0.5, color="#bbbbbb", linewidth=0.8, linestyle=":")
        for name in COLOUR:
            curve(axis, name, [(x, r["ratios"][name]) for x, r in enumerate(results[start : start + count], start)
                               if name in r["ratios"]])  # fmt: skip
        start += count
    for x, result in enumerate(results):
        bar = bar_of(run, result)
        if bar is not None:
            axis.hlines(bar.least, x - 0.35, x + 0.35, color=COLOUR.get(bar.against, "black"), linewidth=1.2, alpha=0.6)


def curve(axis, name: str, points: list):
    if not points:
        return
    x, y = [x for x, _ in points], [ratio["median"] for _, ratio in points]
    error = [[m - r["q1"] for m, (_, r) in zip(y, points)], [r["q3"] - m for m, (_, r) in zip(y, points)]]
    axis.errorbar(x, y, error, color=COLOUR[name], marker=MARK[name], markersize=4.5, linewidth=1.1, elinewidth=0.8)


def legend(figure, run: dict):
    present = [name for name in COLOUR if any(name in r["ratios"] for r in run["points"])]
    handles = [plt.Line2D([], [], color=COLOUR[name], marker=MARK[name], markersize=5, label=name) for name in present]
    against = {bar.against for r in run["points"] if (bar := bar_of(run, r))}
    handles += [plt.Line2D([], [], color=COLOUR.get(name, "black"), alpha=0.6, label=f"bar ({name})") for name in sorted(against)]
    words = textwrap.fill(machine.line(run["machine"]), int(figure.get_figwidth() * 13))
    figure.suptitle(f"rnnkernels is faster above the line at 1x\n{words}", fontsize=9)
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.plot", description=__doc__.splitlines()[0])
    parser.add_argument("json", type=Path)
    source = parser.parse_args().json
    draw(json.loads(source.read_text()), source.with_suffix(".png"))
