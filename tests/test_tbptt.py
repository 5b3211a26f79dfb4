"""tbptt: chunks of a sequence, against loops written by hand."""

import collections

import pytest
import torch

import rnnkernels

T, B, I, H = 11, 3, 4, 5


def build(cell):
    return getattr(rnnkernels, cell)(I, H, num_layers=2), torch.randn(T, B, I), torch.randn(T, B, H)


def detach(state):
    return tuple(s.detach() for s in state) if isinstance(state, tuple) else state.detach()


def gradients(module, loss):
    return torch.autograd.grad(loss, list(module.parameters()))


@pytest.mark.parametrize("cell", ("LSTM", "GRU", "RNN"))
@pytest.mark.parametrize("chunk", (1, 4, 11, 20))
def test_is_the_loop_one_would_write(cell, chunk):
    rnn, xs, ys = build(cell)
    chunks, rounds = rnnkernels.tbptt((xs, ys), chunk), 0
    state, t = None, 0
    for (x, y), given in chunks:
        out, expected_state = rnn(xs[t : t + chunk], state)
        expected = gradients(rnn, (out * ys[t : t + chunk]).sum())
        state, t = detach(expected_state), t + chunk

        out, chunks.state = rnn(x, given)
        for a, b in zip(gradients(rnn, (out * y).sum()), expected):
            assert torch.equal(a, b)
        assert chunks.new == len(x)
        rounds += 1
    assert rounds == len(chunks) == -(-T // chunk)
    for a, b in zip(chunks.state, state):
        assert torch.equal(a, b)


@pytest.mark.parametrize("chunk, overlap", ((4, 2), (4, 3), (5, 1), (11, 5), (20, 3)))
def test_overlap(chunk, overlap):
    """Each window is that of k1 = chunk - overlap, k2 = chunk; each step is new once; states are the sequence's own."""
    rnn, xs, ys = build("LSTM")
    chunks, starts, new = rnnkernels.tbptt((xs, ys), chunk, overlap=overlap), [], 0
    whole = rnn(xs)[0]
    for i, ((x, y), state) in enumerate(chunks):
        start = i * (chunk - overlap)
        assert torch.equal(x, xs[start : start + chunk]) and torch.equal(y, ys[start : start + chunk])
        out, middle = rnn(x[: chunks.stride], state)
        if len(x) > chunks.stride:
            out = torch.cat([out, rnn(x[chunks.stride :], middle)[0]])
        assert torch.allclose(out, whole[start : start + len(x)], atol=1e-6)
        undivided = gradients(rnn, (rnn(x, state)[0] * y)[-chunks.new :].sum())  # over all chunk steps back
        for a, b in zip(gradients(rnn, (out * y)[-chunks.new :].sum()), undivided):
            assert torch.allclose(a, b, atol=1e-5)
        chunks.state = middle
        new += chunks.new
        starts.append(start)
        assert start + len(x) == new  # the new ones are the last
    assert new == T and len(starts) == len(chunks)


def test_history_is_cut_and_dtype_kept():
    chunks = rnnkernels.tbptt(torch.randn(6, 2, I), 2, state={"h": torch.ones(1, requires_grad=True)})
    for x, state in chunks:
        assert x.shape == (2, 2, I) and not state["h"].requires_grad
        carried = [(state["h"] * torch.ones(1, requires_grad=True), None), 3]
        chunks.state = {"h": carried[0][0], "more": carried}
        assert isinstance(chunks.state["more"][0], tuple) and chunks.state["more"][1] == 3
        assert not chunks.state["more"][0][0].requires_grad
    assert next(chunks, None) is None


def test_each_for_begins_again():
    rnn, xs, _ = build("GRU")
    start, ends = torch.randn(2, B, H), []
    chunks = rnnkernels.tbptt(xs, 4, state=start)
    for epoch in range(2):
        for i, (x, state) in enumerate(chunks):
            assert i or torch.equal(state, start)
            assert torch.equal(x, xs[4 * i : 4 * i + 4])
            _, chunks.state = rnn(x, state)
        ends.append(chunks.state)
    assert torch.equal(*ends) and torch.allclose(ends[0], rnn(xs, start)[1], atol=1e-6)
    for x, state in chunks:  # a loop that was left counts for nothing
        break
    assert len([setattr(chunks, "state", state) for x, state in chunks]) == 3


def test_none_starts_again():
    rnn, xs, _ = build("GRU")
    chunks = rnnkernels.tbptt(xs, 4)
    for x, state in chunks:
        assert state is None
        rnn(x, state)
        chunks.state = None


def test_a_forgotten_state_is_an_error():
    rnn, xs, _ = build("GRU")
    with pytest.raises(RuntimeError, match=r"chunks\.state = rnn\(x, state\)"):
        for x, state in rnnkernels.tbptt(xs, 4):
            rnn(x, state)


@pytest.mark.parametrize(
    "arguments, options, error, words",
    (
        ((torch.zeros(5, 2), 0), {}, ValueError, "at least 1"),
        ((torch.zeros(5, 2), -3), {}, ValueError, "at least 1"),
        ((torch.zeros(5, 2), 2.0), {}, TypeError, "chunk must be an integer, got float"),
        ((torch.zeros(5, 2), True), {}, TypeError, "integer"),
        ((torch.zeros(5, 2), 2), {"overlap": 2}, ValueError, r"0\.\.1"),
        ((torch.zeros(5, 2), 2), {"overlap": -1}, ValueError, r"0\.\.1"),
        ((torch.zeros(5, 2), 2), {"overlap": 0.5}, TypeError, "overlap must be an integer"),
        (((torch.zeros(5, 2), torch.zeros(4, 2)), 2), {}, ValueError, r"\[5, 4\]"),
        ((torch.zeros(0, 2), 2), {}, ValueError, "no step"),
        ((torch.tensor(1.0), 2), {}, ValueError, "no step"),
        (("text", 2), {}, TypeError, "got str"),
        (((), 2), {}, TypeError, "tuple"),
        (((torch.zeros(5), [1] * 5), 2), {}, TypeError, "tensor"),
    ),
)
def test_wrong_arguments(arguments, options, error, words):
    with pytest.raises(error, match=words):
        rnnkernels.tbptt(*arguments, **options)


def test_a_named_tuple_stays_one():
    State = collections.namedtuple("State", "h c")
    chunks = rnnkernels.tbptt(torch.zeros(4, 1, 2), 2, state=State(torch.zeros(1), torch.ones(1, requires_grad=True)))
    for _, state in chunks:
        assert isinstance(state, State) and not state.c.requires_grad
        chunks.state = State(state.h, state.c)


def test_a_state_of_any_known_structure():
    state = collections.OrderedDict(h=torch.ones(1, requires_grad=True), rest=[None, 3])
    chunks = rnnkernels.tbptt(torch.zeros(4, 1), 2, state=state)
    assert type(chunks.state) is collections.OrderedDict and not chunks.state["h"].requires_grad and chunks.state["rest"] == [None, 3]


def test_a_state_whose_tensors_nobody_sees_is_an_error():
    class State:
        h = torch.ones(1, requires_grad=True)

    with pytest.raises(TypeError, match="tbptt: the state must be made of tensors, tuples, lists and dicts, got State"):
        rnnkernels.tbptt(torch.zeros(4, 1), 2, state=State())
