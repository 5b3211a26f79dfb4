"""An outside reference: opacus' recurrent layers, written in plain Python for per-sample gradients."""

import importlib
import unittest

import hypothesis
import pytest
import torch

import rnnkernels
from conftest import assert_close

opacus_layers = pytest.importorskip("opacus.layers")


@pytest.mark.parametrize("D", (1, 2))
@pytest.mark.parametrize("L", (1, 2))
@pytest.mark.parametrize("bias", (True, False))
@pytest.mark.parametrize("cell", ("LSTM", "GRU", "RNN"))
def test_same_numbers(cell, bias, L, D):
    options = dict(num_layers=L, bias=bias, bidirectional=D == 2, batch_first=True)
    theirs = getattr(opacus_layers, "DP" + cell)(5, 9, **options).double()
    ours = getattr(rnnkernels, cell)(5, 9, **options, dtype=torch.float64)
    ours.load_state_dict({name: torch.randn_like(p) * 0.4 for name, p in ours.named_parameters()})
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(4, 7, 5, dtype=torch.float64)
    seed = torch.randn(4, 7, 9 * D, dtype=torch.float64)
    gradients = []
    for module in (ours, theirs):
        (module(x)[0] * seed).sum().backward()
        gradients.append([module(x)[0].detach()] + [p.grad for _, p in sorted(module.named_parameters())])
    for a, b in zip(*gradients):
        assert_close(a, b)


@pytest.mark.parametrize("cell", ("LSTM", "GRU", "RNN"))
def test_same_gradients_of_each_sample(cell):
    """vmap(grad) of ours against GradSampleModule on theirs."""
    grad_sample_module = pytest.importorskip("opacus.grad_sample").GradSampleModule
    theirs = getattr(opacus_layers, "DP" + cell)(3, 5, num_layers=2, bidirectional=True, batch_first=True).double()
    ours = getattr(rnnkernels, cell)(3, 5, 2, bidirectional=True, batch_first=True, dtype=torch.float64)
    theirs.load_state_dict(ours.state_dict())
    x, weights = torch.randn(4, 6, 3, dtype=torch.float64), {k: v.detach() for k, v in ours.named_parameters()}
    samples = grad_sample_module(theirs, batch_first=True, loss_reduction="sum")
    samples(x)[0].pow(2).sum().backward()
    loss = lambda weights, x: torch.func.functional_call(ours, weights, (x[None],))[0].pow(2).sum()
    gradients = torch.func.vmap(torch.func.grad(loss), (None, 0))(weights, x)
    for name, p in theirs.named_parameters():
        assert_close(gradients[name], p.grad_sample, name=name)


def test_their_own_test_passes_on_ours(monkeypatch):
    """The test in opacus' wheel compares torch.nn with its layers; here torch.nn is ours."""
    hypothesis.settings.load_profile("default")  # torch.testing loads one of ten examples, for every test of the process
    calls, forward = [], rnnkernels.layers._Fused.forward
    monkeypatch.setattr(rnnkernels.layers._Fused, "forward", lambda *args, **kw: (calls.append(1), forward(*args, **kw))[1])
    deterministic = torch.are_deterministic_algorithms_enabled()
    with rnnkernels.patch_torch():
        module = importlib.import_module("opacus.tests.dp_layers.dp_rnn_test")
        assert module.nn.LSTM is rnnkernels.LSTM
        result = unittest.TextTestRunner().run(unittest.defaultTestLoader.loadTestsFromModule(module))
    torch.use_deterministic_algorithms(deterministic)
    assert len(calls) >= 100 and result.wasSuccessful(), result.failures + result.errors
