"""The card at hand, what is missing to use it, and what the figures were measured with."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

import torch

from bench import checkout

NVCC = shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"


def missing() -> str | None:
    """What a run on a card lacks here, in a few words."""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} was built without CUDA"
    if not torch.cuda.is_available():
        return "no CUDA device is in reach"
    return None if Path(NVCC).exists() else "no nvcc in PATH or /usr/local/cuda"


def describe() -> dict:
    card = torch.cuda.get_device_properties(0)
    return {
        "card": card.name,
        "capability": capability(),
        "processors": card.multi_processor_count,
        "l2_bytes": card.L2_cache_size,
        "memory_bytes": card.total_memory,
        "driver": driver(),
        "cuda": torch.version.cuda,
        "cudnn": ".".join(map(str, cudnn_version())),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "csrc": checkout.csrc(),
        "commit": None,  # a copied tree has no history: bench.gpu.report fills it in where there is one
    }


def capability() -> str:
    return "{}.{}".format(*torch.cuda.get_device_capability(0))


def cudnn_version() -> tuple[int, int, int]:
    number = torch.backends.cudnn.version() or 0  # 91900 is 9.19.0
    return number // 10000, number // 100 % 100, number % 100


def driver() -> str | None:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.split()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return None


def arch(capability: str) -> str:
    """The card as nvcc names it."""
    return "sm_" + capability.replace(".", "")


def file_name(machine: dict) -> str:
    """The card's name as a file's, without an end."""
    return re.sub(r"[^a-z0-9]+", "-", machine["card"].lower()).strip("-")


def line(machine: dict) -> str:
    """One line for the table's head."""
    versions = f"torch {machine['torch']}, CUDA {machine['cuda']}, cuDNN {machine['cudnn']}, driver {machine['driver']}"
    source = machine["commit"] or f"csrc {machine['csrc']}"
    chip = f"{machine['card']}, {arch(machine['capability'])}, {machine['processors']} multiprocessors"
    return f"{chip}; {versions}; rnnkernels {source}"
