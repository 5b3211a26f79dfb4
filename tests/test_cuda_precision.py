"""What may be rounded on a card: float32 products to TF32, autocast's results."""

import contextlib
import copy

import pytest
import torch

import rnnkernels
from cases import CELLS, Case, Numbers, check, module_results, reference_results
from conftest import assert_close, needs_cuda, tf32

pytestmark = [needs_cuda, pytest.mark.usefixtures("on_cuda")]
LAYOUTS = ("padded", "packed", "unsorted", "lengths")
NAMES = ("LSTM", "GRU", "RNN")
LOW = (torch.float16, torch.bfloat16)

# float32, and what may round its factors to TF32.

WIDE = Case(dtype=torch.float32, T=20, B=32, I=128, H=256)


def error(numbers):
    """The largest error of ours' output."""
    ours, ref = module_results(WIDE, numbers, rnnkernels)["out"], reference_results(WIDE, numbers)["out"]
    return (ours.double() - ref).abs().max().item()


def test_tf32_follows_cudnn():
    numbers = Numbers.draw(WIDE)
    strict = error(numbers)
    with tf32(matmul=True):
        assert error(numbers) == strict, "the setting for matmul is not ours"
    with tf32(cudnn=True):
        rounded = error(numbers)
    assert rounded > 10 * strict
    before = torch.backends.cudnn.rnn.fp32_precision
    try:
        for precision, expected in (("tf32", rounded), ("ieee", strict)):
            torch.backends.cudnn.rnn.fp32_precision = precision
            assert error(numbers) == expected
    finally:
        torch.backends.cudnn.rnn.fp32_precision = before


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("cell", CELLS)
def test_tf32_is_as_close_as_torchs(cell, layout):
    with tf32(cudnn=True):
        check(Case(cell, torch.float32, T=20, B=32, I=128, H=256, D=2, layout=layout))


def test_cells_follow_matmul():
    """As torch.nn's cells, which do not run in cuDNN."""
    cell = rnnkernels.GRUCell(128, 256)
    x = torch.randn(32, 128)
    exact = copy.deepcopy(cell).double()(x.double())
    error = lambda: (cell(x).double() - exact).abs().max().item()
    with tf32(cudnn=True):
        strict = error()
    assert strict < 2e-6
    with tf32(matmul=True):
        assert error() > 10 * strict
    with torch_of_today("tf32"):
        assert error() > 10 * strict


@contextlib.contextmanager
def torch_of_today(precision):
    """torch's newer setting for matmul, beside which it refuses to read the older one."""
    matmul = torch.backends.cuda.matmul
    before, matmul.fp32_precision = matmul.fp32_precision, precision
    try:
        yield
    finally:
        matmul.fp32_precision = before


@pytest.mark.parametrize("allow", (False, True))
def test_other_products_keep_their_precision(allow):
    a, b = torch.randn(256, 256), torch.randn(256, 256)
    with tf32(matmul=allow):
        before = a @ b
        rnnkernels.LSTM(64, 64)(torch.randn(3, 4, 64))[0].sum().backward()
        assert torch.equal(a @ b, before)


# Autocast.


def flatten(result):
    return [result] if isinstance(result, torch.Tensor) else sum(map(flatten, result), [])


@pytest.mark.parametrize("low", LOW, ids=str)
@pytest.mark.parametrize("name, options", (*((name, {}) for name in (*NAMES, "LSTMCell", "GRUCell", "RNNCell")),
                                           ("LSTM", {"proj_size": 2})), ids=str)
def test_autocast(name, options, low):
    ours, theirs = (getattr(package, name)(64, 96, **options) for package in (rnnkernels, torch.nn))
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(*((16,) if "Cell" in name else (10, 16)), 64)
    exact = flatten(copy.deepcopy(theirs).double()(x.double()))
    with torch.autocast("cuda", low):
        a, b = flatten(ours(x)), flatten(theirs(x))
    assert all(t.dtype is low for t in a)
    if low is torch.float16 or "Cell" in name:  # rnnkernels/autocast.py says why
        assert [t.dtype for t in b] == [t.dtype for t in a]
    for result, other, ref in zip(a, b, exact):
        assert_close(result, ref, other.to(low))
    sum(t.float().pow(2).sum() for t in a).backward()
    assert all(p.grad.dtype is torch.float32 and p.grad.isfinite().all() for p in ours.parameters())


def test_autocast_leaves_f64_alone():
    module, x = rnnkernels.LSTM(5, 6, dtype=torch.float64), torch.randn(4, 3, 5, dtype=torch.float64)
    with torch.autocast("cuda", torch.float16):
        out, (h, c) = module(x)
    assert out.dtype is h.dtype is c.dtype is torch.float64 and torch.equal(out, module(x)[0])
