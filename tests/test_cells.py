"""LSTMCell, GRUCell and RNNCell against torch.nn and the reference."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

import rnnkernels
from cases import random
from conftest import assert_close, needs_extension
from rnnkernels import functional, reference

CELLS = ("LSTMCell", "GRUCell", "RNNCell", "RNNCell relu")
NEW = ("GRUCell before", "RNNCell sigmoid")  # torch.nn has no such
OPTIONS = {"RNNCell relu": {"nonlinearity": "relu"}, "RNNCell sigmoid": {"nonlinearity": "sigmoid"},
           "GRUCell before": {"reset_after": False}}


def build(package, cell, I, H, bias=True, dtype=torch.float64):
    return getattr(package, cell.split()[0])(I, H, bias, **OPTIONS.get(cell, {}), dtype=dtype)


def evaluate(call, x, hx, leaves):
    """Outputs and gradients of every leaf, as a flat list."""
    outputs = call(x, hx)
    outputs = list(outputs) if isinstance(outputs, tuple) else [outputs]
    torch.manual_seed(1)
    seeds = [random(o.shape, o.dtype) for o in outputs]
    return outputs + list(torch.autograd.grad(outputs, leaves, seeds))


def run(module, numbers, cell, with_hx, by_reference=False):
    dtype = module.weight_ih.dtype
    x, h, c = [n.to(dtype).requires_grad_() for n in numbers]
    hx = None if not with_hx else (h, c) if "LSTM" in cell else h
    leaves = [x, *([] if hx is None else hx if isinstance(hx, tuple) else [hx]), *module.parameters()]
    call = module
    if by_reference:
        reference_cell = getattr(reference, cell.split()[0].lower().replace("cell", "_cell"))
        zeros = x.new_zeros(*x.shape[:-1], module.hidden_size)
        weights = (module.weight_ih, module.weight_hh, module.bias_ih, module.bias_hh)
        default = (zeros, zeros) if "LSTM" in cell else zeros
        call = lambda x, hx: reference_cell(x, default if hx is None else hx, *weights, **OPTIONS.get(cell, {}))
    return evaluate(call, x, hx, leaves)


@pytest.mark.fast
@pytest.mark.parametrize("cell", CELLS + NEW)
@pytest.mark.parametrize("dtype", (torch.float64, torch.float32, torch.bfloat16, torch.float16))
@pytest.mark.parametrize("shape", ((4,), (1,), (0,), ()), ids=("batch", "one", "empty", "unbatched"))
def test_equals_reference(cell, dtype, shape):
    for bias, with_hx, H in ((True, True, 17), (False, True, 5), (True, False, 33)):
        packages = rnnkernels, rnnkernels if cell in NEW else torch.nn
        ours, theirs = (build(package, cell, 3, H, bias, dtype) for package in packages)
        weights = {k: random(v.shape, dtype) * 0.4 for k, v in ours.state_dict().items()}
        numbers = [random((*shape, n), dtype) for n in (3, H, H)]
        for module in (ours, theirs):
            module.load_state_dict(weights)
        results = run(ours, numbers, cell, with_hx), run(theirs, numbers, cell, with_hx, cell in NEW)
        exact = run(ours.double(), numbers, cell, with_hx, True)
        for a, b, c in zip(results[0], exact, results[1]):
            assert_close(a, b, c)


@pytest.mark.fast
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("I, H", ((3, 0), (0, 4), (0, 0)))
def test_no_columns(cell, I, H):
    ours, theirs = build(rnnkernels, cell, I, H), build(torch.nn, cell, I, H)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, I, dtype=torch.float64)
    first = lambda result: result[0] if isinstance(result, tuple) else result
    assert_close(first(ours(x)), first(theirs(x)))
    first(ours(x)).sum().backward()
    assert all(p.grad.shape == p.shape for p in ours.parameters())


@needs_extension
@pytest.mark.parametrize("cell", CELLS + NEW)
def test_numerical_derivatives(cell):
    """First and second order, also under vmap (is_grads_batched); then each argument alone, and all but each."""
    module, states = build(rnnkernels, cell, 2, 3), 2 if "LSTM" in cell else 1
    names = [name for name, _ in module.named_parameters()]

    def call(x, *rest):
        hx = rest[:states] if states == 2 else rest[0]
        return torch.func.functional_call(module, dict(zip(names, rest[states:])), (x, hx))

    leaves = [random((2, n), torch.float64).requires_grad_() for n in (2, 3, 3)[: 1 + states]] + list(module.parameters())
    assert gradcheck(call, leaves, check_batched_grad=True, fast_mode=True)
    assert gradgradcheck(call, leaves, check_batched_grad=True, fast_mode=True)
    loss = lambda leaves: sum(o.pow(2).sum() for o in (call(*leaves) if states == 2 else (call(*leaves),)))
    whole = torch.autograd.grad(loss(leaves), leaves)
    for k in range(len(leaves)):
        for wanted in ([k], [j for j in range(len(leaves)) if j != k]):
            some = [leaf.detach().requires_grad_(j in wanted) for j, leaf in enumerate(leaves)]
            loss(some).backward()
            assert [leaf.grad is not None for leaf in some] == [j in wanted for j in range(len(leaves))]
            assert all(torch.equal(some[j].grad, whole[j]) for j in wanted)


@pytest.mark.parametrize("cell", CELLS)
def test_module_is_torchs(cell):
    ours, theirs = build(rnnkernels, cell, 3, 4, bias=False), build(torch.nn, cell, 3, 4, bias=False)
    assert isinstance(ours, type(theirs)) and repr(ours) == repr(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())


def test_functional_cells_follow_torch():
    x, h, c = torch.randn(2, 3), torch.randn(2, 4), torch.randn(2, 4)
    weights = [torch.randn(16, 3), torch.randn(16, 4), torch.randn(16), torch.randn(16)]
    ours, theirs = functional.lstm_cell(x, (h, c), *weights), torch.lstm_cell(x, (h, c), *weights)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(ours, theirs))
    weights = [w[:12] for w in weights]
    assert torch.allclose(functional.gru_cell(x, h, *weights), torch.gru_cell(x, h, *weights), atol=1e-6)
    weights = [w[:4] for w in weights]
    assert torch.allclose(functional.rnn_cell(x, h, *weights), torch.rnn_tanh_cell(x, h, *weights), atol=1e-6)
    assert torch.allclose(functional.rnn_cell(x, h, *weights[:2], nonlinearity="relu"),
                          torch.rnn_relu_cell(x, h, *weights[:2]), atol=1e-6)


@pytest.mark.parametrize("present", ("bias_ih", "bias_hh", "both", "neither"))
@pytest.mark.parametrize("cell", CELLS)
def test_uses_the_biases_that_are_there(cell, present):
    """Whatever the attribute `bias` says, as in torch.nn; under autocast too."""
    ours, theirs = build(rnnkernels, cell, 3, 4, dtype=torch.float32), build(torch.nn, cell, 3, 4, dtype=torch.float32)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 3)
    first = lambda result: result[0] if isinstance(result, tuple) else result
    for module in (ours, theirs):
        module.bias = present == "neither"
        for name in ("bias_ih", "bias_hh"):
            if present not in (name, "both"):
                setattr(module, name, None)
    torch.testing.assert_close(first(ours(x)), first(theirs(x)))
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(first(ours(x)), first(theirs(x)), rtol=0.05, atol=0.02)


def test_unknown_nonlinearity():
    for package in (rnnkernels, torch.nn):
        with pytest.raises(RuntimeError, match="Unknown nonlinearity: sin"):
            package.RNNCell(3, 4, nonlinearity="sin")(torch.randn(2, 3))
