"""Same bits: a row's outputs and gradients for any batch, everything for any number of threads (rule 4 of the design)."""

import pytest
import torch

import rnnkernels
from cases import CELLS, Case, Numbers, module_results
from conftest import needs_extension

pytestmark = [needs_extension, pytest.mark.fast]

ROW_WISE = ("out", "h_n", "c_n", "d_x", "d_h0", "d_c0")
DTYPES = (torch.float64, torch.float32, torch.bfloat16)


def equal(a, b):
    return a.shape == b.shape and torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8))


def take(numbers, rows):
    """The same numbers for some rows of the batch."""
    pick = lambda ts: tuple(t[:, rows] for t in ts)
    return Numbers(numbers.weights, numbers.x[:, rows], pick(numbers.hx), numbers.lengths[rows], pick(numbers.cotangents))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("layout", ("padded", "lengths"))
@pytest.mark.parametrize("T, I, H, P", ((4, 20, 33, 0), (4, 20, 64, 0), (4, 20, 150, 0), (2, 1100, 660, 0), (30, 20, 20, 0), (30, 20, 18, 5)))
def test_rows_do_not_depend_on_the_batch(cell, dtype, layout, T, I, H, P):
    case = Case(cell, dtype, B=37, T=T, I=I, H=H, D=2, layout=layout, P=P if cell == "LSTM" else 0)
    numbers = Numbers.draw(case)
    whole = module_results(case, numbers, rnnkernels)
    for rows in (slice(0, 1), slice(36, 37), slice(3, 5), slice(5, 21), slice(0, 32), slice(2, 37, 3)):
        part = module_results(case, take(numbers, rows), rnnkernels)
        for name in ROW_WISE:
            if name in part:
                assert equal(part[name], whole[name][:, rows].contiguous()), f"{name} of rows {rows}"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("B, H, T", ((1, 64, 6), (5, 33, 9), (40, 48, 17), (1, 400, 3), (300, 16, 2)))
def test_threads_do_not_matter(cell, dtype, B, H, T):
    for layout in ("padded", "unsorted"):
        case = Case(cell, dtype, B=B, T=T, I=19, H=H, D=2, layout=layout)
        numbers = Numbers.draw(case)
        results = []
        for threads in (1, 2, 3, 4):
            torch.set_num_threads(threads)
            results.append(module_results(case, numbers, rnnkernels))
        for other in results[1:]:
            for name, value in results[0].items():
                assert equal(value, other[name]), f"{name} with {layout}"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_packed_rows_equal_padded_rows(cell, dtype):
    """A packed sequence, `lengths` and the row on its own: three ways to the same bits."""
    case = Case(cell, dtype, B=6, T=5, layout="lengths")
    numbers = Numbers.draw(case)
    module = case.build(rnnkernels)
    module.load_state_dict(numbers.weights)
    padded, _ = module(numbers.x, lengths=numbers.lengths)
    packed, _ = module(torch.nn.utils.rnn.pack_padded_sequence(numbers.x, numbers.lengths, enforce_sorted=False))
    unpacked, _ = torch.nn.utils.rnn.pad_packed_sequence(packed, total_length=case.T)
    assert equal(padded.detach(), unpacked.detach())
    for b, n in enumerate(numbers.lengths):
        assert equal(module(numbers.x[:n, b])[0].detach(), padded[:n, b].detach())
