"""Every kind of kernel once, small, for compute-sanitizer: `python -m bench.gpu.short`. 1 if it would not run ours."""

from __future__ import annotations

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


def main(device: str = "cuda") -> int:
    if device not in rnnkernels.info()["devices"]:
        print(f"rnnkernels has no kernels for {device}")
        return 1
    for point in POINTS:
        call = ours.prepare(draw(point, 1, device=device))
        with torch.inference_mode(point.mode != "train"):
            finite = all(isfinite(float(abs(array).max())) for array in arrays(call()))
        if not finite:
            print(f"{point}: NaN or infinity")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
