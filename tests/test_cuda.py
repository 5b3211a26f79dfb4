"""What a card adds to the suites of test_cuda_suites.py: moving, regimes, dropout, errors, determinism, memory."""

import copy
import threading
from contextlib import nullcontext

import pytest
import torch

import rnnkernels
from cases import CELLS, Case, Numbers, call_module, check, module_results, reference_results
from conftest import assert_close, force_regime, needs_cuda, tf32
from rnnkernels import functional, reference
from test_beyond_torch import CELLS as BEYOND
from test_beyond_torch import Problem
from test_errors import outcome

pytestmark = [needs_cuda, pytest.mark.usefixtures("on_cuda")]
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
LAYOUTS = ("padded", "packed", "unsorted", "lengths", "unbatched")
NAMES = ("LSTM", "GRU", "RNN")


def on_cpu(numbers):
    move = lambda ts: tuple(t.cpu() for t in ts)
    weights = {k: v.cpu() for k, v in numbers.weights.items()}
    return Numbers(weights, numbers.x.cpu(), move(numbers.hx), numbers.lengths, move(numbers.cotangents))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("cell", CELLS)
def test_same_numbers_as_the_cpu(cell, layout):
    case = Case(cell, T=40, B=9, I=20, H=33, L=2, D=2, layout=layout, P=7 * (cell == "LSTM"))
    numbers = Numbers.draw(case)
    card = module_results(case, numbers, rnnkernels)
    with torch.device("cpu"):
        cpu = module_results(case, on_cpu(numbers), rnnkernels)
    for name, value in card.items():
        assert value.is_cuda
        assert_close(value.cpu(), cpu[name], name=name)


def test_more_steps_than_cudnn_takes():
    case = Case("GRU", T=70_000, B=1, I=2, H=4)
    numbers = Numbers.draw(case)
    module = case.build(rnnkernels)
    out, _ = module(numbers.x)
    assert_close(out.cpu(), module.cpu()(numbers.x.cpu())[0])


# More tokens than a chunk of the forward or of the backward pass holds, for every layout.
@pytest.mark.parametrize("layout", LAYOUTS[:4])
@pytest.mark.parametrize("cell", CELLS)
def test_several_chunks(cell, layout):
    check(Case(cell, torch.float32, T=1000, B=70, I=40, H=260, D=2, layout=layout))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_lengths_on_the_card(cell, dtype):
    """The numbers of the same lengths on the CPU; beyond 0..T the nearest of the two counts."""
    case = Case(cell, dtype, T=9, B=6, H=40, L=2, D=2, layout="lengths")
    numbers = Numbers.draw(case)
    for given, meant in (([3, 9, 0, 1, 5, 9], [3, 9, 0, 1, 5, 9]), ([-4, 12, 3, 2, 1, 10], [0, 9, 3, 2, 1, 9])):
        numbers.lengths = torch.tensor(given)
        card = module_results(case, numbers, rnnkernels)
        numbers.lengths = torch.tensor(meant, device="cpu")
        for name, value in module_results(case, numbers, rnnkernels).items():
            assert torch.equal(card[name], value), name


@pytest.mark.parametrize("cell", CELLS[:2])
def test_recompute(cell):
    for dtype in DTYPES:
        for layout in LAYOUTS:
            case = Case(cell, dtype, T=70, B=7, H=33, D=2, layout=layout, P=5 * (cell == "LSTM"))
            numbers = Numbers.draw(case)
            theirs, ref = module_results(case, numbers, torch.nn), reference_results(case, numbers)
            module = case.build(rnnkernels)
            module.load_state_dict(numbers.weights)
            module.recompute = True
            leaves = [numbers.x.requires_grad_(), *(h.requires_grad_() for h in numbers.hx), *module.parameters()]
            outputs = call_module(module, case, leaves[0], numbers.hx, numbers.lengths)
            ours = [*outputs, *torch.autograd.grad(outputs, leaves, numbers.cotangents)]
            for (name, value), result in zip(ref.items(), ours, strict=True):
                assert_close(result, value, theirs[name], f"{case}: {name}")


# The kernels beside R0. R1, and R2 with two ranks, some and the most; it holds 700 units forward only, and is not forced there; R3 with a few
# ranks and many, weights in shared memory and, at 1100 units, a launch a direction; R4 with rows that are no whole pieces, and with some and the most
# ranks.
REGIMES = [("R1", 60), ("R2", 17), ("R2", 72), ("R2", 250), ("R2", 500), (None, 700), ("R3", 72), ("R3", 1100), ("R4", 61), ("R4", 264), ("R4", 520)]


def fitting_regimes(dtype, rounds):
    """R3 holds 1024 units of four bytes; 3xTF32 has 48 in R1 and 768 in R3 (csrc/cuda/tilings.h)."""
    smaller = {} if dtype.itemsize == 2 else {1100: 1000} if rounds else {60: 48, 1100: 760}
    return [(dtype, rounds, regime, smaller.get(H, H)) for regime, H in REGIMES]


@pytest.mark.parametrize("dtype, rounds, regime, H", [case for dtype in DTYPES[1:] for case in fitting_regimes(dtype, True)]
                         + fitting_regimes(torch.float32, False), ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_regimes(cell, dtype, rounds, regime, H, monkeypatch):
    """rounds: float32 may become TF32, without which R4 refuses."""
    force_regime(regime, monkeypatch)
    refused = regime == "R4" and not rounds
    before = rnnkernels.info()["gpu"]
    with tf32(cudnn=rounds):
        for layout in LAYOUTS[:4]:
            with pytest.raises(RuntimeError, match="does not take this layer") if refused else nullcontext():
                check(Case(cell, dtype, T=30, B=19, I=40, H=H, D=2, layout=layout))
    after = rnnkernels.info()["gpu"]
    taken = {name for name in after if after[name] > before[name]}
    assert regime is None or taken == (set() if refused else {regime})


# What torch.nn does not have.


class Rounding(Problem):
    """The yardstick of a 16-bit type is a loop that rounds every operation, as torch.nn does, not the reference's, which rounds results only."""

    def truth(self, dtype):
        layers, rounds = (self.layer, self.last_layer), dtype in LOW
        if rounds:
            self.layer, self.last_layer = (layer.__wrapped__ for layer in layers)
        try:
            return super().truth(dtype)
        finally:
            self.layer, self.last_layer = layers


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("cell", BEYOND)
def test_resets(cell, dtype):
    for layout in ("full", "batch_first", "lengths", "packed"):
        for options in ({}, {"D": 2, "L": 2}, {"T": 70, "B": 20, "H": 130, "D": 2}):
            for resets in ("zero", "state"):
                Rounding(cell, dtype=dtype, layout=layout, resets=resets, **options).check()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_gru_that_resets_before(dtype):
    for layout in ("full", "lengths", "packed"):
        for options in ({}, {"T": 1}, {"T": 70, "B": 20, "H": 130, "D": 2, "L": 2}, {"recompute": True, "D": 2, "resets": "state"}):
            Rounding("gru_reset_before", dtype=dtype, layout=layout, **options).check()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_return_cells(dtype):
    for layout in ("full", "batch_first", "lengths", "packed"):
        for options in ({}, {"T": 1}, {"P": 7, "D": 2}, {"T": 70, "B": 20, "H": 130, "D": 2, "L": 2}, {"recompute": True, "D": 2, "resets": "state"}):
            Rounding("lstm", dtype=dtype, layout=layout, cells=True, **options).check()


def test_nothing_runs_the_reference(monkeypatch):
    for name in ("lstm", "lstm_with_cells", "gru", "gru_reset_before", "rnn"):
        monkeypatch.setattr(reference, name, None)
    x, reset = torch.randn(5, 3, 4), torch.rand(5, 3) < 0.4
    for module in (rnnkernels.LSTM(4, 6), rnnkernels.GRU(4, 6, reset_after=False), rnnkernels.RNN(4, 6)):
        module(x, reset=reset)[0].sum().backward()
    rnnkernels.LSTM(4, 6)(x, return_cells=True)[2].sum().backward()
    assert not rnnkernels.info()["fallbacks"]


def test_converted_models_move():
    model = torch.nn.Sequential(torch.nn.LSTM(5, 6, 2, bidirectional=True)).double().cpu()
    x = torch.randn(7, 3, 5, dtype=torch.float64, device="cpu")
    expected = model(x)[0].detach()
    weights = list(rnnkernels.convert(model).parameters())
    for device in ("cuda", "cpu", "cuda"):
        out = model.to(device)(x.to(device))[0]
        assert out.device.type == device and list(map(id, model.parameters())) == list(map(id, weights))
        assert_close(out.cpu(), expected)
    assert_close(rnnkernels.revert(model)(x.cuda())[0].cpu(), expected)
    duplicate = copy.deepcopy(rnnkernels.convert(model))
    assert_close(duplicate(x.cuda())[0].cpu(), expected)


def test_what_is_saved_has_the_fakes_dtypes():
    x, h, w_ih, w_hh = (torch.randn(*shape).bfloat16() for shape in ((3, 2, 4), (1, 2, 5), (20, 4), (20, 5)))
    args = (x, h, h, w_ih, w_hh, *[None] * 13, False)
    torch.library.opcheck(torch.ops.rnnkernels.lstm_train.default, args)
    _, _, _, gates, cells = torch.ops.rnnkernels.lstm_train(*args)
    assert gates.dtype is torch.bfloat16 and cells.dtype is torch.float32
    torch.library.opcheck(torch.ops.rnnkernels.gru.default, (x, h, w_ih[:15], w_hh[:15], *[None] * 10, False))


@pytest.mark.parametrize("cell", NAMES)
def test_dropout_draws_torchs_masks(cell):
    """Those of torch.dropout, as torch.nn's layers do without cuDNN; cuDNN has a generator of its own."""
    ours, theirs = (getattr(package, cell)(3, 5, 3, dropout=0.4, bidirectional=True, dtype=torch.float64)
                    for package in (rnnkernels, torch.nn))
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(4, 2, 3, dtype=torch.float64)
    outputs = []
    with torch.backends.cudnn.flags(enabled=False):
        for module in (ours, theirs, ours):
            torch.manual_seed(11)
            outputs.append(module(x)[0])
    assert_close(outputs[0], outputs[1].detach())
    assert torch.equal(outputs[0], outputs[2]) and not torch.equal(ours(x)[0], outputs[0])


# Errors.

MISPLACED = {
    "x": lambda m, x, hx: (m, (x.cpu(), hx)),
    "hx": lambda m, x, hx: (m, (x, hx.cpu())),
    "module": lambda m, x, hx: (m.cpu(), (x, hx)),
    "x f64": lambda m, x, hx: (m, (x.double(), hx)),
    "hx f64": lambda m, x, hx: (m, (x, hx.double())),
    "hx f16": lambda m, x, hx: (m, (x, hx.half())),
}


@pytest.mark.parametrize("name", MISPLACED)
def test_raises_what_torch_raises(name):
    outcomes = []
    for package in (rnnkernels, torch.nn):
        module, args = MISPLACED[name](package.GRU(3, 4), torch.randn(5, 2, 3), torch.randn(1, 2, 4))
        outcomes.append(outcome(module, args))
    assert outcomes[0] == outcomes[1] is not None


def test_ops_name_the_tensor():
    x, h = torch.randn(5, 2, 3), torch.randn(1, 2, 4)
    w = [torch.randn(12, 3), torch.randn(12, 4), torch.randn(12), torch.randn(12)]
    run = lambda x, h, w, **kw: functional.gru(x, h, w, **kw)
    for args, words in (((x, h.cpu(), w), "x's device cuda:0, but h0 is on cpu"),
                        ((x, h, [w[0], w[1].cpu(), *w[2:]]), "but w_hh is on cpu"),
                        ((x.cpu(), h, w), "on the CPU, but h0 is on cuda:0"),
                        ((x, h.double(), w), "one dtype, but h0 is")):
        with pytest.raises(RuntimeError, match=words):
            run(*args)
    with pytest.raises(ValueError, match="lengths must be on the CPU or on input's device cpu"):
        run(x.cpu(), h.cpu(), [t.cpu() for t in w], lengths=torch.tensor([1, 2]))
    with pytest.raises(RuntimeError, match="batch_sizes on the CPU"):
        run(torch.cat([*x]), h, w, batch_sizes=torch.full((5,), 2))


def test_the_other_card():
    if torch.cuda.device_count() < 2:
        pytest.skip("one card")
    case = Case("LSTM", T=9, B=5, H=33, L=2, D=2, layout="lengths")
    numbers = Numbers.draw(case)
    expected = module_results(case, numbers, rnnkernels)
    with torch.device("cuda:1"):  # while cuda:0 stays current
        move = lambda ts: tuple(t.to("cuda:1") for t in ts)
        there = Numbers(numbers.weights, *move((numbers.x,)), move(numbers.hx), numbers.lengths, move(numbers.cotangents))
        for name, value in module_results(case, there, rnnkernels).items():
            assert value.device.index == 1
            assert_close(value.cpu(), expected[name].cpu())
    with pytest.raises(RuntimeError, match="same device"):
        rnnkernels.GRU(3, 4)(torch.randn(5, 2, 3), torch.randn(1, 2, 4, device="cuda:1"))


# From run to run.


def check_same_bits(case):
    numbers = Numbers.draw(case)
    first, second = (module_results(case, numbers, rnnkernels) for _ in range(2))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_same_bits_every_time(cell, dtype):
    for layout in LAYOUTS[:4]:
        check_same_bits(Case(cell, dtype, T=50, B=40, I=70, H=130, L=2, D=2, layout=layout))


@pytest.mark.parametrize("regime", ("R0", "R1", "R2", "R3", "R4"))
@pytest.mark.parametrize("cell", CELLS)
def test_same_bits_every_time_in_a_regime(cell, regime, monkeypatch):
    force_regime(regime, monkeypatch)
    for T, B in ((50, 70), (4096, 3)):
        check_same_bits(Case(cell, torch.bfloat16, T=T, B=B, I=40, H=60 if regime == "R1" else 72, D=2))


def train(module, x):
    module.zero_grad(set_to_none=True)
    out, _ = module(x)
    out.sum().backward()


@pytest.mark.parametrize("cell", NAMES)
def test_memory_does_not_grow(cell):
    module, x = getattr(rnnkernels, cell)(32, 64, 2, bidirectional=True), torch.randn(50, 8, 32)
    for _ in range(3):
        train(module, x)
    before = torch.cuda.memory_allocated()
    for _ in range(10):
        train(module, x)
    assert torch.cuda.memory_allocated() == before


def test_workspace_does_not_grow_with_the_sequence():
    module = rnnkernels.LSTM(256, 512)
    extra = []
    with torch.no_grad():
        for T in (1000, 4000):
            x = torch.randn(T, 32, 256)
            module(x[:1])
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            out, _ = module(x)
            extra.append(torch.cuda.max_memory_allocated() - before - out.nbytes)
            del x, out
    assert extra[1] < 1.2 * extra[0]


def test_stepper():
    """Each step is a call of the module."""
    for name in NAMES:
        module, x = getattr(rnnkernels, name)(3, 5, 2, dtype=torch.float64), torch.randn(6, 4, 3, dtype=torch.float64)
        stepper = rnnkernels.Stepper(module, 4)
        for x_t, expected in zip(x, module(x)[0].detach()):
            assert_close(stepper.step(x_t), expected)
    with pytest.raises(ValueError, match="weight_dtype needs"):
        rnnkernels.Stepper(rnnkernels.LSTM(3, 5), weight_dtype=torch.bfloat16)


def test_two_threads_on_two_streams():
    module, xs = rnnkernels.LSTM(40, 130, 2, dtype=torch.float64), torch.randn(2, 60, 8, 40, dtype=torch.float64)
    expected = [module(x)[0].detach() for x in xs]
    torch.cuda.synchronize()
    results = [None, None]

    def run(i):
        with torch.cuda.stream(torch.cuda.Stream()), torch.no_grad():
            for _ in range(20):
                results[i] = module(xs[i])[0]
            torch.cuda.current_stream().synchronize()

    threads = [threading.Thread(target=run, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(map(torch.equal, results, expected))
