"""How far the resident memory of a process grows during a training step: one fresh process for each contender.

python -m bench.memory CONTENDER POINT    prints the bytes of one; POINT is JSON. What `measure` runs.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

from bench.point import Point

REPEATS = 3


def supported() -> bool:
    return Path("/proc/self/clear_refs").exists()


def measure(point: Point, contender: str, threads: int) -> list[float]:
    """Bytes, several times."""
    command = [sys.executable, "-m", "bench.memory", contender, json.dumps(asdict(replace(point, threads=threads)))]
    runs = [subprocess.run(command, capture_output=True, text=True) for _ in range(REPEATS)]
    for run in runs:
        if run.returncode:
            raise RuntimeError(f"{contender} at {point}: {run.stderr}")
    return [float(run.stdout.split()[-1]) for run in runs]


def growth(contender: str, point: Point) -> int:
    import torch

    from bench import peers
    from bench.problem import draw

    torch.set_num_threads(point.threads)
    peer = peers.load((contender,))[contender]
    train = replace(point, mode="train")
    peer.prepare(draw(replace(train, T=2, B=2), point.threads))()  # loads libraries, starts threads
    call = peer.prepare(draw(train, point.threads))
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    result = call()
    del result
    return status("VmHWM") - before


def status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(key + ":"))


if __name__ == "__main__":
    print(growth(sys.argv[1], Point(**json.loads(sys.argv[2]))))
