"""What was built and what is active: `rnnkernels.info()`, or `python -m rnnkernels`."""

import torch

from . import extension, fallback


def info():
    """Returns a dict of what this installation is and does.

    extension  whether compiled kernels are there; built_for, compiler, cuda and archs (TORCH_CUDA_ARCH_LIST) are what they were
               built with, None without
    isa        the instruction set the CPU kernels chose (honours ATEN_CPU_CAPABILITY), None without
    gpu        how many passes each regime of the CUDA kernels has taken since the import (docs/cuda.md), None without them
    torch      the version running now
    threads    torch.get_num_threads(), which the kernels use
    devices    device types with kernels
    fallbacks  reasons met so far for not running on them
    """
    _C = extension._C
    build = _C.build_info() if _C is not None else {}
    return {
        "extension": _C is not None,
        "isa": _C.active_isa() if _C is not None else None,
        "gpu": build.get("gpu"),
        "torch": torch.__version__,
        "built_for": build.get("torch_version"),
        "compiler": build.get("compiler"),
        "cuda": build.get("cuda"),
        "archs": extension.CUDA_ARCHS if build.get("cuda") else None,
        "threads": torch.get_num_threads(),
        "devices": sorted(extension.DEVICES - {"meta"}) if _C is not None else [],
        "fallbacks": list(fallback.seen),
    }


def main():
    for name, value in info().items():
        if isinstance(value, dict):
            value = [f"{key}: {count}" for key, count in value.items()]
        value = ", ".join(value) if isinstance(value, list) else value
        print(f"{name:<10} {'-' if value in (None, '') else value}")
