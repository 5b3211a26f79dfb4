"""Autograd around the layers: subsets, partial cotangents, retained graphs, second derivatives, batched gradients."""

import itertools

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

import rnnkernels
from cases import CELLS, Case, Numbers, call_module, call_reference
from conftest import assert_close, needs_extension


def setup(case):
    numbers = Numbers.draw(case)
    module = case.build(rnnkernels)
    module.load_state_dict(numbers.weights)
    leaves = [numbers.x.requires_grad_(), *(h.requires_grad_() for h in numbers.hx), *module.parameters()]
    ours = lambda: call_module(module, case, leaves[0], numbers.hx, numbers.lengths)
    ref = lambda: call_reference(case, leaves[0], numbers.hx, list(module.parameters()), numbers.lengths)
    return module, numbers, leaves, ours, ref


def same(a, b):
    for ours, theirs in zip(a, b, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            assert_close(ours, theirs)


SMALL = [Case(cell, T=3, B=2, I=2, H=3, **options) for cell in CELLS
         for options in ({"D": 2}, {"layout": "unsorted"}, {"layout": "lengths", "D": 2}, {"L": 2, "bias": False})]
SMALL.append(Case("LSTM", T=3, B=2, I=2, H=3, P=2, D=2))


@pytest.mark.parametrize("case", SMALL, ids=str)
def test_numerical_derivatives(case):
    """First and second order, also under vmap (is_grads_batched)."""
    module, numbers, leaves, _, _ = setup(case)
    names = [name for name, _ in module.named_parameters()]

    def call(x, *rest):
        hx, weights = rest[: len(numbers.hx)], rest[len(numbers.hx) :]
        return torch.func.functional_call(Caller(module, case, numbers.lengths),
                                          {f"module.{n}": w for n, w in zip(names, weights)}, (x, hx))

    leaves = tuple(leaf.detach().requires_grad_() for leaf in leaves)
    assert gradcheck(call, leaves, check_batched_grad=True, fast_mode=True)
    assert gradgradcheck(call, leaves, fast_mode=True, check_batched_grad=case.D == 2)


class Caller(torch.nn.Module):
    def __init__(self, module, case, lengths):
        super().__init__()
        self.module, self.case, self.lengths = module, case, lengths

    def forward(self, x, hx):
        return call_module(self.module, self.case, x, hx, self.lengths)


@pytest.mark.fast
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("D", (1, 2))
@pytest.mark.parametrize("layout", ("padded", "unsorted", "lengths"))
def test_any_order(cell, D, layout):
    """A gradient penalty: d(sum of squares of d out)/d everything; then a third derivative."""
    _, numbers, leaves, ours, ref = setup(Case(cell, D=D, layout=layout, H=5))
    gradients = []
    for run in (ours, ref):
        first = torch.autograd.grad(run(), leaves, numbers.cotangents, create_graph=True)
        second = torch.autograd.grad(sum((g**2).sum() for g in first), leaves, create_graph=True)
        third = torch.autograd.grad(sum((g**2).sum() for g in second), leaves)
        gradients.append([*first, *second, *third])
    same(*gradients)


@pytest.mark.fast
@pytest.mark.parametrize("case", [Case(cell, D=D, layout=layout) for cell in CELLS for D in (1, 2)
                                  for layout in ("padded", "packed", "lengths")] + [Case(P=5, D=2)], ids=str)
def test_partial_cotangents(case):
    """Any subset of out, h_n and c_n may carry the loss, and any slice of out."""
    _, numbers, leaves, ours, ref = setup(case)
    n = len(numbers.cotangents)
    for used in itertools.chain.from_iterable(itertools.combinations(range(n), k) for k in range(1, n)):
        seeds = [numbers.cotangents[k] for k in used]
        same(*(torch.autograd.grad([run()[k] for k in used], leaves, seeds, allow_unused=True, materialize_grads=True)
               for run in (ours, ref)))
    same(*(torch.autograd.grad(run()[0][1:2, ..., ::2].sum(), leaves, allow_unused=True, materialize_grads=True)
           for run in (ours, ref)))


@pytest.mark.fast
@pytest.mark.parametrize("case", [Case(cell, D=2, L=2) for cell in CELLS] + [Case(P=5, D=2)], ids=str)
def test_any_subset_frozen(case):
    """Each leaf alone, and all but each: nothing else gets a gradient, the result does not change."""
    _, numbers, leaves, ours, ref = setup(case)
    whole = torch.autograd.grad(ref(), leaves, numbers.cotangents)
    for k in range(len(leaves)):
        for wanted in ([k], [j for j in range(len(leaves)) if j != k]):
            for j, leaf in enumerate(leaves):
                leaf.requires_grad_(j in wanted)
                leaf.grad = None
            torch.autograd.backward(ours(), numbers.cotangents)
            same([leaf.grad for leaf in leaves], [whole[j] if j in wanted else None for j in range(len(leaves))])


@pytest.mark.fast
@pytest.mark.parametrize("case", [Case(cell, D=2, L=2, layout=layout) for cell in CELLS for layout in ("padded", "unsorted")], ids=str)
def test_retained_graph_gives_the_same_twice(case):
    _, numbers, leaves, ours, _ = setup(case)
    outputs = ours()
    first, second = (torch.autograd.grad(outputs, leaves, numbers.cotangents, retain_graph=True) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second))


@pytest.mark.parametrize("cell", CELLS)
def test_backward_in_eval_and_no_grad_and_inference(cell):
    module, numbers, leaves, ours, ref = setup(Case(cell))
    module.eval()
    same(torch.autograd.grad(ours(), leaves, numbers.cotangents), torch.autograd.grad(ref(), leaves, numbers.cotangents))
    with torch.no_grad():
        outputs = ours()
    assert not any(o.requires_grad for o in outputs)
    same(outputs, ref())
    with torch.inference_mode():
        same(ours(), ref())


@pytest.mark.parametrize("cell", CELLS)
def test_final_states_can_be_written_to(cell):
    """h_n and c_n own their storage: an in-place write reaches neither the output nor the gradients."""
    _, numbers, leaves, ours, ref = setup(Case(cell, D=2))
    outputs = ours()
    kept = outputs[0].detach().clone()
    for state in outputs[1:]:
        state.detach().zero_()
    assert torch.equal(outputs[0], kept)
    same(torch.autograd.grad(outputs, leaves, numbers.cotangents), torch.autograd.grad(ref(), leaves, numbers.cotangents))
    outputs = ours()
    for state in outputs[1:]:
        state.mul_(2)  # with its derivative
    doubled = [numbers.cotangents[0], *(2 * c for c in numbers.cotangents[1:])]
    same(torch.autograd.grad(outputs, leaves, numbers.cotangents), torch.autograd.grad(ref(), leaves, doubled))


@pytest.mark.parametrize("cell", CELLS)
def test_truncated_bptt(cell):
    """The state of one chunk, detached or not, feeds the next."""
    module, numbers, leaves, _, _ = setup(Case(cell, T=6))
    whole, _ = module(numbers.x)
    state, chunks = None, []
    for chunk in numbers.x.split(2):
        out, state = module(chunk, state)
        chunks.append(out)
    same(torch.autograd.grad(torch.cat(chunks), leaves[0], numbers.cotangents[0]),
         torch.autograd.grad(whole, leaves[0], numbers.cotangents[0]))


def test_tied_weights_in_a_second_derivative():
    """x is itself a function of w_ih: its path must be counted once."""
    module, numbers, _, _, _ = setup(Case("GRU", I=3, H=3, T=2, B=9))
    w = module.weight_ih_l0
    x = torch.stack([w, w.sin()])
    gradients = []
    for run in (lambda: module(x)[0], lambda: call_reference(Case("GRU", H=3, hx=False), x, [x.new_zeros(1, 9, 3)],
                                                             list(module.parameters()), None)[0]):
        (first,) = torch.autograd.grad(run().pow(2).sum(), w, create_graph=True)
        gradients.append(torch.autograd.grad(first.pow(2).sum(), w, retain_graph=True))
    same(*gradients)


@pytest.mark.parametrize("cell", CELLS)
def test_torch_func(cell):
    """Under torch.func and forward-mode AD the reference stands in."""
    _, numbers, leaves, _, _ = setup(Case(cell, T=2, B=1, H=3))
    module = Case(cell, T=2, B=1, H=3).build(rnnkernels)
    run = lambda x: module(x)[0]
    x = numbers.x.detach()
    reverse, forward = torch.func.jacrev(run)(x), torch.func.jacfwd(run)(x)
    assert_close(reverse, forward)
    with torch.autograd.forward_ad.dual_level():
        out = run(torch.autograd.forward_ad.make_dual(x, torch.ones_like(x)))
        tangent = torch.autograd.forward_ad.unpack_dual(out).tangent
    assert_close(tangent, forward.flatten(3).sum(-1))


@needs_extension
@pytest.mark.parametrize("cell", CELLS[:3])
@pytest.mark.parametrize("layout", ("padded", "packed", "lengths", "reset", "reset_before"))
@pytest.mark.parametrize("flag", (False, True))
def test_opcheck(cell, layout, flag):
    """Every op. `flag` is its last argument: whether the nonlinearity of an RNN is not tanh, recompute of the others.

    H = 16 and full lengths where saved tensors are compared: their padding is left as it was in memory.
    """
    if layout == "reset_before" and cell != "GRU":
        pytest.skip("a form of the GRU")
    case = Case(cell, T=3, B=2, H=16, D=2, layout="padded" if layout.startswith("reset") else layout)
    numbers = Numbers.draw(case)
    weights = list(numbers.weights.values())
    per = len(weights) // 2
    w = [*weights[:per], *([None] if case.is_lstm else []), *weights[per:], *([None] if case.is_lstm else [])]
    x, batch_sizes = numbers.x, None
    if layout == "packed":
        packed = torch.nn.utils.rnn.pack_padded_sequence(x, numbers.lengths)
        x, batch_sizes = packed.data, packed.batch_sizes
    resets = layout == "reset"
    args = [x, *numbers.hx, *w, *(torch.randn_like(s) if resets else None for s in numbers.hx)]
    name = "gru_reset_before" if layout == "reset_before" else cell[:4].rstrip("_").lower()
    last = ("relu" if flag else "tanh") if name == "rnn" else flag
    rest = [batch_sizes, numbers.lengths if layout == "lengths" else None, torch.rand(3, 2) < 0.4 if resets else None, last]
    op = lambda suffix: getattr(torch.ops.rnnkernels, name + suffix).default
    for needs_grad in (False, True):
        leaves = [None if a is None else a.detach().requires_grad_(needs_grad) for a in args]
        torch.library.opcheck(op(""), (*leaves, *rest))
    if layout == "lengths":
        rest[1] = torch.full_like(numbers.lengths, case.T)
    train = op("" if name == "rnn" else "_train")
    results = train(*args, *rest)
    if name != "rnn":
        torch.library.opcheck(train, (*args, *rest))
    n, needs = len(numbers.hx) + 1, (1 << len(args)) - 1
    cotangents = [torch.randn_like(r) for r in results[:n]]
    torch.library.opcheck(op("_bwd"), (*cotangents, *args, *rest, results[0], *results[n:], needs))


@needs_extension
@pytest.mark.parametrize("cell", CELLS[:3])
def test_opcheck_of_second_derivatives(cell):
    case = Case(cell, T=2, B=2, I=2, H=3)
    numbers = Numbers.draw(case)
    name, n = cell[:4].rstrip("_").lower(), len(numbers.hx) + 1
    args = [numbers.x, *numbers.hx, *numbers.weights.values(), *[None] * (8 if case.is_lstm else 5)]
    rest = [None, None, None, "tanh" if name == "rnn" else False]
    out, *more = getattr(torch.ops.rnnkernels, name if name == "rnn" else f"{name}_train")(*args, *rest)
    leaves = [None if t is None else t.detach().requires_grad_() for t in (None, *numbers.cotangents[1:], *args)]
    needs = sum(1 << k for k, a in enumerate(args) if k != 1 and a is not None)
    torch.library.opcheck(getattr(torch.ops.rnnkernels, f"{name}_bwd").default, (*leaves, *rest, out, *more[n - 1 :], needs))
