"""Timing contenders against each other, fairly."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from statistics import quantiles

import torch

from bench import memory
from bench.peers import OURS, PADDED, torch as torch_nn
from bench.point import Bar, Point
from bench.problem import Problem, arrays, check, draw
from bench.report import figure
from bench.roofline import Limits

BATCH_SECONDS = 0.03  # a turn is a batch of calls this long ...
BATCH_CALLS = 3  # ... or this many calls, where one call takes longer
ROUNDS = 11
ROUNDS_AT_LEAST, POINT_SECONDS = 5, 6.0  # slow points stop early
SLOW_SECONDS, SLOW_ROUNDS = 1.0, 3  # where some contender's call takes longer: single calls, fewer rounds
CLOSE = 1.1  # a ratio within this factor of its bar is measured again
FRESH = 3  # sets of tensors such a point gets in all


def measure(point: Point, contenders: dict, threads: int, bars: Sequence[Bar] = (), note: Callable = print, limits: Limits | None = None) -> dict:
    """Check and time every contender that supports `point`; the result goes into the JSON as it is.

    A point close to one of its bars is not judged on one set of tensors: where memory happens to lie is worth some percent.
    """
    threads = point.threads or threads
    if point.mode == "memory":
        return {**vars(point), **compare({n: memory.measure(point, n, threads) for n, p in contenders.items() if p.supports(point)}, "bytes")}
    rounds: list[dict[str, float]] = []
    errors: dict[str, float] = {}
    torch.set_num_threads(threads)
    for seed in range(FRESH):
        problem = draw(point, threads, seed)
        note("preparing" if seed == 0 else f"close to its bar, fresh tensors {seed}")
        calls = {name: peer.prepare(problem) for name, peer in contenders.items() if peer.supports(point)}
        with evaluation(point):
            verify(problem, calls, errors)
            note("timing" if seed == 0 else f"close to its bar, fresh tensors {seed}")
            rounds += interleave(calls)
        result = {**vars(point), "tensor_sets": seed + 1, "errors": errors, **summary(rounds)}
        if limits is not None:
            result["bound"] = limits.bound(point, threads, result["seconds"][OURS]["median"])
        figures = [(figure(result, bar.against), bar.least) for bar in bars]
        if not any(found is not None and least / CLOSE <= found <= least * CLOSE for found, least in figures):
            break
    return result


@contextmanager
def evaluation(point: Point):
    """inference_mode except in training, and no garbage collector in the middle of a turn."""
    gc.collect()
    gc.disable()
    try:
        with torch.inference_mode(point.mode != "train"):
            yield
    finally:
        gc.enable()


def verify(problem: Problem, calls: dict[str, Callable], errors: dict[str, float]):
    """Raise Mismatch for a wrong contender, keep the errors of the others."""
    truth = arrays(torch_nn.prepare(problem.double())())
    for name, call in calls.items():
        if name != PADDED:
            errors[name] = max(errors.get(name, 0.0), check(name, problem.point, call(), truth))


def interleave(calls: dict[str, Callable], turn: Callable | None = None, batch_calls: int | None = None) -> list[dict[str, float]]:
    """Seconds a call by `turn` (`take_turn`), in batches of `batch_calls` (BATCH_CALLS) at least, for each round and contender. All contenders meet
    the machine's moods together."""
    turn, batch_calls = turn or take_turn, batch_calls or BATCH_CALLS
    once = {name: turn(call, 1, awake=False) for name, call in calls.items()}
    slow = max(once.values()) > SLOW_SECONDS
    batch = {name: 1 if slow else max(batch_calls, round(BATCH_SECONDS / turn(call, 1))) for name, call in calls.items()}
    at_least = SLOW_ROUNDS if slow else ROUNDS_AT_LEAST
    rounds, names, start = [], list(calls), time.perf_counter()
    while len(rounds) < at_least or (len(rounds) < ROUNDS and time.perf_counter() - start < POINT_SECONDS):
        first = len(rounds) % len(names)
        rounds.append({name: turn(calls[name], batch[name], awake=not slow) for name in names[first:] + names[:first]})
    return rounds


def take_turn(call: Callable, times: int, awake: bool = True) -> float:
    """Seconds a call, once the previous contender is off the machine and, if `awake`, this one's own workers have been woken."""
    park()
    if awake:
        call()
    start = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - start) / times


def park(limit: float = 0.2):
    """Wait for the last contender's idle workers, which spin for work and would slow whoever comes next.

    OpenMP's give up after 2 ms, onnxruntime's after 40 ms: so sleep until this process burns no CPU time at all. The kernel books
    the time of a thread that runs on at its ticks only, up to 10 ms apart: a shorter sleep would see nothing.
    """
    deadline = time.perf_counter() + limit
    while time.perf_counter() < deadline:
        burnt = time.process_time()
        time.sleep(0.012)
        if time.process_time() - burnt < 0.001:
            return


def summary(rounds: list[dict[str, float]]) -> dict:
    return compare({name: [r[name] for r in rounds] for name in rounds[0]}, "seconds")


def compare(amounts: dict[str, list[float]], unit: str) -> dict:
    """Amounts and ratios. A ratio is peer / ours within one round, so whatever slows a whole round cancels. Without ours, none."""
    peers = {name: values for name, values in amounts.items() if name != OURS and OURS in amounts}
    ratios = {name: [peer / ours for peer, ours in zip(values, amounts[OURS])] for name, values in peers.items()}
    return {
        unit: {name: {**spread(values), "rounds": values} for name, values in amounts.items()},
        "ratios": {name: spread(values) for name, values in ratios.items()},
    }


def spread(values: list[float]) -> dict[str, float]:
    low, middle, high = quantiles(values, n=4, method="inclusive")
    return {"median": middle, "q1": low, "q3": high}
