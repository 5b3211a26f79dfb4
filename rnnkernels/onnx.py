"""torch.onnx.export(dynamo=True): a layer becomes one node of ONNX' own LSTM, GRU or RNN.

ONNX stacks gates as LSTM i o f c and GRU z r h, directions in front of them, and b_ih before b_hh. Its output is
[T, D, B, H].
"""

import torch

from .derivatives import DATA, WEIGHTS

_GATES = {"lstm": (0, 3, 1, 2), "gru": (1, 0, 2), "gru_reset_before": (1, 0, 2), "rnn": (0,)}
_OPSET = 14


def exporting():
    """Whether torch.onnx is tracing. It tries again with Dynamo what failed once, an error of ours too, and Dynamo takes is_in_onnx_export()
    for False: then the op itself would be exported, which ONNX does not have, and our error would be lost."""
    from torch.onnx._internal.exporter import _flags

    return torch.onnx.is_in_onnx_export() or _flags._is_onnx_exporting


def layer(name, *args):
    """The op `name` on args, as a node. RuntimeError for what ONNX cannot express: packed sequences, projections, resets and cells."""
    if name == "lstm_with_cells":
        raise RuntimeError("rnnkernels: the LSTM of ONNX has no c of every step (return_cells)")
    n_states = DATA[name] - 1
    x, states, weights, (batch_sizes, lengths, reset, flag) = args[0], args[1 : 1 + n_states], args[WEIGHTS[name]], args[-4:]
    half = len(weights) // 2
    directions = [w for w in (weights[:half], weights[half:]) if w[0] is not None]
    if batch_sizes is not None:
        raise RuntimeError("rnnkernels: ONNX has no packed sequences; pad them and pass `lengths`")
    if reset is not None:
        raise RuntimeError("rnnkernels: ONNX has no states that are set anew within a sequence (reset)")
    if name == "lstm" and weights[4] is not None:
        raise RuntimeError("rnnkernels: the LSTM of ONNX has no projection (proj_size)")
    H, (T, B, _) = states[0].shape[-1], x.shape
    by_gate = lambda w: torch.cat([w[g * H : (g + 1) * H] for g in _GATES[name]])
    stacked = lambda tensors: torch.stack([by_gate(w) for w in tensors])
    biases = None
    if any(w[k] is not None for w in directions for k in (2, 3)):  # a cell may have one of them
        bias = lambda w, k: w[0].new_zeros(w[0].shape[0]) if w[k] is None else w[k]
        biases = torch.cat([stacked(bias(w, k) for w in directions) for k in (2, 3)], 1)
    attributes = {"hidden_size": H, "direction": "bidirectional" if len(directions) == 2 else "forward"}
    if name.startswith("gru"):
        attributes["linear_before_reset"] = int(name == "gru")
    if name == "rnn":
        attributes["activations"] = [flag.capitalize()] * len(directions)
    w_ih, w_hh = (stacked(w[k] for w in directions) for k in (0, 1))
    inputs = x, w_ih, w_hh, biases, lengths if lengths is None else lengths.int(), *states
    out, *last = torch.onnx.ops.symbolic_multi_out(
        name.split("_")[0].upper(), inputs, attributes, dtypes=[x.dtype] * (1 + n_states),
        shapes=[[T, len(directions), B, H], *([len(directions), B, H] for _ in states)], version=_OPSET)
    return out.transpose(1, 2).flatten(2), *last
