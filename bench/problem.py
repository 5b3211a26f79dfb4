"""The tensors of one point, the same for every contender, and the check of their numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from bench.shapes import Point

# Largest accepted error, relative to the largest element of the float64 truth. Loose on purpose: this tells a wrong
# answer from a right one. How exact the right one is, the test suite says.
TOLERANCE = {"float64": 1e-10, "float32": 1e-4, "float16": 1e-2, "bfloat16": 6e-2}


class Mismatch(Exception):
    """A contender computes something else; its time would mean nothing."""


@dataclass
class Problem:
    point: Point
    threads: int
    weights: tuple[torch.Tensor, ...]  # for each layer and direction w_ih [G*H, I], w_hh [G*H, H], b_ih, b_hh [G*H]; torch's gate order
    x: torch.Tensor  # [T, B, I]
    hx: tuple[torch.Tensor, ...] | None  # step: h0 and an LSTM's c0, each [L*D, B, H]
    cotangent: torch.Tensor  # [T, B, D*H], the gradient that arrives at the output in train
    lengths: torch.Tensor | None  # packed: [B]

    def double(self) -> Problem:
        """The same problem in float64, exactly the same values."""
        wide = lambda tensors: tensors and tuple(t.double() for t in tensors)
        return Problem(self.point, self.threads, wide(self.weights), self.x.double(), wide(self.hx),
                       self.cotangent.double(), self.lengths)  # fmt: skip


def draw(point: Point, threads: int, seed: int = 0) -> Problem:
    """Random tensors for `point`, freshly allocated, to be computed on `threads` threads."""
    torch.manual_seed(seed)
    T, B, H, dtype = point.T, point.B, point.H, getattr(torch, point.dtype)
    module = getattr(torch.nn, point.cell)(H, H, point.L, bidirectional=point.D == 2)
    states = 2 if point.cell == "LSTM" else 1
    return Problem(
        point,
        threads,
        weights=tuple(p.detach().to(dtype) for p in module.parameters()),
        x=torch.randn(T, B, H).to(dtype),
        hx=tuple(torch.randn(point.L * point.D, B, H).tanh().to(dtype) for _ in range(states)) if point.T1 else None,
        cotangent=torch.randn(T, B, point.D * H).to(dtype),
        lengths=torch.randint(1, T + 1, (B,)) if point.packed else None,
    )


def arrays(outputs) -> list[np.ndarray]:
    """The float64 arrays in whatever nest of tuples, tensors and arrays a contender returned."""
    if outputs is None:
        return []
    if isinstance(outputs, torch.Tensor):
        return [outputs.detach().double().numpy()]
    if hasattr(outputs, "__array__"):
        return [np.asarray(outputs, dtype=np.float64)]
    return [array for part in outputs for array in arrays(part)]


def check(name: str, point: Point, outputs, truth: list[np.ndarray]) -> float:
    """The worst relative error of `outputs`, or Mismatch."""
    found, worst = arrays(outputs), 0.0
    if point.mode == "stepper":  # the top layer's state is all that it returns
        truth = truth[:1] if len(found) == 1 else truth
    if len(found) != len(truth):
        raise Mismatch(f"{point}: {name} returned {len(found)} arrays, expected {len(truth)}")
    for index, (array, right) in enumerate(zip(found, truth)):
        error = np.abs(array.reshape(right.shape) - right).max() / max(np.abs(right).max(), 1e-30)
        if not error <= TOLERANCE[point.dtype]:  # catches NaN as well
            raise Mismatch(f"{point}: {name} is off by {error:.1e} in array {index}, so nothing is timed")
        worst = max(worst, float(error))
    return worst
