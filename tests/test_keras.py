"""Outside reference: Keras' LSTM, GRU and SimpleRNN, their values and their gradients.

Keras' GRU(reset_after=False) is the other one at hand that has the reset gate before the product and can be trained. Its backend here is
torch, for the gradients; use_cudnn=False keeps it to its own cells. Their matrix product is in f32, whatever they are given.
"""

import os

import pytest
import torch

os.environ["KERAS_BACKEND"] = "torch"
keras = pytest.importorskip("keras")

import rnnkernels
from cases import random
from conftest import assert_close

# Keras stacks gates as LSTM i f c o, GRU z r h; torch as i f g o, r z n.
GATES = {"LSTM": (0, 1, 2, 3), "GRU": (1, 0, 2), "RNN": (0,)}
CASES = [("LSTM", {}), ("GRU", {}), ("GRU", {"reset_after": False}),
         *(("RNN", {"nonlinearity": name}) for name in ("tanh", "relu", "sigmoid"))]
T, B, I, H = 6, 3, 4, 7


def results(run, dtype, numbers):
    """run(x, states, weights) -> (out, h_n[, c_n]): by name, with the gradients of all that it took."""
    x, states, weights, cotangents = ([t.to(dtype) for t in group] for group in numbers)
    leaves = [t.requires_grad_() for t in (*x, *states, *weights)]
    outputs = run(*x, states, weights)
    gradients = torch.autograd.grad(outputs, leaves, cotangents)
    n = len(states)
    names = "out", *("h_n", "c_n")[:n], "d_x", *("d_h0", "d_c0")[:n], "d_w_ih", "d_w_hh", "d_b_ih", "d_b_hh"
    return dict(zip(names, (*outputs, *gradients), strict=True))


def by_ours(cell, options, lengths):
    def run(x, states, weights):
        module = getattr(rnnkernels, cell)(I, H, dtype=x.dtype, **options)
        hx = [s[None] for s in states]
        parameters = dict(zip(module.state_dict(), weights))
        out, last = torch.func.functional_call(module, parameters, (x, hx if len(hx) == 2 else hx[0]), {"lengths": lengths})
        return out, *(s[0] for s in (last if len(hx) == 2 else (last,)))

    return run


def by_keras(cell, options, lengths):
    ordered = lambda w: torch.cat([w.chunk(len(GATES[cell]))[g] for g in GATES[cell]])
    kind = keras.layers.SimpleRNN if cell == "RNN" else getattr(keras.layers, cell)
    options = {"activation": options["nonlinearity"]} if cell == "RNN" else options | {"use_cudnn": False}
    layer = kind(H, return_sequences=True, return_state=True, **options)
    layer.build((B, T, I))
    real = None if lengths is None else torch.arange(T) < lengths[:, None]

    def run(x, states, weights):
        w_ih, w_hh, b_ih, b_hh = map(ordered, weights)
        bias = torch.stack([b_ih, b_hh]) if getattr(layer, "reset_after", False) else b_ih + b_hh
        (out, *last), _ = layer.stateless_call([w_ih.t(), w_hh.t(), bias], [v.value for v in layer.non_trainable_variables],
                                               x.transpose(0, 1), initial_state=states, mask=real)
        out = out if real is None else out * real[..., None]  # past a row's end Keras repeats its last output
        return out.transpose(0, 1), *last

    return run


@pytest.mark.parametrize("lengths", (None, (2, T, 4)), ids=str)
@pytest.mark.parametrize("cell, options", CASES, ids=str)
def test_keras(cell, options, lengths):
    draw = lambda *shapes: [random(shape, torch.float32) for shape in shapes]
    G, states = len(GATES[cell]), [(B, H)] * (1 + (cell == "LSTM"))
    weights = [0.4 * w for w in draw((G * H, I), (G * H, H), (G * H,), (G * H,))]
    numbers = draw((T, B, I)), draw(*states), weights, draw((T, B, H), *states)
    lengths = None if lengths is None else torch.tensor(lengths)
    ours, exact = (results(by_ours(cell, options, lengths), dtype, numbers) for dtype in (torch.float32, torch.float64))
    with keras.device("cpu"):  # it would take a card where there is one
        theirs = results(by_keras(cell, options, lengths), torch.float32, numbers)
    for name, value in exact.items():
        assert_close(ours[name], value, theirs[name], name)
        assert (theirs[name] - value).abs().max() < 1e-5 * max(1, value.abs().max()), name  # the rule above does not live on Keras' error
