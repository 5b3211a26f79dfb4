"""rnnkernels.init: what each function draws, gate by gate, and what it leaves alone."""

import math

import pytest
import torch

import rnnkernels
from rnnkernels import init

KINDS = {"LSTM": 4, "GRU": 3, "RNN": 1}
EVERY = [(package, kind) for package in (rnnkernels, torch.nn) for kind in KINDS]
each = pytest.mark.parametrize("package, kind", EVERY, ids=[f"{p.__name__}.{k}" for p, k in EVERY])


def build(package, kind, cell=False, **options):
    options = {} if cell else {"num_layers": 2, "bidirectional": True} | options
    return getattr(package, kind + "Cell" * cell)(7, 16, dtype=torch.float64, **options)


def changed(module, initialise):
    """Names of the parameters that `initialise` writes."""
    before = {name: p.clone() for name, p in module.named_parameters()}
    assert initialise(module) is module
    return {name for name, p in module.named_parameters() if not torch.equal(p, before[name])}


@each
@pytest.mark.parametrize("cell", (False, True))
def test_orthogonal(package, kind, cell):
    module = build(package, kind, cell)
    names = changed(module, lambda m: init.orthogonal(m, gain=1.5))
    assert names == {name for name, _ in module.named_parameters() if "weight_hh" in name}
    for name in names:
        for gate in getattr(module, name).detach().split(16):
            assert torch.allclose(gate @ gate.T, 1.5**2 * torch.eye(16, dtype=gate.dtype), atol=1e-12)


@each
def test_xavier(package, kind):
    module = build(package, kind)
    names = changed(module, init.xavier)
    assert names == {name for name, _ in module.named_parameters() if "weight_ih" in name}
    for name in names:
        weight = getattr(module, name).detach()
        bound = math.sqrt(6 / (16 + weight.shape[1]))
        assert all(0.8 * bound < gate.abs().max() <= bound for gate in weight.split(16))


def test_projection():
    module = rnnkernels.LSTM(7, 16, proj_size=6)
    assert changed(module, init.xavier) == {"weight_ih_l0", "weight_hr_l0"}
    assert changed(module, init.orthogonal) == {"weight_hh_l0"}
    for gate in module.weight_hh_l0.detach().split(16):
        assert torch.allclose(gate.T @ gate, torch.eye(6), atol=1e-5)


@pytest.mark.parametrize("package", (rnnkernels, torch.nn))
@pytest.mark.parametrize("cell", (False, True))
def test_forget_bias(package, cell):
    module = build(package, "LSTM", cell)
    before = {name: p.clone() for name, p in module.named_parameters()}
    assert init.forget_bias(module, 1.25) is module
    for name, p in module.named_parameters():
        if "bias" in name:
            forget = p[16:32]
            assert (forget == (1.25 if "bias_ih" in name else 0)).all()
            p = torch.cat([p[:16], p[32:]])
            before[name] = torch.cat([before[name][:16], before[name][32:]])
        assert torch.equal(p, before[name])


@pytest.mark.parametrize("package", (rnnkernels, torch.nn))
@pytest.mark.parametrize("cell", (False, True))
def test_chrono(package, cell):
    module = init.chrono(build(package, "LSTM", cell), 50)
    suffixes = ("",) if cell else ("_l0", "_l0_reverse", "_l1", "_l1_reverse")
    for s in suffixes:
        bias = (getattr(module, "bias_ih" + s) + getattr(module, "bias_hh" + s)).detach()
        i, f, _, _ = bias.split(16)
        assert torch.equal(i, -f)
        assert 1 <= f.exp().min() and 20 < f.exp().max() <= 49
    module = init.chrono(build(package, "GRU", cell), 50)
    for s in suffixes:
        z = (getattr(module, "bias_ih" + s) + getattr(module, "bias_hh" + s)).detach().split(16)[1]
        assert 1 <= z.exp().min() and 20 < z.exp().max() <= 49


@pytest.mark.parametrize("kind", ("LSTM", "GRU"))
def test_chrono_remembers(kind):
    """The point of it: with no input, a memory of 1 outlasts a default layer's."""

    def left(module):
        h = torch.ones(1, 1, 64)
        hx = (torch.zeros_like(h), h) if kind == "LSTM" else h
        last = module(torch.zeros(50, 1, 7), hx)[1]
        return (last[1] if kind == "LSTM" else last).abs().mean().item()

    assert left(init.chrono(getattr(rnnkernels, kind)(7, 64), 200)) > 5 * left(getattr(rnnkernels, kind)(7, 64))


def test_a_whole_model():
    model = torch.nn.Sequential(torch.nn.Linear(3, 7), rnnkernels.GRU(7, 16), rnnkernels.LSTM(16, 8))
    assert changed(model, init.orthogonal) == {"1.weight_hh_l0", "2.weight_hh_l0"}
    assert changed(model, init.forget_bias) == {"2.bias_ih_l0", "2.bias_hh_l0"}
    assert model[1].weight_hh_l0.requires_grad and model[1].weight_hh_l0.is_leaf


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16, torch.float64), ids=str)
def test_orthogonal_in_every_dtype(dtype):
    weight = init.orthogonal(rnnkernels.GRU(3, 8, dtype=dtype)).weight_hh_l0
    for block in weight.detach().double().chunk(3):
        assert torch.allclose(block @ block.T, torch.eye(8, dtype=torch.float64), atol=4 * torch.finfo(dtype).eps)


def test_errors():
    for function in (init.orthogonal, init.xavier, init.forget_bias, lambda m: init.chrono(m, 10)):
        with pytest.raises(TypeError, match="found none in Linear"):
            function(torch.nn.Linear(2, 2))
    for kind in ("GRU", "RNN"):
        with pytest.raises(TypeError, match="expected LSTM"):
            init.forget_bias(build(rnnkernels, kind))
    with pytest.raises(TypeError, match="expected LSTM, GRU"):
        init.chrono(build(rnnkernels, "RNN"), 10)
    for module in (rnnkernels.LSTM(3, 4, bias=False), torch.nn.LSTMCell(3, 4, bias=False)):
        with pytest.raises(ValueError, match="bias=True"):
            init.forget_bias(module)
    for t_max in (2, 0, -5, math.nan):
        with pytest.raises(ValueError, match="above 2"):
            init.chrono(rnnkernels.LSTM(3, 4), t_max)
    normed = torch.nn.utils.parametrizations.weight_norm(rnnkernels.LSTM(3, 4), "weight_hh_l0")
    with pytest.raises(ValueError, match="weight_hh_l0 is computed"):
        init.orthogonal(normed)


@pytest.mark.parametrize("cell", (False, True))
def test_modules_built_before_patch_torch(cell):
    for function, kind in ((init.forget_bias, "LSTM"), (init.flip_update_gate, "GRU"), (init.orthogonal, "RNN")):
        module = build(torch.nn, kind, cell)
        with rnnkernels.patch_torch():
            assert changed(module, function)


def test_flip_update_gate_of_a_whole_model():
    """Each parameter once, also one that two layers share, and of a cell the biases that are there."""
    model = torch.nn.ModuleList([rnnkernels.GRU(7, 16), torch.nn.GRU(7, 16, bias=False), torch.nn.GRUCell(7, 16), rnnkernels.LSTM(7, 16)])
    model[1].weight_hh_l0, model[2].bias_hh = model[0].weight_hh_l0, None
    before = {name: p.clone() for name, p in model.named_parameters()}
    assert rnnkernels.flip_update_gate is init.flip_update_gate and init.flip_update_gate(model) is model
    for name, p in model.named_parameters():
        flipped = before[name].clone()
        if not name.startswith("3."):
            flipped[16:32] *= -1
        assert torch.equal(p, flipped), name
    with pytest.raises(TypeError, match="expected GRU layers"):
        init.flip_update_gate(model[3])
