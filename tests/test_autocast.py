"""Under torch.autocast: torch.nn's result dtypes, and numbers as close as torch.nn's."""

import itertools

import pytest
import torch
from torch.nn.utils.rnn import pack_sequence

import rnnkernels
from conftest import assert_close, bfloat16_everywhere

LOW = torch.bfloat16


def flatten(result):
    if isinstance(result, torch.nn.utils.rnn.PackedSequence):
        return [result.data]
    return [result] if isinstance(result, torch.Tensor) else sum(map(flatten, result), [])


def compare(ours, theirs, *args):
    theirs.load_state_dict(ours.state_dict())
    with torch.autocast("cpu", LOW), bfloat16_everywhere():
        a, b = flatten(ours(*args)), flatten(theirs(*args))
    dtypes = [t.dtype for t in b]
    takes_onednn = type(theirs) is torch.nn.LSTM and not theirs.proj_size and isinstance(args[0], torch.Tensor)
    if takes_onednn and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        dtypes = [LOW] * len(b)  # oneDNN's; torch's own LSTM, which stands in for it here, keeps float32
    assert [t.dtype for t in a] == dtypes
    exact = flatten(theirs.double()(*map(widen, args)))
    for x, y, ref in zip(a, b, exact):
        # Where torch.nn keeps an f32 state around bf16 products its error is bf16's: so is the floor.
        error, allowed = (x - ref).abs().max(), 2 * (y - ref).abs().max() + 4e-3 * ref.abs().max()
        assert error <= allowed
    ours.zero_grad()
    sum(t.float().pow(2).sum() for t in a).backward()
    assert all(p.grad.dtype is p.dtype for p in ours.parameters()) and next(ours.parameters()).grad.any()


def widen(value):
    return tuple(map(widen, value)) if type(value) is tuple else value if value is None else value.double()


@pytest.mark.parametrize("packed", (False, True))
@pytest.mark.parametrize("L, D", ((1, 1), (2, 2)))
@pytest.mark.parametrize("cell, P", (("LSTM", 0), ("LSTM", 2), ("GRU", 0), ("RNN", 0)))
def test_layers(cell, P, L, D, packed):
    kwargs = {"proj_size": P} if P else {}
    x = torch.randn(4, 3, 5)
    for x_dtype, hx_dtype in itertools.product((torch.float32, LOW), (None, torch.float32, LOW)):
        ours, theirs = (getattr(package, cell)(5, 6, L, bidirectional=D == 2, **kwargs) for package in (rnnkernels, torch.nn))
        hx = None
        if hx_dtype is not None:
            hx = (torch.randn(L * D, 3, P or 6).to(hx_dtype), torch.randn(L * D, 3, 6).to(hx_dtype))[: 1 + (cell == "LSTM")]
            hx = hx if cell == "LSTM" else hx[0]
        sequence = pack_sequence([x[:n, b].to(x_dtype) for b, n in enumerate((2, 4, 1))], enforce_sorted=False)
        compare(ours, theirs, sequence if packed else x.to(x_dtype), hx)


@pytest.mark.parametrize("cell", ("LSTMCell", "GRUCell", "RNNCell"))
def test_cells(cell):
    for x_dtype, hx_dtype in itertools.product((torch.float32, LOW), (None, torch.float32, LOW)):
        ours, theirs = getattr(rnnkernels, cell)(5, 6), getattr(torch.nn, cell)(5, 6)
        hx = None if hx_dtype is None else torch.randn(3, 6).to(hx_dtype)
        compare(ours, theirs, torch.randn(3, 5).to(x_dtype), (hx, hx) if hx is not None and cell == "LSTMCell" else hx)


def test_f64_is_left_alone():
    module = rnnkernels.LSTM(5, 6, dtype=torch.float64)
    x = torch.randn(4, 3, 5, dtype=torch.float64)
    with torch.autocast("cpu", LOW):
        out, (h, c) = module(x)
        with pytest.raises(RuntimeError, match="same dtype"):
            rnnkernels.GRU(5, 6)(x)
    assert out.dtype is h.dtype is c.dtype is torch.float64
    assert torch.equal(out, module(x)[0])


def test_lengths_give_the_padded_dtypes():
    with torch.autocast("cpu", LOW):
        out, (h, c) = rnnkernels.LSTM(5, 6)(torch.randn(4, 3, 5), lengths=torch.tensor([2, 4, 0]))
    assert out.dtype is h.dtype is c.dtype is LOW and not out[2:, 0].any()


def test_second_derivative_inside_autocast():
    module = rnnkernels.GRU(5, 6)
    x = torch.randn(4, 3, 5, requires_grad=True)
    second = []
    for enabled in (True, False):
        out, _ = module(x)
        with torch.autocast("cpu", LOW, enabled=enabled):
            (first,) = torch.autograd.grad(out.pow(2).sum(), x, create_graph=True)
            second.append(torch.autograd.grad(first.pow(2).sum(), x)[0])
    assert_close(second[0], second[1].double(), second[1])


@pytest.mark.parametrize("cell", ("LSTM", "GRU", "RNN"))
def test_weights_are_cast_once_a_call(cell):
    """However many steps there are."""
    module, casts = getattr(rnnkernels, cell)(5, 6), []
    for T in (2, 40):
        with torch.profiler.profile() as profile, torch.autocast("cpu", LOW):
            module(torch.randn(T, 3, 5))
        casts.append(sum(e.count for e in profile.key_averages() if e.key == "aten::_to_copy"))
    assert casts[0] == casts[1]


@pytest.mark.parametrize("cell", ("LSTM", "GRU", "RNN"))
def test_reset_states_may_be_mixed_as_hx_may(cell):
    module, x = getattr(rnnkernels, cell)(4, 5), torch.randn(6, 2, 4)
    h = torch.zeros(1, 1, 5, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        out = module(x.bfloat16(), reset=torch.rand(6, 2) < 0.5, reset_hx=(h, h) if cell == "LSTM" else h)[0]
    out.float().sum().backward()
    assert h.grad.isfinite().all() and h.grad.ne(0).any()
