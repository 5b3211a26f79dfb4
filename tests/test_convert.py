"""convert, revert and patch_torch."""

import copy

import pytest
import torch
from torch.nn.utils import parametrize

import rnnkernels
from rnnkernels import convert, patch_torch, revert

NAMES = ("LSTM", "GRU", "RNN", "LSTMCell", "GRUCell", "RNNCell")


class Mine(torch.nn.LSTM):
    def forward(self, input, hx=None):
        return "mine"


def model():
    inner = torch.nn.ModuleDict({name: getattr(torch.nn, name)(3, 4) for name in NAMES})
    return torch.nn.Sequential(torch.nn.Linear(3, 3), inner, Mine(3, 4))


def test_convert_keeps_everything():
    m = model()
    lstm = m[1]["LSTM"].eval()
    calls = []
    lstm.register_forward_hook(lambda *args: calls.append(1))
    parameters, modules = list(m.parameters()), list(m.modules())
    before = lstm(torch.ones(2, 1, 3))[0]
    assert convert(m) is m
    assert list(map(id, m.parameters())) == list(map(id, parameters))
    assert list(map(id, m.modules())) == list(map(id, modules))
    for name in NAMES:
        assert type(m[1][name]) is getattr(rnnkernels, name)
    assert not lstm.training and m[1]["GRU"].training
    assert torch.allclose(m[1]["LSTM"](torch.ones(2, 1, 3))[0], before, atol=1e-6) and len(calls) == 2
    assert convert(m) is m  # again changes nothing
    assert revert(m) is m
    assert all(type(m[1][name]) is getattr(torch.nn, name) for name in NAMES)
    assert list(map(id, m.parameters())) == list(map(id, parameters))


def test_a_root_module_is_converted():
    m = torch.nn.GRU(3, 4)
    assert convert(m) is m and type(m) is rnnkernels.GRU
    assert revert(m) is m and type(m) is torch.nn.GRU


def test_subclasses_of_users():
    m = convert(model())
    assert type(m[2]) is Mine and m[2](None) == "mine"

    class Ours(rnnkernels.LSTM):
        pass

    m = torch.nn.Sequential(rnnkernels.GRU(3, 4), Ours(3, 4))
    with pytest.raises(TypeError, match="cannot revert 1: .*Ours is a subclass"):
        revert(m)
    assert type(m[0]) is rnnkernels.GRU


def test_shared_modules_and_copies():
    shared = torch.nn.LSTM(3, 4)
    m = convert(torch.nn.ModuleList([shared, shared]))
    assert m[0] is m[1] and type(shared) is rnnkernels.LSTM
    assert type(copy.deepcopy(m)[0]) is rnnkernels.LSTM


def test_parametrized_modules():
    class Double(torch.nn.Module):
        def forward(self, w):
            return 2 * w

    x = torch.randn(3, 2, 3)
    m, untouched = torch.nn.GRU(3, 4), torch.nn.GRU(3, 4)
    parametrize.register_parametrization(m, "weight_hh_l0", Double())
    parametrize.register_parametrization(untouched, "weight_hh_l0", Double())
    before = m(x)[0]
    convert(m)
    assert isinstance(m, rnnkernels.GRU) and parametrize.is_parametrized(m)
    assert torch.allclose(m(x)[0], before, atol=1e-6)
    assert not isinstance(untouched, rnnkernels.GRU)
    revert(m)
    assert not isinstance(m, rnnkernels.GRU) and torch.equal(m(x)[0], before)
    convert(m)
    parametrize.remove_parametrizations(m, "weight_hh_l0")
    assert type(m) is rnnkernels.GRU and torch.allclose(m(x)[0], before, atol=1e-6)


def test_patch_torch():
    before = torch.nn.LSTM
    with patch_torch():
        for place in (torch.nn, torch.nn.modules, torch.nn.modules.rnn):
            assert all(getattr(place, name) is getattr(rnnkernels, name) for name in NAMES)
        with patch_torch():
            pass
        assert torch.nn.LSTM is rnnkernels.LSTM
        kept = torch.nn.LSTM(3, 4)
    assert torch.nn.LSTM is torch.nn.modules.LSTM is torch.nn.modules.rnn.LSTM is before
    assert type(kept) is rnnkernels.LSTM
    with pytest.raises(KeyError), patch_torch():
        raise KeyError
    assert torch.nn.LSTM is before
