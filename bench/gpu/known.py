"""What is known of a point before it is measured. FlashRNN's figures are those of its paper's plot for an H100; the floor counts mma, latency and
barriers of a step (docs/cuda.md)."""

from __future__ import annotations

from math import log

from bench.point import Point

# Milliseconds on an H100 SXM, read off FlashRNN's published figure: forward, then train. FlashRNN's are without the
# input's product. They are quoted beside every dtype of ours.
PUBLISHED_SHAPE = {"cell": "LSTM", "T": 1024, "B": 16, "H": 768}
PUBLISHED = {
    "cuDNN fp16": (2.01, 5.19),
    "FlashRNN fused bf16": (4.87, 13.6),
    "FlashRNN alternating bf16": (10.8, 26.5),
    "haste fp32": (18.4, 43.9),
}

# The model's microseconds a step of a forward LSTM at 8 rows in bf16, by H; where it gives a range, its lower end.
# 1024 is quicker than 768 because there the weights are spread over the whole card.
FLOOR_US = {64: 0.18, 128: 0.36, 256: 0.40, 512: 0.61, 768: 0.95, 1024: 0.81, 2048: 1.5}


def plain(point: Point) -> bool:
    """One layer and direction, padded, no projection."""
    return point.L == point.D == 1 and point.P == 0 and not point.packed


def published(point: Point) -> dict[str, float]:
    """Seconds that others printed for this very shape, by their names."""
    same = plain(point) and all(getattr(point, key) == value for key, value in PUBLISHED_SHAPE.items())
    column = ("forward", "train").index(point.mode)
    return {name: times[column] * 1e-3 for name, times in PUBLISHED.items()} if same else {}


def floor_us(point: Point) -> float | None:
    """What the chip allows for the recurrent part of a step: the model's line, between its points a power of H.

    None where the model says nothing: other cells, wider dtypes, more than 8 rows, backward passes, H outside 64..2048.
    """
    sizes = sorted(FLOOR_US)
    layer = point.cell == "LSTM" and point.mode == "forward" and plain(point)
    if not (layer and point.dtype in ("bfloat16", "float16") and point.B <= 8 and sizes[0] <= point.H <= sizes[-1]):
        return None
    above = next(size for size in sizes if size >= point.H)
    below = max(size for size in sizes if size <= point.H)
    if above == below:
        return FLOOR_US[above]
    share = log(point.H / below) / log(above / below)
    return FLOOR_US[below] ** (1 - share) * FLOOR_US[above] ** share


def cudnn_algorithm(point: Point) -> str:
    """What torch.nn asks cuDNN for on an H100 (get_algo in ATen's cudnn/RNN.cpp); in train, for the backward pass."""
    if point.packed or point.P:
        return "STANDARD"
    small = {"forward": (192, 384), "train": (128, 256)}[point.mode][point.cell == "RNN"]
    if point.H <= small and point.dtype != "float64":
        return "SMALL_H"
    aligned = point.H % 128 == 0 and point.B % 8 == 0  # I = H
    fits = aligned and point.L == point.D == 1 and point.H <= 1024 and point.B <= 128
    quick = point.cell == "LSTM" or point.cell == "RNN" and (point.B < 96 or point.H < 896)
    return "PERSIST_STATIC" if point.dtype == "float16" and fits and quick else "STANDARD"
