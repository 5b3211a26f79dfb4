"""What can be measured: a point, the bars it must clear, and a suite of both.

Shape letters are the library's: T steps, B batch, H hidden, P projection, L layers, D directions; the input is as wide
as the hidden state (I = H).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

CELLS = ("LSTM", "GRU", "RNN")
MODES = ("forward", "train", "step", "stepper", "memory")


@dataclass(frozen=True)
class Point:
    """One shape in one mode.

    forward  a module call on a whole sequence, under inference_mode
    train    the same with every gradient: d_x and all weights and biases
    step     a module call on one time step with the state passed in and out (T = 1), under inference_mode
    stepper  the same step by `rnnkernels.Stepper`; the peers as in step
    memory   how far the resident memory grows during train
    """

    cell: str
    mode: str
    T: int
    B: int
    H: int
    packed: bool = False  # a PackedSequence with lengths drawn uniformly from 1..T
    dtype: str = "float32"
    L: int = 1
    D: int = 1
    threads: int | None = None  # for every contender; None: as many as the run has
    recompute: bool = False
    P: int = 0  # an LSTM's proj_size

    @property
    def storage(self) -> str:
        """The name of torch's dtype: "tf32" is float32 whose products may be TF32."""
        return "float32" if self.dtype == "tf32" else self.dtype

    @property
    def T1(self) -> bool:
        return self.mode in ("step", "stepper")

    @property
    def gates(self) -> int:
        return {"LSTM": 4, "GRU": 3, "RNN": 1}[self.cell]

    def __str__(self) -> str:
        words = [self.cell, self.mode, f"T{self.T}", f"B{self.B}", f"H{self.H}"]
        words += (
            [f"P{self.P}"] * (self.P > 0)
            + [f"L{self.L}"] * (self.L > 1)
            + ["bidirectional"] * (self.D > 1)
            + ["packed"] * self.packed
        )
        words += [self.dtype] * (self.dtype != "float32") + ["recompute"] * self.recompute
        words += [f"{self.threads} thread"] * (self.threads is not None)
        return " ".join(words)


@dataclass(frozen=True)
class Bar:
    """The least figure of each point that `where` picks, or of their geometric mean.

    against  a contender's name, a source of a published time (bench/gpu/known.py), or "best" for the quickest peer of
             each point: its time / ours.
             "bound": the share of the machine's limit that ours reaches, see bench/roofline.py and bench/gpu/known.py
    """

    name: str
    least: float
    against: str
    where: Callable[[Point], bool]
    mean: bool = False


@dataclass(frozen=True)
class Suite:
    points: tuple[Point, ...]
    bars: tuple[Bar, ...]

    def bars_of(self, point: Point) -> list[Bar]:
        """Those that the point must clear by itself."""
        return [bar for bar in self.bars if not bar.mean and bar.where(point)]
