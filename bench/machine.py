"""What the figures were measured with."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path

import torch

from bench import checkout
from bench.peers import OURSELVES


def describe(threads: int, peers: tuple[str, ...]) -> dict:
    import rnnkernels  # not above: the suite on a card builds it first

    return {
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": threads,
        "peers": list(peers),
        "load": round(os.getloadavg()[0], 1),  # of the minute before the run
        "isa": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in peers if name not in OURSELVES} | {"torch": torch.__version__},
        "rnnkernels": rnnkernels.info(),
        "commit": checkout.commit(),
        "csrc": checkout.csrc(),
    }


def cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def line(machine: dict) -> str:
    """One line for the table's head."""
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    source = f"; csrc {machine['csrc']}" if "csrc" in machine else ""  # older runs have none
    return f"{machine['cpu']}, {machine['isa']}, {machine['threads']} threads on {machine['cores']} cores; {versions}{source}"


def warning(machine: dict) -> str:
    """Spinning workers that must share a core lose whole time slices: on a busy machine the figures mean little."""
    load = machine["load"]
    return f"load average {load}: quote none of this if others are at work on this machine" if load > 0.5 else ""


def build(machine: dict) -> str:
    """What of rnnkernels is active, in one line."""
    return "rnnkernels: " + ", ".join(f"{key} {value}" for key, value in machine["rnnkernels"].items() if value)
