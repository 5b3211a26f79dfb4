"""lengths=: rows of a padded batch that end early, any order, zero included, with NaN in the padding."""

import pytest
import torch
from torch._subclasses import FakeTensorMode

import rnnkernels
from cases import CELLS, Case, Numbers, call_reference, check, random
from conftest import assert_close, needs_extension
from rnnkernels import functional

LENGTHS = ((5, 0, 3, 1), (0, 0, 5, 2), (0, 0, 0, 0), (5, 5, 5, 5), (1, 2, 3, 4))


def build(cell, **options):
    case = Case(cell, layout="lengths", **options)
    numbers = Numbers.draw(case)
    module = case.build(rnnkernels)
    module.load_state_dict(numbers.weights)
    return case, numbers, module


def flat(case, result):
    out, last = result
    return out, *(last if case.is_lstm else (last,))


@pytest.mark.fast
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("D", (1, 2))
def test_padding_is_never_read(cell, lengths, D):
    case, numbers, module = build(cell, D=D, L=2)
    lengths = torch.tensor(lengths)
    padding = torch.arange(case.T)[:, None] >= lengths
    x = numbers.x.masked_fill(padding[..., None], float("nan"))
    x, *hx = [t.requires_grad_() for t in (x, *numbers.hx)]
    ours = flat(case, module(x, tuple(hx) if case.is_lstm else hx[0], lengths=lengths))
    ref = call_reference(case, x, hx, list(module.parameters()), lengths)
    assert not ours[0][padding].any()
    leaves = [x, *hx, *module.parameters()]
    for a, b in zip(ours + torch.autograd.grad(ours, leaves, numbers.cotangents, allow_unused=True, materialize_grads=True),
                    (*ref, *torch.autograd.grad(ref, leaves, numbers.cotangents, allow_unused=True, materialize_grads=True))):
        assert_close(a, b)


@pytest.mark.fast
@pytest.mark.parametrize("cell", CELLS)
def test_zero_length_returns_initial_state(cell):
    case, numbers, module = build(cell, D=2)
    out, *last = flat(case, module(numbers.x, numbers.hx if case.is_lstm else numbers.hx[0],
                                   lengths=torch.zeros(case.B, dtype=torch.int64)))
    assert not out.any()
    assert all(torch.equal(a, b) for a, b in zip(last, numbers.hx))


@pytest.mark.parametrize("cell", CELLS)
def test_full_lengths_change_nothing(cell):
    case, numbers, module = build(cell, D=2)
    ours = flat(case, module(numbers.x, lengths=torch.full((case.B,), case.T)))
    for a, b in zip(ours, flat(case, module(numbers.x))):
        assert_close(a, b)


def test_batch_first_and_empty_batch_and_unbatched():
    check(Case(layout="lengths", batch_first=True, L=2, D=2))
    module = rnnkernels.LSTM(3, 5, batch_first=True)
    out, _ = module(torch.randn(0, 4, 3), lengths=torch.zeros(0, dtype=torch.int64))
    assert out.shape == (0, 4, 5)
    x = torch.randn(4, 3)
    assert_close(module(x, lengths=torch.tensor([2]))[0][:2], module(x[:2])[0].double())


@pytest.mark.parametrize("lengths, error, words", (
    ([1, 2], TypeError, "int64 tensor, got list"),
    (torch.tensor([1.0, 2.0]), TypeError, "int64 tensor, got torch.float32"),
    (torch.tensor([1, 2], dtype=torch.int32), TypeError, "int64"),
    (torch.tensor([1, 2, 3]), ValueError, r"shape \[2\]"),
    (torch.tensor(1), ValueError, r"shape \[2\]"),
    (torch.tensor([1, -1]), ValueError, r"0\.\.4"),
    (torch.tensor([1, 5]), ValueError, r"0\.\.4"),
    (torch.tensor([1, 1], device="meta"), ValueError, "CPU"),
))
@pytest.mark.parametrize("batch_first", (False, True))
def test_bad_lengths(lengths, error, words, batch_first):
    module = rnnkernels.GRU(3, 5, batch_first=batch_first)
    with pytest.raises(error, match=words):
        module(torch.randn(2, 4, 3) if batch_first else torch.randn(4, 2, 3), lengths=lengths)


def test_lengths_with_a_packed_sequence():
    packed = torch.nn.utils.rnn.pack_sequence([torch.randn(3, 3), torch.randn(2, 3)])
    for module in (rnnkernels.LSTM(3, 5), rnnkernels.GRU(3, 5)):
        with pytest.raises(ValueError, match="packed"):
            module(packed, lengths=torch.tensor([3, 2]))
    weights = rnnkernels.GRU(3, 5)._flat_weights
    with pytest.raises(ValueError, match="packed"):
        functional.gru(packed.data, torch.zeros(1, 2, 5), weights, batch_sizes=packed.batch_sizes, lengths=torch.tensor([3, 2]))


def test_bad_input_beside_lengths_is_torchs_error():
    with pytest.raises(RuntimeError, match="input.size"):
        rnnkernels.LSTM(3, 5)(torch.randn(4, 2, 7), lengths=torch.tensor([1, 2]))
    with pytest.raises(ValueError, match="lengths needs"):
        with pytest.warns(RuntimeWarning, match="complex"):
            rnnkernels.GRU(3, 5, dtype=torch.cfloat)(random((4, 2, 3), torch.cfloat), lengths=torch.tensor([1, 2]))


@needs_extension
@pytest.mark.parametrize("cell", ("LSTM", "GRU", "RNN"))
def test_shapes_without_data(cell):
    """Under a FakeTensorMode lengths have no values to check."""
    with FakeTensorMode():
        module, lengths = getattr(rnnkernels, cell)(3, 5), torch.tensor([1, 4])
        assert module(torch.randn(4, 2, 3), lengths=lengths)[0].shape == (4, 2, 5)
        with pytest.raises(ValueError, match="shape"):
            module(torch.randn(4, 3, 3), lengths=lengths)
