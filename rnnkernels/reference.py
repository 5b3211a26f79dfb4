"""The truth: one recurrent layer as a short loop of plain PyTorch operations.

Every kernel of this package is compared with this file, double backward differentiates it, and it runs in their place where
no extension was built. It is written to be read: a cell is its equations, a layer is a loop over time. It works for any
floating or complex dtype and device, under vmap and forward-mode AD, and can be differentiated any number of times.

`lstm`, `lstm_with_cells`, `gru`, `gru_reset_before` and `rnn` have exactly the signatures of the ops in csrc/torch, so that either can stand
for the other:

    x            [T, B, I], any strides; or the data [N, I] of a packed sequence, with batch_sizes
    h0, c0       [D, B, P], [D, B, H]; D = 2 when the weights of the reverse direction (names ending in _r) are given
    w_ih, w_hh   [G*H, I], [G*H, P]; gates stacked in torch.nn's order: LSTM i f g o, GRU r z n
    b_ih, b_hh   [G*H] or None
    w_hr         [P, H] or None: projection of an LSTM's h; without it P = H
    batch_sizes  int64 [T] on the CPU, non-increasing: the rows still running at each step of a packed sequence
    lengths      int64 [B], any order, each in 0..T: the real steps of each row. What lies beyond is never read
    reset        bool [T, B], or [N] of a packed sequence: where true, the row's state becomes reset_h (and reset_c) before that step, in
                 each direction's own time
    reset_h, reset_c  [D, B, P], [D, B, H], or None for zero
    recompute    what the kernels keep for the backward pass; without effect here

    out          [T, B, D*P] (zero past a row's length) or packed [N, D*P]
    h_n, c_n     [D, B, P], [D, B, H]: each row's state after its own last step
    c_out        [T, B, D*H] or packed [N, D*H], as out: the c of every step

Equations: torch.nn.LSTM, GRU and RNN; the projection is that of Sak et al. 2014 (arXiv:1402.1128).
"""

import functools

import torch
from torch.nn.functional import linear

__all__ = ["lstm", "lstm_with_cells", "gru", "gru_reset_before", "rnn", "lstm_cell", "gru_cell", "rnn_cell"]


def lstm_step(x, h, c, w_ih, w_hh, b_ih, b_hh, w_hr=None):
    i, f, g, o = (linear(x, w_ih, b_ih) + linear(h, w_hh, b_hh)).chunk(4, -1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    h = o.sigmoid() * c.tanh()
    return h if w_hr is None else linear(h, w_hr), c


def gru_step(x, h, w_ih, w_hh, b_ih, b_hh):
    r_x, z_x, n_x = linear(x, w_ih, b_ih).chunk(3, -1)
    r_h, z_h, n_h = linear(h, w_hh, b_hh).chunk(3, -1)
    r = (r_x + r_h).sigmoid()
    z = (z_x + z_h).sigmoid()
    n = (n_x + r * n_h).tanh()
    return ((1 - z) * n + z * h,)


def gru_reset_before_step(x, h, w_ih, w_hh, b_ih, b_hh):
    H = h.shape[-1]
    r_x, z_x, n_x = linear(x, w_ih, b_ih).chunk(3, -1)
    r_h, z_h = linear(h, w_hh[: 2 * H], None if b_hh is None else b_hh[: 2 * H]).chunk(2, -1)
    r = (r_x + r_h).sigmoid()
    z = (z_x + z_h).sigmoid()
    n = (n_x + linear(r * h, w_hh[2 * H :], None if b_hh is None else b_hh[2 * H :])).tanh()
    return ((1 - z) * n + z * h,)


def rnn_step(x, h, w_ih, w_hh, b_ih, b_hh, nonlinearity="tanh"):
    return (getattr(linear(x, w_ih, b_ih) + linear(h, w_hh, b_hh), nonlinearity)(),)


def _in_float32(fn):
    """Computes a bf16 or f16 call in f32, as the kernels do: only arguments and results are rounded."""

    @functools.wraps(fn)
    def wrapper(x, *args, **kwargs):
        if x.dtype not in (torch.bfloat16, torch.float16):
            return fn(x, *args, **kwargs)
        widen = lambda a: a.float() if torch.is_tensor(a) and a.is_floating_point() else a
        result = fn(x.float(), *map(widen, args), **kwargs)
        return tuple(r.to(x.dtype) for r in result)

    return wrapper


@_in_float32
def lstm(x, h0, c0, w_ih, w_hh, b_ih, b_hh, w_hr, w_ih_r, w_hh_r, b_ih_r, b_hh_r, w_hr_r, reset_h, reset_c,
         batch_sizes, lengths, reset, recompute=False):
    """One LSTM layer, both directions; returns (out, h_n, c_n). Shapes at the top of this file."""
    forward, reverse = (w_ih, w_hh, b_ih, b_hh, w_hr), (w_ih_r, w_hh_r, b_ih_r, b_hh_r, w_hr_r)
    return _layer(lstm_step, forward, reverse, x, (h0, c0), (reset_h, reset_c), batch_sizes, lengths, reset)[:3]


@_in_float32
def lstm_with_cells(x, h0, c0, w_ih, w_hh, b_ih, b_hh, w_hr, w_ih_r, w_hh_r, b_ih_r, b_hh_r, w_hr_r, reset_h, reset_c,
                    batch_sizes, lengths, reset, recompute=False):
    """As `lstm`; returns (out, h_n, c_n, c_out)."""
    forward, reverse = (w_ih, w_hh, b_ih, b_hh, w_hr), (w_ih_r, w_hh_r, b_ih_r, b_hh_r, w_hr_r)
    return _layer(lstm_step, forward, reverse, x, (h0, c0), (reset_h, reset_c), batch_sizes, lengths, reset)


@_in_float32
def gru(x, h0, w_ih, w_hh, b_ih, b_hh, w_ih_r, w_hh_r, b_ih_r, b_hh_r, reset_h, batch_sizes, lengths, reset,
        recompute=False):
    """One GRU layer, both directions; returns (out, h_n). Shapes at the top of this file."""
    forward, reverse = (w_ih, w_hh, b_ih, b_hh), (w_ih_r, w_hh_r, b_ih_r, b_hh_r)
    return _layer(gru_step, forward, reverse, x, (h0,), (reset_h,), batch_sizes, lengths, reset)


@_in_float32
def gru_reset_before(x, h0, w_ih, w_hh, b_ih, b_hh, w_ih_r, w_hh_r, b_ih_r, b_hh_r, reset_h, batch_sizes, lengths, reset,
                     recompute=False):
    """As `gru`, in the form of Cho et al. 2014 (arXiv:1406.1078): the reset gate acts on h before the recurrent product."""
    forward, reverse = (w_ih, w_hh, b_ih, b_hh), (w_ih_r, w_hh_r, b_ih_r, b_hh_r)
    return _layer(gru_reset_before_step, forward, reverse, x, (h0,), (reset_h,), batch_sizes, lengths, reset)


@_in_float32
def rnn(x, h0, w_ih, w_hh, b_ih, b_hh, w_ih_r, w_hh_r, b_ih_r, b_hh_r, reset_h, batch_sizes, lengths, reset,
        nonlinearity="tanh"):
    """One RNN layer with tanh, relu or sigmoid, both directions; returns (out, h_n). Shapes at the top of this file."""
    forward, reverse = (w_ih, w_hh, b_ih, b_hh, nonlinearity), (w_ih_r, w_hh_r, b_ih_r, b_hh_r, nonlinearity)
    return _layer(rnn_step, forward, reverse, x, (h0,), (reset_h,), batch_sizes, lengths, reset)


def lstm_cell(x, hx, w_ih, w_hh, b_ih=None, b_hh=None):
    """One LSTM step. x [B, I], hx = (h [B, H], c [B, H]); returns the next (h, c)."""
    return _in_float32(lstm_step)(x, *hx, w_ih, w_hh, b_ih, b_hh)


def gru_cell(x, hx, w_ih, w_hh, b_ih=None, b_hh=None, reset_after=True):
    """One GRU step, of `gru` or of `gru_reset_before`. x [B, I], hx [B, H]; returns the next h."""
    step = gru_step if reset_after else gru_reset_before_step
    return _in_float32(step)(x, hx, w_ih, w_hh, b_ih, b_hh)[0]


def rnn_cell(x, hx, w_ih, w_hh, b_ih=None, b_hh=None, nonlinearity="tanh"):
    """One RNN step. x [B, I], hx [B, H]; returns the next h."""
    return _in_float32(rnn_step)(x, hx, w_ih, w_hh, b_ih, b_hh, nonlinearity)[0]


def _layer(cell, forward, reverse, x, states, reset_states, batch_sizes, lengths, reset):
    """cell: (x, *state, *weights) -> the next state. forward, reverse: each direction's weights; w_ih None without the latter.

    Returns the first state of every step, the last states, and the second state of every step where there is one.
    """
    step, step_r = (lambda x, *state, weights=w: cell(x, *state, *weights) for w in (forward, reverse))
    tokens = _tokens(x, batch_sizes, lengths)
    resets = [None] * len(tokens) if reset is None else [r for r, _ in _tokens(reset, batch_sizes, lengths)]
    if reset is not None:
        reset_states = [torch.zeros_like(s) if r is None else r for s, r in zip(states, reset_states)]
    every, last = _direction(step, tokens, 0, states, resets, reset_states)
    last = [s.unsqueeze(0) for s in last]
    if reverse[0] is not None:
        every_r, last_r = _direction(step_r, tokens, 1, states, resets, reset_states)
        every = [[torch.cat(pair, -1) for pair in zip(s, s_r)] for s, s_r in zip(every, every_r)]
        last = [torch.cat([s, s_r.unsqueeze(0)]) for s, s_r in zip(last, last_r)]
    out, *c_out = (_join(s, tokens, states[0].shape[1], batch_sizes, lengths) for s in every)
    return out, *last, *c_out


def _join(steps, tokens, batch, batch_sizes, lengths):
    """The states of all steps in the layout of x, zero past a row's length."""
    if batch_sizes is not None:
        return torch.cat(steps)
    if lengths is not None:
        steps = [s.new_zeros(batch, s.shape[-1]).index_copy(0, rows, s) for s, (_, rows) in zip(steps, tokens)]
    return torch.stack(steps)


def _tokens(x, batch_sizes, lengths):
    """Per step the real tokens [n, I] and the indices of their rows (None: all of them).

    Padding is left out here and not masked later: 0 * NaN is NaN, in the outputs and again in the gradients.
    """
    if batch_sizes is not None:
        sizes = batch_sizes.tolist()
        return [(x_t, torch.arange(n, device=x.device)) for x_t, n in zip(x.split(sizes), sizes)]
    if lengths is not None:
        rows = [(lengths > t).nonzero().squeeze(1).to(x.device) for t in range(len(x))]
        return [(x_t[r], r) for x_t, r in zip(x, rows)]
    return [(x_t, None) for x_t in x.unbind(0)]


def _direction(step, tokens, d, states, resets, reset_states):
    """Runs `step` over direction d's time; a row's state moves only at its own tokens. Returns each state's list of all steps, the last states."""
    every, states = [], [s[d] for s in states]
    order = range(len(tokens))
    for t in reversed(order) if d else order:
        (x_t, rows), reset = tokens[t], resets[t]
        own = states if rows is None else [s[rows] for s in states]
        if reset is not None:
            anew = [s[d] if rows is None else s[d][rows] for s in reset_states]
            own = [torch.where(reset.unsqueeze(-1), a, s) for a, s in zip(anew, own)]
        new = step(x_t, *own)
        states = new if rows is None else [s.index_copy(0, rows, n) for s, n in zip(states, new)]
        every.append(new)
    return list(zip(*(every[::-1] if d else every))), states
