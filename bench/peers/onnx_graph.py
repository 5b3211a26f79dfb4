"""A point as an ONNX model of one node, for the peers that read ONNX."""

import numpy as np
import torch
from onnx import TensorProto, helper, numpy_helper

GATES = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2), "RNN": (0,)}  # ONNX orders i o f g and z r n


def supports(point):
    return point.mode != "train" and not point.packed and point.dtype == "float32"


def graph(problem):
    """(serialised model, inputs, outputs): arrays by name. Inputs x and, with `hx`, h0 and c0; outputs y, h_n, c_n."""
    point, (w_ih, w_hh, b_ih, b_hh) = problem.point, problem.weights
    T, B, H, order = point.T, point.B, point.H, GATES[point.cell]
    reorder = lambda w: torch.cat([w.chunk(len(order))[gate] for gate in order])[None]
    weights = {"W": reorder(w_ih), "R": reorder(w_hh), "B": torch.cat([reorder(b_ih), reorder(b_hh)], 1)}

    states = ["h", "c"] if point.cell == "LSTM" else ["h"]
    inputs = {"x": problem.x.numpy(), **{f"{s}0": t.numpy() for s, t in zip(states, problem.hx or ())}}
    initial = ["", *(f"{s}0" for s in states)] if problem.hx else []  # "": sequence_lens is left out
    outputs = {name: np.empty(shape, np.float32) for name, shape in
               [("y", (T, 1, B, H)), *((f"{s}_n", (1, B, H)) for s in states)]}  # fmt: skip
    attributes = {"linear_before_reset": 1} if point.cell == "GRU" else {}

    node = helper.make_node(point.cell, ["x", *weights, *initial], [*outputs], hidden_size=H, **attributes)
    typed = lambda arrays: [helper.make_tensor_value_info(k, TensorProto.FLOAT, a.shape) for k, a in arrays.items()]
    constants = [numpy_helper.from_array(w.numpy(), name) for name, w in weights.items()]
    model = helper.make_model(
        helper.make_graph([node], point.cell, typed(inputs), typed(outputs), constants),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=9,
    )
    return model.SerializeToString(), inputs, outputs
