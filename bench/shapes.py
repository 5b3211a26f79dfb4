"""What is measured: points, the suites that name them, and the bar each point must clear.

Shape letters are the library's: T steps, B batch, H hidden; the input is as wide as the hidden state (I = H).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable

CELLS = ("LSTM", "GRU", "RNN")
MODES = ("forward", "train", "step")


@dataclass(frozen=True)
class Point:
    """One shape in one mode.

    forward  a module call on a whole sequence, under inference_mode
    train    the same with every gradient: d_x and all weights and biases
    step     a module call on one time step with the state passed in and out (T = 1), under inference_mode
    """

    cell: str
    mode: str
    T: int
    B: int
    H: int
    packed: bool = False  # a PackedSequence with lengths drawn uniformly from 1..T
    dtype: str = "float32"

    def __str__(self) -> str:
        tail = (" packed" if self.packed else "") + ("" if self.dtype == "float32" else f" {self.dtype}")
        return f"{self.cell} {self.mode} T{self.T} B{self.B} H{self.H}{tail}"


@dataclass(frozen=True)
class Suite:
    points: tuple[Point, ...]
    bar: Callable[[Point], float | None]  # the least ratio torch.nn's time / ours; None where nothing was promised


def never_slower(point: Point) -> float | None:
    """Never slower than torch.nn, and much faster wherever torch.nn runs one ATen op after the other."""
    if point.dtype != "float32":
        return None
    if point.mode == "step" or point.packed:
        return 3.0
    if point.mode == "train" and point.cell != "LSTM":
        return 2.0
    if point.mode == "forward" and point.cell == "LSTM" and point.B >= 16:
        return 0.85  # oneDNN's fused LSTM runs at 75-87% of the machine's peak there
    return 1.0


SEQUENCE = tuple(
    Point(cell, mode, T=100, B=B, H=H)
    for cell in CELLS for mode in ("forward", "train") for B in (1, 16, 64) for H in (64, 128, 256, 512)
)  # fmt: skip
PACKED = tuple(
    Point("LSTM", mode, T=100, B=B, H=H, packed=True) for mode in ("forward", "train") for B, H in ((16, 64), (32, 256))
)
STEP = tuple(Point(cell, "step", T=1, B=1, H=H) for cell in CELLS for H in (16, 64, 128, 256, 512))
QUICK = (
    *(Point(cell, mode, T=100, B=16, H=128) for cell in CELLS for mode in ("forward", "train")),
    Point("LSTM", "train", T=100, B=16, H=64, packed=True),
    *(Point(cell, "step", T=1, B=1, H=128) for cell in CELLS),
)

SUITES = {
    "default": Suite((*SEQUENCE, *PACKED, *STEP), never_slower),
    "step": Suite(STEP, never_slower),
    "packed": Suite(PACKED, never_slower),
    "quick": Suite(QUICK, never_slower),
}
