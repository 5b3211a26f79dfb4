"""How many kernels a step costs: whether cuDNN took a persistent algorithm is seen, not believed.

In a process of its own, because CUDA's profiler slows down what comes after it.

python -m bench.gpu.kernels < POINTS    answers a JSON object a line: the point, and kernels a step by contender
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace

import torch
from torch.profiler import ProfilerActivity, profile

from bench import checkout
from bench.gpu.points import contenders, only_answers, set_precision
from bench.peers import PADDED
from bench.point import Point
from bench.problem import draw

COMMAND = [sys.executable, "-m", "bench.gpu.kernels"]
LENGTHS = (8, 16)  # of sequences: the difference leaves the steps alone


def measured(points: list[Point], limit: float) -> Iterator[tuple[str, dict[str, float]]]:
    """As many of the points as `limit` seconds allow, by their names."""
    request = json.dumps([asdict(point) for point in points]).encode()
    try:
        said = subprocess.run(COMMAND, input=request, stdout=subprocess.PIPE, cwd=checkout.ROOT, timeout=limit).stdout
    except subprocess.TimeoutExpired as error:
        said = error.stdout or b""
    for line in said.splitlines(keepends=True):
        if line.endswith(b"}\n"):  # the last one may be cut off
            answer = json.loads(line)
            yield answer["point"], answer["kernels"]


def a_step(point: Point, contender) -> float:
    few, many = (kernels(contender, replace(point, T=T)) for T in LENGTHS)
    return (many - few) / (LENGTHS[1] - LENGTHS[0])


def kernels(contender, point: Point) -> int:
    """Of one call, all rows of full length."""
    problem = draw(point, 1, device="cuda")
    if point.packed:
        problem = replace(problem, lengths=torch.full_like(problem.lengths, point.T))
    call = contender.prepare(problem)
    with torch.inference_mode(point.mode != "train"):
        call()
        torch.cuda.synchronize()
        with profile(activities=[ProfilerActivity.CUDA]) as profiler:
            call()
            torch.cuda.synchronize()
    return sum(event.device_type == torch.autograd.DeviceType.CUDA for event in profiler.events())


def main():
    answers = only_answers()
    rivals = {name: peer for name, peer in contenders().items() if name != PADDED}
    for point in (Point(**fields) for fields in json.load(sys.stdin)):
        set_precision(point)
        found = {}
        for name, peer in rivals.items():
            try:
                found[name] = a_step(point, peer)
            except (RuntimeError, ValueError) as error:
                print(f"{point}: {name}: {error}", file=sys.stderr)
        print(json.dumps({"point": str(point), "kernels": found}), file=answers)


if __name__ == "__main__":
    main()
