"""python -m bench.citizen: what PyTorch's tools cost on our modules: torch.compile, ensembles, per-sample gradients, a single call.

Writes bench/out/citizen.json; with --check it exits with 1 if a bar is missed.
"""

from __future__ import annotations

import sys

import rnnkernels
import torch
from opacus import GradSampleModule
from opacus import layers as opacus_layers
from torch.func import functional_call, grad, stack_module_state, vmap

from bench import timing
from bench.experiment import main, result, seconds
from bench.peers import OURS

MODELS = 8
COMPILATIONS = 7


class Nothing(torch.nn.Module):
    """Has a layer's parameters, and returns one of them as every result: what vmap and functional_call cost by themselves."""

    def __init__(self, layer: torch.nn.Module):
        super().__init__()
        for name, p in layer.named_parameters():
            self.register_parameter(name, p)
        self.lstm = isinstance(layer, torch.nn.LSTM)

    def forward(self, x):
        any_result = self.bias_ih_l0
        return any_result, ((any_result, any_result) if self.lstm else any_result)


def ensembles(cell: str) -> list[dict]:
    """Eight models by one vmap over their stacked weights, by the op that it calls, and one after the other."""
    found = []
    for T, B, H, bars in ((1, 1, 64, {"loop": 3.0}), (60, 16, 64, {"torch": 3.0, "loop": 1.0})):
        ours, theirs = ([getattr(package, cell)(H, H) for _ in range(MODELS)] for package in (rnnkernels, torch.nn))
        weights, x = stack_module_state(ours)[0], torch.randn(T, B, H)
        nothing = Nothing(ours[0])
        ensemble, empty = (vmap(lambda w, m=m: functional_call(m, w, (x,))) for m in (ours[0], nothing))
        loops = {"loop": lambda: [m(x) for m in ours], "torch": lambda: [m(x) for m in theirs]}
        contenders = {"vmap over": {OURS: lambda: ensemble(weights), **loops, "vmap of nothing": lambda: empty(weights)},
                      "one op of": {OURS: one_op(cell, x, weights), **loops}}
        with torch.inference_mode():
            for how, calls in contenders.items():
                found.append(result(f"{cell} {how} {MODELS} T{T} B{B} H{H}", timing.interleave(calls), bars))
    return found


def one_op(cell: str, x: torch.Tensor, weights: dict):
    """A call of the op on stacked weights [MODELS, ...], as vmap makes it."""
    h0 = x.new_zeros(1, x.shape[1], x.shape[2])
    states, projection = ([h0, h0], [None]) if cell == "LSTM" else ([h0], [])
    rest = [*projection, *[None] * 4, *projection, *[None] * len(states), None, None, None, "tanh" if cell == "RNN" else False]
    op = getattr(rnnkernels.ops, cell.lower())
    return lambda: op(x, *states, *weights.values(), *rest)


def per_sample_gradients(cell: str) -> list[dict]:
    """vmap(grad(f)) over a batch, and opacus' own layer."""
    T, B, H = 60, 32, 64
    ours, theirs = getattr(rnnkernels, cell)(H, H), GradSampleModule(getattr(opacus_layers, "DP" + cell)(H, H), batch_first=False)
    x, weights = torch.randn(T, B, H), {name: p.detach() for name, p in ours.named_parameters()}
    loss = lambda w, row: functional_call(ours, w, (row.unsqueeze(1),))[0].pow(2).sum()

    def opacus():
        for p in theirs.parameters():
            p.grad_sample = None
        theirs(x.requires_grad_())[0].pow(2).sum().backward()

    calls = {OURS: lambda: vmap(grad(loss), (None, 1))(weights, x.detach()), "opacus": opacus}
    return [result(f"{cell} per-sample gradients T{T} B{B} H{H}", timing.interleave(calls), {"opacus": 1.0})]


def compilation(cell: str) -> list[dict]:
    """The time to compile a training step, without what the step itself takes. T = 10 is what T = 1000 is compared with."""
    rounds = []
    for T in (10, *(T for _ in range(COMPILATIONS) for T in (10, 1000))):  # the first one warms up
        torch.compiler.reset()
        module, x = getattr(rnnkernels, cell)(32, 32), torch.randn(T, 4, 32)
        compiled = torch.compile(module, fullgraph=True)
        first, again = (seconds(lambda: compiled(x)[0].sum().backward()) for _ in range(2))
        if T == 10:
            rounds.append({"T=10": first - again})
        else:
            rounds[-1][OURS] = first - again
    return [result(f"{cell} torch.compile T1000", rounds[1:], {"T=10": 1 / 1.2})]


def single_calls(cell: str) -> list[dict]:
    """What a module's call costs over the kernel, which a Stepper runs alone."""
    module, x = getattr(rnnkernels, cell)(16, 16), torch.randn(1, 1, 16)
    stepper = rnnkernels.Stepper(module)

    def inference():
        with torch.inference_mode():
            module(x)

    def kernel_in_inference_mode():
        with torch.inference_mode():
            stepper.step(x[0])

    calls = {OURS: lambda: module(x), "kernel": lambda: stepper.step(x[0]), "inference": inference, "its kernel": kernel_in_inference_mode}
    limits = {OURS: ("kernel", 8e-6), "inference": ("its kernel", 5e-6)}
    return [result(f"{cell} call T1 B1 H16", timing.interleave(calls), limits=limits)]


if __name__ == "__main__":
    torch._inductor.config.force_disable_caches = True
    sys.exit(main("citizen", __doc__, ("torch", "opacus"), (ensembles, per_sample_gradients, single_calls, compilation)))
