"""recompute=True: the same bits from less memory."""

import copy
import io

import pytest
import torch

import rnnkernels
from cases import Case, Numbers, call_module, results
from conftest import needs_extension

pytestmark = pytest.mark.fast
CELLS = ("LSTM", "GRU")


def both(case):
    """Outputs and gradients without and with recompute."""
    numbers = Numbers.draw(case)
    for recompute in (False, True):
        module = case.build(rnnkernels)
        module.load_state_dict(numbers.weights)
        module.recompute = recompute
        yield results(case, numbers, lambda x, hx: call_module(module, case, x, hx, numbers.lengths), dict(module.named_parameters()))


@needs_extension
@pytest.mark.parametrize("dtype", (torch.float64, torch.float32, torch.bfloat16), ids=str)
@pytest.mark.parametrize("layout", ("padded", "packed", "unsorted", "lengths", "unbatched"))
@pytest.mark.parametrize("cell", CELLS)
def test_same_bits(cell, layout, dtype):
    P = 5 * (cell == "LSTM")
    for options in ({}, {"T": 1, "B": 1}, {"L": 2, "D": 2, "bias": False}, {"T": 90, "B": 7, "H": 33, "D": 2, "P": P}, {"T": 3, "B": 300, "H": 16},
                    {"T": 2, "B": 4, "H": 100, "hx": False}):
        if layout == "unbatched" and options.get("B", 1) > 1:
            continue
        plain, recomputed = both(Case(cell, dtype, layout=layout, **options))
        for name, value in plain.items():
            assert torch.equal(value, recomputed[name]), f"{name} with {options}"


@needs_extension
@pytest.mark.parametrize("cell", CELLS)
def test_any_number_of_threads(cell):
    case, reference = Case(cell, torch.float32, T=40, B=9, H=96, D=2), None
    for threads in (1, 2, 3, 4):
        torch.set_num_threads(threads)
        torch.manual_seed(0)
        _, recomputed = both(case)
        reference = reference or recomputed
        assert all(torch.equal(value, recomputed[name]) for name, value in reference.items())


def saved_bytes(module, x):
    """What autograd holds, the input and the parameters not counted."""
    given = {t.untyped_storage().data_ptr() for t in (x, *module.parameters())}
    held = {}

    def pack(t):
        if t.numel() and t.untyped_storage().data_ptr() not in given:
            held[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        out, _ = module(x)
    assert out.requires_grad
    return sum(held.values())


@needs_extension
@pytest.mark.parametrize("cell", CELLS)
def test_keeps_only_states(cell):
    x, plain = torch.randn(50, 8, 64), getattr(rnnkernels, cell)(64, 64)
    recomputing = getattr(rnnkernels, cell)(64, 64, recompute=True)
    assert saved_bytes(recomputing, x) < 0.35 * saved_bytes(plain, x)


@pytest.mark.parametrize("cell", CELLS)
def test_double_backward(cell):
    module, x = getattr(rnnkernels, cell)(2, 3, recompute=True).double(), torch.randn(3, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: module(x)[0], x)


@pytest.mark.parametrize("cell", CELLS)
def test_module(cell):
    cls, theirs = getattr(rnnkernels, cell), getattr(torch.nn, cell)
    module = cls(3, 4, 2, recompute=True)
    assert repr(module) == f"{cell}(3, 4, num_layers=2, recompute=True)" and repr(cls(3, 4)) == repr(theirs(3, 4))
    buffer = io.BytesIO()
    torch.save(module, buffer)
    buffer.seek(0)
    for again in (copy.deepcopy(module), torch.load(buffer, weights_only=False)):
        assert again.recompute is True
    assert rnnkernels.convert(theirs(3, 4)).recompute is False
    with pytest.raises(TypeError, match="recompute=True"):
        rnnkernels.revert(torch.nn.Sequential(module))
    assert type(module) is cls
    module.recompute = False
    assert type(rnnkernels.revert(module)) is theirs
    with pytest.raises(TypeError):
        cls(3, 4, 2, True, False, 0.0, False, 0, None, None, True)
    with pytest.raises(TypeError):
        rnnkernels.RNN(3, 4, recompute=True)
