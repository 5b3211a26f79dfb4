"""Every kind of kernel once, small, for compute-sanitizer: `python -m bench.gpu.short`. 1 if it would not run ours."""

from __future__ import annotations

import os
import sys
from math import isfinite

import torch

import rnnkernels
from bench.peers import rnnkernels as ours
from bench.point import CELLS, Point
from bench.problem import arrays, draw

SHAPE = {"T": 4, "B": 3, "H": 20}  # nothing is a multiple of a block or of 16 bytes
POINTS = (
    *(
        Point(cell, "train", dtype=dtype, **SHAPE)
        for cell in CELLS
        for dtype in ("float32", "float64", "bfloat16", "float16")
    ),
    *(Point(cell, "train", packed=True, D=2, **SHAPE) for cell in CELLS),
    *(Point(cell, "forward", dtype="bfloat16", T=4, B=17, H=72) for cell in CELLS),
    Point("LSTM", "train", P=12, **SHAPE),
    Point("LSTM", "train", L=2, D=2, recompute=True, **SHAPE),
    Point("GRU", "train", recompute=True, dtype="bfloat16", **SHAPE),
)
# The regimes of csrc/cuda/regime.h that these shapes would not choose, with an H that fits.
FORCED = {"R1": 60, "R2": 72, "R3": 72, "R4": 61}


def calls(device: str):
    """What to run, by name: the points, the regimes, and what torch.nn does not have."""
    for point in POINTS:
        call = ours.prepare(draw(point, 1, device=device))
        with torch.inference_mode(point.mode != "train"):
            yield point, call()
    for regime, H in FORCED.items():
        if regime == "R2" and device == "cuda" and torch.cuda.get_device_capability()[0] < 9:
            continue  # a card without clusters
        os.environ["RNNKERNELS_CUDA_REGIME"] = regime
        try:
            for cell in CELLS:
                point = Point(cell, "train", T=4, B=9, H=H, D=2, packed=cell == "GRU", dtype="bfloat16")
                yield f"{regime} {point}", ours.prepare(draw(point, 1, device=device))()
        finally:
            del os.environ["RNNKERNELS_CUDA_REGIME"]
    x, reset = torch.randn(4, 3, 20, device=device, requires_grad=True), torch.rand(4, 3, device=device) < 0.4
    lengths = torch.tensor([2, 4, 0], device=device)
    extras = {"resets": {"reset": reset}, "lengths": {"lengths": lengths}}
    lstm, before = rnnkernels.LSTM(20, 20, device=device), rnnkernels.GRU(20, 20, reset_after=False, device=device)
    for name, module, options in (
        *((f"LSTM {k}", lstm, v) for k, v in extras.items()),
        *((f"GRU reset before {k}", before, v) for k, v in extras.items()),
        ("LSTM cells", lstm, {"return_cells": True}),
    ):
        result = module(x, **options)
        loss = sum(t.sum() for t in (result[0], *result[2:]))
        yield name, (result, torch.autograd.grad(loss, [x, *module.parameters()]))


def main(device: str = "cuda") -> int:
    if device not in rnnkernels.info()["devices"]:
        print(f"rnnkernels has no kernels for {device}")
        return 1
    for name, results in calls(device):
        if not all(isfinite(float(abs(array).max())) for array in arrays(results)):
            print(f"{name}: NaN or infinity")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
