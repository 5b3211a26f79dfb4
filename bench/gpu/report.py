"""What is known of a card, for people: a line a point, the bars, Markdown and a plot beside the JSON.

python -m bench.gpu.report bench/results/gpu/CARD.json    writes CARD.md and CARD.png again. The record gets this tree's
commit where csrc is the same.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from bench import checkout
from bench.gpu import card
from bench.gpu.grid import BARS, GOALS
from bench.gpu.known import PUBLISHED, PUBLISHED_SHAPE, cudnn_algorithm
from bench.peers import OURS, PADDED
from bench.point import CELLS, Bar
from bench.problem import TOLERANCE
from bench.report import judge, kind, point_of, verdicts

HEAD = "| | T | B | H | cuDNN, kernels | torch.nn | ours | ratio | model | train: torch.nn | ours | ratio | padded |"


def conclude(run: dict, path: Path, console: Console, judging: bool) -> int:
    """Writes what people read; `judging` prints every bar, and 1 is returned where one of R0's is missed or unknown."""
    path.with_suffix(".md").write_text(markdown(run))
    wrote = [path, path.with_suffix(".md")]
    try:
        from bench.gpu import plot

        plot.draw(run, path.with_suffix(".png"))
        wrote.append(path.with_suffix(".png"))
    except ImportError as error:
        console.print(f"no plot: {error}", markup=False)
    console.print("wrote", *map(str, wrote))
    return judge_all(run, console) if judging else 0


def judge_all(run: dict, console: Console) -> int:
    goals, bars = verdicts(run, GOALS), verdicts(run, BARS)
    console.print("", "Goals of the persistent kernels:", *map(str, goals), "", "Bars:", *map(str, bars), sep="\n")
    failed = [name for name, outcome in run["checks"].items() if outcome["ok"] is False]
    if failed:
        console.print("failed checks: " + ", ".join(failed), style="bold red")
    return int(bool(failed) or not bars or any(verdict.word in ("FAIL", "unknown") for verdict in bars))


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
    words += [f"{name} / ours {ratio(result, name)}" for name in result["ratios"]]
    words += [f"{share(result)} of the model"] * bool(share(result))
    if imprecise(result):
        words.append(f"torch.nn is off by {result['errors']['torch']:.0e}")
    return "  ".join(words + [f"{name}: {why}" for name, why in result["refused"].items()])


def imprecise(result: dict) -> bool:
    """Whether torch.nn itself is worse than what is demanded of ours."""
    return (result["errors"].get("torch") or 0) > TOLERANCE[result["dtype"]]


def check_line(name: str, outcome: dict) -> str:
    words = [f"{name}:", {True: "passed", False: "FAILED", None: "skipped"}[outcome["ok"]]]
    if "tests" in outcome:
        failed = ", ".join(outcome["failed"]) or "none"
        words.append(f"of {outcome['tests']} tests, {outcome['skipped']} skipped, failed: {failed}")
    return " ".join([*words, f"({outcome['seconds']} s)", outcome["tail"]]).rstrip()


def markdown(run: dict) -> str:
    said = [check_line(name, outcome).split("\n")[0][:300] for name, outcome in run["checks"].items()]
    parts = [f"# {card.line(run['machine'])}"]
    parts += ["Written by `python -m bench --suite gpu`; microseconds a step, medians between CUDA events."]
    parts += ["## Checks", "\n".join("* " + line for line in said)]
    parts += ["## Limits of the card", limits_table(run["limits"])]
    parts += ["## Bars", bars_table(run, BARS), "## Goals of the persistent kernels", bars_table(run, GOALS)]
    parts += ["## Points", points_table(run["points"], run["kernels"]), published_line()]
    parts += ["\n".join(f"* {line(r)}" for r in run["points"] if r["refused"] or imprecise(r))]
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
        lines.append(
            f"| {bar.name} | {bar.least:.2f} | {bar.against} | {what} {min(values):.2f} | {passed} of {len(found)} |"
        )
    return "\n".join(lines)


def points_table(results: list[dict], kernels: dict) -> str:
    """A row a shape. The algorithm is what torch.nn should take forward, the number beside it the kernels it took."""
    found = {point_of(r): r for r in results}
    shapes = dict.fromkeys(replace(point, mode="forward") for point in found)
    order = lambda p: (CELLS.index(p.cell), p.packed, p.P > 0, p.L, p.D, p.dtype, p.H, p.B)
    lines = [HEAD, "|" + "---|" * (HEAD.count("|") - 1)]
    for shape in sorted(shapes, key=order):
        forward, train = (found.get(replace(shape, mode=mode)) for mode in ("forward", "train"))
        a_step_of = kernels.get(str(shape), {}).get("torch")
        cells = [title(forward or train), shape.T, shape.B, shape.H]
        cells.append(cudnn_algorithm(shape) + (f" {a_step_of:.1f}" if a_step_of is not None else ""))
        cells += [*times(forward), share(forward)] if forward else [""] * 4
        cells += [*times(train), ratio(train, PADDED)] if train else [""] * 4
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    explained = "Forward, then train. Model: the share of its line that is reached; padded: that call's time / ours."
    return "\n".join([explained, "", *lines])


def times(result: dict) -> list[str]:
    return [a_step(result, "torch"), a_step(result, OURS), ratio(result, "torch")]


def published_line() -> str:
    """What others printed for FlashRNN's shape, to be read beside the rows of that shape."""
    step = lambda milliseconds: f"{milliseconds / PUBLISHED_SHAPE['T'] * 1e3:.2f}"
    said = [f"{name} {step(forward)} / {step(train)}" for name, (forward, train) in PUBLISHED.items()]
    where = "{cell} T {T} B {B} H {H}".format(**PUBLISHED_SHAPE)
    head = f"Published for {where} on an H100 SXM (FlashRNN without the input's product), forward / train"
    return f"{head}: {', '.join(said)}."


def main():
    parser = argparse.ArgumentParser(prog="python -m bench.gpu.report", description=__doc__.splitlines()[0])
    parser.add_argument("json", type=Path)
    parser.add_argument("--check", action="store_true", help="print the bars; exit 1 if one is missed")
    args = parser.parse_args()
    run = json.loads(args.json.read_text())
    if run["machine"]["csrc"] == checkout.csrc():
        run["machine"]["commit"] = run["machine"]["commit"] or checkout.commit()
        args.json.write_text(json.dumps(run, indent=1) + "\n")
    raise SystemExit(conclude(run, args.json, Console(width=200, highlight=False), args.check))


if __name__ == "__main__":
    main()
