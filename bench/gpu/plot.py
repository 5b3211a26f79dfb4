"""One picture of a card: how many times as long as ours torch.nn takes, and how far ours is from the model's line."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import FuncFormatter, NullFormatter

from bench.gpu import card
from bench.gpu.known import FLOOR_US, plain
from bench.peers import OURS
from bench.point import CELLS
from bench.report import point_of

COLOUR = {"bfloat16": "#d1495b", "float16": "#2e86ab", "tf32": "#6a4c93", "float32": "#3c9d5d", "float64": "#888888"}
MARK = {"plain": "o", "two directions": "D", "packed": "s", "projected": "^", "layers": "v"}
SPREAD = 0.5  # of the room between two sizes, over which batches are spread


def draw(run: dict, path: Path):
    cells = [cell for cell in CELLS if any(r["cell"] == cell for r in run["points"])] or ["LSTM"]
    figure, axes = plt.subplots(len(cells), 3, figsize=(15, 3.6 * len(cells) + 1), squeeze=False, layout="constrained")
    for row, cell in zip(axes, cells):
        own = [r for r in run["points"] if r["cell"] == cell]
        for axis, mode in zip(row, ("forward", "train")):
            ratios(axis, f"{cell} {mode}", [r for r in own if r["mode"] == mode])
        steps(row[2], cell, [r for r in own if r["mode"] == "forward" and plain(point_of(r))])
    key = lambda label, marker, **looks: plt.Line2D([], [], linestyle="", label=label, marker=marker, **looks)
    handles = [key(dtype, "o", color=colour) for dtype, colour in COLOUR.items()]
    handles += [key(what, mark, color="black", fillstyle="none") for what, mark in MARK.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9)
    figure.suptitle(f"torch.nn's time / ours: rnnkernels is faster above 1x\n{card.line(run['machine'])}", fontsize=9)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def kind(result: dict) -> str:
    point = point_of(result)
    flags = {"packed": point.packed, "projected": point.P, "two directions": point.D > 1, "layers": point.L > 1}
    return next((name for name, is_so in flags.items() if is_so), "plain")


def ratios(axis, title: str, results: list[dict]):
    """By H, batches from left to right within it."""
    frame(axis, title, results)
    axis.axhline(1, color="black", linewidth=1)
    axis.set_yscale("log", base=2)
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}x"))
    for result in results:
        if "torch" in result["ratios"]:
            ratio = result["ratios"]["torch"]
            axis.plot(place(result, results), ratio["median"], marker=MARK[kind(result)], **style(result))


def steps(axis, cell: str, results: list[dict]):
    """Microseconds a step of ours (full) and torch.nn's (hollow) against the model's line."""
    frame(axis, f"{cell} forward, one direction: us a step", results)
    axis.set_yscale("log")
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    for result in results:
        for name, fill in ((OURS, "full"), ("torch", "none")):
            if name in result["seconds"]:
                step = result["seconds"][name]["median"] / result["T"] * 1e6
                axis.plot(place(result, results), step, marker="o", fillstyle=fill, **style(result))
    sizes = widths(results)
    line = [(sizes.index(H), us) for H, us in FLOOR_US.items() if H in sizes and cell == "LSTM"]
    if line:
        axis.plot(*zip(*line), color="black", linewidth=1, linestyle="--", label="model, 8 rows, 16 bits")
        axis.legend(fontsize=8, frameon=False, loc="upper left")


def style(result: dict) -> dict:
    return {"markersize": 5, "color": COLOUR[result["dtype"]], "alpha": 0.8}


def widths(results: list[dict]) -> list[int]:
    return sorted({r["H"] for r in results})


def place(result: dict, results: list[dict]) -> float:
    batches = sorted({r["B"] for r in results})
    return widths(results).index(result["H"]) + SPREAD * (batches.index(result["B"]) / max(1, len(batches) - 1) - 0.5)


def frame(axis, title: str, results: list[dict]):
    axis.set_title(title, fontsize=10, fontweight="bold")
    axis.set_xticks(range(len(widths(results))), [str(H) for H in widths(results)], fontsize=8)
    axis.set_xlabel("H; within it, B from small to large", fontsize=8)
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.grid(axis="y", color="#dddddd", linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)
