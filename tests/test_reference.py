"""The reference against torch.nn in f64, torch.autograd's numerical derivatives and torch.func."""

import pytest
import torch

from cases import CELLS, Case, Numbers, call_reference, module_results, random, reference_results
from conftest import assert_close
from rnnkernels import reference


@pytest.mark.fast
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("layout", ("padded", "packed", "unsorted", "lengths", "unbatched"))
def test_equals_torch(cell, layout):
    for options in ({}, {"D": 2, "L": 2, "bias": False}, {"D": 2, "batch_first": True}, {"P": 5 * (cell == "LSTM"), "D": 2}):
        case = Case(cell, layout=layout, **options)
        numbers = Numbers.draw(case)
        theirs = module_results(case, numbers, torch.nn)
        for name, value in reference_results(case, numbers).items():
            assert_close(value, theirs[name], name=f"{case}: {name}")


@pytest.mark.parametrize("cell", CELLS)
def test_cells_equal_torch(cell):
    x, h, c = random((4, 3), torch.float64), random((4, 5), torch.float64), random((4, 5), torch.float64)
    G = {"LSTM": 4, "GRU": 3}.get(cell, 1)
    weights = [random(s, torch.float64) for s in ((G * 5, 3), (G * 5, 5), (G * 5,), (G * 5,))]
    if cell == "LSTM":
        ours, theirs = reference.lstm_cell(x, (h, c), *weights), torch.lstm_cell(x, (h, c), *weights)
    elif cell == "GRU":
        ours, theirs = [reference.gru_cell(x, h, *weights)], [torch.gru_cell(x, h, *weights)]
    else:
        relu = cell == "RNN_RELU"
        ours = [reference.rnn_cell(x, h, *weights, "relu" if relu else "tanh")]
        theirs = [(torch.rnn_relu_cell if relu else torch.rnn_tanh_cell)(x, h, *weights)]
    for a, b in zip(ours, theirs):
        assert_close(a, b)


def test_complex_and_forward_mode_and_vmap():
    case = Case("GRU", T=3, B=2, H=4)
    numbers = Numbers.draw(case)
    weights = list(numbers.weights.values())
    run = lambda x: call_reference(case, x, numbers.hx, weights, None)[0]
    _, tangent = torch.func.jvp(run, (numbers.x,), (torch.ones_like(numbers.x),))
    jacobian = torch.func.jacrev(run)(numbers.x)
    assert_close(tangent, jacobian.flatten(3).sum(-1))
    batch = torch.stack([numbers.x, 2 * numbers.x])
    assert_close(torch.vmap(run)(batch)[1], run(2 * numbers.x))
    module = torch.nn.GRU(3, 4, dtype=torch.complex128)
    x = torch.randn(3, 2, 3, dtype=torch.complex128)
    theirs, _ = module(x)
    ours = reference.gru(x, x.new_zeros(1, 2, 4), *module._flat_weights, *[None] * 8)[0]
    assert torch.allclose(ours, theirs)


@pytest.mark.parametrize("name", ["lstm", "gru", "gru_reset_before", "rnn"])
def test_reset_is_a_new_sequence(name):
    """Of the reference itself: a row that is reset before step 3 has run two sequences."""
    torch.manual_seed(0)
    gates, n_states = {"lstm": (4, 2), "rnn": (1, 1)}.get(name, (3, 1))
    x, weights = torch.randn(7, 1, 3).double(), [torch.randn(gates * 4, k).double() for k in (3, 4)]
    hx, reset_hx = ([torch.randn(1, 1, 4).double() for _ in range(n_states)] for _ in range(2))
    layer = lambda x, hx, reset_hx, reset: getattr(reference, name)(
        x, *hx, *weights, *[None] * (8 if name == "lstm" else 6), *reset_hx, None, None, reset)
    reset = (torch.arange(7) == 3).unsqueeze(1)
    out, *last = layer(x, hx, reset_hx, reset)
    first, *_ = layer(x[:3], hx, [None] * n_states, None)
    second, *last_of_second = layer(x[3:], reset_hx, [None] * n_states, None)
    assert torch.equal(out, torch.cat([first, second]))
    assert all(map(torch.equal, last, last_of_second))
