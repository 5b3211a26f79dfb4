"""Stepper: the bits of the whole sequence, one step at a time; state, refresh, refusals; no allocation and no lock in a step."""

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from torch.nn.utils import prune

import rnnkernels
from cases import CELLS, Case
from conftest import needs_extension
from rnnkernels import Stepper, stepper as stepper_module

pytestmark = pytest.mark.fast
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@pytest.fixture(params=(pytest.param(True, marks=needs_extension), False), ids=("kernels", "module"))
def kernels(request, monkeypatch):
    """Both ways of a Stepper: on kernels, and where there are none and the module's forward runs."""
    if not request.param:
        monkeypatch.setattr(stepper_module, "_C", None)
    return request.param


def run(stepper, xs):
    return torch.stack([stepper.step(x).clone() for x in xs])


@needs_extension
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("B, H, L, P, bias", ((1, 17, 1, 0, True), (1, 300, 2, 0, True), (3, 33, 3, 0, False), (1, 40, 2, 7, True),
                                              (20, 16, 1, 0, True), (1, 500, 1, 0, True)))
def test_has_the_bits_of_the_sequence(cell, dtype, B, H, L, P, bias):
    P = P if cell == "LSTM" else 0
    module = Case(cell, dtype, I=9, H=H, L=L, P=P, bias=bias).build(rnnkernels)
    xs = torch.randn(6, B, 9).to(dtype)
    with torch.no_grad():
        # Layer by layer in the arithmetic's own type, for bfloat16 and float16 are rounded at the very end only.
        wide = module if dtype is torch.float64 else Case(cell, torch.float32, I=9, H=H, L=L, P=P, bias=bias).build(rnnkernels)
        wide.load_state_dict(module.state_dict())
        expected, hx = wide(xs.to(wide.weight_ih_l0.dtype))
    stepper = Stepper(module, batch_size=B)
    assert torch.equal(run(stepper, xs), expected.to(dtype))
    for state, last in zip(*(s if isinstance(s, tuple) else (s,) for s in (stepper.hx, hx))):
        assert torch.equal(state, last)
    for built_with in (1, 3):
        torch.set_num_threads(built_with)
        stepper = Stepper(module, batch_size=B)
        for threads in (1, 3, 2, 4):
            torch.set_num_threads(threads)
            stepper.reset()
            assert torch.equal(run(stepper, xs), expected.to(dtype)), f"{threads} threads, built with {built_with}"


@pytest.mark.parametrize("cell", CELLS)
def test_agrees_with_torch(cell, kernels):
    case = Case(cell, torch.float64, L=2, batch_first=True)
    module, xs = case.build(torch.nn), torch.randn(5, 4, 3, dtype=torch.float64)
    hx = torch.randn(2, 4, 17, dtype=torch.float64)
    hx = (hx, torch.randn_like(hx)) if case.is_lstm else hx
    stepper = Stepper(module, 4)
    stepper.reset(hx)
    expected, last = module(xs.transpose(0, 1), hx)
    torch.testing.assert_close(run(stepper, xs), expected.detach().transpose(0, 1), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(stepper.hx, tuple(s.detach() for s in last) if case.is_lstm else last.detach(), rtol=1e-12, atol=1e-12)
    out = torch.empty(4, 17, dtype=torch.float64)
    assert stepper.step(xs[0], out=out) is out and torch.equal(out, (stepper.hx[0] if case.is_lstm else stepper.hx)[-1])
    assert stepper.step(xs[0]) is stepper.step(xs[1])
    with torch.no_grad():
        module.weight_hh_l0.mul_(0.5)
    stepper.refresh()
    stepper.reset(hx)
    torch.testing.assert_close(run(stepper, xs), module(xs.transpose(0, 1), hx)[0].detach().transpose(0, 1), rtol=1e-12, atol=1e-12)


def test_holds_packed_weights_until_refresh(kernels):
    module, x = rnnkernels.GRU(3, 5), torch.randn(1, 3)
    stepper = Stepper(module)
    before = stepper.step(x).clone()
    module.weight_ih_l0.data.zero_()
    stepper.reset()
    assert torch.equal(stepper.step(x), before)
    stepper.refresh()
    stepper.reset()
    assert not torch.equal(stepper.step(x), before)


@needs_extension
@pytest.mark.parametrize("cell", CELLS)
def test_bfloat16_weights_are_the_rounded_ones(cell):
    case = Case(cell, torch.float32, I=9, H=70, L=2, P=11 * (cell == "LSTM"))
    module, xs = case.build(rnnkernels), torch.randn(6, 3, 9)
    rounded = case.build(rnnkernels)
    rounded.load_state_dict({k: v.bfloat16().float() if k.startswith(("weight_ih", "weight_hh")) else v for k, v in module.state_dict().items()})
    stepper = Stepper(module, 3, weight_dtype=torch.bfloat16)
    with torch.no_grad():
        assert torch.equal(run(stepper, xs), rounded(xs)[0])
    assert not torch.equal(stepper.step(xs[0]), Stepper(module, 3).step(xs[0]))
    with torch.no_grad():
        module.weight_ih_l0[0, 0] = float("nan")
    stepper.refresh()
    assert stepper.step(xs[0]).isnan().any()


@needs_extension
@pytest.mark.parametrize("cell", CELLS)
def test_output_fed_back_as_input(cell):
    module = Case(cell, torch.float32, I=70, H=70).build(rnnkernels)
    stepper, x, hx = Stepper(module), torch.randn(1, 70), None
    h = x
    for _ in range(4):
        h = stepper.step(h)
        with torch.no_grad():
            x, hx = module(x.view(1, 1, 70), hx)
    assert torch.equal(h, x[0])


@pytest.mark.parametrize("package", (rnnkernels, torch.nn))
@pytest.mark.parametrize("compute", (torch.nn.utils.parametrizations.weight_norm, torch.nn.utils.weight_norm,
                                     lambda module, name: prune.l1_unstructured(module, name, 0.5)), ids=("new", "old", "prune"))
@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated")
def test_computed_weights_and_strided_input(kernels, package, compute):
    """The weights as they were last computed, which a later change of what they are computed from leaves alone."""
    module = compute(package.LSTM(3, 5), "weight_hh_l0")
    xs = torch.randn(2, 4, 3)
    expected = module(xs.transpose(0, 1))[0].detach()
    stepper = Stepper(module, 2)
    stepper.refresh()
    with torch.no_grad():
        for p in module.parameters():
            p.mul_(2)
    result = run(stepper, xs.unbind(1))
    torch.testing.assert_close(result, expected)
    assert package is torch.nn or torch.equal(result, expected)


def test_a_module_in_training_drops_nothing_and_is_left_alone(kernels):
    module = rnnkernels.LSTM(3, 5, 2, dropout=0.9)
    module.register_forward_hook(lambda *args: pytest.fail("a hook ran"))
    stepper, xs, before = Stepper(module), torch.randn(4, 1, 3), dict(vars(module))
    results = run(stepper, xs)
    assert module.training and vars(module) == before
    torch.testing.assert_close(results, module.eval().forward(xs)[0].detach())


def test_a_call_beside_another_is_refused(monkeypatch):
    monkeypatch.setattr(stepper_module, "_C", None)
    stepper, x = Stepper(rnnkernels.GRU(3, 5)), torch.randn(1, 3)
    calls = [lambda: stepper.step(x), stepper.refresh, stepper.reset, lambda: stepper.hx]
    with stepper._core._turn():
        for call in calls:
            with pytest.raises(RuntimeError, match="at work in another thread"):
                call()
    for call in calls:
        call()


@pytest.mark.parametrize("kind", ("LSTM", "GRU", "RNN"))
def test_complex_numbers(kind):
    """A dtype without kernels: torch.nn runs, with one warning."""
    module, xs = getattr(rnnkernels, kind)(3, 5, 2, dtype=torch.cfloat), torch.randn(4, 2, 3, dtype=torch.cfloat)
    with pytest.warns(RuntimeWarning, match="no kernel for torch.complex64"):
        torch.testing.assert_close(run(Stepper(module, 2), xs), module(xs)[0].detach())


def test_refuses_what_it_cannot_do(kernels):
    with pytest.raises(TypeError, match="expected an LSTM, GRU or RNN module, got Linear"):
        Stepper(torch.nn.Linear(2, 2))
    with pytest.raises(TypeError, match="forward of its own"):
        Stepper(type("Scaled", (torch.nn.GRU,), {"forward": lambda self, x: super().forward(2 * x)})(2, 3))
    empty = rnnkernels.LSTM(5, 7)
    empty._flat_weights_names = []
    if kernels:
        with pytest.raises(RuntimeError, match="expected 4 weights, got 0"):
            Stepper(empty)
    with pytest.raises(ValueError, match="bidirectional"):
        Stepper(rnnkernels.GRU(2, 3, bidirectional=True))
    for batch_size in (0, -1, 1.0, None, True):
        with pytest.raises(ValueError, match="batch_size"):
            Stepper(rnnkernels.GRU(2, 3), batch_size)
    f32, f64, bf16, f16 = torch.float32, torch.float64, torch.bfloat16, torch.float16
    for dtype, weight_dtype in ((f64, bf16), (bf16, f32), (f32, f16), (f32, "x")):
        with pytest.raises(ValueError, match="weight_dtype"):
            Stepper(rnnkernels.GRU(2, 3, dtype=dtype), weight_dtype=weight_dtype)
    if not kernels:
        with pytest.raises(ValueError, match="weight_dtype needs the kernels"):
            Stepper(rnnkernels.GRU(2, 3), weight_dtype=torch.bfloat16)
    assert Stepper(rnnkernels.GRU(2, 3), weight_dtype=torch.float32).step(torch.zeros(1, 2)).shape == (1, 3)
    stepper = Stepper(rnnkernels.LSTM(2, 3), 4)
    good = torch.randn(4, 2)
    first = stepper.step(good).clone()
    state = stepper.hx
    wrong = [torch.randn(3, 2), torch.randn(4, 3), torch.randn(2), torch.randn(1, 4, 2), good.double(), good.bfloat16(), torch.randn(2, 4).t(),
             good.to("meta"), good.to_sparse(), torch._neg_view(good), torch.randn(2).expand(4, 2).t().contiguous()]
    for x in wrong:
        with pytest.raises(RuntimeError, match="Stepper: expected x"):
            stepper.step(x)
    for out in (torch.empty(4, 2), torch.empty(3, 4).t(), torch.empty(4, 3, dtype=torch.float64)):
        with pytest.raises(RuntimeError, match="Stepper: expected out"):
            stepper.step(good, out=out)
    with pytest.raises(RuntimeError, match="single memory location"):
        stepper.step(good, out=torch.empty(3).expand(4, 3))
    with pytest.raises(RuntimeError, match="requires no gradient"):
        stepper.step(good, out=torch.empty(4, 3, requires_grad=True))
    with pytest.raises(NotImplementedError):
        stepper.reset((torch.ones(1, 4, 3), torch.ones(1, 4, 3, device="meta")))
    for x in (None, 1.0, [1.0], good.numpy()):
        with pytest.raises(TypeError):
            stepper.step(x)
    for hx in (torch.zeros(1, 4, 3), (torch.zeros(1, 4, 3),), (torch.zeros(1, 4, 3), torch.zeros(1, 3, 3)), (torch.zeros(1, 4, 3),) * 3, ()):
        with pytest.raises(ValueError, match="Stepper: expected states"):
            stepper.reset(hx)
    with pytest.raises(TypeError, match="expected states to be tensors"):
        stepper.reset((1.0, 2.0))
    assert all(map(torch.equal, stepper.hx, state))
    stepper.reset()
    assert torch.equal(stepper.step(good), first)


def test_autograd_hears_of_an_overwritten_output(kernels):
    stepper, head = Stepper(rnnkernels.GRU(3, 5)), torch.nn.Linear(5, 2)
    first = head(stepper.step(torch.randn(1, 3)))
    loss = (first + head(stepper.step(torch.randn(1, 3)))).sum()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_returned_tensor_that_was_reshaped_is_refused(kernels):
    for spoil in (lambda t: t.squeeze_(0), lambda t: t.t_(), lambda t: setattr(t, "data", torch.empty(1))):
        stepper = Stepper(rnnkernels.GRU(3, 5))
        spoil(stepper.step(torch.randn(1, 3)))
        with pytest.raises(RuntimeError, match="expected out"):
            stepper.step(torch.randn(1, 3))


def test_built_in_inference_mode(kernels):
    with torch.inference_mode():
        stepper = Stepper(rnnkernels.LSTM(3, 5))
        first = stepper.step(torch.ones(1, 3)).clone()
    stepper.reset()
    assert torch.equal(stepper.step(torch.ones(1, 3)), first)


def test_many_threads_on_one_stepper(kernels):
    stepper, x = Stepper(rnnkernels.GRU(64, 64)), torch.randn(1, 64)
    unexpected = []

    def hammer():
        for _ in range(300):
            try:
                stepper.step(x)
            except RuntimeError as error:
                if "at work in another thread" not in str(error):
                    unexpected.append(error)

    threads = [threading.Thread(target=hammer) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not unexpected and stepper.hx.isfinite().all()


@needs_extension
def test_steps_in_many_threads_at_once():
    """One of them has the helpers, the others step alone."""
    torch.set_num_threads(2)
    module = rnnkernels.GRU(20, 300)
    xs = torch.randn(200, 1, 20)
    with torch.no_grad():
        expected = module(xs)[0]
    results = [None] * 4

    def steps(i):
        results[i] = run(Stepper(module), xs)

    threads = [threading.Thread(target=steps, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert all(torch.equal(result, expected) for result in results)


COUNT = """
import ctypes, sys, torch, rnnkernels
count = ctypes.CDLL(sys.argv[1])
torch.set_num_threads(2)
def calls(f):
    for _ in range(20): f()
    count.start_counting()
    for _ in range(50): f()
    return count.stop_counting()
for cell, H, L in (("LSTM", 16, 1), ("GRU", 300, 2), ("RNN", 40, 3), ("LSTM", 400, 1)):  # on one thread and on two
    module = getattr(rnnkernels, cell)(8, H, L)
    with torch.inference_mode():
        assert calls(lambda: module(torch.zeros(1, 1, 8))) > 50, "the counter is blind"
    stepper, x, out = rnnkernels.Stepper(module), torch.zeros(1, 8), torch.zeros(1, H)
    assert calls(lambda: stepper.step(x)) == 0, f"{cell} {H}"
    assert calls(lambda: stepper.step(x, out)) == 0, f"{cell} {H} with out"
"""


@needs_extension
@pytest.mark.skipif(shutil.which("c++") is None or sys.platform != "linux", reason="preloads a counter built with c++")
def test_a_step_allocates_nothing_and_takes_no_lock(tmp_path):
    counter = tmp_path / "libcount_calls.so"
    subprocess.run(["c++", "-O1", "-shared", "-fPIC", Path(__file__).parent / "cpp/count_calls.cpp", "-o", counter, "-ldl"], check=True)
    environment = os.environ | {"LD_PRELOAD": str(counter)}
    result = subprocess.run([sys.executable, "-c", COUNT, counter], env=environment, text=True, capture_output=True)
    assert result.returncode == 0, result.stdout + result.stderr
