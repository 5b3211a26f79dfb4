"""gradient_flow: against autograd through torch.nn's cells and through one-step calls, and Jacobians multiplied out."""

import re

import pytest
import torch

import rnnkernels
from rnnkernels import init
from rnnkernels.diagnostics import GradientFlow, gradient_flow

KINDS = {"LSTM": {}, "GRU": {}, "RNN": {}, "RELU": {"nonlinearity": "relu"}, "LSTM_PROJ": {"proj_size": 3}}
T, B, I, H = 6, 2, 3, 5


def build(kind, package=rnnkernels, **options):
    layer = getattr(package, {"RELU": "RNN", "LSTM_PROJ": "LSTM"}.get(kind, kind))
    return layer(I, H, dtype=torch.float64, **KINDS[kind], **options)


def parts(state):
    return state if isinstance(state, tuple) else (state,)


def loss(out):
    return (out[2:] ** 2).sum() + out[-1].sin().sum()


def one_step_a_call(module, x, state=None):
    """Outputs and states after every step, each a variable that autograd knows."""
    outs, states = [], []
    for x_t in x:
        out, state = module(x_t[None], state)
        outs.append(out)
        states.append(parts(state))
    return outs, states


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("package", (rnnkernels, torch.nn))
def test_one_layer(kind, package):
    module, x = build(kind, package), torch.randn(T, B, I, dtype=torch.float64)
    outs, states = one_step_a_call(module, x)
    grad = lambda variables: torch.autograd.grad(
        loss(torch.cat(outs)), variables, retain_graph=True, allow_unused=True, materialize_grads=True
    )
    flow = gradient_flow(module, x, loss)
    h = [a + b for a, b in zip(grad(outs), grad([s[0] for s in states]))]  # out and h_n are two variables for one h
    assert torch.allclose(flow.gradient[0], torch.stack([g.norm() for g in h]), rtol=1e-10)
    assert (flow.cell is None) == (len(states[0]) == 1)


@pytest.mark.parametrize("kind", ("LSTM", "GRU", "RNN"))
@pytest.mark.parametrize("bias", (False, True))
def test_two_layers_two_directions(kind, bias):
    module = build(kind, num_layers=2, bidirectional=True, bias=bias)
    x = torch.randn(T, B, I, dtype=torch.float64)
    inputs, rows = x, []
    for suffix in ("_l0", "_l0_reverse", "_l1", "_l1_reverse"):
        cell = getattr(torch.nn, kind + "Cell")(inputs.shape[-1], H, bias=bias, dtype=torch.float64)
        cell.load_state_dict({name: getattr(module, name + suffix) for name in cell.state_dict()})
        zero = torch.zeros(B, H, dtype=torch.float64, requires_grad=True)
        state, row = (zero, zero) if kind == "LSTM" else zero, []
        for x_t in reversed(inputs) if "reverse" in suffix else inputs:
            state = cell(x_t, state)
            row.append(parts(state))
        rows.append(row[::-1] if "reverse" in suffix else row)
        if "reverse" in suffix:
            inputs = torch.stack([torch.cat([a[0], b[0]], -1) for a, b in zip(*rows[-2:])])
    assert torch.allclose(inputs, module(x)[0], rtol=1e-10)
    expected = torch.autograd.grad(loss(inputs), [s[0] for row in rows for s in row], retain_graph=True)
    flow = gradient_flow(module, x, loss)
    assert flow.layers == ["layer 0", "layer 0 reverse", "layer 1", "layer 1 reverse"]
    assert torch.allclose(flow.gradient.flatten(), torch.stack([g.norm() for g in expected]), rtol=1e-10)
    if kind == "LSTM":
        expected = torch.autograd.grad(loss(inputs), [s[1] for row in rows for s in row])
        assert torch.allclose(flow.cell.flatten(), torch.stack([g.norm() for g in expected]), rtol=1e-10)
    assert (
        flow.jacobian.shape == (4, T)
        and (flow.jacobian[[0, 2], -1] == 1).all()
        and (flow.jacobian[[1, 3], 0] == 1).all()
    )


@pytest.mark.parametrize("kind", KINDS)
def test_jacobians_multiplied_out(kind):
    module, x = build(kind), torch.randn(T, B, I, dtype=torch.float64)
    flow = gradient_flow(module, x, loss)
    _, states = one_step_a_call(module, x)
    widths = [s.shape[-1] for s in states[0]]
    for t in range(T - 1):
        gains = []
        for row in range(B):

            def last_state(flat):
                state = tuple(s[None, None].contiguous() for s in flat.split(widths))
                _, after = one_step_a_call(module, x[t + 1 :, row : row + 1], state if len(state) == 2 else state[0])
                return torch.cat([s.flatten() for s in after[-1]])

            start = torch.cat([s[0, row] for s in states[t]]).detach()
            gains.append(torch.autograd.functional.jacobian(last_state, start).norm() / sum(widths) ** 0.5)
        assert torch.allclose(flow.jacobian[0, t], torch.stack(gains).mean(), rtol=1e-10)


def test_an_orthogonal_linear_recurrence_neither_vanishes_nor_explodes():
    """The gain is |W^k|: 1 for an orthogonal W_hh and relu kept positive, g^k for g times it."""
    module = init.orthogonal(build("RELU"))
    for gain, verdict in ((1.0, "flows"), (0.5, "vanishes"), (2.0, "explodes")):
        with torch.no_grad():
            module.weight_hh_l0.copy_(gain * torch.eye(H))
            module.bias_ih_l0.fill_(5.0)
        flow = gradient_flow(module, torch.rand(14, B, I, dtype=torch.float64), loss)
        assert torch.allclose(flow.jacobian[0], gain ** torch.arange(13, -1, -1, dtype=torch.float64), rtol=1e-10)
        assert flow.verdict(0) == verdict and abs(flow.gain(0) / gain**13 - 1) < 1e-10
        assert ("clip_grad_norm_" in str(flow)) == (verdict == "explodes")


def test_report_and_plot(capsys, tmp_path):
    flow = gradient_flow(rnnkernels.RNN(I, H, num_layers=2), torch.randn(60, B, I), lambda out: out[-1].sum())
    flow.report()
    said = capsys.readouterr().out
    assert said == f"{flow}\n" and said.count("vanishes") == 3 and "use an LSTM or a GRU" in said and "layer 1" in said
    pytest.importorskip("matplotlib")
    figure = flow.plot(tmp_path / "flow.png")
    assert len(figure.axes) == 2 and (tmp_path / "flow.png").stat().st_size > 5_000


@pytest.mark.parametrize("kind", ("LSTM", "GRU"))
@pytest.mark.parametrize("steps", (1, 2, 9))
def test_advice_can_be_followed(kind, steps):
    flow = GradientFlow(kind, ["layer 0"], gradient=torch.ones(1, steps), cell=None, jacobian=torch.zeros(1, steps))
    t_max = int(re.search(r"vanishes: rnnkernels.init.chrono\(module, t_max=(\d+)\)", str(flow))[1])
    assert t_max >= steps
    init.chrono(build(kind), t_max)


def test_layout_dtype_and_what_is_left_alone():
    module = rnnkernels.LSTM(I, H, 2, batch_first=True, dropout=0.5)  # in train(): no dropout all the same
    x, seen = torch.randn(B, T, I), []
    flow = gradient_flow(module, x, lambda out: seen.append(out) or out[:, -1].sum())
    assert torch.allclose(seen[0], module.eval()(x)[0], atol=1e-6) and seen[0].dtype is torch.float32
    assert flow.gradient.shape == flow.cell.shape == (2, T) and flow.kind == "LSTM"
    assert all(p.grad is None for p in module.parameters())
    with torch.no_grad():
        frozen = gradient_flow(module.requires_grad_(False), x, lambda out: out[:, -1].sum())
    assert torch.equal(frozen.gradient, flow.gradient)


def test_computed_weights():
    """The weights of now, not those of the constructor."""
    module, x = rnnkernels.GRU(I, H), torch.randn(T, B, I)
    expected = gradient_flow(module, x, lambda out: out[-1].sum())
    torch.nn.utils.parametrizations.weight_norm(module, "weight_hh_l0")
    flow = gradient_flow(module, x, lambda out: out[-1].sum())
    assert torch.allclose(flow.jacobian, expected.jacobian, rtol=1e-4)
    with torch.no_grad():
        module.parametrizations.weight_hh_l0.original0.zero_()
    assert gradient_flow(module, x, lambda out: out[-1].sum()).gain(0) != flow.gain(0)


def test_errors():
    module, x = rnnkernels.GRU(I, H), torch.randn(T, B, I)
    with pytest.raises(TypeError, match="got Linear"):
        gradient_flow(torch.nn.Linear(2, 2), x, torch.sum)
    scaled = type("Scaled", (torch.nn.GRU,), {"forward": lambda self, x: super().forward(2 * x)})(I, H)
    with pytest.raises(TypeError, match="Scaled has a forward of its own, which gradient_flow does not run"):
        gradient_flow(scaled, x, torch.sum)
    for bad in (x[0], x[..., :2], x[:0]):
        with pytest.raises(ValueError, match=r"x must be \[T, B, 3\]"):
            gradient_flow(module, bad, torch.sum)
    for bad in (lambda out: out, lambda out: 1.0, lambda out: out.detach().sum()):
        with pytest.raises(ValueError, match="scalar tensor"):
            gradient_flow(module, x, bad)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_finite_is_said(kind):
    module, x = build(kind), torch.randn(T, B, I, dtype=torch.float64)
    flows = [gradient_flow(module, x, lambda out: out.sum() * float("nan"))]
    if kind != "RELU":  # whose slope at nan is zero
        flows.append(gradient_flow(module, x * float("nan"), torch.sum))
    for flow in flows:
        assert flow.verdict(0) == "is not finite" and "look for nan" in str(flow)


def test_inside_inference_mode():
    module = rnnkernels.LSTM(3, 4)
    with torch.inference_mode():
        flow = gradient_flow(module, torch.randn(6, 2, 3), torch.sum)
    assert flow.gradient.gt(0).all()
