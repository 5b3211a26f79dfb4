"""Same bits: a row's outputs and gradients for any batch, everything for any number of threads (rule 4 of the design)."""

import copy

import pytest
import torch

import rnnkernels
from cases import CELLS, Case, Numbers, module_results
from conftest import needs_extension
from test_beyond_torch import CELLS as FUNCTIONS
from test_beyond_torch import Problem

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


VARIANTS = {
    "reset before": ("gru_reset_before", {}), "sigmoid": ("sigmoid", {}), "LSTM, cells": ("lstm", {"cells": True}),
    "LSTM, projection": ("lstm", {"P": 5}), **{f"{cell}, resets": (cell, {"resets": "state"}) for cell in FUNCTIONS},
}


@pytest.mark.parametrize("dtype", (*DTYPES, torch.float16), ids=str)
@pytest.mark.parametrize("name", VARIANTS)
def test_rows_and_threads_of_what_torch_does_not_have(name, dtype):
    cell, options = VARIANTS[name]
    for layout in ("full", "lengths"):
        problem = Problem(cell, T=4, B=19, H=33, D=2, dtype=dtype, layout=layout, **options)
        row_wise = 2 + 2 * len(problem.hx) + ("cells" in options)  # the results, and gradients of x and the states
        torch.set_num_threads(1)
        whole = gradients(problem)
        for threads in (2, 3):
            torch.set_num_threads(threads)
            assert all(map(equal, gradients(problem), whole))
        for rows in (slice(18, 19), slice(2, 18), slice(1, 19, 3)):
            part = gradients(of_rows(problem, rows))[:row_wise]
            assert all(equal(ours, t[:, rows].contiguous()) for ours, t in zip(part, whole))


def gradients(problem):
    """Of everything, behind the results."""
    return [t.detach() for t in problem.with_gradients(*problem.ours(problem.dtype))]


def of_rows(problem, rows):
    part, take = copy.copy(problem), lambda t: t[:, rows] if t.shape[1] > 1 else t
    part.x, part.reset, part.lengths = problem.x[:, rows], problem.reset, problem.lengths[rows]
    part.reset = None if part.reset is None else part.reset[:, rows]
    part.hx, part.reset_hx, part.cotangents = (list(map(take, ts)) for ts in (problem.hx, problem.reset_hx, problem.cotangents))
    return part


@pytest.mark.parametrize("dtype", (torch.float64, torch.float32, torch.float16), ids=str)
@pytest.mark.parametrize("cell", FUNCTIONS)
def test_what_is_saved_and_wanted_does_not_matter(cell, dtype):
    """No gradients, those of a few leaves, all of them, with and without `recompute`: the same bits."""
    for options in ({"layout": "lengths"}, {"resets": "state"}):
        problem = Problem(cell, T=6, B=5, D=2, dtype=dtype, **options)
        results, leaves = problem.ours(dtype)
        n, whole = len(results), problem.with_gradients(results, leaves)
        with torch.no_grad():
            assert all(map(equal, problem.ours(dtype, leaves)[0], whole))
        for wanted in ([0], [1], list(range(2, len(leaves))), [3], [len(leaves) - 1], [0, 4, 5]):
            some = [leaves[k].detach().requires_grad_(k in wanted) for k in range(len(leaves))]
            for run in (some, leaves):  # leaves that need none, and a call that does not ask for theirs
                part = problem.with_gradients(problem.ours(dtype, run)[0], [run[k] for k in wanted])
                assert all(map(equal, part, [*whole[:n], *(whole[n + k] for k in wanted)]))
        if "nonlinearity" not in problem.options:
            problem.options = problem.options | {"recompute": True}
            assert all(map(equal, gradients(problem), whole))
