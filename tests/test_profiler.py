"""No torch kernel for recurrent networks runs underneath: read from the profiler's events."""

import re

import pytest
import torch

import rnnkernels
from cases import CELLS, Case, Numbers, module_results

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
