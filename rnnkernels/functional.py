"""The modules without their parameters: tensors in, tensors out.

`lstm`, `gru` and `rnn` follow torch.lstm, torch.gru and torch.rnn_tanh: flat weights in the order of a module's
`_flat_weights`, and the same names. Sequences of different lengths come packed (`batch_sizes`) or padded (`lengths`).

    input        [T, B, I], or [B, T, I] when batch_first, or packed data [N, I] with batch_sizes
    hx           h0 [L*D, B, P]; for an LSTM (h0, c0) with c0 [L*D, B, H]
    params       per layer and direction: w_ih [G*H, I or D*P], w_hh [G*H, P], with has_biases b_ih [G*H], b_hh [G*H],
                 with a projection w_hr [P, H]
    lengths      int64 [B], in any order, each in 0..T, on the CPU or on input's device: row b has lengths[b] real steps.
                 The output keeps T and is zero past a row's length; h_n is the state after its last real step, h_0 for
                 length 0. What the padding holds, NaN too, reaches neither outputs nor gradients
    batch_sizes  int64 [T] on the CPU, non-increasing, as in PackedSequence
    reset        bool, as input without its last dimension: where reset[t, b] is true, row b's state is set anew just before step t is
                 computed, in each direction. A reverse direction begins at the last step, so there the state that it forgets
                 comes from the steps after t
    reset_hx     what it is then set to: like hx, B may be 1; zero by default
    recompute    keep only the states for the backward pass, which computes the gates again: a third more arithmetic, on a CPU the
                 same bits. Of what an LSTM keeps, 2 of 6 numbers a unit and step remain, of a GRU 1 of 5; an RNN keeps no more anyway
    weight_dtype  torch.bfloat16 rounds w_ih and w_hh of float32 params, for inference: to the bit the results with the rounded weights (by at most
                 1 part in 256; biases, projections, states and all arithmetic stay float32). On the CPU a step then reads half the bytes,
                 which pays for few rows and weights larger than the L2

    return_cells  of an LSTM: whether the c of every step is returned, too

    output       [T, B, D*P], or [B, T, D*P] when batch_first, or packed [N, D*P]
    h_n, c_n     [L*D, B, P], [L*D, B, H]
    cells        the last layer's c of every step, [T, B, D*H] or as output is; in input's dtype

float32, float64, bfloat16 and float16; all floating arguments have one dtype, except under torch.autocast.
Equations: `rnnkernels.reference`.
"""

import torch
from torch._subclasses import FakeTensor

from . import autocast, ops, rounded
from .folding import is_batched
from .options import checked_bool
from .stack import stack

__all__ = ["lstm", "gru", "rnn", "lstm_cell", "gru_cell", "rnn_cell"]


def lstm(input, hx, params, has_biases=True, num_layers=1, dropout=0.0, train=False, bidirectional=False,
         batch_first=False, *, batch_sizes=None, lengths=None, reset=None, reset_hx=None, recompute=False, return_cells=False,
         weight_dtype=None):
    """A stack of LSTM layers, with projections where `params` has them. Returns (output, h_n, c_n), with return_cells (output, h_n, c_n, cells).

    Raises TypeError or ValueError for bad lengths, resets and weight_dtype, TypeError for what is no tensor or no bool, RuntimeError for
    sizes, dtypes and devices that do not fit. Shapes at the top of this file.
    """
    hx = _checked_states("lstm", input, hx, 2)
    projected = len(params) // (num_layers * (2 if bidirectional else 1)) % 2
    kind = "lstm proj" if projected else "lstm packed" if batch_sizes is not None else "lstm"
    return _run(ops.lstm, kind, input, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first,
                batch_sizes, lengths, reset, reset_hx, checked_bool("recompute", recompute),
                last_op=ops.lstm_with_cells if return_cells else None, weight_dtype=weight_dtype)


def gru(input, hx, params, has_biases=True, num_layers=1, dropout=0.0, train=False, bidirectional=False,
        batch_first=False, *, batch_sizes=None, lengths=None, reset=None, reset_hx=None, recompute=False, reset_after=True,
        weight_dtype=None):
    """A stack of GRU layers. Returns (output, h_n). Errors as in `lstm`; shapes at the top of this file.

    reset_after=False is the form of Cho et al. 2014 (arXiv:1406.1078): n = tanh(W_in x + W_hn (r * h) + b), where torch.nn has
    n = tanh(W_in x + b_in + r * (W_hn h + b_hn)). Both then take h' = (1 - z) n + z h; `rnnkernels.flip_update_gate` converts weights of
    models that exchange z and 1 - z.
    """
    op = ops.gru if checked_bool("reset_after", reset_after) else ops.gru_reset_before
    hx = _checked_states("gru", input, hx)
    return _run(op, "state", input, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first, batch_sizes, lengths,
                reset, None if reset_hx is None else (reset_hx,), checked_bool("recompute", recompute), weight_dtype=weight_dtype)


def rnn(input, hx, params, has_biases=True, num_layers=1, dropout=0.0, train=False, bidirectional=False,
        batch_first=False, nonlinearity="tanh", *, batch_sizes=None, lengths=None, reset=None, reset_hx=None, weight_dtype=None):
    """A stack of RNN layers, `nonlinearity` "tanh", "relu" or "sigmoid". Returns (output, h_n). Errors as in `lstm`; ValueError for
    another nonlinearity. Shapes at the top of this file."""
    hx = _checked_states("rnn", input, hx)
    return _run(ops.rnn, "rnn", input, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first, batch_sizes, lengths,
                reset, None if reset_hx is None else (reset_hx,), _checked_nonlinearity(nonlinearity), weight_dtype=weight_dtype)


def lstm_cell(input, hx, w_ih, w_hh, b_ih=None, b_hh=None):
    """One LSTM step, as torch.lstm_cell. Returns (h, c), each [B, H].

    input       [B, I]
    hx          (h [B, H], c [B, H])
    w_ih, w_hh  [G*H, I], [G*H, H], G = 4 gates in the order i f g o
    b_ih, b_hh  [G*H], or None for zero

    Dtypes as of `lstm`. TypeError for what is no tensor; RuntimeError for sizes, dtypes and devices that do not fit.
    """
    _, h, c = _run_cell(ops.lstm, "state", input, _checked_states("lstm_cell", input, hx, 2), w_ih, w_hh, b_ih, b_hh, False)
    return h.squeeze(0), c.squeeze(0)


def gru_cell(input, hx, w_ih, w_hh, b_ih=None, b_hh=None, reset_after=True):
    """One GRU step, as torch.gru_cell. Returns h [B, H].

    hx is a tensor [B, H], G = 3 gates in the order r z n, reset_after as in `gru`; all else as of `lstm_cell`.
    """
    op = ops.gru if checked_bool("reset_after", reset_after) else ops.gru_reset_before
    return _run_cell(op, "state", input, _checked_states("gru_cell", input, hx), w_ih, w_hh, b_ih, b_hh, False)[1].squeeze(0)


def rnn_cell(input, hx, w_ih, w_hh, b_ih=None, b_hh=None, nonlinearity="tanh"):
    """One RNN step, as torch.rnn_tanh_cell or torch.rnn_relu_cell, or with nonlinearity="sigmoid". Returns h [B, H].

    hx is a tensor [B, H], G = 1; all else as of `lstm_cell`. ValueError for another nonlinearity.
    """
    hx, nonlinearity = _checked_states("rnn_cell", input, hx), _checked_nonlinearity(nonlinearity)
    return _run_cell(ops.rnn, "rnn", input, hx, w_ih, w_hh, b_ih, b_hh, nonlinearity)[1].squeeze(0)


def _run(op, kind, input, states, params, has_biases, num_layers, dropout, train, bidirectional, batch_first,
         batch_sizes, lengths, reset, reset_hx, *extra, last_op=None, weight_dtype=None):
    if input.dim() != (3 if batch_sizes is None else 2):  # the op would take a fourth for that of an ensemble
        raise RuntimeError(f"Expected input to be {3 if batch_sizes is None else 2}-D, got {input.dim()}-D")
    if lengths is not None:
        _check_lengths(lengths, input, batch_first, batch_sizes)
    _check_counts(states, params, has_biases, num_layers, bidirectional)
    _check_devices(input, states, params)
    reset_states = _reset_states(reset, reset_hx, input, states)
    if rounded.check(weight_dtype, params):
        op, last_op = rounded.layer(op), last_op and rounded.layer(last_op)

    def run(x, all_states, weights, *args):
        n = len(states)
        return stack(op, x, all_states[:n], weights, *args, all_states[n:], *extra, last_layer=last_op)

    args = (has_biases, num_layers, dropout, train, bidirectional, batch_first, batch_sizes, lengths, reset)
    if autocast.enabled(input):
        return autocast.run(run, kind, input, (*states, *reset_states), params, *args)
    return run(input, (*states, *reset_states), params, *args)


def _run_cell(op, kind, input, states, w_ih, w_hh, b_ih, b_hh, *extra):
    """A cell is a layer of one step."""
    if any(t.dim() != 2 for t in (input, *states)):
        raise RuntimeError(f"Expected input and hx to be 2-D, got {[t.dim() for t in (input, *states)]} dimensions")
    _check_dims((w_ih, w_hh, b_ih, b_hh), 4, True)
    absent = [None] if len(states) == 2 else []  # w_hr: only the LSTM's op has the argument
    no_reset = [None] * len(states)

    def step(x, states, weights):
        return op(x, *states, *weights, *absent, *[None] * 4, *absent, *no_reset, None, None, None, *extra)

    call = input.unsqueeze(0), [s.unsqueeze(0) for s in states], (w_ih, w_hh, b_ih, b_hh)
    return autocast.run(step, kind, *call) if autocast.enabled(input) else step(*call)


def _checked_states(name, input, hx, n=1):
    """hx as n tensors. Where it is not, or input is no tensor, the errors of torch.lstm, torch.gru_cell and so on."""
    if not isinstance(input, torch.Tensor):
        raise TypeError(f"{name}(): argument 'input' must be Tensor, not {type(input).__name__}")
    if n == 1:
        hx = (hx,)
    elif not isinstance(hx, (tuple, list)):
        raise TypeError(f"{name}(): argument 'hx' must be tuple of Tensors, not {type(hx).__name__}")
    elif len(hx) != n:
        raise RuntimeError(f"{name} expects two hidden states")
    for s in hx:
        if not isinstance(s, torch.Tensor):
            raise TypeError(f"{name}(): argument 'hx' must be {'Tensor, not' if n == 1 else 'tuple of Tensors, not of'} {type(s).__name__}")
    return hx


def _checked_nonlinearity(nonlinearity):
    if nonlinearity not in ("tanh", "relu", "sigmoid"):
        raise ValueError(f"nonlinearity must be 'tanh', 'relu' or 'sigmoid', got {nonlinearity!r}")
    return nonlinearity


def _reset_states(reset, reset_hx, input, states):
    """For each of `states` what it is reset to, of its size; None where that is zero."""
    if reset is None:
        if reset_hx is not None:
            raise ValueError("reset_hx is given without reset, which says when")
        return (None,) * len(states)
    check_reset(reset, input)
    if reset_hx is None:
        return (None,) * len(states)
    check_reset_hx(reset_hx, states)
    return tuple(r.expand(s.shape) for r, s in zip(reset_hx, states))


def check_reset(reset, input):
    """TypeError or ValueError unless `reset` has a truth value for each token of input."""
    if not isinstance(reset, torch.Tensor) or reset.dtype is not torch.bool or reset.layout is not torch.strided:
        got = f"{reset.dtype} and {reset.layout}" if isinstance(reset, torch.Tensor) else type(reset).__name__
        raise TypeError(f"reset must be a dense torch.bool tensor, got {got}")
    if reset.shape != input.shape[:-1] or reset.device != input.device:
        raise ValueError(f"reset must have shape {list(input.shape[:-1])}, one value for each step of each row, on {input.device}; "
                         f"got {list(reset.shape)} on {reset.device}")


def check_reset_hx(reset_hx, states):
    """TypeError or ValueError unless `reset_hx` is a tuple of tensors like `states`, or with B = 1."""
    tensors = isinstance(reset_hx, (tuple, list)) and all(isinstance(r, torch.Tensor) for r in reset_hx)
    if not tensors or len(reset_hx) != len(states):
        raise TypeError("reset_hx must be like hx, " + ("a tensor" if len(states) == 1 else f"a tuple of {len(states)} tensors"))
    for r, s in zip(reset_hx, states):
        if r.dim() != 3 or r.shape[1] not in (1, s.shape[1]) or r.shape[::2] != s.shape[::2]:
            raise ValueError(f"reset_hx must be like hx, of size {list(s.shape)} or with B = 1, got {list(r.shape)}")
        mixed = r.dtype != s.dtype and not (autocast.enabled(s) and autocast.mixes({r.dtype, s.dtype}))
        if r.device != s.device or mixed or r.layout is not torch.strided:
            raise ValueError(f"reset_hx must be like hx, {s.dtype} on {s.device}, got {r.dtype} on {r.device}, {r.layout}")


def _check_counts(states, params, has_biases, num_layers, bidirectional):
    rows = num_layers * (2 if bidirectional else 1)
    least = rows * (4 if has_biases else 2)
    if len(params) not in (least, least + rows):
        raise RuntimeError(f"got an incorrect number of RNN parameters: {len(params)}, expected {least}, or {least + rows} with a projection")
    _check_dims(params, len(params) // rows, has_biases)
    for s in states:
        if s.dim() != 3 or s.shape[0] != rows:
            raise RuntimeError(f"Expected hidden states of size [{rows}, B, *], got {list(s.shape)}")


def _check_dims(params, per_direction, has_biases):
    """With a dimension more the ops would take them for an ensemble's."""
    for i, p in enumerate(params):
        expected = 1 if has_biases and i % per_direction in (2, 3) else 2
        if p is not None and p.dim() != expected:
            raise RuntimeError(f"Expected parameter {i} to be {expected}-D, got {p.dim()}-D")


def _check_devices(input, states, params):
    for t in (*states, *params):
        if t.device != input.device:
            raise RuntimeError(f"Input, hidden states and parameters are not at the same device, found {input.device} and {t.device}")


def _check_lengths(lengths, input, batch_first, batch_sizes):
    if batch_sizes is not None:
        raise ValueError("lengths is for padded input: a packed sequence already has its own")
    if not isinstance(lengths, torch.Tensor) or lengths.dtype is not torch.int64:
        got = lengths.dtype if isinstance(lengths, torch.Tensor) else type(lengths).__name__
        raise TypeError(f"lengths must be a torch.int64 tensor, got {got}")
    T, B = input.shape[:2][::-1] if batch_first else input.shape[:2]
    if lengths.shape != (B,):
        raise ValueError(f"lengths must have shape [{B}], the batch size, got {list(lengths.shape)}")
    if lengths.device.type != "cpu" and lengths.device != input.device:
        raise ValueError(f"lengths must be on the CPU or on input's device {input.device}, got {lengths.device}")
    if lengths.device.type != "cpu" or isinstance(lengths, FakeTensor) or torch.compiler.is_compiling() or is_batched(lengths):
        return  # there are no values, or reading them would synchronise, break the graph or leave the vmap; the op checks them
    if B and not 0 <= lengths.min().item() <= lengths.max().item() <= T:
        raise ValueError(f"lengths must lie in 0..{T}, the number of steps, got {lengths.tolist()}")
