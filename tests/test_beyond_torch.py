"""What torch.nn does not have, against the reference: states set anew within a sequence, GRU(reset_after=False), RNN with sigmoid."""

import pytest
import torch
from conftest import assert_close, needs_extension
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import rnnkernels
from rnnkernels import functional, reference
from rnnkernels.stack import stack

CELLS = {  # functional, the reference's layer, gates, states, options, what the layer takes last
    "lstm": (functional.lstm, reference.lstm, 4, 2, {}, ()),
    "gru": (functional.gru, reference.gru, 3, 1, {}, ()),
    "gru_reset_before": (functional.gru, reference.gru_reset_before, 3, 1, {"reset_after": False}, ()),
    "tanh": (functional.rnn, reference.rnn, 1, 1, {"nonlinearity": "tanh"}, ("tanh",)),
    "relu": (functional.rnn, reference.rnn, 1, 1, {"nonlinearity": "relu"}, ("relu",)),
    "sigmoid": (functional.rnn, reference.rnn, 1, 1, {"nonlinearity": "sigmoid"}, ("sigmoid",)),
}
NEW = ("gru_reset_before", "sigmoid")


class Problem:
    """A stack of layers with numbers drawn for it. `resets`: None, "zero" or "state"; cells: of an LSTM, whether its cells are returned."""

    def __init__(self, cell, T=5, B=3, I=4, H=17, L=1, D=1, P=0, dtype=torch.float64, layout="full", resets=None, recompute=False, cells=False):
        self.cell, self.L, self.D, self.dtype, self.layout = cell, L, D, dtype, layout
        self.function, self.layer, G, n_states, self.options, self.extra = CELLS[cell]
        self.options = self.options | {k: True for k, wanted in {"recompute": recompute, "return_cells": cells}.items() if wanted}
        self.last_layer = reference.lstm_with_cells if cells else self.layer
        draw = lambda *shape: torch.randn(*shape, dtype=torch.float64).to(dtype)
        weight = lambda rows, columns: (draw(rows, columns).double() * 0.8 / columns**0.5).to(dtype)
        S, self.params = P or H, []
        for l in range(L):
            for _ in range(D):
                self.params += [weight(G * H, D * S if l else I), weight(G * H, S), draw(G * H), draw(G * H)] + ([weight(S, H)] if P else [])
        self.x = draw(T, B, I)
        self.hx = [draw(L * D, B, width) for width in (S, H)[:n_states]]
        self.lengths = torch.tensor([T, *torch.randint(1, T + 1, (B - 1,))][:B], device="cpu").sort(descending=True)[0]
        self.reset = torch.rand(T, B) < 0.4 if resets else None
        self.reset_hx = [draw(L * D, 1 if k else B, width) for k, width in enumerate((S, H)[:n_states])] if resets == "state" else []
        self.cotangents = [draw(T, B, D * S), *map(torch.ones_like, self.hx), draw(T, B, D * H)][: 2 + n_states if cells else 1 + n_states]

    def leaves(self, dtype):
        return [t.to(dtype).requires_grad_() for t in (self.x, *self.hx, *self.params, *self.reset_hx)]

    def split(self, leaves):
        n, p = 1 + len(self.hx), 1 + len(self.hx) + len(self.params)
        return leaves[0], leaves[1:n], leaves[n:p], leaves[p:] or None

    def ours(self, dtype, leaves=None):
        """(out, the last states, cells), and the leaves."""
        leaves = leaves or self.leaves(dtype)
        x, hx, params, reset_hx = self.split(leaves)
        one = lambda states: states if states is None or len(states) == 2 else states[0]
        options, reset = dict(self.options), self.reset
        if self.layout == "lengths":
            options["lengths"] = self.lengths
        if self.layout == "packed":
            packed = pack_padded_sequence(x, self.lengths)
            x, options["batch_sizes"] = packed.data, packed.batch_sizes
            reset = None if reset is None else pack_padded_sequence(reset, self.lengths).data
        batch_first = self.layout == "batch_first"
        if batch_first:
            x, reset = x.transpose(0, 1), None if reset is None else reset.transpose(0, 1)
        options |= {"reset": reset, "reset_hx": one(reset_hx)}
        out, *last = self.function(x, one(hx), params, True, self.L, 0.0, False, self.D == 2, batch_first, **options)
        if batch_first:
            last[len(hx) :] = [s.transpose(0, 1) for s in last[len(hx) :]]
        return [out.transpose(0, 1) if batch_first else out, *last], leaves

    def truth(self, dtype):
        leaves = self.leaves(dtype)
        x, hx, params, reset_hx = self.split(leaves)
        reset_states = [r.expand(s.shape) for r, s in zip(reset_hx, hx)] if reset_hx else (None, None)
        lengths = self.lengths if self.layout in ("lengths", "packed") else None
        out, *last = stack(self.layer, x, hx, params, True, self.L, 0.0, False, self.D == 2, False, None, lengths, self.reset, reset_states,
                           *self.extra, last_layer=self.last_layer)
        return [self.packed(out), *last[: len(hx)], *map(self.packed, last[len(hx) :])], leaves

    def packed(self, sequence):
        return pack_padded_sequence(sequence, self.lengths).data if self.layout == "packed" else sequence

    def with_gradients(self, results, leaves, chosen=slice(None)):
        """The results, and the gradients of a loss on the chosen ones."""
        cotangents = [self.packed(d) if k in (0, 1 + len(self.hx)) else d for k, d in enumerate(self.cotangents)]
        cotangents = [d.to(r.dtype) for d, r in zip(cotangents, results, strict=True)]
        return *results, *torch.autograd.grad(results[chosen], leaves, cotangents[chosen], allow_unused=True, materialize_grads=True)

    def check(self, chosen=slice(None)):
        runs = self.ours(self.dtype), self.truth(torch.float64), self.truth(self.dtype)
        for k, (ours, ref, plain) in enumerate(zip(*(self.with_gradients(*run, chosen) for run in runs), strict=True)):
            assert ours.dtype is self.dtype
            assert_close(ours, ref, plain, f"{self.cell} {self.layout}: result {k}")


@pytest.mark.fast
@pytest.mark.parametrize("cell", NEW)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_new_cells(cell, dtype):
    for options in ({}, {"D": 2, "L": 2}, {"T": 1, "B": 1}, {"H": 33, "B": 9, "T": 12}, {"H": 100, "D": 2, "layout": "lengths"},
                    {"layout": "packed", "D": 2}, {"layout": "batch_first"}, {"T": 300, "H": 5}):
        Problem(cell, dtype=dtype, **options).check()


@pytest.mark.fast
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("resets", ["zero", "state"])
def test_resets(cell, dtype, resets):
    for options in ({}, {"D": 2, "L": 2}, {"T": 1}, {"layout": "lengths", "D": 2}, {"layout": "packed", "D": 2}, {"layout": "batch_first"}):
        Problem(cell, dtype=dtype, resets=resets, **options).check()


@pytest.mark.parametrize("cell", ["lstm", "gru", "gru_reset_before"])
def test_recompute(cell):
    for resets in (None, "state"):
        Problem(cell, T=40, B=9, resets=resets, recompute=True, D=2).check()


def test_resets_of_a_projection():
    Problem("lstm", P=5, resets="state", D=2, L=2).check()
    Problem("lstm", P=5, resets="zero", layout="lengths").check()


@needs_extension
@pytest.mark.parametrize("cell", CELLS)
def test_gradcheck(cell):
    p = Problem(cell, T=3, B=2, I=2, H=3, D=2, resets="state")
    run, leaves = lambda *leaves: tuple(p.ours(torch.float64, leaves)[0]), p.leaves(torch.float64)
    assert torch.autograd.gradcheck(run, leaves)
    assert torch.autograd.gradgradcheck(run, leaves)


MODULES = {
    "LSTM": lambda **o: rnnkernels.LSTM(4, 6, **o),
    "GRU": lambda **o: rnnkernels.GRU(4, 6, **o),
    "GRU before": lambda **o: rnnkernels.GRU(4, 6, reset_after=False, **o),
    "RNN": lambda **o: rnnkernels.RNN(4, 6, **o),
    "RNN sigmoid": lambda **o: rnnkernels.RNN(4, 6, nonlinearity="sigmoid", **o),
}


@pytest.mark.parametrize("name", MODULES)
def test_a_module_resets_as_a_loop_does(name):
    module, x, reset = MODULES[name](num_layers=2), torch.randn(8, 3, 4), torch.rand(8, 3) < 0.4
    lstm = isinstance(module, torch.nn.LSTM)
    state, outs = None, []
    for x_t, reset_t in zip(x, reset):  # what users write without it
        if state is not None:
            keep = (~reset_t)[:, None].float()
            state = tuple(s * keep for s in state) if lstm else state * keep
        out, state = module(x_t[None], state)
        outs.append(out)
    out, last = module(x, reset=reset)
    torch.testing.assert_close(out, torch.cat(outs))
    torch.testing.assert_close(last, state)
    for options, moved in (({"batch_first": True}, (x.transpose(0, 1), reset.transpose(0, 1))), ({}, (x[:, 0], reset[:, 0]))):
        other = MODULES[name](num_layers=2, **options)
        other.load_state_dict(module.state_dict())
        expected = out.transpose(0, 1) if options else out[:, 0]
        torch.testing.assert_close(other(moved[0], reset=moved[1])[0], expected)


@pytest.mark.parametrize("name", MODULES)
def test_resets_of_an_unsorted_packed_sequence(name):
    module, x, reset, lengths = MODULES[name](), torch.randn(6, 3, 4), torch.rand(6, 3) < 0.4, torch.tensor([3, 6, 1])
    states = [torch.randn(1, 3, 6) for _ in range(2 if name == "LSTM" else 1)]
    reset_hx = tuple(states) if name == "LSTM" else states[0]
    pack = lambda t: pack_padded_sequence(t, lengths, enforce_sorted=False)
    packed, last = module(pack(x), reset=pack(reset), reset_hx=reset_hx)
    padded, expected = module(x, lengths=lengths, reset=reset, reset_hx=reset_hx)
    torch.testing.assert_close(packed.data, pack(padded).data)
    torch.testing.assert_close(last, expected)
    assert isinstance(packed, PackedSequence)


def test_options_appear_and_travel():
    import pickle

    gru, rnn = rnnkernels.GRU(3, 4, reset_after=False), rnnkernels.RNN(3, 4, 1, "sigmoid")
    assert "reset_after=False" in repr(gru) and "sigmoid" in repr(rnn) and "reset_after" not in repr(rnnkernels.GRU(3, 4))
    x = torch.randn(2, 1, 3)
    for module in (gru, rnn, rnnkernels.GRUCell(3, 4, reset_after=False), rnnkernels.RNNCell(3, 4, nonlinearity="sigmoid")):
        again = pickle.loads(pickle.dumps(module))
        input = x[0] if "Cell" in type(module).__name__ else x
        torch.testing.assert_close(again(input), module(input))
        with pytest.raises(TypeError, match="torch.nn has no"):
            rnnkernels.revert(torch.nn.Sequential(module))


def test_options_are_bools():
    """As torch.nn's own: "no" would be taken for true."""
    x, h, weights = torch.randn(5, 2, 3), torch.zeros(1, 2, 4), rnnkernels.GRU(3, 4)._flat_weights
    for option in ("reset_after", "recompute"):
        calls = [lambda **o: rnnkernels.GRU(3, 4, **o), lambda **o: functional.gru(x, h, weights, **o)]
        calls.append((lambda **o: rnnkernels.LSTM(3, 4, **o)) if option == "recompute" else lambda **o: rnnkernels.GRUCell(3, 4, **o))
        for call in calls:
            for value in ("no", 1, None):
                with pytest.raises(TypeError, match=f"{option} should be of type bool, got: {type(value).__name__}"):
                    call(**{option: value})


@pytest.mark.parametrize("option", [{"reset_after": False}, {}])
def test_cells_are_a_layer_of_one_step(option):
    layer, cell = rnnkernels.GRU(3, 4, **option), rnnkernels.GRUCell(3, 4, **option)
    cell.load_state_dict({k.removesuffix("_l0"): v for k, v in layer.state_dict().items()})
    x, h = torch.randn(2, 3), torch.randn(2, 4)
    torch.testing.assert_close(cell(x, h), layer(x[None], h[None])[1][0])


def test_flip_update_gate_refuses_computed_weights():
    gru = torch.nn.utils.parametrizations.weight_norm(rnnkernels.GRU(3, 4), "weight_hh_l0")
    before = [p.clone() for p in gru.parameters()]
    with pytest.raises(ValueError, match="weight_hh_l0"):
        rnnkernels.flip_update_gate(gru)
    assert all(map(torch.equal, before, gru.parameters()))


def flipped_step(x, h, w_ih, w_hh, b_ih, b_hh, reset_after):
    """A step of a model that writes h' = (1 - z) h + z n."""
    (x_r, x_z, x_n), (w_r, w_z, w_n), (b_r, b_z, b_n) = (x @ w_ih.T + b_ih).chunk(3, -1), w_hh.chunk(3), b_hh.chunk(3)
    r, z = (x_r + h @ w_r.T + b_r).sigmoid(), (x_z + h @ w_z.T + b_z).sigmoid()
    n = (x_n + (r * (h @ w_n.T + b_n) if reset_after else (r * h) @ w_n.T + b_n)).tanh()
    return (1 - z) * h + z * n


@pytest.mark.parametrize("reset_after", (False, True))
def test_flip_update_gate(reset_after):
    """The same weights in a plain loop and in ours: a cell, and two layers of two directions."""
    cell, x = rnnkernels.GRUCell(3, 4, reset_after=reset_after), torch.randn(5, 2, 3)
    expected = flipped_step(x[0], torch.ones(2, 4), *cell.parameters(), reset_after)
    torch.testing.assert_close(rnnkernels.flip_update_gate(cell)(x[0], torch.ones(2, 4)), expected)
    gru, out = rnnkernels.GRU(3, 4, 2, bidirectional=True, reset_after=reset_after), x
    for weights in zip(*[iter(gru.all_weights)] * 2):  # of a layer's two directions
        halves = []
        for d, w in enumerate(weights):
            h, steps = torch.zeros(2, 4), []
            for x_t in out.flip(0) if d else out:
                h = flipped_step(x_t, h, *w, reset_after)
                steps.append(h)
            halves.append(torch.stack(steps[::-1] if d else steps))
        out = torch.cat(halves, -1)
    torch.testing.assert_close(rnnkernels.flip_update_gate(gru)(x)[0], out)


@needs_extension
def test_a_stepper_has_them():
    for module in (rnnkernels.GRU(4, 70, 2, reset_after=False), rnnkernels.RNN(4, 70, nonlinearity="sigmoid")):
        x, stepper = torch.randn(5, 2, 4), rnnkernels.Stepper(module, 2)
        assert torch.equal(torch.stack([stepper.step(x_t).clone() for x_t in x]), module(x)[0])


def test_bad_resets():
    module, x = rnnkernels.GRU(3, 4), torch.randn(5, 2, 3)
    reset = torch.zeros(5, 2, dtype=torch.bool)
    with pytest.raises(TypeError, match="torch.bool"):
        module(x, reset=reset.long())
    with pytest.raises(TypeError, match="torch.bool"):
        module(x, reset=[True] * 5)
    with pytest.raises(ValueError, match="shape"):
        module(x, reset=reset.T)
    with pytest.raises(ValueError, match="without reset"):
        module(x, reset_hx=torch.zeros(1, 2, 4))
    with pytest.raises(ValueError, match="reset_hx must be like hx"):
        module(x, reset=reset, reset_hx=torch.zeros(1, 3, 4))
    with pytest.raises(TypeError, match="tuple of 2"):
        rnnkernels.LSTM(3, 4)(x, reset=reset, reset_hx=torch.zeros(1, 2, 4))
    with pytest.raises(TypeError, match="dense"):
        module(x, reset=reset.to_sparse())
    for bad in (5, (None,), torch.zeros(1, 2, 4, dtype=torch.float64), torch.zeros(1, 2, 4, device="meta"), torch.zeros(4)):
        with pytest.raises((TypeError, ValueError), match="reset_hx must be like hx"):
            module(x, reset=reset, reset_hx=bad)
        with pytest.raises((TypeError, ValueError), match="reset_hx must be like hx"):
            module(x[:, 0], reset=reset[:, 0], reset_hx=bad)
    with pytest.raises(ValueError, match=r"shape \[5\]"):
        module(x[:, 0], reset=torch.tensor(True))
    lengths = torch.tensor([3, 5])
    pack = lambda t, lengths: pack_padded_sequence(t, lengths, enforce_sorted=False)
    with pytest.raises(ValueError, match="packed with other lengths"):
        module(pack(x, lengths), reset=pack(reset, lengths.flip(0)))
    with pytest.raises(ValueError, match="reset_hx"):
        module(pack(x, lengths), reset=pack(reset, lengths), reset_hx=torch.zeros(1, 3, 4))
    with pytest.raises(ValueError, match="reset_hx needs"):
        rnnkernels.GRU(3, 4, dtype=torch.complex64)(x.to(torch.complex64), reset_hx=torch.zeros(1, 2, 4, dtype=torch.complex64))
    with pytest.raises(RuntimeError, match="same device"):
        rnnkernels.functional.gru(x, torch.zeros(1, 2, 4, device="meta"), module._flat_weights)
    with pytest.raises(TypeError):
        rnnkernels.RNN(3, 4, 1, "tanh", nonlinearity="relu")
    with pytest.raises(ValueError, match="reset_after=False needs"):
        rnnkernels.GRU(3, 4, reset_after=False, dtype=torch.complex64)(x.to(torch.complex64))
    with pytest.raises(ValueError, match="sigmoid"):
        rnnkernels.RNN(3, 4, nonlinearity="sigmoid", dtype=torch.complex64)(x.to(torch.complex64))
    with pytest.raises(ValueError, match="nonlinearity"):
        rnnkernels.functional.rnn(x, x.new_zeros(1, 2, 4), [x.new_zeros(4, 3), x.new_zeros(4, 4)], False, nonlinearity="cubic")
