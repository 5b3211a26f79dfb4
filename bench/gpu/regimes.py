"""Ours by each regime that takes a point, side by side: which one csrc/cuda/regime.h should choose.

python -m bench.gpu.regimes [CELL ...]    microseconds a step, the input's product included; * is what it chooses
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import product

import torch

from bench.gpu import card
from bench.gpu.grid import DTYPES, STEPS
from bench.gpu.points import DEVICE, attempt, contenders, set_precision, turn
from bench.peers import OURS
from bench.point import Point
from bench.problem import draw
from bench.timing import evaluation, interleave, spread

FORCED = "RNNKERNELS_CUDA_REGIME"  # read at every call
REGIMES = ("R0", "R1", "R2", "R3", "R4", "*")
SIZES = (64, 128, 256, 512, 768, 1024, 2048)
ROWS = (8, 32, 64, 128, 256)


def forced(regime: str, call: Callable) -> Callable:
    def run():
        os.environ[FORCED] = regime.rstrip("*")  # an empty word forces nothing
        return call()

    return run


def measure(point: Point) -> dict[str, float]:
    """Microseconds a step by regime; a pass that a regime refuses leaves it out."""
    set_precision(point)
    call = contenders()[OURS].prepare(draw(point, 1, device=DEVICE))
    refused: dict[str, str] = {}
    with evaluation(point):
        for regime in REGIMES:
            attempt(regime, refused, forced(regime, call))
        calls = {regime: forced(regime, call) for regime in REGIMES if regime not in refused}
        rounds = interleave(calls, turn, batch_calls=1)
    return {regime: spread([r[regime] for r in rounds])["median"] / point.T * 1e6 for regime in calls}


def main(cells: list[str]) -> int:
    if lacking := card.missing():
        print(f"no regimes to measure here: {lacking}", file=sys.stderr)
        return 2
    print(torch.cuda.get_device_name(0))
    for cell, H, B, dtype, mode in product(cells, SIZES, ROWS, ("bf16", "tf32", "fp32"), ("forward", "train")):
        point = Point(cell, "forward", T=STEPS, B=B, H=H, dtype=DTYPES[dtype])
        times = measure(replace(point, mode=mode))
        print(cell, mode, dtype, f"B={B} H={H}:", *(f"{name} {us:.2f}" for name, us in times.items()), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or ["LSTM", "GRU", "RNN"]))
