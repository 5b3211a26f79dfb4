"""Tensors whose storage was freed or cut, as sharding and offloading do, and tensors without data: an exception, never a crash or garbage."""

import pytest
import torch

import rnnkernels
from conftest import needs_extension

pytestmark = [needs_extension, pytest.mark.fast]

KINDS = {"LSTM": {"proj_size": 2}, "GRU": {}, "RNN": {}}
NAMES = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0", "weight_ih_l0_reverse")
x = torch.ones(5, 2, 3)


def cut(tensor, size):
    tensor.untyped_storage().resize_(size)
    return tensor


def layer(kind, **options):
    return getattr(rnnkernels, kind)(3, 4, **KINDS[kind], **options)


def refused():
    return pytest.raises(RuntimeError, match="its storage has|out of bounds for storage")


@pytest.mark.parametrize("size", (0, 4))
@pytest.mark.parametrize("kind, name", [*((kind, name) for kind in KINDS for name in NAMES), ("LSTM", "weight_hr_l0")])
def test_weights(kind, name, size):
    module = layer(kind, bidirectional=True)
    cut(getattr(module, name).data, size)
    for context in (torch.enable_grad, torch.inference_mode):
        with context(), refused():
            module(x)
    with refused():
        module(x, lengths=torch.tensor([5, 2]))


@pytest.mark.parametrize("size", (0, 4))
def test_input_states_lengths_and_resets(size):
    module = layer("GRU")
    for call in (lambda: module(cut(x.clone(), size)), lambda: module(x, cut(torch.zeros(1, 2, 4), size)),
                 lambda: module(x[:, 0], cut(torch.zeros(1, 4), size)), lambda: module(x, reset=cut(torch.zeros(5, 2, dtype=torch.bool), size))):
        with refused():
            call()
    lengths = cut(torch.tensor([5, 2]), size)
    with refused():
        torch.ops.rnnkernels.gru(x, torch.zeros(1, 2, 4), *module._flat_weights, *[None] * 6, lengths, None, False)


@pytest.mark.parametrize("size", (0, 4))
def test_cotangents(size):
    module = layer("GRU")
    for result in module(x):
        with refused():
            torch.autograd.grad(result, module.weight_ih_l0, cut(torch.ones_like(result), size), retain_graph=True)


def test_a_steppers_output():
    stepper = rnnkernels.Stepper(layer("GRU"))
    before = stepper.hx
    with refused():
        stepper.step(x[0, :1], cut(torch.empty(1, 4), 0))
    with pytest.raises(RuntimeError):
        torch.func.vmap(lambda out: stepper.step(x[0, :1], out))(torch.zeros(2, 1, 4))
    assert torch.equal(stepper.hx, before)


@pytest.mark.parametrize("context", (torch.enable_grad, torch.no_grad, torch.inference_mode))
def test_one_tensor_on_the_meta_device(context):
    gru = layer("GRU")
    weights, h = list(gru.parameters()), torch.zeros(2, 4)
    rest = [None] * 8
    calls = [
        lambda: rnnkernels.functional.gru_cell(x[0], h, *(w.to("meta") for w in weights)),
        lambda: rnnkernels.functional.gru_cell(x[0], h.to("meta"), *weights),
        lambda: rnnkernels.functional.gru(x[:, 0], h[None], weights, batch_sizes=torch.tensor([2, 2, 1], device="meta")),
        lambda: torch.ops.rnnkernels.gru(x, h[None].to("meta"), *weights, *rest, False),
        lambda: torch.ops.rnnkernels.gru_bwd(torch.ones(5, 2, 4), None, x, h[None], *(w.to("meta") for w in weights), *rest, False, x, x, 1),
    ]
    with context():
        for call in calls:
            with pytest.raises(RuntimeError, match="all tensors on one device"):
                call()


def test_modules_that_were_emptied():
    gru = layer("GRU")
    gru.num_layers, gru._flat_weights_names = 0, []
    for call in (lambda: gru(x), lambda: rnnkernels.Stepper(gru)):
        with pytest.raises(Exception):
            call()


def test_a_tuple_that_says_it_is_longer():
    class Longer(tuple):
        def __len__(self):
            return 2

    with pytest.raises(Exception):
        rnnkernels.LSTM(3, 4)(x, Longer((torch.zeros(1, 2, 4),)))
