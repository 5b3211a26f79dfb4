"""functional's weight_dtype: the bits of a call with W_ih and W_hh rounded to bfloat16, by whatever way."""

from functools import partial

import pytest
import torch

import rnnkernels
from cases import CELLS
from conftest import needs_extension
from rnnkernels import functional, rounded

pytestmark = pytest.mark.fast
KINDS = (*CELLS, "GRU before", "LSTM projected")


def draw(kind, T=5, B=3, I=9, H=40, L=2, D=2):
    """A function of functional with its options, and x, hx, params in float32."""
    P = 11 if kind == "LSTM projected" else 0
    name = kind[:4].strip("_ ").lower()
    options = {"rnn": {"nonlinearity": kind[4:].lower()}, "gru": {"reset_after": kind == "GRU"}, "lstm": {}}[name]
    module = getattr(rnnkernels, name.upper())(I, H, num_layers=L, bidirectional=D == 2, **({"proj_size": P} if P else {}))
    h0, c0 = torch.randn(L * D, B, P or H), torch.randn(L * D, B, H)
    function = partial(getattr(functional, name), num_layers=L, bidirectional=D == 2, **options)
    return function, torch.randn(T, B, I), (h0, c0) if name == "lstm" else h0, [p.detach() for p in module._flat_weights]


def rounded_matrices(params):
    per_direction = len(params) // 4  # two layers, two directions
    return [p.bfloat16().float() if i % per_direction < 2 else p for i, p in enumerate(params)]


@pytest.mark.parametrize("kernels", (pytest.param(True, marks=needs_extension), False))
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("T, B, H", ((5, 3, 40), (1, 1, 17), (70, 2, 16), (3, 20, 130)))
def test_same_bits_as_rounded_weights(kind, T, B, H, kernels, monkeypatch):
    if not kernels:
        monkeypatch.setattr(rounded, "_C", None)
    function, x, hx, params = draw(kind, T, B, H=H)
    lengths, reset = torch.randint(1, T + 1, (B,)), torch.rand(T, B) < 0.2
    options = {"return_cells": True} if kind == "LSTM" else {}
    for extra in ({}, {"lengths": lengths}, {"reset": reset}, options):
        expected = function(x, hx, rounded_matrices(params), **extra)
        results = function(x, hx, params, weight_dtype=torch.bfloat16, **extra)
        assert len(results) == len(expected) and all(map(torch.equal, results, expected))
        assert not torch.equal(results[0], function(x, hx, params, **extra)[0])


@needs_extension
def test_any_number_of_threads():
    function, x, hx, params = draw("LSTM", T=20, B=9, H=100)
    results = []
    for threads in (1, 2, 3, 5):
        torch.set_num_threads(threads)
        results.append(function(x, hx, params, weight_dtype=torch.bfloat16)[0])
    assert all(torch.equal(r, results[0]) for r in results)


@needs_extension
def test_the_kernels_run(monkeypatch):
    """Not only the rounding of tensors, which would do for every other test."""
    function, x, hx, params = draw("GRU")
    monkeypatch.setattr(torch.Tensor, "bfloat16", None)
    with torch.no_grad():
        function(x, hx, [p.requires_grad_() for p in params], weight_dtype=torch.bfloat16)


@pytest.mark.parametrize("kind", ("LSTM", "GRU"))
def test_gradients_of_what_is_not_rounded(kind):
    function, x, hx, params = draw(kind)
    gradients = []
    for weights, dtype in ((params, torch.bfloat16), (rounded_matrices(params), None)):
        own = x.clone().requires_grad_()
        function(own, hx, weights, weight_dtype=dtype)[0].square().sum().backward()
        gradients.append(own.grad)
    assert torch.equal(*gradients)


def test_under_vmap_and_autocast():
    function, x, hx, params = draw("GRU")
    xs = torch.stack([x, 2 * x])
    batched = torch.func.vmap(lambda x: function(x, hx, params, weight_dtype=torch.bfloat16)[0])(xs)
    assert torch.allclose(batched[1], function(2 * x, hx, params, weight_dtype=torch.bfloat16)[0], atol=1e-6)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(function(x, hx, params, weight_dtype=torch.bfloat16)[0], function(x, hx, rounded_matrices(params))[0])


def test_refusals():
    function, x, hx, params = draw("GRU")
    for dtype in (torch.float16, "bfloat16", torch.float64):
        with pytest.raises(ValueError, match="expected weight_dtype torch.bfloat16 and torch.float32 parameters"):
            function(x, hx, params, weight_dtype=dtype)
    with pytest.raises(ValueError, match="weight_dtype"):
        function(x.double(), hx.double(), [p.double() for p in params], weight_dtype=torch.bfloat16)
    with pytest.raises(RuntimeError, match="weight_dtype is for inference"):
        function(x, hx, [p.requires_grad_() for p in params], weight_dtype=torch.bfloat16)
    assert torch.equal(function(x, hx, params, weight_dtype=torch.float32)[0], function(x, hx, params)[0])
    with pytest.raises(RuntimeError):
        function(x[..., :4], hx, [p.detach() for p in params], weight_dtype=torch.bfloat16)
