"""What is measured on a CPU, and every suite by its name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from bench.gpu import grid
from bench.point import CELLS, Bar, Point, Suite


def sequence(cells=CELLS, modes=("forward", "train"), T=100, B=(1, 16, 64), H=(64, 128, 256, 512), **options) -> tuple[Point, ...]:
    return tuple(Point(cell, mode, T, b, h, **options) for cell in cells for mode in modes for b in B for h in H)


def steps(mode: str) -> tuple[Point, ...]:
    return sequence(modes=(mode,), T=1, B=(1,), H=(16, 64, 128, 256, 512))


# The first promise: never slower than torch.nn, and much faster wherever torch.nn runs one ATen op after the other.
LARGE_LSTM = lambda p: p.cell == "LSTM" and p.mode == "forward" and p.B >= 16 and not p.packed
NEVER_SLOWER = (
    Bar("T = 1, packed", 3.0, "torch", lambda p: p.T1 or p.packed),
    Bar("GRU and RNN training", 2.0, "torch", lambda p: p.mode == "train" and p.cell != "LSTM" and not p.packed),
    Bar("LSTM forward, B >= 16", 0.85, "torch", LARGE_LSTM),  # oneDNN's fused LSTM runs at 75-87% of the machine's peak there
    Bar("everything else", 1.0, "torch",
        lambda p: not (p.T1 or p.packed or LARGE_LSTM(p) or p.mode == "train" and p.cell != "LSTM")),
)  # fmt: skip
PACKED = tuple(
    Point("LSTM", mode, T=100, B=B, H=H, packed=True) for mode in ("forward", "train") for B, H in ((16, 64), (32, 256))
)
QUICK = (
    *sequence(B=(16,), H=(128,)),
    Point("LSTM", "train", T=100, B=16, H=64, packed=True),
    *sequence(modes=("step",), T=1, B=(1,), H=(128,)),
)

# The second: ahead of the best peer everywhere, and close to the machine's limit.
STREAM = steps("step") + steps("stepper")
LINE = sequence(modes=("forward",), B=(1,))
SMALL = sequence(modes=("forward",), B=(4, 16))
LARGE = (
    *sequence(modes=("forward",), B=(64,), H=(256, 512)),
    *sequence(modes=("forward",), T=50, B=(64,), H=(1024,)),
    *sequence(modes=("forward",), B=(16,), H=(1024,)),
)
TRAIN = sequence(modes=("train",)) + sequence(modes=("train",), T=50, B=(64,), H=(1024,))
BF16 = tuple(replace(p, dtype="bfloat16", mode=mode) for p in LINE + SMALL + LARGE for mode in ("forward", "train"))
RAGGED = tuple(Point(cell, "train", T, 32, 256, packed=True, D=D) for cell in CELLS for T in (100, 1000) for D in (1, 2))
LAYERS = sequence(B=(1, 16), H=(256,), L=3, D=2)
MEMORY = tuple(Point(cell, "memory", T, B, H, recompute=recompute)
               for cell in ("LSTM", "GRU") for T, B, H in ((100, 64, 256), (1000, 16, 128)) for recompute in (False, True))  # fmt: skip
MEMORY += (Point("RNN", "memory", 100, 64, 256), Point("RNN", "memory", 1000, 16, 128))
RECOMPUTE = tuple(replace(p, mode="train") for p in MEMORY if p.recompute)
CPU = STREAM + LINE + SMALL + LARGE + TRAIN + RAGGED + LAYERS + MEMORY + RECOMPUTE + BF16


def among(points: tuple[Point, ...], **options) -> Callable[[Point], bool]:
    """Whether a point is one of these, on however many threads."""
    chosen = {p for p in points if all(getattr(p, key) == value for key, value in options.items())}
    return lambda p: replace(p, threads=None) in chosen


def ahead() -> tuple[Bar, ...]:
    wide = lambda H: lambda p: p.H >= H
    both = lambda *tests: lambda p: all(test(p) for test in tests)
    step, stepper = among(STREAM, mode="step"), among(STREAM, mode="stepper")
    bars = [
        Bar("stream: module call, H >= 128", 1.0, "best", both(step, wide(128))),
        Bar("stream: module call, H < 128", 0.7, "best", both(step, lambda p: p.H < 128)),
        Bar("stream: module call", 4.0, "torch", step),
        Bar("stream: Stepper, H <= 256", 2.0, "best", both(stepper, lambda p: p.H <= 256)),
        Bar("stream: Stepper, H = 512", 1.4, "best", both(stepper, wide(512))),
        Bar("sequence: geomean", 1.8, "best", among(LINE), mean=True),
        Bar("sequence: each", 1.2, "best", among(LINE)),
        Bar("small batch: geomean", 1.5, "best", among(SMALL), mean=True),
        Bar("small batch: each", 1.0, "best", among(SMALL)),
        Bar("large: each", 1.0, "best", among(LARGE)),
        Bar("large: share of the FMA peak", 0.88, "bound", both(among(LARGE), lambda p: p.cell != "RNN")),
        *(Bar(f"train: {cell} geomean", least, "best", among(TRAIN, cell=cell), mean=True)
          for cell, least in (("LSTM", 1.6), ("GRU", 2.5), ("RNN", 2.3))),
        Bar("train: each", 1.05, "best", among(TRAIN)),
        Bar("train: share of the FMA peak, B >= 16, H >= 512", 0.78, "bound", both(among(TRAIN), wide(512), lambda p: p.B >= 16)),
        Bar("bf16: geomean", 2.0, "torch", among(BF16), mean=True),
        Bar("bf16: each", 1.0, "torch", among(BF16)),
        Bar("packed: the padded call", 1 / 0.65, "padded", among(RAGGED)),
        Bar("packed: torch.nn, T = 1000", 10.0, "torch", among(RAGGED, T=1000)),
        Bar("layers: each", 1.5, "best", among(LAYERS)),
        Bar("memory: torch.nn's", 1.0, "torch", among(MEMORY, recompute=False)),
        Bar("memory: 45% of torch.nn's with recompute", 1 / 0.45, "torch", among(MEMORY, recompute=True)),
        Bar("recompute: 1.45x the time without it", 1 / 1.45, "plain", among(RECOMPUTE)),
    ]  # fmt: skip
    return tuple(bars)


def ahead_on_one_thread() -> tuple[Bar, ...]:
    return *(bar for bar in ahead() if bar.mean), Bar("one thread: each", 1.0, "best", lambda p: True)


SUITES = {
    "default": Suite(sequence() + PACKED + steps("step"), NEVER_SLOWER),
    "step": Suite(steps("step"), NEVER_SLOWER),
    "packed": Suite(PACKED, NEVER_SLOWER),
    "quick": Suite(QUICK, NEVER_SLOWER),
    "cpu": Suite(CPU, ahead()),
    "gpu": grid.SUITE,
    "cpu-1-thread": Suite(tuple(replace(p, threads=1) for p in STREAM + LINE + SMALL + LARGE + TRAIN), ahead_on_one_thread()),
}
