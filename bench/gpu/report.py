"""What is known of a card, for people: a line a point, the bars, Markdown and a plot beside the JSON.

python -m bench.gpu.report bench/results/gpu/CARD.json    writes CARD.md and CARD.png again, and the commit into the record if csrc is that of this tree
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from statistics import geometric_mean

from rich.console import Console

from bench import machine as host
from bench.gpu import card
from bench.gpu.grid import BARS, GOALS
from bench.gpu.known import PUBLISHED, PUBLISHED_SHAPE, cudnn_algorithm
from bench.peers import OURS, PADDED
from bench.point import CELLS, Bar
from bench.report import judge, kind, point_of, verdicts

HEAD = "| | T | B | H | cuDNN, kernels a step | torch.nn | ours | ratio | of the model | torch.nn | ours | ratio | padded / ours |"


def conclude(run: dict, path: Path, console: Console, judging: bool) -> int:
    """Writes what people read; with `judging`, prints every bar and returns 1 where one of R0's is missed or cannot be judged."""
    path.with_suffix(".md").write_text(markdown(run))
    wrote = [path, path.with_suffix(".md")]
    try:
        from bench.gpu import plot

        plot.draw(run, path.with_suffix(".png"))
        wrote.append(path.with_suffix(".png"))
    except ImportError as error:
        console.print(f"no plot: {error}", markup=False)
    console.print("wrote", *map(str, wrote))
    if not judging:
        return 0
    console.print("", "Goals of the persistent kernels:", *map(str, verdicts(run, GOALS)), "", "Bars:", *map(str, verdicts(run, BARS)), sep="\n")
    unmet = [name for name, outcome in run["checks"].items() if outcome["ok"] is False]
    if unmet:
        console.print("failed checks: " + ", ".join(unmet), style="bold red")
    return int(bool(unmet) or any(v.word in ("FAIL", "unknown") for v in verdicts(run, BARS)) or not run["points"])


def a_step(result: dict, name: str) -> str:
    """Microseconds of a contender, or why there are none."""
    if name in result.get("refused", {}):
        return "refused"
    return f"{result['seconds'][name]['median'] / result['T'] * 1e6:.2f}" if name in result["seconds"] else ""


def ratio(result: dict, name: str) -> str:
    return f"{result['ratios'][name]['median']:.2f}x" if name in result["ratios"] else ""


def share(result: dict) -> str:
    return f"{result['bound']['share']:.0%}" if result.get("bound") else ""


def title(result: dict) -> str:
    """The shape without its mode."""
    return kind(result).replace(f" {result['mode']}", "")


def line(result: dict) -> str:
    """One point in one line, for the log of a run."""
    words = [f"{kind(result)} T{result['T']} B{result['B']} H{result['H']}".ljust(58)]
    words += [f"{name} {a_step(result, name)} us a step" for name in ("torch", OURS) if a_step(result, name)]
    words += [f"{name} / ours {ratio(result, name)}" for name in result["ratios"]] + [f"{share(result)} of the model"] * bool(share(result))
    return "  ".join(words + [f"{name}: {why}" for name, why in result["refused"].items()])


def check_line(name: str, outcome: dict) -> str:
    word = {True: "passed", False: "FAILED", None: "skipped"}[outcome["ok"]]
    count = f" of {outcome['tests']} tests, {outcome['skipped']} skipped, failed: {', '.join(outcome['failed']) or 'none'}" if "tests" in outcome else ""
    return f"{name}: {word}{count} ({outcome['seconds']} s) {outcome['tail']}".rstrip()


def markdown(run: dict) -> str:
    parts = [f"# {card.line(run['machine'])}", "Written by `python -m bench --suite gpu`; microseconds a step, medians between CUDA events."]
    parts += ["## Checks", "\n".join("* " + check_line(name, outcome).split("\n")[0][:300] for name, outcome in run["checks"].items())]
    parts += ["## Limits of the card", limits_table(run["limits"])]
    parts += ["## Bars", bars_table(run, BARS), "## Goals of the persistent kernels", bars_table(run, GOALS)]
    parts += ["## Points", points_table(run["points"], run["kernels"]), published_lines()]
    if run["failures"]:
        parts += ["## Failures", "\n".join(f"* {point_of(f)}: {f['reason']}" for f in run["failures"])]
    return "\n\n".join(part for part in parts if part) + "\n"


def limits_table(limits: dict) -> str:
    rows = [f"| {group} | {name} | {value} |" for group, figures in limits.items() for name, value in figures.items()]
    return "\n".join(["| | | |", "|---|---|---|", *(row.replace("\n", " ") for row in rows)])


def bars_table(run: dict, bars: tuple[Bar, ...]) -> str:
    """A row a bar: how many of its points pass, its geometric mean or its worst point."""
    lines = ["| bar | at least | against | found | points that pass |", "|---|---|---|---|---|"]
    for bar in bars:
        found = verdicts(run, (bar,))
        values = [v.value for v in found if v.value is not None]
        if not values:
            lines.append(f"| {bar.name} | {bar.least:.2f} | {bar.against} | not measured | |")
            continue
        passed = sum(judge(value, bar.least) != "FAIL" for value in values)
        what = "geomean" if bar.mean else "worst"
        lines.append(f"| {bar.name} | {bar.least:.2f} | {bar.against} | {what} {min(values):.2f} | {passed} of {len(found)} |")
    return "\n".join(lines)


def points_table(results: list[dict], kernels: dict) -> str:
    """A row a shape: forward, then train; the algorithm that torch.nn should take forward and the kernels that it does take."""
    found = {point_of(r): r for r in results}
    shapes = dict.fromkeys(replace(point, mode="forward") for point in found)
    order = lambda p: (CELLS.index(p.cell), p.packed, p.P > 0, p.L, p.D, p.dtype, p.H, p.B)
    lines = [HEAD, "|" + "---|" * (HEAD.count("|") - 1)]
    for shape in sorted(shapes, key=order):
        forward, train = (found.get(replace(shape, mode=mode)) for mode in ("forward", "train"))
        cells = [title(forward or train), shape.T, shape.B, shape.H]
        cells.append(cudnn_algorithm(shape) + "".join(f" {n:.1f}" for name, n in kernels.get(str(shape), {}).items() if name == "torch"))
        cells += [a_step(forward, "torch"), a_step(forward, OURS), ratio(forward, "torch"), share(forward)] if forward else [""] * 4
        cells += [a_step(train, "torch"), a_step(train, OURS), ratio(train, "torch"), ratio(train, PADDED)] if train else [""] * 4
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(["The first three figures are forward's, those after the model's share train's.", "", *lines])


def published_lines() -> str:
    """What others printed for FlashRNN's shape, to be read beside the rows of that shape."""
    said = {mode: ", ".join(f"{name} {seconds / PUBLISHED_SHAPE['T'] * 1e6:.2f}" for name, seconds in times.items()) for mode, times in PUBLISHED.items()}
    where = "LSTM T {T} B {B} H {H} on an H100 SXM".format(**PUBLISHED_SHAPE)
    return f"Published for {where} (FlashRNN's figure; FlashRNN without the input's product): forward {said['forward']}; train {said['train']}."


def main():
    parser = argparse.ArgumentParser(prog="python -m bench.gpu.report", description=__doc__.splitlines()[0])
    parser.add_argument("json", type=Path)
    parser.add_argument("--check", action="store_true", help="print the bars; exit 1 if one is missed")
    args = parser.parse_args()
    run = json.loads(args.json.read_text())
    if run["machine"]["csrc"] == card.csrc():
        run["machine"]["commit"] = run["machine"]["commit"] or host.commit()
        args.json.write_text(json.dumps(run, indent=1) + "\n")
    raise SystemExit(conclude(run, args.json, Console(width=200, highlight=False), args.check))


if __name__ == "__main__":
    main()
