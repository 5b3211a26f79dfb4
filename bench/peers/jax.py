"""JAX: the layer as somebody would rewrite it there, `lax.scan` over the steps, and its gradient, under jit."""

import functools
import os

import jax
import jax.numpy as jnp
import torch
from jax.nn import sigmoid


def supports(point):
    return point.mode != "memory" and not point.packed and point.dtype == "float32" and point.threads in (None, int(os.environ["NPROC"]))


def prepare(problem):
    point = problem.point
    weights = [jnp.asarray(w.numpy()) for w in problem.weights]
    x, cotangent = jnp.asarray(problem.x.numpy()), jnp.asarray(problem.cotangent.numpy())
    states = 2 if point.cell == "LSTM" else 1
    hx = [jnp.asarray(t.numpy()) for t in problem.hx] if problem.hx else [jnp.zeros((point.L * point.D, point.B, point.H))] * states
    layers = functools.partial(stack, LAYERS[point.cell], point.L, point.D)

    if point.mode == "train":
        loss = lambda x, *weights: (layers(x, hx, *weights)[0] * cotangent).sum()
        gradients = jax.jit(jax.grad(loss, argnums=tuple(range(1 + len(weights)))))
        return lambda: jax.block_until_ready(gradients(x, *weights))
    forward = jax.jit(layers)
    return lambda: jax.block_until_ready(forward(x, hx, *weights))


def stack(layer, L, D, x, hx, *weights):
    """(y, h_n[, c_n]) of L layers of D directions."""
    last = []
    for l in range(L):
        outputs = []
        for d in range(D):
            k = l * D + d
            y, *state = layer(x[::-1] if d else x, [s[k : k + 1] for s in hx], *weights[4 * k : 4 * k + 4])
            outputs.append(y[::-1] if d else y)
            last.append(state)
        x = jnp.concatenate(outputs, -1)
    return x, *(jnp.concatenate(states) for states in zip(*last))


def limit_threads(threads):
    """XLA sizes its one pool from NPROC when it first computes; setting it later changes nothing."""
    os.environ["NPROC"] = str(threads)
    if threads == 1:
        os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"


limit_threads(torch.get_num_threads())  # of the run, which has set them


def scan(step, hx, x_gates):
    """All T steps; `hx` holds [1, B, H] states and so does the result."""
    state, y = jax.lax.scan(step, tuple(s[0] for s in hx), x_gates)
    return y, *(s[None] for s in state)


def lstm(x, hx, w_ih, w_hh, b_ih, b_hh):
    def step(state, x_gates):
        h, c = state
        i, f, g, o = jnp.split(x_gates + h @ w_hh.T, 4, axis=-1)
        c = sigmoid(f) * c + sigmoid(i) * jnp.tanh(g)
        h = sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    return scan(step, hx, x @ w_ih.T + (b_ih + b_hh))


def gru(x, hx, w_ih, w_hh, b_ih, b_hh):
    def step(state, x_gates):
        (h,) = state
        x_r, x_z, x_n = jnp.split(x_gates, 3, axis=-1)
        h_r, h_z, h_n = jnp.split(h @ w_hh.T + b_hh, 3, axis=-1)
        n = jnp.tanh(x_n + sigmoid(x_r + h_r) * h_n)
        h = n + sigmoid(x_z + h_z) * (h - n)
        return (h,), h

    return scan(step, hx, x @ w_ih.T + b_ih)


def rnn(x, hx, w_ih, w_hh, b_ih, b_hh):
    def step(state, x_gates):
        h = jnp.tanh(x_gates + state[0] @ w_hh.T)
        return (h,), h

    return scan(step, hx, x @ w_ih.T + (b_ih + b_hh))


LAYERS = {"LSTM": lstm, "GRU": gru, "RNN": rnn}
