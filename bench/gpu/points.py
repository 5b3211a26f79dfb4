"""Checks and times points on the card, in a process of its own: what breaks CUDA's context breaks no other.

python -m bench.gpu.points < POINTS    a JSON array of points; answers a JSON object a line:
    {"begin": index}     a point is begun
    {"result": {...}}    it was measured
    {"failure": reason}  it could not be, and what follows is another point, unless the process ends here
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from collections.abc import Callable
from math import inf
from statistics import median
from typing import TextIO

import torch

from bench import peers
from bench.gpu.known import floor_us, published
from bench.peers import OURS, PADDED
from bench.peers import torch as torch_nn
from bench.point import Point
from bench.problem import Mismatch, Problem, arrays, check, draw
from bench.timing import evaluation, interleave, spread, summary

DEVICE = "cuda"
MOST_SETS = 8  # of tensors that a contender's calls go through in turn, so that none finds its input in the L2


def measure(point: Point, contenders: dict) -> dict:
    """The point's entry in the record. `refused` names who raised or was wrong, and why; they are not timed."""
    set_precision(point)
    problems = [draw(point, 1, seed, DEVICE) for seed in range(tensor_sets(point))]
    result = {**vars(point), "tensor_sets": len(problems), "published": published(point), "seconds": {}, "ratios": {}}
    refused = result["refused"] = {}
    own = {
        name: attempt(name, refused, lambda: [peer.prepare(problem) for problem in problems])
        for name, peer in contenders.items()
        if peer.supports(point)
    }
    with evaluation(point):
        result["errors"] = verify(problems[0], {name: calls[0] for name, calls in own.items() if calls}, refused)
        torch.cuda.empty_cache()  # float64 took several times what the point needs
        calls = {name: rotate(calls) for name, calls in own.items() if name not in refused}
        if calls:
            result |= summary(interleave(calls, turn, batch_calls=1))
            result["host_seconds"] = {name: enqueuing(call) for name, call in calls.items()}
            result["bound"] = bound(point, problems, result)
    return result


def set_precision(point: Point):
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = point.dtype == "tf32"


def verify(problem: Problem, calls: dict[str, Callable], refused: dict) -> dict[str, float | None]:
    """The worst error of each, against torch.nn in float64 on the card.

    torch.nn's own is recorded, whatever it is: where ATen's loops add up gradients in bf16, they can be worse than the
    tolerance, and are the yardstick all the same.
    """
    truth = arrays(torch_nn.prepare(problem.double())())
    tolerance = {"torch": inf}
    judge = lambda name: check(name, problem.point, calls[name](), truth, tolerance.get(name))
    compare = lambda name: attempt(name, refused, lambda: judge(name))
    return {name: compare(name) for name in calls if name != PADDED}


def attempt(name: str, refused: dict, action: Callable):
    """The action's result; where it raised, None and an entry in `refused`."""
    try:
        return action()
    except (Mismatch, RuntimeError, ValueError) as error:
        refused[name] = str(error)[:400]
        torch.cuda.synchronize()  # raises again where the context is lost


def tensor_sets(point: Point) -> int:
    """As many as are twice the L2 together; a long sequence alone is more."""
    tensors = 3 if point.mode == "train" else 2  # x, the output, its gradient
    elements = tensors * point.T * point.B * point.H * point.D
    one = elements * getattr(torch, point.storage).itemsize
    return min(MOST_SETS, 1 + 2 * torch.cuda.get_device_properties(0).L2_cache_size // one)


def rotate(calls: list[Callable]) -> Callable:
    following = itertools.cycle(calls)
    return lambda: next(following)()


def turn(call: Callable, times: int, awake: bool = True) -> float:
    """Seconds a call between two CUDA events, as `timing.take_turn`."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    if awake:
        call()
    torch.cuda.synchronize()
    begin.record()
    for _ in range(times):
        call()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / times * 1e-3


def enqueuing(call: Callable) -> float:
    """Seconds until a call returns, the card still at work: near those between events, the host is what limits."""
    seconds = []
    for _ in range(5):
        torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    torch.cuda.synchronize()
    return median(seconds)


def bound(point: Point, problems: list, result: dict) -> dict | None:
    """The model's line against the recurrent part of ours, which is all but the input's product, timed for itself."""
    step = floor_us(point)
    if step is None or OURS not in result["seconds"]:
        return None
    product = rotate([lambda x=p.x.flatten(0, 1), w=p.weights[0].T: x @ w for p in problems])
    product_seconds = spread([r["product"] for r in interleave({"product": product}, turn)])["median"]
    seconds = step * 1e-6 * point.T
    recurrent = result["seconds"][OURS]["median"] - product_seconds
    share = seconds / recurrent if recurrent > 0 else 1.0
    return {"kind": "model", "seconds": seconds, "product_seconds": product_seconds, "share": share}


def contenders() -> dict:
    """torch.nn, and ours where it has kernels for a card: else it would hand the call to torch.nn."""
    import rnnkernels

    loaded = peers.load(("torch", PADDED))
    return loaded if "cuda" in rnnkernels.info()["devices"] else {"torch": loaded["torch"]}


def only_answers() -> TextIO:
    """Standard output; whatever else is printed from here on must not get between the answers."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    return answers


def main():
    answers = only_answers()
    say = lambda **answer: print(json.dumps(answer), file=answers)
    rivals = contenders()
    for index, fields in enumerate(json.load(sys.stdin)):
        say(begin=index)
        try:
            say(result=measure(Point(**fields), rivals))
        except Exception as error:  # nobody is there to mend it, and the minutes run: on with the next one
            say(failure=f"{type(error).__name__}: {error}"[:400])
            torch.cuda.synchronize()  # ends the process where the context is lost
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
