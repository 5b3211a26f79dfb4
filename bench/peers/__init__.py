"""The contenders. Each module here is named after the library it measures and has two functions:

supports(point) -> bool
prepare(problem) -> call    Everything that happens once (building, compiling, converting the weights) happens in `prepare`.
                            `call()` computes the point once from Python, as a user of that library would, and returns
                            (y, h_n, c_n), or in train (d_x, d_w_ih, d_w_hh, d_b_ih, d_b_hh), c_n only for an LSTM.
                            Any nest of tensors or arrays will do, shapes may differ by dimensions of size 1.
"""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

OURS = "rnnkernels"
PADDED, PLAIN = OURSELVES = "padded", "plain"  # ours in another way, for comparison
PEERS = ("torch", "onnxruntime", "openvino", "jax", *OURSELVES)
NEEDS = {"onnxruntime": ("onnxruntime", "onnx"), "openvino": ("openvino", "onnx"), PADDED: (), PLAIN: ()}


def installed(name: str) -> bool:
    return all(importlib.util.find_spec(package) for package in NEEDS.get(name, (name,)))


def load(names: tuple[str, ...]) -> dict[str, ModuleType]:
    """Ours and the named peers, imported."""
    return {name: importlib.import_module(f"bench.peers.{name}") for name in (OURS, *names)}
