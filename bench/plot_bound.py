"""How close a run comes to the machine's limits: for each cell and mode, the share of the bound that applies (bench/roofline.py).

python -m bench.plot_bound FILE.json    draws FILE-bound.png again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import PercentFormatter

from bench import machine
from bench.point import CELLS, MODES

FILL = {"compute": "full", "bytes": "none"}


def path_beside(json_path: Path) -> Path:
    return json_path.with_name(f"{json_path.stem}-bound.png")


def draw(run: dict, path: Path) -> bool:
    """A row for each cell, a column for each mode, share against H, a curve for each T and B. False: no point had a bound."""
    results = [r for r in run["points"] if r.get("bound") and r["L"] == r["D"] == 1 and not r["recompute"]]
    if not results:
        return False
    cells = [cell for cell in CELLS if any(r["cell"] == cell for r in results)]
    modes = [mode for mode in MODES if any(r["mode"] == mode for r in results)]
    figure, axes = plt.subplots(len(cells), len(modes), figsize=(3.4 * len(modes) + 1, 2.7 * len(cells) + 1), sharey=True, squeeze=False,
                                layout="constrained")  # fmt: skip
    for row, cell in zip(axes, cells):
        for axis, mode in zip(row, modes):
            panel(axis, f"{cell} {mode}", [r for r in results if (r["cell"], r["mode"]) == (cell, mode)])
        row[0].set_ylabel("share of the bound")
    axes[0][0].set_ylim(0, max(1.05, *(1.05 * r["bound"]["share"] for r in results)))
    handles = [plt.Line2D([], [], color="black", marker="o", linestyle="", fillstyle=fill, label=f"bound by {kind}") for kind, fill in FILL.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9)
    figure.suptitle(f"rnnkernels against the machine's limits, measured in the same run\n{machine.line(run['machine'])}", fontsize=9, wrap=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return True


def panel(axis, title: str, results: list[dict]):
    axis.set_title(title, fontsize=10, fontweight="bold")
    axis.yaxis.set_major_formatter(PercentFormatter(1))
    axis.grid(axis="y", color="#dddddd", linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)
    widths = sorted({r["H"] for r in results})
    axis.set_xticks(range(len(widths)), [str(H) for H in widths], fontsize=8)
    axis.set_xlabel("H", fontsize=8)
    for T, B in sorted({(r["T"], r["B"]) for r in results}):
        own = sorted((r for r in results if (r["T"], r["B"]) == (T, B)), key=lambda r: r["H"])
        x, y = [widths.index(r["H"]) for r in own], [r["bound"]["share"] for r in own]
        (line,) = axis.plot(x, y, linewidth=1.1, label=f"T{T} B{B}")
        for at, share, r in zip(x, y, own):
            axis.plot(at, share, marker="o", markersize=5, color=line.get_color(), fillstyle=FILL[r["bound"]["kind"]])
    if results:
        axis.legend(fontsize=7, frameon=False, loc="upper left")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.plot_bound", description=__doc__.splitlines()[0])
    parser.add_argument("json", type=Path)
    source = parser.parse_args().json
    if not draw(json.loads(source.read_text()), path_beside(source)):
        raise SystemExit("no point of this run has a bound: it was made without a compiler")
