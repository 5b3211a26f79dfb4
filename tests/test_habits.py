"""What people do to modules around training: checkpoints, offloading, pruning, other ways to load, deterministic mode."""

import pytest
import torch
from torch.nn.utils import prune

import rnnkernels
from conftest import assert_close

MODULES = ("LSTM", "GRU", "RNN", "LSTMCell", "GRUCell", "RNNCell")
pytestmark = pytest.mark.parametrize("cell", MODULES)


def pair(cell):
    """Ours and torch.nn's with the same weights, and an input."""
    ours, theirs = (getattr(package, cell)(3, 5, dtype=torch.float64) for package in (rnnkernels, torch.nn))
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs, torch.randn(*([4] if cell.endswith("Cell") else [6, 4]), 3, dtype=torch.float64)


def run(module, x):
    out = module(x)
    return out[0] if isinstance(out, tuple) else out


def same_training(ours, theirs, x):
    """Outputs and gradients; a pruned module's are those of weight_*_orig."""
    results = []
    for module in (ours, theirs):
        module.zero_grad()
        out = run(module, x)
        out.pow(2).sum().backward()
        results.append([out.detach(), *(p.grad for _, p in sorted(module.named_parameters()))])
    for a, b in zip(*results, strict=True):
        assert_close(a, b)


def test_saved_tensors_may_be_moved(cell):
    """Activation offloading: what forward saves comes back as another tensor."""
    ours, theirs, x = pair(cell)
    run(theirs, x).pow(2).sum().backward()
    graph = torch.autograd.graph
    for hooks in (graph.save_on_cpu(), graph.saved_tensors_hooks(lambda t: t.numpy().copy(), torch.from_numpy)):
        ours.zero_grad()
        with hooks:
            out = run(ours, x)
        out.pow(2).sum().backward()
        for name, p in theirs.named_parameters():
            assert_close(ours.get_parameter(name).grad, p.grad)


@pytest.mark.parametrize("use_reentrant", (True, False))
def test_checkpointing(cell, use_reentrant):
    ours, theirs, x = pair(cell)
    gradients = []
    checkpoint = torch.utils.checkpoint.checkpoint
    for call in (lambda x: checkpoint(run, ours, x, use_reentrant=use_reentrant), lambda x: run(theirs, x)):
        x = x.detach().clone().requires_grad_()
        call(x).pow(2).sum().backward()
        gradients.append(x.grad)
    assert_close(*gradients)


def test_other_ways_to_load(cell):
    """assign=True, from the meta device by to_empty, and by swapping the tensors themselves."""
    ours, theirs, x = pair(cell)
    assigned = getattr(rnnkernels, cell)(3, 5)
    assigned.load_state_dict(theirs.state_dict(), assign=True)
    same_training(assigned, theirs, x)
    with torch.device("meta"):
        empty = getattr(rnnkernels, cell)(3, 5, dtype=torch.float64)
    empty.to_empty(device="cpu").load_state_dict(theirs.state_dict())
    same_training(empty, theirs, x)
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        swapped = getattr(rnnkernels, cell)(3, 5).double()
        swapped.load_state_dict(theirs.state_dict())
        same_training(swapped, theirs, x)
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)


def test_pruning(cell):
    ours, theirs, x = pair(cell)
    weight = "weight_hh" if cell.endswith("Cell") else "weight_hh_l0"
    for module in (ours, theirs):
        prune.l1_unstructured(module, weight, 10)
    same_training(ours, theirs, x)
    for module in (ours, theirs):
        prune.remove(module, weight)
    assert (ours.get_parameter(weight) == 0).sum() == 10
    same_training(ours, theirs, x)


def test_deterministic_mode(cell):
    """Nothing to refuse, and memory that torch fills with NaN first does not show."""
    ours, theirs, x = pair(cell)
    torch.use_deterministic_algorithms(True)
    try:
        same_training(ours, theirs, x)
        if not cell.endswith("Cell"):
            out, _ = ours(x, lengths=torch.tensor([6, 0, 3, 5]))
            assert out.isfinite().all()
    finally:
        torch.use_deterministic_algorithms(False)


def test_gradient_scaler(cell):
    """A scaled loss gives the same step, and an overflow skips it."""
    ours, theirs, x = pair(cell)
    for scale in (2.0**10, float("inf")):
        before = [p.clone() for p in ours.parameters()]
        for module in (ours, theirs):
            optimizer, scaler = torch.optim.SGD(module.parameters(), 0.1), torch.amp.GradScaler("cpu", init_scale=scale)
            optimizer.zero_grad()
            scaler.scale(run(module, x).pow(2).sum()).backward()
            scaler.step(optimizer)
            scaler.update()
        for name, p in theirs.named_parameters():
            assert_close(ours.get_parameter(name).detach(), p.detach())
        assert all(torch.equal(*ab) for ab in zip(before, ours.parameters())) == (scale == float("inf"))
