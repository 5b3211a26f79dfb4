"""The machine's limits, measured in the run itself, and how close a point comes to the one that applies.

    compute   operations of the matrix products over the float32 FMA peak
    bytes     the weights that every step must read again over the bandwidth of the cache that holds them

python -m bench.roofline prints the limits.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from bench.point import Point

FOOTPRINTS = tuple(1 << k for k in range(14, 26))  # bytes of each thread: 16 KB to 32 MB


@dataclass(frozen=True)
class Limits:
    """By number of threads: flop/s, and bytes/s at each footprint."""

    peak: dict[int, float]
    bandwidth: dict[int, dict[int, float]]

    @classmethod
    def measure(cls, threads: int) -> Limits | None:
        """None where there is no compiler to build the loops, or no AVX2."""
        compiler = shutil.which("c++")
        if compiler is None:
            return None
        with tempfile.TemporaryDirectory() as folder:
            library = Path(folder) / "roofline.so"
            source = Path(__file__).with_suffix(".cpp")
            subprocess.run([compiler, "-O3", "-shared", "-fPIC", "-fopenmp", source, "-o", library], check=True)
            loops = ctypes.CDLL(str(library))
        loops.fma_peak.restype = loops.read_bandwidth.restype = ctypes.c_double
        loops.read_bandwidth.argtypes = [ctypes.c_int64, ctypes.c_int]
        counts = sorted({1, threads})
        peak = {n: loops.fma_peak(n) for n in counts}
        return cls(peak, {n: {b: loops.read_bandwidth(b, n) for b in FOOTPRINTS} for n in counts}) if peak[1] else None

    def bound(self, point: Point, threads: int, seconds: float) -> dict | None:
        """The limit that applies to a float32 point without padding, its time, and the share of it that `seconds` reaches."""
        if point.dtype != "float32" or point.packed or threads not in self.peak:
            return None
        limits = {"compute": flops(point) / self.peak[threads], "bytes": self.reading(point, threads)}
        kind = max(limits, key=limits.get)
        return {"kind": kind, "seconds": limits[kind], "share": limits[kind] / seconds}

    def reading(self, point: Point, threads: int) -> float:
        """Every step reads W_hh of every layer, forward and again backward; a single step reads W_ih as well."""
        matrix = point.gates * point.H * point.H * 4
        a_step = point.L * point.D * matrix + (sum(point.D * w for w in widths(point)) * point.gates * point.H * 4 if point.T1 else 0)
        footprint = min(FOOTPRINTS, key=lambda b: abs(b - a_step / threads))
        return a_step * point.T * (2 if point.mode == "train" else 1) / self.bandwidth[threads][footprint]

    def as_json(self) -> dict:
        return {"flops": self.peak, "bytes": self.bandwidth}

    def __str__(self) -> str:
        lines = []
        for n, peak in self.peak.items():
            reads = ", ".join(f"{b >> 10} KB {rate / 1e9:.0f}" for b, rate in self.bandwidth[n].items())
            lines.append(f"{n} thread{'s' * (n > 1)}: {peak / 1e9:.0f} GF/s; reads of GB/s from {reads} a thread")
        return "\n".join(lines)


def widths(point: Point) -> list[int]:
    """The input's width of each layer."""
    return [point.H] + [point.D * point.H] * (point.L - 1)


def flops(point: Point) -> int:
    """Of the matrix products: forward two, backward four more."""
    a_token = sum(2 * point.gates * point.H * (width + point.H) for width in widths(point)) * point.D
    return point.T * point.B * a_token * (3 if point.mode == "train" else 1)


if __name__ == "__main__":
    import os

    print(Limits.measure(len(os.sched_getaffinity(0))))
