"""The tensors of one point, the same for every contender, and the check of their numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from bench.point import Point

# Largest accepted error, relative to the largest element of the float64 truth. Loose on purpose: this tells a wrong
# answer from a right one. How exact the right one is, the test suite says.
TOLERANCE = {"float64": 1e-10, "float32": 1e-4, "tf32": 1e-2, "float16": 1e-2, "bfloat16": 6e-2}


class Mismatch(Exception):
    """A contender computes something else; its time would mean nothing."""


@dataclass
class Problem:
    point: Point
    threads: int
    # For each layer and direction w_ih [G*H, I], w_hh [G*H, P or H], b_ih, b_hh [G*H], with P w_hr [P, H]; torch's gate order.
    weights: tuple[torch.Tensor, ...]
    x: torch.Tensor  # [T, B, I]
    hx: tuple[torch.Tensor, ...] | None  # step: h0 and an LSTM's c0, each [L*D, B, H]
    cotangent: torch.Tensor  # [T, B, D*H] (D*P), the gradient that arrives at the output in train
    lengths: torch.Tensor | None  # packed: [B]

    def double(self) -> Problem:
        """The same problem in float64, exactly the same values."""
        wide = lambda tensors: tensors and tuple(t.double() for t in tensors)
        return Problem(self.point, self.threads, wide(self.weights), self.x.double(), wide(self.hx),
                       self.cotangent.double(), self.lengths)  # fmt: skip


def draw(point: Point, threads: int, seed: int = 0, device: str = "cpu") -> Problem:
    """Random tensors for `point`, freshly allocated, to be computed on `threads` threads or on a card."""
    torch.manual_seed(seed)
    T, B, H, dtype = point.T, point.B, point.H, getattr(torch, point.storage)
    states = 2 if point.cell == "LSTM" else 1
    with torch.device(device):
        module = getattr(torch.nn, point.cell)(H, H, point.L, bidirectional=point.D == 2, **projection(point))
        return Problem(
            point,
            threads,
            weights=tuple(p.detach().to(dtype) for p in module.parameters()),
            x=torch.randn(T, B, H).to(dtype),
            hx=tuple(torch.randn(point.L * point.D, B, H).tanh().to(dtype) for _ in range(states)) if point.T1 else None,
            cotangent=torch.randn(T, B, point.D * (point.P or H)).to(dtype),
            lengths=torch.randint(1, T + 1, (B,), device="cpu") if point.packed else None,
        )


def projection(point: Point) -> dict:
    """The module's argument for it: GRU and RNN refuse even a zero."""
    return {"proj_size": point.P} if point.P else {}


def arrays(outputs) -> list:
    """The float64 arrays in whatever nest of tuples, tensors and arrays a contender returned; a card's tensors stay there."""
    if outputs is None:
        return []
    if isinstance(outputs, torch.Tensor):
        wide = outputs.detach().double()
        return [wide if wide.is_cuda else wide.numpy()]
    if hasattr(outputs, "__array__"):
        return [np.asarray(outputs, dtype=np.float64)]
    return [array for part in outputs for array in arrays(part)]


def check(name: str, point: Point, outputs, truth: list, tolerance: float | None = None) -> float:
    """The worst relative error of `outputs`, or Mismatch if it is above `tolerance` (the dtype's) or NaN."""
    tolerance = TOLERANCE[point.dtype] if tolerance is None else tolerance
    found, worst = arrays(outputs), 0.0
    if point.mode == "stepper":  # the top layer's state is all that it returns
        truth = truth[:1] if len(found) == 1 else truth
    if len(found) != len(truth):
        raise Mismatch(f"{point}: {name} returned {len(found)} arrays, expected {len(truth)}")
    for index, (array, right) in enumerate(zip(found, truth)):
        error = float(abs(array.reshape(right.shape) - right).max()) / max(float(abs(right).max()), 1e-30)
        if not error <= tolerance:  # catches NaN as well
            raise Mismatch(f"{point}: {name} is off by {error:.1e} in array {index}, so nothing is timed")
        worst = max(worst, error)
    return worst
