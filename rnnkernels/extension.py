"""Loads the compiled part, `rnnkernels._C`, or says why there is none.

`_C` is None where the package was installed without a compiler: the reference then runs instead, with one warning.
"""

from importlib import import_module

import torch

try:
    from . import _build  # written after the extension was built
    TORCH_VERSION, CUDA_ARCHS = _build.TORCH_VERSION, getattr(_build, "CUDA_ARCHS", None)
except ImportError:
    TORCH_VERSION = CUDA_ARCHS = None

DTYPES = frozenset({torch.float32, torch.float64, torch.bfloat16, torch.float16})


def _load():
    """Returns the module _C or None; ImportError when it was built for another torch, whose C++ ABI differs."""
    if TORCH_VERSION is None:
        return None
    if TORCH_VERSION.split(".")[:2] != torch.__version__.split(".")[:2]:
        raise ImportError(
            f"rnnkernels was built for torch {TORCH_VERSION} but torch {torch.__version__} is installed. Rebuild it: "
            "in its source tree, make clean && make build, or into an environment of your own pip install --no-build-isolation "
            f"--force-reinstall --no-deps . ; or install torch {TORCH_VERSION}."
        )
    try:
        return import_module("._C", __package__)
    except ModuleNotFoundError as error:
        if error.name != f"{__package__}._C":
            raise
        return None


_C = _load()

# Device types with kernels in this build; on "meta" there are only shapes.
DEVICES = frozenset({"cpu", "meta"} | ({"cuda"} if _C is not None and _C.build_info()["cuda"] else set()))
