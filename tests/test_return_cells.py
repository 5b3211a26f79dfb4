"""return_cells of an LSTM: the c of every step, against the reference and against what is known of c without it."""

import pytest
import torch
from conftest import assert_close, needs_extension
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

import rnnkernels
from rnnkernels import functional
from test_beyond_torch import Problem

LAYOUTS = ("full", "batch_first", "lengths", "packed")


@pytest.mark.fast
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_against_the_reference(layout, dtype):
    for options in ({}, {"D": 2, "L": 2}, {"T": 1, "B": 1}, {"H": 40, "B": 9, "T": 12, "D": 2}, {"P": 5, "D": 2, "L": 2},
                    {"resets": "state", "D": 2}, {"P": 5, "resets": "zero"}, {"T": 70, "B": 5, "recompute": True, "D": 2}):
        Problem("lstm", dtype=dtype, layout=layout, cells=True, **options).check()
    Problem("lstm", dtype=dtype, layout=layout, cells=True, D=2).check(chosen=slice(3, 4))  # a loss on the cells alone


@needs_extension
@pytest.mark.parametrize("options", [{"D": 2}, {"layout": "packed"}, {"layout": "lengths", "D": 2}, {"P": 2, "L": 2}, {"resets": "state"}], ids=str)
def test_numerical_derivatives(options):
    """First and second order, also under vmap (is_grads_batched)."""
    p = Problem("lstm", T=3, B=2, I=2, H=3, cells=True, **options)
    run, leaves = lambda *leaves: tuple(p.ours(torch.float64, leaves)[0]), p.leaves(torch.float64)
    assert torch.autograd.gradcheck(run, leaves, check_batched_grad=True, fast_mode=True)
    assert torch.autograd.gradgradcheck(run, leaves, fast_mode=True, check_batched_grad=options == {"D": 2})


def test_any_order():
    p = Problem("lstm", H=5, D=2, cells=True)
    derivatives = []
    for run in (p.ours, p.truth):
        (*_, cells), leaves = run(torch.float64)
        grad = lambda t, **options: torch.autograd.grad(t.pow(2).sum(), leaves, allow_unused=True, materialize_grads=True, **options)
        first = grad(cells, create_graph=True)
        second = grad(torch.cat([g.flatten() for g in first]), create_graph=True)
        derivatives.append([*first, *second, *grad(torch.cat([g.flatten() for g in second]))])
    for ours, ref in zip(*derivatives, strict=True):
        assert_close(ours, ref)


# Modules.


def flat(result):
    return [result] if isinstance(result, torch.Tensor) else [t for r in result for t in flat(r)]


@pytest.mark.fast
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}, {"proj_size": 3}, {"batch_first": True}], ids=str)
def test_a_module_returns_what_a_loop_sees(options):
    """The states of single steps, and everything else as without it."""
    module, x = rnnkernels.LSTM(4, 6, **options), torch.randn(5, 5, 4)
    out, (h, c), cells = module(x, return_cells=True)
    for a, b in zip(flat(module(x)), (out, h, c)):
        assert torch.equal(a, b)
    time = 1 if options.get("batch_first") else 0
    assert cells.shape == (5, 5, c.shape[2] * (2 if module.bidirectional else 1))
    if not module.bidirectional:
        state = None
        for t in range(5):
            _, state = module(x.narrow(time, t, 1), state)
            torch.testing.assert_close(cells.select(time, t), state[1][-1])
    last = cells.select(time, -1)[:, : c.shape[2]]
    torch.testing.assert_close(last, c[-2 if module.bidirectional else -1])
    if module.bidirectional:
        torch.testing.assert_close(cells[0, :, 6:], c[-1])
    for a, b in zip(module(x[:, 0] if time == 0 else x[0], return_cells=True), (out, (h, c), cells)):
        row = (lambda t: t[0]) if time and not isinstance(a, tuple) else (lambda t: t[:, 0])
        torch.testing.assert_close(a, tuple(s[:, 0] for s in b) if isinstance(b, tuple) else row(b))


def test_packed_in_packed_out():
    module, x, lengths = rnnkernels.LSTM(4, 6, 2, bidirectional=True), torch.randn(6, 3, 4), torch.tensor([3, 6, 1])
    packed = pack_padded_sequence(x, lengths, enforce_sorted=False)
    out, last, cells = module(packed, return_cells=True)
    assert isinstance(cells, PackedSequence) and all(a is b for a, b in zip(cells[1:], out[1:]))
    padded, expected, padded_cells = module(x, lengths=lengths, return_cells=True)
    torch.testing.assert_close(pad_packed_sequence(cells)[0], padded_cells)
    torch.testing.assert_close(last, expected)
    assert not padded_cells[3:, 0].any() and not padded_cells[1:, 2].any() and not padded[3:, 0].any()


def test_padding_reaches_nothing():
    module, x, lengths = rnnkernels.LSTM(4, 6, bidirectional=True), torch.randn(6, 3, 4), torch.tensor([3, 6, 0])
    x[3:, 0] = x[:, 2] = torch.nan
    _, _, cells = module(x.requires_grad_(), lengths=lengths, return_cells=True)
    d = torch.randn_like(cells)
    d[3:, 0] = d[:, 2] = torch.nan
    grads = torch.autograd.grad(cells, [x, *module.parameters()], d)
    assert cells.isfinite().all() and all(g.isfinite().all() for g in grads)


def test_frozen_and_inference():
    module, x = rnnkernels.LSTM(4, 6, 2), torch.randn(5, 3, 4)
    expected = module(x, return_cells=True)[2].detach()
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            assert torch.equal(module(x, return_cells=True)[2], expected)
    module.requires_grad_(False)
    assert not module(x, return_cells=True)[2].requires_grad
    for leaf in (x, module.weight_hh_l1, module.bias_ih_l0):
        leaf.requires_grad_()
        cells = module(x, return_cells=True)[2]
        assert torch.equal(cells, expected) and torch.autograd.grad(cells.sum(), leaf)[0].any()
        leaf.requires_grad_(False)


def test_cells_can_be_written_to():
    """They own their storage: backward reads its own copy."""
    module, x = rnnkernels.LSTM(4, 6), torch.randn(5, 3, 4)
    grads = []
    for write in (False, True):
        out, _, cells = module(x, return_cells=True)
        if write:
            cells.mul_(2)
            cells = cells / 2
        grads.append(torch.autograd.grad(out.sum() + cells.pow(2).sum(), list(module.parameters())))
    for a, b in zip(*grads):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("options, dtype", [({}, torch.bfloat16), ({"proj_size": 3}, torch.float32)], ids=str)
def test_autocast(options, dtype):
    module, x = rnnkernels.LSTM(16, 24, 2, **options), torch.randn(7, 3, 16)
    exact = module.double()(x.double(), return_cells=True)[2]
    module.float()
    with torch.autocast("cpu", torch.bfloat16):
        out, (_, c), cells = module(x, return_cells=True)
    assert out.dtype is torch.bfloat16 and cells.dtype is c.dtype is dtype
    assert (cells - exact).abs().max() < 0.05
    cells.float().sum().backward()
    assert all(p.grad is not None for name, p in module.named_parameters() if "hr_l1" not in name)


@needs_extension
def test_compiled_and_exported():
    module, x = rnnkernels.LSTM(4, 6, 2, bidirectional=True, batch_first=True), torch.randn(5, 3, 4)
    run = lambda x: module(x, return_cells=True)
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager", dynamic=True)
    for t in (x, torch.randn(2, 7, 4)):
        for a, b in zip(flat(compiled(t)), flat(run(t))):
            torch.testing.assert_close(a, b)
    grads = [torch.autograd.grad(f(x)[2].pow(2).sum(), list(module.parameters())) for f in (compiled, run)]
    for a, b in zip(*grads):
        torch.testing.assert_close(a, b)

    class WithCells(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = module

        def forward(self, x):
            return self.rnn(x, return_cells=True)[2]

    exported = torch.export.export(WithCells(), (x,)).module()
    torch.testing.assert_close(exported(x), run(x)[2])


def test_torch_func():
    module, x = rnnkernels.LSTM(3, 4), torch.randn(5, 2, 3)
    run = lambda x: module(x, return_cells=True)[2]
    x_grad = x.clone().requires_grad_()
    torch.testing.assert_close(torch.func.grad(lambda x: run(x).pow(2).sum())(x), torch.autograd.grad(run(x_grad).pow(2).sum(), x_grad)[0])
    torch.testing.assert_close(torch.vmap(run)(torch.stack([x, 2 * x])), torch.stack([run(x), run(2 * x)]))
    torch.testing.assert_close(torch.func.jacfwd(run)(x), torch.func.jacrev(run)(x))
    lengths = torch.tensor([[1, 2], [3, 4]])
    of_lengths = lambda n: module(x, lengths=n, return_cells=True)[2]
    torch.testing.assert_close(torch.vmap(of_lengths)(lengths), torch.stack([of_lengths(n) for n in lengths]))
    weights = {name: torch.stack([p, 2 * p]).detach() for name, p in module.named_parameters()}
    of_weights = lambda w: torch.func.functional_call(module, w, (x,), {"return_cells": True})[2]
    models = torch.vmap(of_weights)(weights)
    torch.testing.assert_close(models, torch.stack([of_weights({n: p[e] for n, p in weights.items()}) for e in range(2)]))
    of_loss = torch.func.grad(lambda w: of_weights(w).pow(2).sum())
    torch.testing.assert_close(torch.vmap(of_loss)(weights), {n: torch.stack([of_loss({m: q[e] for m, q in weights.items()})[n] for e in range(2)])
                                                              for n in weights})


@needs_extension
@pytest.mark.parametrize("layout", ("padded", "packed", "reset"))
def test_opcheck(layout):
    ops, (T, B, I, H) = torch.ops.rnnkernels, (3, 2, 3, 16)
    weights = lambda: [torch.randn(4 * H, I), torch.randn(4 * H, H) / 4, torch.randn(4 * H), torch.randn(4 * H), None]
    args = [torch.randn(T, B, I), torch.randn(2, B, H), torch.randn(2, B, H), *weights(), *weights(), None, None]
    rest = [None, None, None, False]
    if layout == "packed":
        args[0], rest[0] = torch.randn(5, I), torch.tensor([2, 2, 1])
    if layout == "reset":
        args[-2:], rest[2] = [torch.randn(2, B, H), torch.randn(2, B, H)], torch.rand(T, B) < 0.4
    for needs_grad in (False, True):
        leaves = [None if a is None else a.detach().requires_grad_(needs_grad) for a in args]
        torch.library.opcheck(ops.lstm_with_cells.default, (*leaves, *rest))
    torch.library.opcheck(ops.lstm_with_cells_train.default, (*args, *rest))
    results = ops.lstm_with_cells_train(*args, *rest)
    cotangents = [torch.randn_like(r) for r in results[:4]]
    torch.library.opcheck(ops.lstm_with_cells_bwd.default, (*cotangents, *args, *rest, results[0], *results[4:], (1 << 15) - 1))


def test_bad_use():
    x = torch.randn(5, 2, 3)
    for module in (rnnkernels.GRU(3, 4), rnnkernels.RNN(3, 4)):
        with pytest.raises(TypeError, match=f"return_cells is an option of an LSTM: a {type(module).__name__} has no c"):
            module(x, return_cells=True)
    with pytest.raises(TypeError, match="return_cells"):
        functional.gru(x, x.new_zeros(1, 2, 4), [], return_cells=True)
    with pytest.raises(ValueError, match="return_cells needs input, states and parameters of one dtype"):
        rnnkernels.LSTM(3, 4, dtype=torch.complex64)(x.to(torch.complex64), return_cells=True)
    with pytest.raises(RuntimeError, match="input.size"):  # torch.nn's own words
        rnnkernels.LSTM(4, 4)(x, return_cells=True)
    with pytest.raises(RuntimeError, match="d_c_out"):
        args = [x, *x.new_zeros(2, 1, 2, 4), x.new_zeros(16, 3), x.new_zeros(16, 4), *[None] * 13, False]
        out, _, _, cells, *saved = torch.ops.rnnkernels.lstm_with_cells_train(*args)
        torch.ops.rnnkernels.lstm_with_cells_bwd(None, None, None, cells[1:], *args, out, *saved, 1)
