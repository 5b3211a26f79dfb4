"""Layers on W_ih and W_hh rounded to bfloat16, for inference with float32 models: a step reads half the bytes.

The results are, to the bit, those of a layer with the rounded weights. Where it can, C++ keeps them rounded in memory; under torch.func, in
compiled code and on CUDA they are rounded and widened again for the call.
"""

import torch
from torch.overrides import has_torch_function

from . import transforms
from .derivatives import WEIGHTS
from .extension import _C

__all__ = ["check", "layer", "rounds"]


def rounds(weight_dtype, dtype):
    """Whether parameters of `dtype` are to be rounded. ValueError for another pair than torch.bfloat16 and torch.float32, or the same twice."""
    if weight_dtype in (None, dtype):
        return False
    if (weight_dtype, dtype) != (torch.bfloat16, torch.float32):
        raise ValueError(f"expected weight_dtype torch.bfloat16 and torch.float32 parameters, got {weight_dtype} and {dtype}")
    return True


def check(weight_dtype, params):
    """Whether to round the params of a call. ValueError as of `rounds`; RuntimeError where they need a gradient."""
    if not rounds(weight_dtype, params[0].dtype):
        return False
    if torch.is_grad_enabled() and any(p.requires_grad for p in params):
        raise RuntimeError("weight_dtype is for inference: call this under torch.no_grad() or torch.inference_mode()")
    return True


def layer(op):
    """The layer `op` of `ops` on rounded weights."""
    fused = None if _C is None else getattr(_C, f"rounded_{op.__name__}")
    weights = WEIGHTS[op.__name__]
    matrices = {first + k for first in (weights.start, (weights.start + weights.stop) // 2) for k in (0, 1)}  # of both directions

    def run(*args):
        if fused is not None and not (torch.compiler.is_compiling() or transforms.active() or has_torch_function(args)):
            results = fused(*args)
            if results is not None:
                return results
        return op(*(a.bfloat16().to(a.dtype) if i in matrices and a is not None else a for i, a in enumerate(args)))

    return run
