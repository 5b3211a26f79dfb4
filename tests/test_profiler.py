"""No torch kernel for recurrent networks runs underneath: read from the profiler's events."""

import re

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import rnnkernels
from cases import CELLS, Case, Numbers, call_module, module_results
from conftest import needs_extension

FORBIDDEN = re.compile(r"aten::(_?cudnn_rnn|lstm|gru|rnn_(tanh|relu)|quantized_|mkldnn_rnn_layer|_thnn_)|mkldnn_rnn|RnnLayer")


def events(run):
    with torch.profiler.profile() as profile:
        run()
    return {event.key for event in profile.key_averages()}


def test_the_pattern_sees_torch():
    module, x = torch.nn.LSTM(3, 4), torch.randn(5, 2, 3)
    assert any(map(FORBIDDEN.search, events(lambda: module(x)[0].sum().backward())))
    cell = torch.nn.GRUCell(3, 4)
    assert any(map(FORBIDDEN.search, events(lambda: cell(x[0]))))


@pytest.mark.parametrize("dtype", (torch.float64, torch.float32, torch.bfloat16, torch.float16), ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_layers(cell, dtype):
    def run():
        for layout in ("padded", "packed", "unsorted", "lengths", "unbatched"):
            for options in ({"L": 2, "D": 2, "batch_first": True}, {"bias": False, "hx": False, "P": 5 * (cell == "LSTM")}):
                case = Case(cell, dtype, T=3, layout=layout, **options)
                module_results(case, Numbers.draw(case), rnnkernels)

    assert not [key for key in events(run) if FORBIDDEN.search(key)]


@pytest.mark.parametrize("dtype", (torch.float64, torch.float32, torch.bfloat16, torch.float16), ids=str)
@pytest.mark.parametrize("cell", ("LSTMCell", "GRUCell", "RNNCell"))
def test_cells(cell, dtype):
    module = getattr(rnnkernels, cell)(3, 4, dtype=dtype)

    def run():
        for shape in ((2, 3), (3,)):
            out = module(torch.randn(*shape, dtype=dtype))
            (out[0] if isinstance(out, tuple) else out).sum().backward()

    assert not [key for key in events(run) if FORBIDDEN.search(key)]


@pytest.mark.parametrize("cell", CELLS)
def test_under_autocast(cell):
    module, x = Case(cell, torch.float32).build(rnnkernels), torch.randn(5, 4, 3)

    def run():
        with torch.autocast("cpu", torch.bfloat16):
            module(x)[0].sum().backward()

    assert not [key for key in events(run) if FORBIDDEN.search(key)]


@needs_extension
@pytest.mark.parametrize("cell", CELLS)
def test_our_ops_are_shown_with_their_shapes(cell):
    module, x = Case(cell, torch.float32, L=2).build(rnnkernels), torch.randn(5, 4, 3)
    name = "rnnkernels::" + cell[:4].rstrip("_").lower()
    with torch.profiler.profile(record_shapes=True) as profile:
        module(x)[0].sum().backward()
        with torch.no_grad():
            module(x)
    shapes = {event.name: event.input_shapes for event in profile.events() if event.name.startswith("rnnkernels::")}
    assert set(shapes) == {name, f"{name}_bwd"} | ({f"{name}_train"} if cell[:3] != "RNN" else set())
    assert shapes[name][0] == [5, 4, 17] and [5, 4, 3] in shapes[f"{name}_bwd"]


@needs_extension
@pytest.mark.parametrize("options", ({}, {"D": 2, "L": 2}, {"P": 5}, {"layout": "packed"}, {"layout": "unbatched"}), ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_flops_are_those_of_the_products(cell, options):
    """Forward, and all of backward: d_x and every weight's gradient take the same products again, d_h W_hh too."""
    if "P" in options and cell != "LSTM":
        return
    case = Case(cell, **options)
    numbers, module = Numbers.draw(case), case.build(rnnkernels)
    x = numbers.x.requires_grad_()
    rows = 1 if case.layout == "unbatched" else case.B
    tokens = numbers.lengths.sum().item() if case.layout == "packed" else case.T * rows
    expected = sum(2 * tokens * w.numel() for w in module.parameters() if w.dim() == 2)
    with FlopCounterMode(display=False) as forward:
        outputs = call_module(module, case, x, numbers.hx, numbers.lengths)
    assert forward.get_total_flops() == expected
    with FlopCounterMode(display=False) as backward:
        torch.autograd.grad(outputs, [x, *module.parameters()], numbers.cotangents)
    assert backward.get_total_flops() == 2 * expected
    with FlopCounterMode(display=False) as frozen, torch.no_grad():
        call_module(module, case, x, numbers.hx, numbers.lengths)
    assert frozen.get_total_flops() == expected
