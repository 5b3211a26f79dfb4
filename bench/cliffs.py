"""python -m bench.cliffs: where a fast kernel could fall off a cliff: denormals, first calls, busy or too many threads, resets.

Writes bench/out/cliffs.json; with --check it exits with 1 if a bar is missed.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

import rnnkernels
import torch

from bench import timing
from bench.experiment import main, result, seconds
from bench.peers import OURS

CALLERS = 2
FRESH_SHAPES = 12


def layer(cell: str, H: int) -> torch.nn.Module:
    return getattr(rnnkernels, cell)(H, H)


def denormals(cell: str) -> list[dict]:
    """Inputs and weights so small that most products are denormal: at most 1.3 times the time."""
    found = []
    for T, B, H in ((100, 16, 128), (1, 1, 256)):
        normal, tiny, x = layer(cell, H), layer(cell, H), torch.randn(T, B, H)
        with torch.no_grad():
            for p in tiny.parameters():
                p.mul_(1e-25)
        small = x * 1e-20
        with torch.inference_mode():
            rounds = timing.interleave({OURS: lambda: tiny(small), "normal": lambda: normal(x)})
        found.append(result(f"{cell} forward, denormals T{T} B{B} H{H}", rounds, {"normal": 1 / 1.3}))
    return found


def first_calls(cell: str) -> list[dict]:
    """The first call at a shape nobody has called before: at most 5 ms over the later ones."""
    rounds = []
    module = layer(cell, 128)
    for k in range(FRESH_SHAPES):
        x = torch.randn(50 + 7 * k, 3 + 5 * k, 128)
        train = lambda x=x: module(x)[0].sum().backward()
        rounds.append({OURS: seconds(train), "later": min(seconds(train) for _ in range(5))})
    return [result(f"{cell} train, first call H128", rounds, limits={OURS: ("later", 5e-3)})]


def crowds(cell: str) -> list[dict]:
    """More threads than cores, and several callers at once: never more than twice the time."""
    module, x, threads = layer(cell, 128), torch.randn(100, 16, 128), torch.get_num_threads()

    def too_many():
        torch.set_num_threads(2 * threads)
        module(x)
        torch.set_num_threads(threads)

    def call():
        with torch.inference_mode():
            module(x)

    found = []
    with torch.inference_mode():
        rounds = timing.interleave({OURS: too_many, "as many as asked for": lambda: module(x)})
    found.append(result(f"{cell} forward, {2 * threads} threads T100 B16 H128", rounds, {"as many as asked for": 0.5}))
    with ThreadPoolExecutor(CALLERS) as pool:
        together = lambda: [job.result() for job in [pool.submit(call) for _ in range(CALLERS)]]
        rounds = timing.interleave({OURS: together, "in turn": lambda: [call() for _ in range(CALLERS)]})
    found.append(result(f"{cell} forward, {CALLERS} callers T100 B16 H128", rounds, {"in turn": 0.5}))
    return found


def resets(cell: str) -> list[dict]:
    """`reset=` in training against what reinforcement learning does without it, a loop over torch.nn: at least 10 times as fast."""
    T, B, H = 128, 8, 256
    ours, theirs = layer(cell, H), getattr(torch.nn, cell)(H, H)
    theirs.load_state_dict(ours.state_dict())
    x, reset = torch.randn(T, B, H), torch.rand(T, B) < 0.1
    keep = (~reset).to(x.dtype).unsqueeze(-1)

    def loop():
        states, outs = [torch.zeros(1, B, H) for _ in range(2 if cell == "LSTM" else 1)], []
        for t in range(T):
            states = [s * keep[t] for s in states]
            out, last = theirs(x[t : t + 1], tuple(states) if len(states) == 2 else states[0])
            states = list(last) if len(states) == 2 else [last]
            outs.append(out)
        return torch.cat(outs)

    torch.testing.assert_close(ours(x, reset=reset)[0], loop(), rtol=1e-4, atol=1e-5)
    rounds = timing.interleave({OURS: lambda: ours(x, reset=reset)[0].sum().backward(), "loop": lambda: loop().sum().backward()})
    return [result(f"{cell} train, resets T{T} B{B} H{H}", rounds, {"loop": 10.0})]


if __name__ == "__main__":
    sys.exit(main("cliffs", __doc__, ("torch",), (denormals, first_calls, crowds, resets)))
