"""The fixed grid, the most telling shapes first, each measured forward and train; and the bars of its points.

The second stage measures TELLING, the third the REST, to whose end new shapes go: a record stays valid then.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product

from bench.gpu.known import FLOOR_US, PUBLISHED_SHAPE, cudnn_algorithm, floor_us, plain, published
from bench.point import Bar, Point, Suite

STEPS = 512
DTYPES = {"bf16": "bfloat16", "fp16": "float16", "tf32": "tf32", "fp32": "float32", "fp64": "float64"}


def shapes(cells: str, dtypes: str, at: tuple, **options) -> tuple[Point, ...]:
    """Every cell and dtype at each (B, H), or (B, H, P)."""
    return tuple(
        Point(cell, "forward", T=STEPS, B=B, H=H, P=sum(P), dtype=DTYPES[dtype], **options)
        for (B, H, *P), dtype, cell in product(at, dtypes.split(), cells.split())
    )


TELLING = (
    *(Point(mode="forward", dtype=dtype, **PUBLISHED_SHAPE) for dtype in ("bfloat16", "float16", "tf32", "float32")),
    *shapes("LSTM GRU", "bf16", ((32, 512), (64, 512), (64, 1024), (128, 1024))),  # where R0 must hold cuDNN's pace
    *shapes("LSTM GRU", "bf16 tf32", ((32, 256), (64, 512)), packed=True),
    *shapes("LSTM", "bf16 tf32", ((32, 512, 128), (64, 1024, 256))),
    *shapes("LSTM GRU", "fp64", ((32, 256), (64, 512))),
    *shapes("LSTM", "bf16", tuple((8, H) for H in FLOOR_US)),
    *shapes("LSTM GRU", "bf16", ((16, 64), (16, 128), (16, 256), (16, 512), (16, 1024))),
    *shapes("LSTM GRU", "tf32", ((16, 256), (32, 512), (64, 512), (64, 1024))),
    *shapes("LSTM", "fp16", ((16, 256), (64, 512), (64, 1024))),
    *shapes("LSTM GRU", "bf16", ((16, 256), (64, 512)), D=2),
    *shapes("LSTM GRU", "fp32", ((16, 256), (64, 512))),
    *shapes("LSTM GRU", "bf16", ((1, 512), (128, 512), (256, 512))),
)  # fmt: skip
REST = (
    *shapes("RNN", "bf16", ((16, 64), (16, 256), (16, 512), (16, 1024), (64, 512), (128, 1024), (8, 2048))),
    *shapes("RNN", "fp16 tf32 fp32", ((16, 256), (64, 512))),
    *shapes("LSTM GRU", "bf16", ((1, 64), (1, 256), (1, 1024), (64, 64), (128, 128))),
    *shapes("LSTM GRU", "bf16", ((64, 256), (32, 768), (32, 1024), (256, 1024), (32, 2048))),
    *shapes("GRU", "fp16", ((8, 64), (16, 256), (64, 512), (64, 1024))),
    *shapes("LSTM", "fp16", ((8, 64), (8, 512), (16, 1024), (128, 128), (128, 1024), (256, 512))),
    *shapes("LSTM GRU", "tf32", ((1, 256), (8, 64), (8, 1024), (128, 512), (32, 2048))),
    *shapes("LSTM GRU", "fp32", ((8, 64), (64, 1024))),
    *shapes("LSTM", "fp16 tf32", ((16, 256), (64, 512)), D=2),
    *shapes("GRU", "tf32", ((64, 512),), D=2),
    *shapes("RNN", "bf16", ((16, 256), (64, 512)), D=2),
    *shapes("LSTM", "bf16", ((1, 128), (128, 1024)), D=2),
    *shapes("RNN", "bf16", ((32, 256),), packed=True),
    *shapes("LSTM", "fp16 fp64", ((32, 256),), packed=True),
    *shapes("LSTM GRU", "bf16", ((32, 256),), packed=True, D=2),
    *shapes("LSTM", "bf16", ((128, 1024),), packed=True),
    *shapes("LSTM", "fp16 fp64", ((32, 512, 128),)),
    *shapes("LSTM", "bf16", ((32, 512, 128),), D=2),
    *shapes("RNN", "fp64", ((32, 256), (64, 512))),
    *shapes("LSTM", "fp64", ((1, 128),)),
    *shapes("LSTM GRU", "bf16", ((32, 512),), L=2),
)
GRID = TELLING + REST


def points(shapes: tuple[Point, ...]) -> tuple[Point, ...]:
    return tuple(replace(shape, mode=mode) for shape in shapes for mode in ("forward", "train"))


# R0, which takes everything: near cuDNN where that is good, ahead where it is not.
odd = lambda p: p.packed or p.P > 0 or p.dtype == "float64"
standard = lambda p: cudnn_algorithm(p) == "STANDARD" and not odd(p) and p.H >= 512 and p.B >= 32
BARS = (
    Bar("1.3x the time of cuDNN STANDARD, H >= 512, B >= 32", 1 / 1.3, "torch", standard),
    Bar("ahead where torch.nn is packed, projected or float64", 1.0, "torch", odd),
)

# What the persistent kernels are for: printed, not failed, until a card has judged the model behind them.
sizes = lambda p: plain(replace(p, D=1)) and p.T == STEPS and p.H in (64, 128, 256, 512, 768, 1024) and p.B <= 128
half = lambda p: sizes(p) and p.dtype in ("bfloat16", "float16")
strong = lambda p: half(p) and cudnn_algorithm(p) == "PERSIST_STATIC" and p.B >= 64
single = lambda dtype: lambda p: sizes(p) and p.dtype == dtype
flash = lambda p: bool(published(p)) and p.mode == "forward" and p.dtype == "bfloat16"
GOALS = (
    Bar("16 bits: geomean", 2.5, "torch", half, mean=True),
    Bar("16 bits: each", 1.0, "torch", lambda p: half(p) and not strong(p)),
    Bar("16 bits: each where cuDNN is PERSIST_STATIC, B >= 64", 0.95, "torch", strong),
    Bar("TF32: geomean", 2.0, "torch", single("tf32"), mean=True),
    Bar("float32: geomean", 2.0, "torch", single("float32"), mean=True),
    Bar("TF32 and float32: each", 1.0, "torch", lambda p: single("tf32")(p) or single("float32")(p)),
    Bar("the model's line, H <= 512: half of it", 0.5, "bound", lambda p: floor_us(p) is not None and p.H <= 512),
    Bar("cuDNN's published 1.96 us a step", 1.0, "cuDNN fp16", flash),
    Bar("FlashRNN's published 4.8 us a step", 1.0, "FlashRNN fused bf16", flash),
    Bar("packed: torch.nn", 10.0, "torch", lambda p: p.packed and p.L == 1),
    Bar("packed: 1.1x the padded call", 1 / 1.1, "padded", lambda p: p.packed and p.L == 1),
)
SUITE = Suite(points(GRID), BARS)
