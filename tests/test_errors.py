"""Bad input raises torch.nn's exception type and text; what we do not build runs in torch.nn with one warning."""

import os
import re
import subprocess
import sys
import warnings

import pytest
import torch
from torch.func import functional_call
from torch.nn.utils.rnn import PackedSequence, pack_sequence

import rnnkernels
from conftest import needs_extension
from rnnkernels import fallback

pair = lambda *shape, **kw: (torch.randn(*shape, **kw), torch.randn(*shape, **kw))
x = torch.randn(5, 2, 3)
packed = lambda width: pack_sequence([torch.randn(3, width), torch.randn(2, width)])

BAD_INPUT = {
    "4-D": lambda hx: (torch.randn(1, 5, 2, 3),),
    "0-D": lambda hx: (torch.tensor(1.0),),
    "width": lambda hx: (torch.randn(5, 2, 4),),
    "T=0": lambda hx: (torch.randn(0, 2, 3),),
    "T=B=0": lambda hx: (torch.randn(0, 0, 3),),
    "f64": lambda hx: (x.double(),),
    "int": lambda hx: (x.long(),),
    "sparse": lambda hx: (x.to_sparse(),),
    "meta": lambda hx: (x.to("meta"),),
    "hx meta": lambda hx: (x, hx(2, 2, 4, device="meta")),
    "None": lambda hx: (None,),
    "list": lambda hx: ([1.0],),
    "hx batch": lambda hx: (x, hx(2, 3, 4)),
    "hx layers": lambda hx: (x, hx(1, 2, 4)),
    "hx width": lambda hx: (x, hx(2, 2, 5)),
    "hx 2-D": lambda hx: (x, hx(2, 4)),
    "hx 3-D, x 2-D": lambda hx: (x[:, 0], hx(2, 1, 4)),
    "hx f64": lambda hx: (x, hx(2, 2, 4, dtype=torch.float64)),
    "hx of the other kind": lambda hx: (x, torch.randn(2, 2, 4) if isinstance(hx(1), tuple) else pair(2, 2, 4)),
    "hx of three": lambda hx: (x, (torch.randn(2, 2, 4),) * 3),
    "hx a number": lambda hx: (x, 3),
    "hx Nones": lambda hx: (x, (None, None)),
    "packed width": lambda hx: (packed(4),),
    "packed hx": lambda hx: (packed(3), hx(2, 3, 4)),
    "packed f64": lambda hx: (packed(3).double(),),
    "packed nothing": lambda hx: (PackedSequence(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)),),
}


def outcome(module, args):
    """(type, text) of the exception, or None."""
    try:
        module(*args)
    except Exception as error:
        return type(error), str(error)


@pytest.mark.parametrize("name", BAD_INPUT)
@pytest.mark.parametrize("cell", ("LSTM", "GRU", "RNN"))
def test_layers_raise_what_torch_raises(cell, name):
    ours, theirs = getattr(rnnkernels, cell)(3, 4, 2), getattr(torch.nn, cell)(3, 4, 2)
    args = BAD_INPUT[name](pair if cell == "LSTM" else torch.randn)
    expected = outcome(theirs, args)
    assert expected is not None, "torch.nn accepts this: not a case for this test"
    assert outcome(ours, args) == expected


BAD_CELL_INPUT = {
    "3-D": lambda hx: (x,),
    "width": lambda hx: (torch.randn(2, 5),),
    "f64": lambda hx: (x[0].double(),),
    "hx batch": lambda hx: (x[0], hx(1, 4)),
    "hx width": lambda hx: (x[0], hx(2, 5)),
    "hx 1-D": lambda hx: (x[0], hx(4)),
    "hx 3-D": lambda hx: (x[0], hx(1, 2, 4)),
    "hx f64": lambda hx: (x[0], hx(2, 4, dtype=torch.float64)),
    "hx a number": lambda hx: (x[0], 3),
    "None": lambda hx: (None,),
}


@pytest.mark.parametrize("name", BAD_CELL_INPUT)
@pytest.mark.parametrize("cell", ("LSTMCell", "GRUCell", "RNNCell"))
def test_cells_raise_what_torch_raises(cell, name):
    ours, theirs = getattr(rnnkernels, cell)(3, 4), getattr(torch.nn, cell)(3, 4)
    args = BAD_CELL_INPUT[name](pair if cell == "LSTMCell" else torch.randn)
    expected = outcome(theirs, args)
    assert expected is not None, "torch.nn accepts this: not a case for this test"
    assert outcome(ours, args) == expected


@pytest.mark.parametrize("kind, name", [("RNN", name) for name in BAD_INPUT] + [("RNNCell", name) for name in BAD_CELL_INPUT])
def test_an_rnn_with_sigmoid_raises_what_one_with_tanh_raises(kind, name):
    args = (BAD_INPUT if kind == "RNN" else BAD_CELL_INPUT)[name](torch.randn)
    options = {"num_layers": 2} if kind == "RNN" else {}
    expected = outcome(getattr(torch.nn, kind)(3, 4, **options), args)
    assert outcome(getattr(rnnkernels, kind)(3, 4, nonlinearity="sigmoid", **options), args) == expected


@pytest.mark.parametrize("kind", ("RNN", "RNNCell", "GRU", "GRUCell"))
def test_what_torch_would_run_without_an_option_is_refused(kind):
    option = {"nonlinearity": "sigmoid"} if "RNN" in kind else {"reset_after": False}
    module, z = getattr(rnnkernels, kind)(3, 4, **option, dtype=torch.cfloat), x if "Cell" not in kind else x[0]
    before = dict(vars(module))
    with pytest.warns(RuntimeWarning, match="no kernel"), pytest.raises(ValueError, match=f"{[*option][0]}=.* needs .* on cpu; got input of"):
        module(z.to(torch.cfloat))
    assert vars(module) == before


@pytest.mark.parametrize("cell", ("LSTM", "GRU", "RNN"))
def test_constructors_raise_what_torch_raises(cell):
    for args, kwargs in (((0, 4), {}), ((3, 0), {}), ((3, 4), {"dropout": 2}), ((3, 4), {"bias": 1}), ((3, 4), {"proj_size": 4}),
                         ((3,), {}), ((3, 4), {"nonlinearity": "sin"})):
        expected = outcome(lambda *a: getattr(torch.nn, cell)(*a, **kwargs), args)
        assert expected is not None
        expected = expected[0], expected[1].replace("'tanh' or 'relu'", "'tanh', 'relu' or 'sigmoid'")
        assert outcome(lambda *a: getattr(rnnkernels, cell)(*a, **kwargs), args) == expected


@pytest.mark.parametrize("attribute, value", (("dropout", None), ("dropout", "a half"), ("mode", "FOO"), ("mode", None)))
@pytest.mark.parametrize("cell", ("LSTM", "GRU", "RNN"))
@pytest.mark.parametrize("input", (x, packed(3)), ids=("padded", "packed"))
def test_attributes_set_to_nonsense_raise_what_torch_raises(cell, attribute, value, input):
    ours, theirs = getattr(rnnkernels, cell)(3, 4, 2), getattr(torch.nn, cell)(3, 4, 2)
    for module in (ours, theirs):
        setattr(module, attribute, value)
    expected = outcome(theirs, (input,))
    assert outcome(ours, (input,)) == expected
    assert expected or attribute == "mode" and cell != "RNN"  # which go by their class


def test_unsupported_dtype_runs_in_torch_with_one_warning():
    theirs = torch.nn.GRU(3, 4, dtype=torch.cfloat)
    ours = rnnkernels.GRU(3, 4, dtype=torch.cfloat)
    ours.load_state_dict(theirs.state_dict())
    z = torch.randn(5, 2, 3, dtype=torch.cfloat)
    fallback.seen.clear()
    with pytest.warns(RuntimeWarning, match="no kernel for torch.complex64 on cpu"):
        out, _ = ours(z)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours(z)
    assert torch.equal(out, theirs(z)[0])
    assert rnnkernels.info()["fallbacks"] == ["no kernel for torch.complex64 on cpu: torch.nn runs instead"]


def test_functional_refuses_an_unknown_nonlinearity():
    with pytest.raises(ValueError, match="'tanh', 'relu' or 'sigmoid'"):
        rnnkernels.functional.rnn(x, torch.zeros(1, 2, 4), [], nonlinearity="sin")


def test_functional_refuses_a_wrong_number_of_parameters_or_states():
    m = rnnkernels.GRU(3, 4, 2)
    with pytest.raises(RuntimeError, match="incorrect number of RNN parameters: 7, expected 8"):
        rnnkernels.functional.gru(x, torch.zeros(2, 2, 4), m._flat_weights[:7], num_layers=2)
    for rows in (1, 3):
        with pytest.raises(RuntimeError, match=r"hidden states of size \[2, B, \*\], got"):
            rnnkernels.functional.gru(x, torch.zeros(rows, 2, 4), m._flat_weights, num_layers=2)


@pytest.mark.parametrize("shape", ((5, 3), (1, 5, 2, 3)))
def test_functional_refuses_input_of_another_rank(shape):
    with pytest.raises(RuntimeError, match=f"input to be 3-D, got {len(shape)}-D"):
        rnnkernels.functional.gru(torch.randn(shape), torch.zeros(1, 2, 4), rnnkernels.GRU(3, 4)._flat_weights)


@pytest.mark.parametrize("name", ("lstm", "lstm_cell", "gru", "gru_cell"))
def test_functional_refuses_other_states_and_input_as_torch_does(name):
    kind = {"lstm": "LSTM", "gru": "GRU"}[name[:-5] if "cell" in name else name]
    weights = [w.detach() for w in getattr(torch.nn, kind)(3, 4).parameters()]
    h, flags = torch.zeros(1, 2, 4), (True, 1, 0.0, False, False, False)
    input, h, rest = (x[0], h[0], weights) if "cell" in name else (x, h, [weights, *flags])
    good = (h, h) if kind == "LSTM" else h
    for args in ((input, (h,)), (input, (h, h, h)), (input, 3), (input, None), (input, (None, None)), ([1.0], good), (input, h), (input, (h, h))):
        expected, ours = (outcome(getattr(place, name), (*args, *rest)) for place in (torch, rnnkernels.functional))
        assert (ours and ours[0]) is (expected and expected[0])
        if expected and ("two hidden" in expected[1] or "argument '" in expected[1]):  # else it lists the signatures of torch's own
            assert ours[1] == re.sub(r" \(position \d\)", "", expected[1])


@pytest.mark.parametrize("lengths", (None, torch.tensor([1, 2])), ids=("full", "lengths"))
def test_functional_refuses_input_of_another_rank_beside_lengths(lengths):
    with pytest.raises(RuntimeError, match="input to be 3-D, got 1-D"):
        rnnkernels.functional.gru(x[0, 0], torch.zeros(1, 2, 4), rnnkernels.GRU(3, 4)._flat_weights, lengths=lengths)


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_without_an_extension_the_reference_runs_with_one_warning():
    done = python("import sys; sys.modules['rnnkernels._C'] = None\n"
                  "import torch, rnnkernels\n"
                  "m = rnnkernels.LSTM(3, 4, 2); m(torch.randn(5, 2, 3)); m(torch.randn(5, 2, 3))[0].sum().backward()\n"
                  "print(rnnkernels.info()['extension'])")
    assert done.stdout.split() == ["False"], done.stderr
    assert done.stderr.count("extension was not built") == 1


def test_built_for_another_torch_is_a_clear_error():
    done = python("import sys, types; b = types.ModuleType('rnnkernels._build'); b.TORCH_VERSION = '1.0.0'\n"
                  "sys.modules['rnnkernels._build'] = b\n"
                  "import rnnkernels")
    assert done.returncode and "ImportError: rnnkernels was built for torch 1.0.0 but torch" in done.stderr
    assert "Rebuild it" in done.stderr


def test_info_is_printed():
    done = subprocess.run([sys.executable, "-m", "rnnkernels"], capture_output=True, text=True)
    assert done.returncode == 0 and f"torch      {torch.__version__}" in done.stdout


@pytest.mark.parametrize("cell", ("GRU", "RNN"))
def test_sparse_weights_run_in_torch(cell):
    ours, theirs = getattr(rnnkernels, cell)(3, 4), getattr(torch.nn, cell)(3, 4)
    ours.load_state_dict(theirs.state_dict())
    for module in (ours, theirs):
        weight = module.weight_ih_l0.detach().to_sparse()
        del module.weight_ih_l0
        module.weight_ih_l0 = weight
    torch.testing.assert_close(ours(x)[0], theirs(x)[0])


@pytest.mark.parametrize("cell", ("LSTM", "GRU", "RNN"))
def test_a_weight_that_is_none_or_no_tensor(cell):
    for value in (None, [1.0]):
        ours, theirs = getattr(rnnkernels, cell)(3, 4), getattr(torch.nn, cell)(3, 4)
        for module in (ours, theirs):
            del module.bias_hh_l0
            module.bias_hh_l0 = value
        assert outcome(ours, (x,))[0] is outcome(theirs, (x,))[0] is TypeError


def stacked(module):
    """A module that a call finds with the parameters of three models, as after a forgotten vmap."""
    weights, _ = torch.func.stack_module_state([module] * 3)
    return lambda *args: torch.func.functional_call(module, weights, args)


@pytest.mark.parametrize("cell", ("LSTM", "GRU", "RNN"))
@pytest.mark.parametrize("options", ({}, {"num_layers": 2, "bidirectional": True}), ids=str)
def test_weights_of_several_models_raise_what_torch_raises(cell, options):
    for suffix, kwargs, args in (("", options, (x,)), ("Cell", {}, (x[0],))):
        expected = outcome(stacked(getattr(torch.nn, cell + suffix)(3, 4, **kwargs)), args)
        assert expected is not None or cell + suffix == "LSTM"  # whose oneDNN kernel looks at the number of elements alone
        assert outcome(stacked(getattr(rnnkernels, cell + suffix)(3, 4, **kwargs)), args) == expected


@pytest.mark.parametrize("cell", ("LSTM", "GRU"))
def test_a_bias_of_one_row_is_what_torch_makes_of_it(cell):
    ours, theirs = getattr(rnnkernels, cell)(3, 4), getattr(torch.nn, cell)(3, 4)
    theirs.load_state_dict(ours.state_dict())
    weights = {name: w[None] if name == "bias_ih_l0" else w for name, w in ours.named_parameters()}
    results = [torch.func.functional_call(module, weights, (x,))[0] for module in (ours, theirs)]
    assert results[0].shape == (5, 2, 4) and torch.allclose(*results)


def test_functional_refuses_weights_of_several_models():
    module, cell = rnnkernels.GRU(3, 4), rnnkernels.GRUCell(3, 4)
    for i in range(4):
        weights = [w[None] if k == i else w for k, w in enumerate(module._flat_weights)]
        with pytest.raises(RuntimeError, match=rf"Expected parameter {i} to be \d-D, got \d-D"):
            rnnkernels.functional.gru(x, torch.zeros(1, 2, 4), weights)
        with pytest.raises(RuntimeError, match=rf"Expected parameter {i} to be \d-D, got \d-D"):
            rnnkernels.functional.gru_cell(x[0], torch.zeros(2, 4), *weights)
    with pytest.raises(RuntimeError, match="Expected input and hx to be 2-D, got .3, 2. dimensions"):
        rnnkernels.functional.gru_cell(x, torch.zeros(2, 4), *cell.parameters())
    with pytest.raises(RuntimeError, match="Expected input and hx to be 2-D, got .2, 3. dimensions"):
        rnnkernels.functional.gru_cell(x[0], torch.zeros(1, 2, 4), *cell.parameters())


GATES = {"lstm": 4, "gru": 3, "gru_reset_before": 3, "rnn": 1}
TOO_LARGE = {  # T, B, I, H: each below what torch counts in 64 bits
    "T": (1 << 40, 1, 1, 1), "T * B * H": (1 << 17, 1 << 17, 1, 1 << 21), "I": (1, 1, 1 << 40, 1), "H": (1, 1, 1, 1 << 27),
}


@needs_extension
@pytest.mark.parametrize("size", TOO_LARGE)
@pytest.mark.parametrize("name", GATES)
def test_a_layer_too_large_for_the_arithmetic_of_sizes(name, size):
    (T, B, I, H), G = TOO_LARGE[size], GATES[name]
    zero = lambda *shape: torch.zeros(()).expand(shape)  # takes no memory
    out, states = zero(T, B, H), [zero(1, B, H)] * (2 if name == "lstm" else 1)
    weights = [zero(G * H, I), zero(G * H, H), None, None, *[None] * (name == "lstm")]
    flag = "tanh" if name == "rnn" else False
    args = [zero(T, B, I), *states, *weights, *[None] * (len(weights) + len(states) + 3), flag]
    saved = [zero(0)] * {"rnn": 0, "lstm": 2}.get(name, 1)
    calls = {name: args, f"{name}_bwd": [out, *states, *args, out, *saved, 1]}
    if name != "rnn":
        calls[f"{name}_train"] = args
    words = "the layer is too large: " + ("1099511627776 steps" if size == "T" else "T . B . 4 . H overflows")
    for op, arguments in calls.items():
        with pytest.raises(RuntimeError, match=words):
            getattr(torch.ops.rnnkernels, op)(*arguments)
    if name == "lstm" and size in ("T", "I"):
        module = rnnkernels.LSTM(I, H, bias=False, device="meta")
        with pytest.raises(RuntimeError, match=words):
            functional_call(module, {"weight_ih_l0": weights[0], "weight_hh_l0": weights[1]}, (args[0],))


@needs_extension
@pytest.mark.parametrize("T, B, words", ((1 << 39, 2, "the layer is too large: 549755813888 steps of 2 rows"), (1, 1 << 50, "allocate")))
def test_a_batch_that_no_memory_holds(T, B, words):
    x = torch.zeros(()).expand(T, B, 3)
    for call in (lambda: rnnkernels.GRU(3, 4)(x), lambda: rnnkernels.GRUCell(3, 4)(x[0]) if T == 1 else rnnkernels.RNN(3, 4)(x)):
        with pytest.raises(RuntimeError, match=words):
            call()


# glibc shall take memory from the system for each tensor, and give it back.
ALLOCATION = """
import resource, torch, rnnkernels
torch.set_num_threads(1)
x, d_out = torch.randn(100, 16, 64), torch.randn(100, 16, 64)
used = lambda: int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
limit = lambda most: resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))
def fails(run, extra):
    limit(used() + extra)
    try: return bool(run() and False)
    except (RuntimeError, MemoryError): return True
    finally: limit(resource.RLIM_INFINITY)
for layer in rnnkernels.LSTM(64, 64), rnnkernels.GRU(64, 64), rnnkernels.RNN(64, 64), rnnkernels.LSTM(64, 64, recompute=True):
    run = lambda: torch.autograd.grad(layer(x)[0], list(layer.parameters()), d_out)
    expected, failed = run(), []
    for extra in range(0, 12 << 19, 1 << 19):
        failed.append(fails(run, extra))
        assert all(map(torch.equal, run(), expected))
    assert failed[0] and not failed[-1], failed
stepper = rnnkernels.Stepper(rnnkernels.LSTM(64, 512))
expected = stepper.step(x[0, :1]).clone()
stepper.reset()
assert fails(lambda: stepper.refresh() or True, 0)
assert torch.equal(stepper.step(x[0, :1]), expected)
"""


@needs_extension
def test_where_memory_ends_an_exception_is_raised_and_the_next_call_is_right():
    env = {**os.environ, "MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run([sys.executable, "-c", ALLOCATION], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
