"""What the programs share: arguments, seeds, training with a progress bar, bars to pass, the table, the picture.

A program is a function `experiment(run)` from a `Run` to (metrics, whatever its picture needs), and a function `draw`.
`main` calls them for each seed, writes NAME.json and NAME.png, and says whether every `Bar` was passed.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import io
import json
import re
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean, pstdev
from types import ModuleType

import rnnkernels
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from torch import Tensor, nn

OUT = Path(__file__).parent / "out"
BLUE, RED, GREEN, GREY = "#2e86ab", "#d1495b", "#4f9d69", "#777777"


@dataclass
class Bar:
    """`metric` is to be better than `baseline`, another metric or a number, by at least `by`.

    by None: nothing is asked. The two stand side by side in the table, whichever is better.
    """

    metric: str
    baseline: str | float
    by: float | None = 0.0
    lower: bool = False  # lower is better
    ceiling: str | None = None  # the setting at which the metric ends: a value of that reads "or more"

    def passed(self, metrics: dict[str, float]) -> bool:
        value, baseline = metrics[self.metric], metrics.get(self.baseline, self.baseline)
        if self.by is None:
            return True
        return baseline - value >= self.by if self.lower else value - baseline >= self.by

    def __str__(self):
        if self.by is None:
            return f"{self.metric} beside {self.baseline}"
        return f"{self.metric} {'below' if self.lower else 'above'} {self.baseline}" + f" by {self.by:g}" * bool(
            self.by
        )


@dataclass
class Run:
    """One seed of a program. Its settings are attributes: run.steps is settings["steps"]."""

    seed: int
    mode: str  # "smoke", "quick" or "full"
    library: ModuleType  # rnnkernels or torch.nn
    settings: dict
    progress: Progress
    out: Path  # for files
    losses: dict[str, list[float]] = field(default_factory=dict)

    def __getattr__(self, name):
        try:
            return self.__dict__["settings"][name]
        except KeyError:
            raise AttributeError(name) from None

    def train(self, label: str, model: nn.Module, loss: Callable[[], Tensor], *, lr=3e-3, clip=1.0) -> list[float]:
        """Adam on `loss()`, which draws its own batch; the learning rate falls along a cosine. Returns the losses."""
        optimizer = torch.optim.Adam(model.parameters(), lr)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
        losses = self.losses[label] = []
        model.train()
        for _ in self.track(range(self.steps), label, lambda: f"loss {losses[-1]:.3f}"):
            value = loss()
            optimizer.zero_grad()
            value.backward()
            nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            schedule.step()
            losses.append(value.item())
        model.eval()
        return losses

    def track(self, items, label: str, say: Callable[[], str] = str):
        """The items of a sized iterable, with a progress bar; `say()` stands beside it."""
        task = self.progress.add_task(label, total=len(items), said="")
        for item in items:
            yield item
            self.progress.update(task, advance=1, said=say())


def padded(rnn: nn.Module, x: Tensor, lengths: Tensor, state=None):
    """rnn(x, state, lengths=lengths) with rnnkernels; what the same takes with torch.nn."""
    if type(rnn).__module__ == "rnnkernels":
        return rnn(x, state, lengths=lengths)
    T = x.shape[1 if rnn.batch_first else 0]
    packed = nn.utils.rnn.pack_padded_sequence(x, lengths, rnn.batch_first, enforce_sorted=False)
    out, state = rnn(packed, state)
    out, _ = nn.utils.rnn.pad_packed_sequence(out, rnn.batch_first, total_length=T)
    return out, state


def require(module: str, package: str | None = None) -> ModuleType:
    """The module, or the end of the program with the command that installs it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if module.split(".")[0] in sys.stdlib_module_names:
            raise SystemExit(
                f"This program reads {module}, which ships with CPython's standard library, and the one of\n"
                f"{sys.executable} lacks it: take a Python with its whole standard library."
            ) from None
        package = package or module.split(".")[0]
        raise SystemExit(
            f"This program reads data from the package {package}, and {error.name} is not installed.\n"
            f"    pip install {package}        (all programs: pip install -r requirements/examples.txt)"
        ) from None


def manual() -> list[str]:
    """The paragraphs of Python's reference manual, real text that comes with Python, as they stand there.

    Each once: the manual repeats itself, and what was learned must not come back in the test.
    """
    topics = require("pydoc_data.topics").topics
    once = {}
    for name in sorted(topics):
        for paragraph in re.split(r"\n\s*\n", topics[name]):
            once.setdefault(" ".join(paragraph.split()), paragraph)
    return [paragraph for words, paragraph in once.items() if words]


def figure(columns: int = 2, rows: int = 1, width: float = 10, height: float = 3.6):
    """(figure, its axes in a flat list), without a display."""
    from matplotlib.figure import Figure

    made = Figure(figsize=(width, height), layout="constrained")
    axes = made.subplots(rows, columns, squeeze=False).flatten().tolist()
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    return made, axes


def smooth(losses: list[float], width: int = 10) -> list[float]:
    """Running mean, for curves of single batches."""
    return [mean(losses[max(0, i - width + 1) : i + 1]) for i in range(len(losses))]


def draw_distance(axis, ours: list[float], theirs: list[float], steps: int, allowed: float) -> None:
    """How far two loss curves are apart, and how far they may be over the first steps."""
    axis.semilogy([max(abs(a - b), 1e-8) for a, b in zip(ours, theirs)], color=GREY, linewidth=1)
    axis.hlines(allowed, 0, steps, color="black")
    axis.set(title="distance between the curves", xlabel="step (rounding grows as in any chaotic system)")


def main(name: str, doc: str, settings: dict[str, dict], bars: list[Bar], experiment, draw, argv=None) -> int:
    """Runs a program.

    settings    {"smoke": ..., "quick": ..., "full": ...}; what smoke and full do not name is as in quick
    experiment  Run -> (metrics: {name: number}, data for the picture)
    draw        list of such data, one per seed -> a matplotlib figure
    Returns the exit status: 1 where the mean of the seeds misses a bar (a smoke run trains too little to be judged).
    """
    args = _arguments(name, doc, argv)
    console = Console(highlight=False)
    chosen = settings["quick"] | settings.get(args.mode, {})
    if unknown := args.changes.keys() - chosen.keys():
        raise SystemExit(f"{name} has no setting {', '.join(sorted(unknown))}; it has {', '.join(chosen)}")
    chosen |= args.changes
    seeds = range(3) if args.mode == "full" else [0]
    args.out.mkdir(parents=True, exist_ok=True)
    console.print(f"[bold]{name}[/]: {doc.strip().splitlines()[0]}")
    start, runs, metrics, pictures = time.perf_counter(), [], [], []
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[said]}"),
    )
    with Progress(*columns, console=console) as progress:
        for seed in seeds:
            torch.manual_seed(seed)
            runs.append(Run(seed, args.mode, args.library, chosen, progress, args.out))
            measured, picture = experiment(runs[-1])
            metrics.append({key: float(value) for key, value in measured.items()})
            pictures.append(picture)
    means = {key: mean(m[key] for m in metrics) for key in metrics[0]}
    console.print(_table(name, metrics, means))
    judged = (
        [] if args.mode == "smoke" else [{"bar": str(bar), **asdict(bar), "passed": bar.passed(means)} for bar in bars]
    )
    for one in judged:
        said = "compared" if one["by"] is None else "[green]passed[/]" if one["passed"] else "[red]MISSED[/]"
        console.print(f"{said}: {one['bar']}")
    result = dict(
        program=name,
        mode=args.mode,
        library=args.library.__name__,
        settings=chosen,
        seeds=list(seeds),
        mean=means,
        metrics=metrics,
        bars=judged,
        losses=[{label: losses[:20] for label, losses in run.losses.items()} for run in runs],
        threads=torch.get_num_threads(),
        torch=torch.__version__,
    )
    seconds = time.perf_counter() - start
    _write(args.out, name + (".full" if args.mode == "full" else ""), result, draw(pictures), seconds, console)
    return 0 if all(one["passed"] for one in judged) else 1


def _arguments(name, doc, argv):
    parser = argparse.ArgumentParser(
        prog=f"python -m examples.{name}", description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--full", dest="mode", action="store_const", const="full", help="three seeds and longer settings")
    mode.add_argument(
        "--smoke", dest="mode", action="store_const", const="smoke", help="a few seconds: does it run at all"
    )
    parser.add_argument(
        "--torch-nn",
        dest="library",
        action="store_const",
        const=nn,
        default=rnnkernels,
        help="the recurrent modules of torch.nn instead of ours",
    )
    parser.add_argument(
        "--out", type=Path, default=OUT, help="folder for the picture and the numbers (default: %(default)s)"
    )
    parser.add_argument(
        "--set", dest="changes", type=_setting, nargs="+", default=[], metavar="NAME=VALUE",
        help="other settings, as steps=2000 hidden=64",
    )  # fmt: skip
    parser.set_defaults(mode="quick")
    args = parser.parse_args(argv)
    args.changes = dict(args.changes)
    return args


def _setting(text):
    """("steps", 2000) from steps=2000; what is no number is a text."""
    name, value = text.split("=", 1)
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def _table(name, metrics, means):
    table = Table("", "mean" if len(metrics) > 1 else name, *(["spread"] if len(metrics) > 1 else []), box=None)
    for key, value in means.items():
        spread = [f"± {pstdev(m[key] for m in metrics):.4f}"] if len(metrics) > 1 else []
        table.add_row(key, f"{value:.4f}", *spread)
    return table


def _write(folder, name, result, drawn, seconds, console):
    (folder / f"{name}.json").write_text(json.dumps(result, indent=1, default=str) + "\n")
    _save_small(drawn, folder / f"{name}.png")
    console.print(f"wrote {folder / name}.png and .json, {seconds:.0f} s", markup=False)


def _save_small(drawn, path):
    """A palette makes the committed pictures a quarter of the size; MAXCOVERAGE keeps colours of a few thin lines."""
    from PIL import Image  # matplotlib needs it too

    buffer = io.BytesIO()
    drawn.savefig(buffer, dpi=90, bbox_inches="tight")
    Image.open(buffer).convert("RGB").quantize(128, Image.Quantize.MAXCOVERAGE).save(path, optimize=True)


def start(*program) -> None:
    """`python -m examples.NAME` ends here."""
    sys.exit(main(*program))
