"""The card's own limits: what limits/*.cu measures, and cuBLAS as torch calls it.

python -m bench.gpu.limits    prints the figures of cuBLAS as JSON; for the others see limits/main.cu
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import torch

from bench import checkout
from bench.gpu import card

SOURCES = sorted((checkout.ROOT / "bench/gpu/limits").iterdir())
GROUPS = ("memory", "barriers", "clusters", "launches", "tensor_cores")  # of limits/main.cu
GROUP_SECONDS = 90

# cuBLAS: large square products, and the recurrent product of a step, [B, H] x [H, 4 H], one after the other in a graph.
LARGE = {"bfloat16": 8192, "float16": 8192, "tf32": 8192, "float32": 8192, "float64": 4096}
STEP_SHAPES = ((1, 512), (16, 512), (64, 512), (64, 1024), (128, 1024), (256, 1024))
STEP_DTYPES = ("bfloat16", "tf32", "float32")
STEPS = 64
REPEATS = 11


def digest() -> str:
    return checkout.digest(Path(__file__), *SOURCES)


def groups(done: dict, capability: str, left: Callable[[], float]) -> Iterator[tuple[str, dict]]:
    """Name and figures of each group that is not `done`; a group that fails, or for which fewer seconds are `left` than
    it takes, has the reason in place of figures."""
    run = lambda *command, **options: output(command, min(GROUP_SECONDS, left()), **options)
    is_open = lambda name: "failed" in done.get(name, {"failed": ""})
    if any(map(is_open, GROUPS)):
        with tempfile.TemporaryDirectory() as folder:
            program, sources = f"{folder}/limits", [str(path) for path in SOURCES if path.suffix == ".cu"]
            options = ["-O3", "-std=c++17", "-arch=" + card.arch(capability), "-o", program]
            built = run(card.NVCC, *options, *sources, answer="{}")
            for name in filter(is_open, GROUPS):
                yield name, built if "failed" in built else run(program, name)
    if is_open("cublas"):
        yield "cublas", run(sys.executable, "-m", "bench.gpu.limits")


def output(command: tuple[str, ...], limit: float, answer: str | None = None) -> dict:
    """The JSON that a command prints (or `answer`), or why there is none."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=max(limit, 0), cwd=checkout.ROOT)
        return json.loads(answer or done.stdout)
    except subprocess.CalledProcessError as error:
        return {"failed": error.stderr[-1000:]}
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        return {"failed": str(error)[:1000]}


def cublas() -> dict[str, float]:
    figures = {}
    for dtype, size in LARGE.items():
        a, b = matrices(dtype, size, size, size)
        figures[f"gemm_{dtype}_tflop_s"] = 2 * size**3 / seconds(lambda: a @ b, 3) * 1e-12
    for dtype in STEP_DTYPES:
        for B, H in STEP_SHAPES:
            h, w = matrices(dtype, B, H, 4 * H)
            figures[f"step_gemm_{dtype}_us_b{B}_h{H}"] = seconds(in_graph(lambda: h @ w), 5) / STEPS * 1e6
    return figures


def matrices(dtype: str, m: int, k: int, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    torch.backends.cuda.matmul.allow_tf32 = dtype == "tf32"
    own = getattr(torch, "float32" if dtype == "tf32" else dtype)
    a, b = (torch.randn(rows, k, device="cuda").to(own) for rows in (m, n))
    return a, b.T  # as a layer's weights lie


def in_graph(call):
    """A graph of STEPS calls: what the card needs, without the host."""
    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    with torch.cuda.stream(stream):  # cuBLAS makes its workspace before the capture
        call()
    stream.synchronize()
    with torch.cuda.graph(graph):
        for _ in range(STEPS):
            call()
    return graph.replay


def seconds(call, times: int) -> float:
    """Median seconds of a call, between CUDA events."""
    from bench.gpu.points import turn

    return median(turn(call, times) for _ in range(REPEATS))


if __name__ == "__main__":
    print(json.dumps({name: float(f"{value:.5g}") for name, value in cublas().items()}))
