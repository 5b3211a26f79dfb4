"""Several models in one op call: each has the bits it has alone, and its gradients, whatever of the call the models share."""

import pytest
import torch
from torch.func import functional_call, grad, jacrev, stack_module_state, vmap
from torch.nn.utils.rnn import PackedSequence
from torch.utils.flop_counter import FlopCounterMode

import rnnkernels
from conftest import assert_close, needs_extension
from test_transforms import op_calls

pytestmark = needs_extension
MODELS = 5
LAYERS = {"LSTM": {}, "LSTM proj": {"proj_size": 3}, "GRU": {}, "GRU reset_before": {"reset_after": False}, "RNN": {"nonlinearity": "sigmoid"}}
flat = torch.utils._pytree.tree_leaves


def build(cell, dtype=torch.float64, I=4, H=7, **options):
    name = cell.split()[0]
    return [getattr(rnnkernels, name)(I, H, dtype=dtype, **LAYERS.get(cell, {}), **options) for _ in range(MODELS)]


def stacked(models):
    return {k: v.detach() for k, v in stack_module_state(models)[0].items()}


def model(weights, e):
    return {k: v[e] for k, v in weights.items()}


def same_bits(together, alone):
    """together: every result for all models; alone: for each model every result."""
    for e, one in enumerate(alone):
        for a, b in zip(flat(together), flat(one), strict=True):
            assert torch.equal(a[e], b)


def same(together, alone):
    for e, one in enumerate(alone):
        for a, b in zip(flat(together), flat(one), strict=True):
            assert_close(a[e].detach(), b.detach())


def loss_of(run):
    return lambda *args: sum((out * (out + 0.5)).sum() for out in flat(run(*args)))


@pytest.mark.parametrize("threads", (1, 2, 16))
@pytest.mark.parametrize("options", ({}, {"num_layers": 2, "bidirectional": True, "batch_first": True}, {"bias": False}), ids=str)
@pytest.mark.parametrize("T, B", ((1, 1), (6, 3)))
@pytest.mark.parametrize("cell", LAYERS)
def test_bits_and_gradients(cell, T, B, options, threads):
    """On fewer and on more threads than models."""
    torch.set_num_threads(threads)
    models = build(cell, **options)
    weights, x = stacked(models), torch.randn(*((B, T) if options.get("batch_first") else (T, B)), 4, dtype=torch.float64)
    run = lambda w, x: functional_call(models[0], w, (x,))
    calls, together = op_calls(lambda: vmap(run, (0, None))(weights, x))
    assert sum(calls.values()) == options.get("num_layers", 1)
    same_bits(together, [m(x) for m in models])
    gradients = grad(loss_of(run), (0, 1))
    calls, together = op_calls(lambda: vmap(gradients, (0, None))(weights, x))
    assert sum(calls.values()) == 2 * options.get("num_layers", 1)
    same(together, [gradients(model(weights, e), x) for e in range(MODELS)])


@pytest.mark.parametrize("x_dim", (None, 0, 2))
@pytest.mark.parametrize("h_dim", (None, 1))
@pytest.mark.parametrize("own", (("weight_ih_l0",), ("weight_hh_l0", "bias_hh_l0"), None), ids=str)
@pytest.mark.parametrize("cell", LAYERS)
def test_models_share_some_of_it(cell, own, h_dim, x_dim):
    models = build(cell)
    weights = stacked(models)
    dims = {k: 0 if own is None or k in own else None for k in weights}
    weights = {k: v if dims[k] == 0 else v[0] for k, v in weights.items()}
    x, P = torch.randn(6, 3, 4, dtype=torch.float64), models[0].proj_size or 7
    hx = [torch.randn(1, 3, width, dtype=torch.float64) for width in ((P, 7) if "LSTM" in cell else (P,))]
    spread = lambda t, dim: t if dim is None else torch.stack([t + 0.1 * e for e in range(MODELS)], dim)
    x, hx = spread(x, x_dim), [spread(h, h_dim) for h in hx]

    def run(w, x, hx):
        return functional_call(models[0], w, (x, tuple(hx) if len(hx) > 1 else hx[0]))

    in_dims = dims, x_dim, h_dim
    pick = lambda t, dim, e: t if dim is None else t.select(dim, e)
    alone = [({k: pick(v, dims[k], e) for k, v in weights.items()}, pick(x, x_dim, e), [pick(h, h_dim, e) for h in hx]) for e in range(MODELS)]
    same_bits(vmap(run, in_dims)(weights, x, hx), [run(*args) for args in alone])
    gradients = grad(loss_of(run), (0, 1, 2))
    same(vmap(gradients, in_dims)(weights, x, hx), [gradients(*args) for args in alone])
    leaves = [t.requires_grad_() for t in (*weights.values(), x, *hx)]
    together = torch.autograd.grad(sum(t.pow(2).sum() for t in flat(vmap(run, in_dims)(weights, x, hx))), leaves)
    expected = torch.autograd.grad(sum(t.pow(2).sum() for args in [
        ({k: pick(v, dims[k], e) for k, v in weights.items()}, pick(x, x_dim, e), [pick(h, h_dim, e) for h in hx]) for e in range(MODELS)
    ] for t in flat(run(*args))), leaves)
    for a, b in zip(together, expected):
        assert_close(a, b)


@pytest.mark.parametrize("own_lengths", (False, True))
@pytest.mark.parametrize("cell", LAYERS)
def test_lengths(cell, own_lengths):
    models = build(cell, bidirectional=True)
    weights, x = stacked(models), torch.randn(6, 3, 4, dtype=torch.float64)
    lengths = torch.stack([torch.tensor([e, 6 - e, 3]) for e in range(MODELS)])
    x[4:, 2] = float("nan")  # padding in all of them
    run = lambda w, lengths: functional_call(models[0], w, (x,), {"lengths": lengths})
    dim, lengths = (0, lengths) if own_lengths else (None, lengths[2])
    of = lambda e: lengths[e] if own_lengths else lengths
    same_bits(vmap(run, (0, dim))(weights, lengths), [run(model(weights, e), of(e)) for e in range(MODELS)])
    gradients = grad(loss_of(run))
    same(vmap(gradients, (0, dim))(weights, lengths), [gradients(model(weights, e), of(e)) for e in range(MODELS)])


@pytest.mark.parametrize("cell", LAYERS)
def test_packed(cell):
    models = build(cell, bidirectional=True)
    weights, data, sizes = stacked(models), torch.randn(MODELS, 6, 4, dtype=torch.float64), torch.tensor([3, 2, 1])

    def run(w, data):
        out, last = functional_call(models[0], w, (PackedSequence(data, sizes),))
        return out.data, last

    same_bits(vmap(run)(weights, data), [run(model(weights, e), data[e]) for e in range(MODELS)])
    gradients = grad(loss_of(run), (0, 1))
    same(vmap(gradients)(weights, data), [gradients(model(weights, e), data[e]) for e in range(MODELS)])


@pytest.mark.parametrize("cell", ("LSTMCell", "GRUCell", "RNNCell"))
def test_cells(cell):
    models = build(cell)
    weights, x = stacked(models), torch.randn(3, 4, dtype=torch.float64)
    run = lambda w: functional_call(models[0], w, (x,))
    calls, together = op_calls(lambda: vmap(run)(weights))
    assert sum(calls.values()) == 1
    same_bits(together, [m(x) for m in models])
    same(vmap(grad(loss_of(run)))(weights), [grad(loss_of(run))(model(weights, e)) for e in range(MODELS)])


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
def test_dtypes_and_recompute(dtype):
    models = build("GRU", dtype, recompute=True)
    weights, x = stacked(models), torch.randn(6, 3, 4, dtype=dtype)
    run = lambda w: functional_call(models[0], w, (x,))
    same_bits(vmap(run)(weights), [m(x) for m in models])
    same_bits(vmap(grad(loss_of(run)))(weights), [grad(loss_of(run))(model(weights, e)) for e in range(MODELS)])


def test_autocast():
    models, x = build("LSTM", torch.float32), torch.randn(6, 3, 4)
    weights = stacked(models)
    with torch.autocast("cpu", torch.bfloat16):
        same_bits(vmap(lambda w: functional_call(models[0], w, (x,)))(weights), [m(x) for m in models])


@pytest.mark.parametrize("cell", LAYERS)
def test_chunks_nesting_and_jacobians(cell):
    models = build(cell, H=3 if cell != "LSTM proj" else 4)
    weights, xs = stacked(models), torch.randn(2, 3, 2, 4, dtype=torch.float64)
    run = lambda w, x: functional_call(models[0], w, (x,))
    alone = [[run(model(weights, e), x) for x in xs] for e in range(MODELS)]
    same_bits(vmap(run, (0, None), chunk_size=2)(weights, xs[0]), [a[0] for a in alone])
    for together in (vmap(vmap(run, (None, 0)), (0, None))(weights, xs),
                     [t.movedim(0, 1) for t in flat(vmap(vmap(run, (0, None)), (None, 0))(weights, xs))]):
        for i in range(2):
            same([t[:, i] for t in flat(together)], [a[i] for a in alone])
    gradients = grad(loss_of(run), (0, 1))
    alone = [[gradients(model(weights, e), x) for x in xs] for e in range(MODELS)]
    for together in (vmap(vmap(gradients, (None, 0)), (0, None))(weights, xs),
                     torch.utils._pytree.tree_map(lambda t: t.movedim(0, 1), vmap(vmap(gradients, (0, None)), (None, 0))(weights, xs))):
        for i in range(2):
            same([t[:, i] for t in flat(together)], [a[i] for a in alone])
    out = lambda w, x: flat(run(w, x))[0]
    calls, jacobian = op_calls(lambda: jacrev(out, 1)(model(weights, 0), xs[0]))
    assert [n for name, n in calls.items() if name.endswith("_bwd")] == [1]
    assert_close(jacobian, torch.autograd.functional.jacobian(lambda x: out(model(weights, 0), x), xs[0]))
    same(vmap(jacrev(out), (0, None))(weights, xs[0]), [jacrev(out)(model(weights, e), xs[0]) for e in range(MODELS)])


@pytest.mark.parametrize("cell", LAYERS)
def test_second_derivatives(cell):
    """Of a penalty on every model's gradient, with shared x: through the ensemble and model by model."""
    models = build(cell, H=4)
    weights, x = stacked(models), torch.randn(3, 2, 4, dtype=torch.float64)
    penalty = lambda w, x: sum(g.pow(2).sum() for g in flat(grad(loss_of(lambda w: functional_call(models[0], w, (x,))))(w)))
    total = lambda w, x: vmap(penalty, (0, None))(w, x).sum()
    expected = [grad(penalty, (0, 1))(model(weights, e), x) for e in range(MODELS)]
    d_weights, d_x = grad(total, (0, 1))(weights, x)
    same(d_weights, [d for d, _ in expected])
    assert_close(d_x, sum(d for _, d in expected))


def test_dropout_follows_the_randomness_flag():
    models, x = build("LSTM", num_layers=2, dropout=0.5), torch.randn(6, 3, 4, dtype=torch.float64)
    weights = {k: v[:1].expand(MODELS, *v.shape[1:]) for k, v in stacked(models).items()}
    run = lambda w: functional_call(models[0], w, (x,))[0]
    with pytest.raises(RuntimeError, match="randomness"):
        vmap(run)(weights)
    same_masks, own_masks = vmap(run, randomness="same")(weights), vmap(run, randomness="different")(weights)
    assert torch.equal(same_masks[0], same_masks[1]) and not torch.equal(own_masks[0], own_masks[1])


def raw_arguments(cell, x, weights):
    """The op's, from one layer's x and weights."""
    shape = (1, x.shape[-2], 7)
    states = [x.new_zeros(shape)] * (2 if cell == "lstm" else 1)
    none = [None] if cell == "lstm" else []
    return [x, *states, *weights, *none, *[None] * 4, *none, *[None] * len(states), None, None, None, "tanh" if cell == "rnn" else False]


@pytest.mark.parametrize("cell", ("lstm", "gru", "rnn"))
def test_raw_ops(cell):
    """As any other op: fake, schema, autograd and its sum over what models share; FLOPs; no model at all."""
    models = build(cell.upper())
    weights, x = [v.requires_grad_() for v in stacked(models).values()], torch.randn(6, 3, 4, dtype=torch.float64).requires_grad_()
    op = getattr(torch.ops.rnnkernels, cell).default
    torch.library.opcheck(op, raw_arguments(cell, x, weights))
    together = torch.autograd.grad(sum(t.pow(2).sum() for t in op(*raw_arguments(cell, x, weights))), [x, *weights])
    alone = [t for e in range(MODELS) for t in op(*raw_arguments(cell, x, [w[e] for w in weights]))]
    for a, b in zip(together, torch.autograd.grad(sum(t.pow(2).sum() for t in alone), [x, *weights])):
        assert_close(a, b)
    flops = []
    for ws in (weights, [w[0] for w in weights]):
        with FlopCounterMode(display=False) as counter:
            sum(t.sum() for t in op(*raw_arguments(cell, x, ws))).backward()
        flops.append(counter.get_total_flops())
    assert flops[0] == MODELS * flops[1]
    none = op(*raw_arguments(cell, x, [w[:0] for w in weights]))
    assert [t.shape[0] for t in none] == [0] * len(none) and none[0].shape[1:] == (6, 3, 7)
    for reset in torch.rand(6, 3) < 0.4, torch.rand(MODELS, 6, 3) < 0.4:
        of = lambda ws, reset: op(*raw_arguments(cell, x, ws)[:-2], reset, raw_arguments(cell, x, ws)[-1])
        alone = [of([w[e] for w in weights], reset if reset.dim() == 2 else reset[e]) for e in range(MODELS)]
        same_bits(of(weights, reset), alone)
        gradients = lambda results: torch.autograd.grad(sum(t.pow(2).sum() for t in flat(results)), [x, *weights])
        for a, b in zip(gradients(of(weights, reset)), gradients(alone)):
            assert_close(a, b)
    with pytest.raises(RuntimeError, match="5 and of 4 models"):
        op(*raw_arguments(cell, x, [weights[0], *(w[:4] for w in weights[1:])]))


@pytest.mark.parametrize("cell", ("LSTM", "GRU"))
def test_compiled(cell):
    models = build(cell)
    weights, x = stacked(models), torch.randn(6, 3, 4, dtype=torch.float64)
    run = torch.compile(vmap(lambda w: functional_call(models[0], w, (x,))), backend="aot_eager", fullgraph=True)
    same(run(weights), [m(x) for m in models])
    calls, _ = op_calls(lambda: run(weights))
    assert sum(calls.values()) == 1
