"""Outside references: ONNX's LSTM, GRU and RNN by its reference evaluator and by onnxruntime; torch.onnx.export.

ONNX's own node tests use constant weights and cannot see a swapped gate.
"""

import numpy as np
import pytest
import torch

import rnnkernels
from cases import random
from conftest import assert_close

onnx = pytest.importorskip("onnx")

# ONNX stacks gates as LSTM i o f c, GRU z r h; torch as i f g o, r z n.
GATES = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2), "RNN": (0,)}
CELLS = [("LSTM", {}), ("GRU", {}), ("GRU", {"reset_after": False}), ("RNN", {})]
T, B, I, H = 6, 3, 4, 7


def model(cell, D, dtype, reset_after=True):
    """A graph of one ONNX node whose weights are inputs."""
    names = ["X", "W", "R", "B", "lengths", "h0"] + ["c0"] * (cell == "LSTM")
    outputs = ["Y", "Y_h"] + ["Y_c"] * (cell == "LSTM")
    options = {"linear_before_reset": int(reset_after)} if cell == "GRU" else {}
    node = onnx.helper.make_node(cell, names, outputs, hidden_size=H, direction="bidirectional" if D == 2 else "forward", **options)
    kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    value = lambda name: onnx.helper.make_tensor_value_info(name, onnx.TensorProto.INT32 if name == "lengths" else kind, None)
    graph = onnx.helper.make_graph([node], cell, [value(n) for n in names], [value(n) for n in outputs])
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 14)], ir_version=8)


def feed(cell, D, x, lengths, states, weights):
    order = lambda w: torch.cat([w.chunk(len(GATES[cell]))[g] for g in GATES[cell]])
    W, R, b_ih, b_hh = (torch.stack([order(weights[f"{k}_l0{r}"]) for r in ("", "_reverse")[:D]])
                        for k in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    feeds = dict(X=x, W=W, R=R, B=torch.cat([b_ih, b_hh], 1), lengths=lengths.int(), **dict(zip(("h0", "c0"), states)))
    return {k: v.numpy() for k, v in feeds.items()}


def compare(cell, options, D, dtype, lengths, run):
    ours = getattr(rnnkernels, cell)(I, H, bidirectional=D == 2, dtype=dtype, **options)
    weights = {k: random(v.shape, dtype) * 0.4 for k, v in ours.state_dict().items()}
    ours.load_state_dict(weights)
    x = random((T, B, I), dtype)
    states = [random((D, B, H), dtype) for _ in range(1 + (cell == "LSTM"))]
    with torch.no_grad():
        out, last = ours(x, tuple(states) if cell == "LSTM" else states[0], lengths=lengths)
        exact = ours.double()(x.double(), tuple(s.double() for s in states) if cell == "LSTM" else states[0].double(),
                              lengths=lengths)
    proto = model(cell, D, x.numpy().dtype, **options)
    theirs = [torch.from_numpy(y) for y in run(proto, feed(cell, D, x, lengths, states, weights))]
    theirs[0] = theirs[0].permute(0, 2, 1, 3).flatten(2)  # [T, D, B, H] -> [T, B, D*H]
    flat = lambda out, last: (out, *(last if cell == "LSTM" else (last,)))
    for a, b, c in zip(flat(out, last), flat(*exact), theirs):
        if dtype is torch.float64:
            assert_close(a, c)
        assert_close(a, b, c)
        assert (c - b).abs().max() < 1e-5  # ONNX agrees too: the rule above does not live on its error


@pytest.mark.parametrize("cell, options", CELLS, ids=str)
def test_reference_evaluator(cell, options):
    from onnx.reference import ReferenceEvaluator

    run = lambda proto, feeds: ReferenceEvaluator(proto).run(None, feeds)
    compare(cell, options, 1, torch.float64, torch.full((B,), T), run)


@pytest.mark.parametrize("D", (1, 2))
@pytest.mark.parametrize("lengths", ((T, T, T), (2, T, 4)), ids=str)
@pytest.mark.parametrize("cell, options", CELLS, ids=str)
def test_onnxruntime(cell, options, D, lengths):
    onnxruntime = pytest.importorskip("onnxruntime")

    def run(proto, feeds):
        session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
        return session.run(None, feeds)

    compare(cell, options, D, torch.float32, torch.tensor(lengths), run)


class Model(torch.nn.Module):
    """Two layers of two directions, a cell, and something around them."""

    def __init__(self, cell, **options):
        super().__init__()
        self.layers = getattr(rnnkernels, cell)(I, H, 2, bidirectional=True, batch_first=True, **options)
        self.cell = getattr(rnnkernels, cell + "Cell")(2 * H, 5, **options)

    def forward(self, x, lengths):
        out, _ = self.layers(x.sin(), lengths=lengths)
        last = self.cell(out[:, -1])
        return out, last[0] if isinstance(last, tuple) else last


@pytest.mark.parametrize("with_lengths", (False, True))
@pytest.mark.parametrize("cell, options", [("LSTM", {}), ("GRU", {"bias": False}), ("GRU", {"reset_after": False}),
                                           ("RNN", {"nonlinearity": "relu"})], ids=str)
def test_export(cell, options, with_lengths):
    """Our modules become ONNX' own operators, for any T and B, and onnxruntime agrees."""
    onnxruntime, _ = pytest.importorskip("onnxruntime"), pytest.importorskip("onnxscript")
    ours, batch = Model(cell, **options).eval(), torch.export.Dim("batch")
    lengths = torch.tensor([2, T, 4]) if with_lengths else None
    shapes = {0: batch, 1: torch.export.Dim("steps")}, {0: batch} if with_lengths else None
    program = torch.onnx.export(ours, (torch.randn(B, T, I), lengths), dynamo=True, dynamic_shapes=shapes, verbose=False)
    nodes = list(program.model.graph)
    assert [node.op_type for node in nodes].count(cell) == 3 and not any(node.domain for node in nodes)
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])
    for batch, steps in ((B, T), (5, 9)):
        x, lengths = torch.randn(batch, steps, I), torch.randint(1, steps + 1, (batch,)) if with_lengths else None
        theirs = session.run(None, {i.name: v.numpy() for i, v in zip(session.get_inputs(), (x, lengths))})
        for a, b in zip(ours(x, lengths), theirs):
            assert (a.detach() - torch.from_numpy(b)).abs().max() < 1e-5


@pytest.mark.parametrize("absent", ("bias_ih", "bias_hh"))
def test_export_of_a_cell_with_one_bias(absent):
    onnxruntime, _ = pytest.importorskip("onnxruntime"), pytest.importorskip("onnxscript")
    cell, x = rnnkernels.GRUCell(I, H).eval(), torch.randn(B, I)
    setattr(cell, absent, None)
    program = torch.onnx.export(cell, (x,), dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])
    theirs = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])
    assert (cell(x).detach() - theirs).abs().max() < 1e-5


@pytest.mark.parametrize("options, given, text", [
    ({"proj_size": 2}, {}, "no projection"),
    ({}, {"reset": torch.zeros(T, B, dtype=torch.bool)}, "no states that are set anew"),
    ({}, {"return_cells": True}, "no c of every step"),
], ids=str)
def test_export_refuses_what_onnx_cannot_express(options, given, text):
    """And the user reads why: the exporter tries in two ways, and reports the first one's error if the other fails, too."""
    pytest.importorskip("onnxscript")
    with pytest.raises(torch.onnx.errors.OnnxExporterError, match=f"rnnkernels: .*{text}") as raised:
        torch.onnx.export(rnnkernels.LSTM(I, H, **options).eval(), (torch.randn(T, B, I),), kwargs=given, dynamo=True, verbose=False)
    assert isinstance(raised.value.__cause__, RuntimeError) and text in str(raised.value.__cause__)
