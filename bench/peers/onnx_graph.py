"""A point as an ONNX model of one node, for the peers that read ONNX."""

import numpy as np
import torch
from onnx import TensorProto, helper, numpy_helper

GATES = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2), "RNN": (0,)}  # ONNX orders i o f g and z r n


def supports(point):
    return point.mode not in ("train", "memory") and not point.packed and point.dtype == "float32"


def graph(problem):
    """(serialised model, inputs, outputs): arrays by name. Inputs x and, with `hx`, h0 and c0 of a single layer; outputs y, h_n, c_n."""
    point = problem.point
    T, B, H, D = point.T, point.B, point.H, point.D
    states = ["h", "c"] if point.cell == "LSTM" else ["h"]
    inputs = {"x": problem.x.numpy(), **{f"{s}0": t.numpy() for s, t in zip(states, problem.hx or ())}}
    initial = ["", *(f"{s}0" for s in states)] if problem.hx else []  # "": sequence_lens is left out
    y_shape = (T, 1, B, H) if point.L * D == 1 else (T, B, D * H)
    outputs = {name: np.empty(shape, np.float32) for name, shape in
               [("y", y_shape), *((f"{s}_n", (point.L * D, B, H)) for s in states)]}  # fmt: skip
    attributes = {"hidden_size": H, "direction": "bidirectional" if D == 2 else "forward"}
    attributes |= {"linear_before_reset": 1} if point.cell == "GRU" else {}

    nodes, constants, x = [], {}, "x"
    for layer in range(point.L):
        own = problem.weights[layer * D * 4 : (layer + 1) * D * 4]
        weights = {f"{name}{layer}": w.numpy() for name, w in operands(point.cell, own).items()}
        constants |= weights
        if point.L * D == 1:  # a step this short must not pay for the joining of layers
            nodes.append(helper.make_node(point.cell, [x, *weights, *initial], [*outputs], **attributes))
            break
        last = [f"{s}_n{layer}" for s in states]
        y = "y" if layer == point.L - 1 else f"y{layer}"
        nodes += [
            helper.make_node(point.cell, [x, *weights, *initial], [f"directions{layer}", *last], **attributes),
            helper.make_node("Transpose", [f"directions{layer}"], [f"rows{layer}"], perm=[0, 2, 1, 3]),  # [T, D, B, H] to [T, B, D, H]
            helper.make_node("Reshape", [f"rows{layer}", "shape"], [y]),
        ]
        x = y
    if point.L * D > 1:
        constants["shape"] = np.array(y_shape)
        nodes += [helper.make_node("Concat", [f"{s}_n{layer}" for layer in range(point.L)], [f"{s}_n"], axis=0) for s in states]

    typed = lambda arrays: [helper.make_tensor_value_info(k, TensorProto.FLOAT, a.shape) for k, a in arrays.items()]
    model = helper.make_model(
        helper.make_graph(nodes, point.cell, typed(inputs), typed(outputs), [numpy_helper.from_array(a, k) for k, a in constants.items()]),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=9,
    )
    return model.SerializeToString(), inputs, outputs


def operands(cell, weights):
    """W, R and B of an ONNX node from torch's weights, four for each direction."""
    order = GATES[cell]
    reorder = lambda w: torch.cat([w.chunk(len(order))[gate] for gate in order])
    directions = [[reorder(w) for w in weights[d : d + 4]] for d in range(0, len(weights), 4)]
    w, r, b_ih, b_hh = (torch.stack(list(ws)) for ws in zip(*directions))
    return {"W": w, "R": r, "B": torch.cat([b_ih, b_hh], 1)}
