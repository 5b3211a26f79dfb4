"""Outputs and every gradient of the layers, against the f64 reference and torch.nn."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings, strategies as st

from cases import CELLS, Case, check, vary

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
LAYOUTS = ("padded", "packed", "unsorted", "lengths", "unbatched")


def for_all(name, values):
    return pytest.mark.parametrize(name, values, ids=str)


@pytest.mark.fast
@for_all("dtype", DTYPES[:2])
@for_all("cell", CELLS)
@for_all("D", (1, 2))
@for_all("layout", LAYOUTS)
def test_layouts(cell, dtype, layout, D):
    check(Case(cell, dtype, layout=layout, D=D))


@for_all("dtype", DTYPES[2:])
@for_all("cell", CELLS)
@for_all("D", (1, 2))
@for_all("layout", LAYOUTS)
def test_layouts_in_reduced_precision(cell, dtype, layout, D):
    check(Case(cell, dtype, layout=layout, D=D))


OPTIONS = vary(L=(2, 3), bias=(False,), batch_first=(True,), hx=(False,), strided=(True,), T=(1,), B=(0, 1), I=(1, 33))


@pytest.mark.fast
@for_all("option", OPTIONS)
@for_all("cell", CELLS)
def test_options(cell, option):
    check(replace(option, cell=cell))


# More tokens than a chunk of the backward loop, not a multiple of it, and a step larger than one; rows longer than a chain of products
# and than a block of chains. The last but four save more gates than the L2 caches hold.
LONG = (Case(T=30, B=11), Case(T=300, B=1), Case(T=2, B=300, D=2), Case(T=2, B=3, I=140, H=150), Case(T=7, B=9, I=140, H=150, D=2),
        Case(T=3, B=7, I=560, H=530), Case(T=60, B=40, H=40, D=2), *(Case(T=40, B=19, D=2, layout=layout) for layout in LAYOUTS[:4]))


@pytest.mark.fast
@for_all("case", LONG)
@for_all("cell", CELLS)
def test_long_sums(cell, case):
    check(replace(case, cell=cell))


@for_all("dtype", DTYPES)
@for_all("cell", CELLS)
def test_everything_at_once(cell, dtype):
    for layout in LAYOUTS:
        check(Case(cell, dtype, L=2, D=2, bias=False, batch_first=True, hx=False, strided=True, layout=layout))
        check(Case(cell, dtype, L=2, D=2, batch_first=True, strided=True, layout=layout))


@pytest.mark.fast
@for_all("layout", LAYOUTS)
@for_all("D", (1, 2))
def test_projection(layout, D):
    for bias in (True, False):
        check(Case("LSTM", P=5, L=2, D=D, layout=layout, bias=bias, H=18))
    check(Case("LSTM", P=5, T=40, B=19, D=D, layout=layout))


@for_all("dtype", DTYPES[1:])
def test_projection_in_lower_precision(dtype):
    for layout in LAYOUTS:
        check(Case("LSTM", dtype, P=5, L=2, D=2, layout=layout))


@for_all("H", (1, 3, 16, 17, 33, 64, 127, 200))
@for_all("cell", CELLS)
def test_widths(cell, H):
    for dtype in DTYPES[:2]:
        check(Case(cell, dtype, T=3, B=5, H=H))
        check(Case(cell, dtype, T=2, B=1, H=H, I=H, D=2))


@for_all("B", (2, 7, 16, 31, 64, 65))
@for_all("cell", CELLS)
def test_batches(cell, B):
    for layout in ("padded", "lengths"):
        check(Case(cell, torch.float32, T=4, B=B, H=33, I=20, layout=layout))


@for_all("cell", CELLS)
def test_long(cell):
    check(Case(cell, T=150, B=2, H=24))
    check(Case(cell, torch.float32, T=150, B=3, H=24, layout="unsorted"))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.builds(Case, cell=st.sampled_from(CELLS), dtype=st.sampled_from(DTYPES[:2]), T=st.integers(1, 7), B=st.integers(1, 9),
                 I=st.integers(1, 40), H=st.sampled_from((1, 2, 3, 5, 17, 33, 127)), L=st.integers(1, 2), D=st.integers(1, 2),
                 bias=st.booleans(), batch_first=st.booleans(), hx=st.booleans(), layout=st.sampled_from(LAYOUTS),
                 strided=st.booleans()), st.booleans())
def test_any_shape(case, project):
    torch.manual_seed(case.H + 10 * case.T)
    check(replace(case, P=case.H // 2) if project and case.is_lstm and case.H > 1 else case)
