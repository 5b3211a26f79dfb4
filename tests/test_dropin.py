"""Everything around forward that people do with torch.nn's recurrent modules also works with ours."""

import copy
import io
import pickle

import pytest
import torch
from torch.nn.utils import parametrize
from torch.nn.utils.rnn import PackedSequence, pack_sequence

import rnnkernels
from cases import CELLS, Case, Numbers, call_module
from conftest import assert_close

NAMES = ("LSTM", "GRU", "RNN")
ALL_NAMES = (*NAMES, "LSTMCell", "GRUCell", "RNNCell")


def twins(cell, *args, **kwargs):
    """Ours and torch.nn's with the same weights."""
    ours, theirs = (getattr(package, cell)(*args, dtype=torch.float64, **kwargs) for package in (rnnkernels, torch.nn))
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def x64(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def output(module, *args):
    result = module(*args)
    return result[0] if isinstance(result, tuple) else result


def input_for(cell):
    return x64(2, 3) if cell.endswith("Cell") else x64(4, 2, 3)


def same_output(ours, theirs, *args):
    a, b = output(ours, *args), output(theirs, *args)
    assert_close(getattr(a, "data", a), getattr(b, "data", b).detach())


@pytest.mark.parametrize("cell", NAMES)
def test_construction(cell):
    """Same names, initial values, attributes and repr; weights travel both ways."""
    for kwargs in ({}, {"num_layers": 2, "bidirectional": True, "bias": False, "dropout": 0.5, "batch_first": True}):
        torch.manual_seed(3)
        ours = getattr(rnnkernels, cell)(3, 4, **kwargs)
        torch.manual_seed(3)
        theirs = getattr(torch.nn, cell)(3, 4, **kwargs)
        assert isinstance(ours, type(theirs)) and repr(ours) == repr(theirs)
        assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
        assert list(ours.state_dict()) == list(theirs.state_dict())
        theirs.load_state_dict(ours.state_dict())
        ours.load_state_dict(theirs.state_dict())
        assert len(ours._flat_weights) == len(ours.all_weights[0]) * len(ours.all_weights)


@pytest.mark.parametrize("copier", (copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), "torch.save"), ids=("deepcopy", "pickle", "save"))
@pytest.mark.parametrize("cell", NAMES)
def test_copies(cell, copier):
    def through_file(module):
        buffer = io.BytesIO()
        torch.save(module, buffer)
        buffer.seek(0)
        return torch.load(buffer, weights_only=False)

    ours, theirs = twins(cell, 3, 5, num_layers=2)
    duplicate = (through_file if copier == "torch.save" else copier)(ours)
    assert type(duplicate) is type(ours) and duplicate.weight_ih_l0 is not ours.weight_ih_l0
    same_output(duplicate, theirs, x64(4, 2, 3))
    with torch.no_grad():
        duplicate.weight_hh_l1.mul_(2)
    same_output(ours, theirs, x64(4, 2, 3))


def test_pickles_name_the_public_path():
    for name in ("LSTM", "GRU", "RNN", "LSTMCell", "GRUCell", "RNNCell"):
        assert f"crnnkernels\n{name}\n".encode() in pickle.dumps(getattr(rnnkernels, name)(2, 3), protocol=2)


@pytest.mark.parametrize("cell", NAMES)
def test_checkpoint_from_before_proj_size(cell):
    ours, theirs = twins(cell, 3, 5)
    state = ours.__getstate__()
    del state["proj_size"]
    old = getattr(rnnkernels, cell).__new__(getattr(rnnkernels, cell))
    old.__setstate__(state)
    assert old.proj_size == 0
    same_output(old, theirs, x64(4, 2, 3))


@pytest.mark.parametrize("cell", ALL_NAMES)
def test_replaced_weights(cell):
    """weight_norm, parametrize, functional_call, assignment and in-place writes through .data are all seen."""
    x, suffix = input_for(cell), "" if cell.endswith("Cell") else "_l0"
    w_ih, w_hh = f"weight_ih{suffix}", f"weight_hh{suffix}"
    ours, theirs = twins(cell, 3, 5)
    for module in (ours, theirs):
        torch.nn.utils.weight_norm(module, w_ih)
        with torch.no_grad():
            getattr(module, w_ih + "_g").mul_(1.5)
    same_output(ours, theirs, x)
    output(ours, x).sum().backward()
    output(theirs, x).sum().backward()
    for name in (w_ih + "_v", w_ih + "_g", w_hh):
        assert_close(getattr(ours, name).grad, getattr(theirs, name).grad)

    ours, theirs = twins(cell, 3, 5)
    for module in (ours, theirs):
        parametrize.register_parametrization(module, w_ih, Double())
    same_output(ours, theirs, x)
    weights = {k: torch.randn_like(v) for k, v in getattr(torch.nn, cell)(3, 5, dtype=torch.float64).named_parameters()}
    ours, theirs = twins(cell, 3, 5)
    a, b = (output(lambda x: torch.func.functional_call(m, weights, (x,)), x) for m in (ours, theirs))
    assert_close(a, b)
    same_output(ours, theirs, x)
    for module in (ours, theirs):
        setattr(module, w_hh, torch.nn.Parameter(weights[w_hh]))
        getattr(module, w_ih).data.copy_(weights[w_ih])
    same_output(ours, theirs, x)


@pytest.mark.parametrize("cell", ALL_NAMES)
def test_weights_are_those_of_the_last_step(cell):
    """Fused optimizers and load_state_dict write without a trace; nothing may hold what was there before."""
    x = input_for(cell)
    for optimizer in (torch.optim.SGD, torch.optim.Adam):
        ours, theirs = twins(cell, 3, 5)
        for module in (ours, theirs):
            step = optimizer(module.parameters(), 0.1, fused=True)
            for _ in range(3):
                step.zero_grad()
                output(module, x).pow(2).sum().backward()
                step.step()
        same_output(ours, theirs, x)
        other = getattr(torch.nn, cell)(3, 5, dtype=torch.float64)
        ours.load_state_dict(other.state_dict())
        same_output(ours, other, x)


class Double(torch.nn.Module):
    def forward(self, w):
        return 2 * w


@pytest.mark.parametrize("cell", ALL_NAMES)
def test_hooks(cell):
    ours, theirs = twins(cell, 3, 5)
    seen = {ours: [], theirs: []}
    for module in (ours, theirs):
        module.register_forward_pre_hook(lambda m, args: (args[0] * 2,))
        module.register_forward_hook(lambda m, args, out: (out[0] + 1, *out[1:]) if isinstance(out, tuple) else out + 1)
        module.register_full_backward_hook(lambda m, d_in, d_out: seen[m].extend([d_in[0], d_out[0]]))
        x = torch.linspace(-1, 1, 24, dtype=torch.float64).reshape(*[4, 2] if cell in NAMES else [8], 3).requires_grad_()
        out = output(module, x)
        out.pow(2).sum().backward()
        seen[module] += [out, x.grad]
    for a, b in zip(*seen.values(), strict=True):
        assert_close(a, b.detach())


@pytest.mark.parametrize("use_reentrant", (True, False))
def test_activation_checkpointing(use_reentrant):
    ours, theirs = twins("LSTM", 3, 5, num_layers=2, dropout=0.3)
    x = x64(4, 2, 3).requires_grad_()
    gradients = []
    for call in (lambda: theirs(x)[0], lambda: torch.utils.checkpoint.checkpoint(lambda x: ours(x)[0], x, use_reentrant=use_reentrant)):
        torch.manual_seed(7)
        x.grad = None
        call().pow(2).sum().backward()  # the reentrant kind does not work with autograd.grad
        gradients.append(x.grad)
    assert_close(*gradients)


@pytest.mark.fast
@pytest.mark.parametrize("layout", ("padded", "batch_first", "packed"))
@pytest.mark.parametrize("cell", NAMES)
@pytest.mark.parametrize("D", (1, 2))
def test_dropout_masks_are_torchs(cell, layout, D):
    ours, theirs = twins(cell, 3, 5, num_layers=3, dropout=0.4, bidirectional=D == 2, batch_first=layout == "batch_first")
    x = pack_sequence([x64(n, 3) for n in (2, 4, 3)], enforce_sorted=False) if layout == "packed" else x64(4, 2, 3)
    for p in (0.4, 0.7, 0.0, 1.0):
        for module in (ours, theirs):
            module.dropout = p  # also after construction
        outputs, states = [], []
        for module in (ours, theirs):
            torch.manual_seed(11)
            out = module(x)[0]
            outputs.append(out.data if layout == "packed" else out)
            states.append(torch.get_rng_state())
        assert_close(*outputs)
        assert torch.equal(*states)
    same_output(ours.eval(), theirs.eval(), x)


@pytest.mark.parametrize("cell", NAMES)
def test_packed_output_keeps_its_indices(cell):
    ours, theirs = twins(cell, 3, 5)
    for packed in (pack_sequence([x64(n, 3) for n in (2, 4, 3)], enforce_sorted=False), pack_sequence([x64(n, 3) for n in (3, 2)])):
        a, b = ours(packed)[0], theirs(packed)[0]
        assert isinstance(a, PackedSequence)
        assert torch.equal(a.batch_sizes, b.batch_sizes)
        for i, j in ((a.sorted_indices, b.sorted_indices), (a.unsorted_indices, b.unsorted_indices)):
            assert i is None and j is None or torch.equal(i, j)


@pytest.mark.parametrize("cell", NAMES)
def test_output_strides_and_names(cell):
    """batch_first gives a transposed view, as torch.nn's; hx may be a list, and a keyword."""
    ours, theirs = twins(cell, 3, 5, batch_first=True)
    x = x64(4, 2, 3)
    assert ours(x)[0].stride() == theirs(x)[0].stride()
    h = x64(1, 4, 5)
    hx = [h, h.clone()] if cell == "LSTM" else h
    assert_close(ours(input=x, hx=hx)[0], theirs(input=x, hx=hx)[0].detach())


@pytest.mark.parametrize("cell", CELLS)
def test_dtype_and_device_moves(cell):
    case = Case(cell, L=2)
    module, numbers = case.build(rnnkernels), Numbers.draw(case)
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        out = call_module(module.to(dtype), case, numbers.x.to(dtype), numbers.to(dtype).hx, None)
        assert all(o.dtype is dtype for o in out)
    meta = case.build(rnnkernels).to("meta")
    out = call_module(meta, case, numbers.x.to("meta"), tuple(h.to("meta") for h in numbers.hx), None)
    assert [o.shape for o in out] == [o.shape for o in call_module(module, case, numbers.x, numbers.hx, None)]
    case.build(rnnkernels).share_memory()


def test_trains_like_torch():
    """Twenty steps of Adam, two layers, stateful: the losses agree."""
    losses = []
    for package in (rnnkernels, torch.nn):
        torch.manual_seed(5)
        module, head = package.LSTM(8, 12, 2, dtype=torch.float64), torch.nn.Linear(12, 8, dtype=torch.float64)
        optimizer = torch.optim.Adam([*module.parameters(), *head.parameters()], 1e-2)
        x, state = x64(40, 3, 8), None
        losses.append([])
        for t in range(0, 40, 2):
            out, state = module(x[t : t + 2], state)
            state = tuple(s.detach() for s in state)
            loss = (head(out) - x[t : t + 2]).pow(2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[-1].append(loss.item())
    assert torch.allclose(*map(torch.tensor, losses), rtol=1e-9)


class Subclass(torch.Tensor):
    pass


@pytest.mark.parametrize("cell", ("LSTM", "GRU", "RNN"))
def test_tensor_subclasses_come_back(cell):
    ours, theirs = getattr(rnnkernels, cell)(3, 4), getattr(torch.nn, cell)(3, 4)
    x = torch.randn(5, 2, 3).as_subclass(Subclass)
    assert type(ours(x)[0]) is type(theirs(x)[0]) is Subclass
    assert torch.equal(ours(x)[0].as_subclass(torch.Tensor), ours(x.as_subclass(torch.Tensor))[0])
