"""torch.func and forward-mode derivatives: transforms and their compositions, against plain autograd, one call at a time."""

import pytest
import torch
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, stack_module_state, vjp, vmap
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import rnnkernels
from cases import CELLS, Case, Numbers
from conftest import assert_close, needs_extension

LAYOUTS = ("padded", "unsorted", "lengths")


def build(case):
    """A module with the numbers' weights, and the numbers."""
    numbers, module = Numbers.draw(case), case.build(rnnkernels)
    module.load_state_dict(numbers.weights)
    return module, numbers


def same(ours, expected):
    flat = torch.utils._pytree.tree_leaves
    for a, b in zip(flat(ours), flat(expected), strict=True):
        assert_close(a.detach(), b.detach())


def op_calls(run):
    """How often one of our ops ran, by name, and the result."""
    with torch.profiler.profile() as profile:
        result = run()
    return {e.key.split("::")[1]: e.count for e in profile.key_averages() if e.key.startswith("rnnkernels::")}, result


def batched_call(module, case, numbers):
    """A function of x (packed: its data) and the weights, hx fixed; the flat outputs."""
    hx = numbers.hx if case.is_lstm else numbers.hx[0]
    packed = pack_padded_sequence(numbers.x, numbers.lengths, enforce_sorted=False) if case.layout == "unsorted" else None

    def run(x, weights, hx=hx, lengths=numbers.lengths):
        if packed is not None:
            out, last = functional_call(module, weights, (PackedSequence(x, *packed[1:]), hx))
            out = out.data
        else:
            out, last = functional_call(module, weights, (x, hx), {"lengths": lengths} if case.layout == "lengths" else {})
        return out, *(last if case.is_lstm else (last,))

    return run, numbers.x if packed is None else packed.data, {k: v.detach() for k, v in module.named_parameters()}


def loss_of(run, numbers):
    return lambda *args: sum((out * (out + c)).sum() for out, c in zip(run(*args), numbers.cotangents))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("cell", CELLS)
def test_grad_and_vjp(cell, layout):
    """By the kernels: no reference runs."""
    case = Case(cell, layout=layout, L=2, D=2, P=5 * (cell == "LSTM"))
    module, numbers = build(case)
    run, x, weights = batched_call(module, case, numbers)
    leaves = {k: v.clone().requires_grad_() for k, v in weights.items()}
    loss = loss_of(run, numbers)
    expected = torch.autograd.grad(loss(x.requires_grad_(), leaves), [x, *leaves.values()])
    x = x.detach()
    calls, (d_x, d_weights) = op_calls(lambda: grad(loss, (0, 1))(x, weights))
    same([d_x, *d_weights.values()], expected)
    outputs, pull = vjp(run, x, weights)
    d_x, d_weights = pull(tuple(2 * out + c for out, c in zip(outputs, numbers.cotangents)))
    same([d_x, *d_weights.values()], expected)
    if rnnkernels.info()["extension"]:
        assert sum(calls.values()) == 4 and sum(n for name, n in calls.items() if name.endswith("_bwd")) == 2


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("cell", CELLS)
def test_jacobians(cell, layout):
    case = Case(cell, T=3, B=2, H=3, D=2, layout=layout)
    module, numbers = build(case)
    run, x, weights = batched_call(module, case, numbers)
    out = lambda x: run(x, weights)[0]
    expected = torch.autograd.functional.jacobian(out, x)
    same(jacrev(out)(x), expected)
    same(jacfwd(out)(x), expected)
    tangent = torch.randn_like(x)
    same(jvp(out, (x,), (tangent,)), (out(x), (expected * tangent).sum(tuple(range(out(x).dim(), expected.dim())))))


@pytest.mark.parametrize("cell", CELLS)
def test_second_derivatives(cell):
    """Forward over reverse, reverse over reverse, and grad(grad) by the weights."""
    case = Case(cell, T=2, B=2, I=2, H=3, P=2 * (cell == "LSTM"))
    module, numbers = build(case)
    run, x, weights = batched_call(module, case, numbers)
    loss = loss_of(run, numbers)
    expected = torch.autograd.functional.hessian(lambda x: loss(x, weights), x)
    same(hessian(loss)(x, weights), expected)
    same(jacrev(jacrev(loss))(x, weights), expected)
    penalty = lambda x, weights: sum((g**2).sum() for g in grad(loss, 1)(x, weights).values())
    leaves = {k: v.clone().requires_grad_() for k, v in weights.items()}
    first = torch.autograd.grad(loss(x, leaves), list(leaves.values()), create_graph=True)
    same(list(grad(penalty, 1)(x, weights).values()), torch.autograd.grad(sum((g**2).sum() for g in first), list(leaves.values())))


@pytest.mark.parametrize("cell", CELLS)
def test_forward_mode(cell):
    case = Case(cell, T=3, B=2, H=3)
    module, numbers = build(case)
    run, x, weights = batched_call(module, case, numbers)
    tangents = torch.randn_like(x), torch.randn_like(weights["weight_hh_l0"])
    _, expected = jvp(lambda x, w: run(x, {**weights, "weight_hh_l0": w}), (x, weights["weight_hh_l0"]), tangents)
    fw = torch.autograd.forward_ad
    with fw.dual_level():
        outputs = run(fw.make_dual(x, tangents[0]), {**weights, "weight_hh_l0": fw.make_dual(weights["weight_hh_l0"], tangents[1])})
        same([fw.unpack_dual(out).tangent for out in outputs], expected)


def looped(f, *batches):
    """What vmap(f) must give: f of each element, stacked."""
    elements = range(len(torch.utils._pytree.tree_leaves(batches)[0]))
    results = [f(*torch.utils._pytree.tree_map(lambda t: t[v], batches)) for v in elements]
    return torch.utils._pytree.tree_map(lambda *r: torch.stack(r), *results)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("cell", CELLS)
def test_vmap_over_inputs(cell, layout):
    """One call per layer, whichever of x and hx varies, along any dimension, nested too."""
    case = Case(cell, L=2, D=2, layout=layout, P=5 * (cell == "LSTM"))
    module, numbers = build(case)
    run, x, weights = batched_call(module, case, numbers)
    f = lambda x, hx=numbers.hx: run(x, weights, tuple(hx) if case.is_lstm else hx[0])
    xs = torch.randn(3, *x.shape, dtype=x.dtype)
    hxs = [torch.randn(3, *h.shape, dtype=h.dtype) for h in numbers.hx]
    calls, outputs = op_calls(lambda: vmap(f)(xs))
    same(outputs, looped(f, xs))
    assert not rnnkernels.info()["extension"] or calls == {cell[:4].rstrip("_").lower(): 2}
    same(vmap(f)(xs, hxs), looped(f, xs, hxs))
    same(vmap(lambda hx: f(x, hx))(hxs), looped(lambda hx: f(x, hx), hxs))
    same(vmap(f, -1, 1)(xs.movedim(0, -1)), [t.movedim(0, 1) for t in looped(f, xs)])
    twice = torch.stack([xs, 2 * xs])
    same(vmap(vmap(f))(twice), looped(lambda xs: looped(f, xs), twice))


@pytest.mark.parametrize("cell", CELLS)
def test_vmap_over_lengths(cell):
    case = Case(cell, D=2, layout="lengths")
    module, numbers = build(case)
    run, x, weights = batched_call(module, case, numbers)
    lengths = torch.tensor([[3, 5, 0, 2], [1, 1, 4, 5], [5, 2, 2, 0]])
    f = lambda x, lengths: run(x, weights, lengths=lengths)[0]
    xs = torch.randn(3, *x.shape, dtype=x.dtype)
    same(vmap(f)(xs, lengths), looped(f, xs, lengths))
    g = lambda x, lengths: grad(lambda x, w: run(x, w, lengths=lengths)[0].pow(2).sum(), (0, 1))(x, weights)
    same(vmap(g)(xs, lengths), looped(g, xs, lengths))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("cell", CELLS)
def test_per_sample_gradients(cell, layout):
    case = Case(cell, L=2, D=2, layout=layout, P=5 * (cell == "LSTM"))
    module, numbers = build(case)
    run, x, weights = batched_call(module, case, numbers)
    loss = loss_of(run, numbers)
    xs = torch.randn(3, *x.shape, dtype=x.dtype)
    for argnums in (0, 1, (0, 1)):
        f = lambda x: grad(loss, argnums)(x, weights)
        same(vmap(f)(xs), looped(f, xs))


def per_sample_norms(loss, weights, xs):
    return sum(g.pow(2).sum() for g in vmap(lambda x: grad(loss, 1)(x, weights))(xs).values())


@pytest.mark.parametrize("bias", (True, False))
@pytest.mark.parametrize("cell", CELLS)
def test_derivative_of_per_sample_gradients(cell, bias):
    case = Case(cell, T=3, H=5, bias=bias)
    module, numbers = build(case)
    run, x, weights = batched_call(module, case, numbers)
    loss = loss_of(run, numbers)
    xs = torch.randn(2, *x.shape, dtype=x.dtype)
    expected = lambda weights: sum(g.pow(2).sum() for x in xs for g in grad(loss, 1)(x, weights).values())
    same(grad(lambda w: per_sample_norms(loss, w, xs))(weights), grad(expected)(weights))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("cell", CELLS)
def test_vmap_over_parameters(cell, layout):
    """An ensemble, on shared and on own inputs; gradients too."""
    case = Case(cell, L=2, D=2, layout=layout, P=5 * (cell == "LSTM"))
    modules = [case.build(rnnkernels) for _ in range(3)]
    numbers = Numbers.draw(case)
    weights, _ = stack_module_state(modules)
    weights = {k: v.detach() for k, v in weights.items()}
    run, x, _ = batched_call(modules[0], case, numbers)
    shared = lambda w: run(x, w)
    same(vmap(shared)(weights), looped(shared, weights))
    xs = torch.randn(3, *x.shape, dtype=x.dtype)
    same(vmap(run)(xs, weights), looped(run, xs, weights))
    gradients = grad(loss_of(run, numbers), (0, 1))
    same(vmap(gradients)(xs, weights), looped(gradients, xs, weights))
    total = lambda xs, w: sum(t.pow(2).sum() for t in vmap(run)(xs, w))
    same(grad(total, (0, 1))(xs, weights), grad(lambda xs, w: sum(t.pow(2).sum() for t in looped(run, xs, w)), (0, 1))(xs, weights))


@pytest.mark.parametrize("cell", CELLS)
def test_resets(cell):
    """Where the reference stands in: first derivatives, forward mode, and vmap over inputs, resets, weights."""
    module, numbers = build(Case(cell, D=2, L=2, H=5))
    weights, x = {k: v.detach() for k, v in module.named_parameters()}, numbers.x
    xs, resets = torch.randn(3, *x.shape, dtype=x.dtype), torch.rand(3, *x.shape[:2]) < 0.4
    flat = torch.utils._pytree.tree_leaves
    run = lambda x, reset, w=weights: flat(functional_call(module, w, (x,), {"reset": reset}))
    loss = lambda x, reset, w=weights: sum(t.pow(2).sum() for t in run(x, reset, w))
    leaves = [x.requires_grad_(), *module.parameters()]
    expected = torch.autograd.grad(loss(x, resets[0], dict(module.named_parameters())), leaves)
    x, gradients = x.detach(), lambda x, reset: flat(grad(loss, (0, 2))(x, reset, weights))
    same(gradients(x, resets[0]), expected)
    same(vmap(run)(xs, resets), looped(run, xs, resets))
    same(vmap(run, (None, 0))(x, resets), looped(lambda reset: run(x, reset), resets))
    same(vmap(gradients)(xs, resets), looped(gradients, xs, resets))
    same(jvp(lambda x: loss(x, resets[0]), (x,), (xs[0],))[1], (expected[0] * xs[0]).sum())
    models = {k: torch.stack([v, -v]) for k, v in weights.items()}
    same(vmap(lambda w: run(x, resets[0], w))(models), looped(lambda w: run(x, resets[0], w), models))


def test_lengths_of_a_vmap_with_resets_are_refused():
    module, x = rnnkernels.GRU(3, 5), torch.randn(5, 2, 3)
    reset, lengths = torch.zeros(5, 2, dtype=torch.bool), torch.tensor([[1, 2], [5, 3]])
    with pytest.raises(NotImplementedError, match="vmap over `lengths` together with `reset`"):
        vmap(lambda n: module(x, lengths=n, reset=reset)[0])(lengths)
    of_x = lambda x: module(x, lengths=lengths[0], reset=reset)[0]  # the same lengths for all
    torch.testing.assert_close(vmap(of_x)(x[None])[0], of_x(x))


@pytest.mark.parametrize("cell", ("LSTMCell", "GRUCell", "RNNCell"))
def test_cells(cell):
    module = getattr(rnnkernels, cell)(3, 5, dtype=torch.float64)
    weights = {k: v.detach() for k, v in module.named_parameters()}
    f = lambda x, w=weights: torch.stack(torch.utils._pytree.tree_leaves(functional_call(module, w, (x,))))
    xs = torch.randn(4, 2, 3, dtype=torch.float64)
    loss = lambda x, w: f(x, w).pow(2).sum()
    same(vmap(f)(xs), looped(f, xs))
    g = lambda x: grad(loss, (0, 1))(x, weights)
    same(vmap(g)(xs), looped(g, xs))
    same(jacrev(f)(xs[0]), jacfwd(f)(xs[0]))
    stacked = {k: torch.stack([v, -v]) for k, v in weights.items()}
    same(vmap(lambda w: f(xs[0], w))(stacked), looped(lambda w: f(xs[0], w), stacked))


@pytest.mark.parametrize("cell", ("LSTM", "GRU", "RNN"))
def test_plain_backward_through_vmap(cell):
    """vmap inside, autograd outside; the second derivative too."""
    module = getattr(rnnkernels, cell)(3, 5, dtype=torch.float64)
    xs = torch.randn(4, 6, 2, 3, dtype=torch.float64, requires_grad=True)
    f, leaves = lambda x: module(x)[0], [xs, *module.parameters()]
    results = []
    for run in (vmap(f), lambda xs: looped(f, xs)):
        first = torch.autograd.grad(run(xs).pow(2).sum(), leaves, create_graph=True)
        results.append([*first, *torch.autograd.grad(sum(g.pow(2).sum() for g in first), leaves)])
    same(*results)


def test_half_precision_and_recompute():
    module = rnnkernels.GRU(3, 5, recompute=True)
    xs = torch.randn(4, 6, 2, 3)
    weights = {k: v.detach() for k, v in module.named_parameters()}
    g = lambda x: grad(lambda w: functional_call(module, w, (x,))[0].pow(2).sum())(weights)
    same({k: v.float() for k, v in vmap(g)(xs).items()}, {k: v.double() for k, v in looped(g, xs).items()})
    module, xs = module.bfloat16(), xs.bfloat16()
    ours = vmap(lambda x: module(x)[0])(xs)
    assert ours.dtype is torch.bfloat16
    same(ours, looped(lambda x: module(x)[0], xs).double())


def test_dropout_follows_the_randomness_flag():
    module, xs = rnnkernels.LSTM(3, 5, 2, dropout=0.5), torch.randn(2, 6, 2, 3)[:1].expand(4, -1, -1, -1)
    f = lambda x: module(x)[0]
    with pytest.raises(RuntimeError, match="randomness"):
        vmap(f)(xs)
    same_masks, own_masks = vmap(f, randomness="same")(xs), vmap(f, randomness="different")(xs)
    assert torch.equal(same_masks[0], same_masks[1]) and not torch.equal(own_masks[0], own_masks[1])


def test_packed_sequences_of_different_steps_are_refused():
    module, x = rnnkernels.RNN(3, 5), torch.randn(2, 5, 3)
    sizes = torch.tensor([[3, 2], [4, 1]])
    with pytest.raises((NotImplementedError, RuntimeError)):
        vmap(lambda x, b: module(PackedSequence(x, b))[0].data)(x, sizes)


@needs_extension
def test_the_raw_op_refuses_what_it_has_no_rule_for():
    """Rather than a tangent of zero, or none."""
    module, x = rnnkernels.RNN(3, 5), torch.randn(4, 2, 3)
    weights = [w.detach() for w in module.parameters()]
    raw = lambda x: torch.ops.rnnkernels.rnn(x, torch.zeros(1, 2, 5), *weights, *[None] * 8, "tanh")[0]
    with pytest.raises(RuntimeError, match="functorch"):
        grad(lambda x: raw(x).sum())(x)
    with pytest.raises(RuntimeError, match="rnnkernels.functional"):
        jvp(raw, (x,), (x,))
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, x)
        with pytest.raises(RuntimeError, match="rnnkernels.functional"):
            raw(dual)
        with torch.no_grad(), pytest.raises(RuntimeError, match="rnnkernels.functional"):
            torch.compile(module, backend="aot_eager")(dual)
        with pytest.raises(RuntimeError):
            torch.compile(module, backend="aot_eager")(dual)
    out = module(x.requires_grad_())[0]
    with torch.autograd.forward_ad.dual_level():
        with pytest.raises(RuntimeError, match="forward-mode"):
            torch.autograd.grad(out, x, torch.autograd.forward_ad.make_dual(out.detach(), out.detach()))
