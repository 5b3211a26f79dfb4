"""What works with ours and with torch.nn's modules: every cell of docs/compatibility.md is a probe that ran.

    python tests/compatibility.py    writes the file anew

A probe takes a module and an input, does one thing people do with modules and compares with the plain way to get the same.
"yes": it did, without an exception and with the right result.
"""

import contextlib
import copy
import os
import signal
import time
import warnings
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch._dynamo import compiled_autograd
from torch.func import functional_call, grad, hessian, jvp, stack_module_state, vmap
from torch.nn.utils import prune
from torch.utils.flop_counter import FlopCounterMode

import rnnkernels
from conftest import bfloat16_everywhere

PAGE = Path(__file__).parent.parent / "docs" / "compatibility.md"
COLUMNS = {"LSTM": ["LSTM"], "GRU": ["GRU"], "RNN": ["RNN"], "cells": ["LSTMCell", "GRUCell", "RNNCell"]}
PACKAGES = {"ours": rnnkernels, "torch.nn": torch.nn}
PROBES = {}


def probe(text):
    def register(run):
        PROBES[text] = run
        return run

    return register


def output(module, x, **kwargs):
    """out of a layer, h of a cell."""
    result = module(x, **kwargs)
    return result[0] if isinstance(result, tuple) else result


def weights(module):
    return {name: p.detach() for name, p in module.named_parameters()}


def loss(module):
    """A function of the weights and the input."""
    return lambda w, x: sum(t.pow(2).sum() for t in torch.utils._pytree.tree_leaves(functional_call(module, w, (x,))))


def same(a, b, rtol=1e-4, atol=1e-5):
    flat = lambda t: [leaf.detach() for leaf in torch.utils._pytree.tree_leaves(t)]
    torch.testing.assert_close(flat(a), flat(b), rtol=rtol, atol=atol)


def reverted(module):
    """torch.nn's module with the same weights."""
    return rnnkernels.revert(copy.deepcopy(module))


def plain_gradients(module, x):
    module.zero_grad()
    output(module, x).pow(2).sum().backward()
    return {name: p.grad for name, p in module.named_parameters()}


def steps(x, T):
    """x with T steps; a cell has one step, so rows take their place."""
    return torch.randn(T, *x.shape[1:])


@probe("`torch.compile`: one graph, training")
def _(module, x):
    expected = plain_gradients(module, x)
    found = plain_gradients(torch.compile(module, fullgraph=True, backend="aot_eager"), x)
    same(list(found.values()), list(expected.values()))


@probe("`torch.compile`: no recompilation for other sizes")
def _(module, x):
    counter = torch._dynamo.testing.CompileCounter()
    compiled = torch.compile(module, fullgraph=True, dynamic=True, backend=counter)
    for T in (7, 12, 5):
        compiled(steps(x, T))
    assert counter.frame_count == 1


@probe("`torch.compile(mode=\"max-autotune\")`: one graph")
def _(module, x):
    same(torch.compile(module, fullgraph=True, mode="max-autotune")(x), module(x))


@probe("compiled autograd: the backward pass of an eager call as one graph")
def _(module, x):
    expected = plain_gradients(module, x)
    with compiled_autograd._enable(torch.compile(fullgraph=True, backend="eager")):
        found = plain_gradients(module, x)
    same(list(found.values()), list(expected.values()))


@probe("`torch.export` with free T and B")
def _(module, x):
    shapes = {0: torch.export.Dim("T"), **({1: torch.export.Dim("B")} if x.dim() == 3 else {})}
    program = torch.export.export(module, (x,), dynamic_shapes=(shapes,)).module()
    other = steps(x, 9)
    same(program(other), module(other))


@probe("`torch.onnx.export`, ONNX' own operator for any T")
def _(module, x):
    program = torch.onnx.export(module.eval(), (x,), dynamo=True, dynamic_shapes=({0: torch.export.Dim("T")},), verbose=False)
    assert [n.op_type for n in program.model.graph].count(type(module).__name__[:4].rstrip("C")) == 1


@probe("`torch.jit.script`, ours by `revert(model)`")
def _(module, x):
    """Inside another module: TorchScript cannot call a layer that stands alone."""
    model, expected = torch.nn.Sequential(module), module(x)
    same(torch.jit.script(rnnkernels.revert(model))(x), expected)


@probe("`torch.func`: grad, vjp")
def _(module, x):
    same(grad(loss(module))(weights(module), x), expected_gradients(module, x))


def expected_gradients(module, x):
    leaves = {k: w.clone().requires_grad_() for k, w in weights(module).items()}
    return dict(zip(leaves, torch.autograd.grad(loss(module)(leaves, x), list(leaves.values()))))


def difference(module, x, tangent, step=1e-4):
    """The derivative of the output along tangent, numerically."""
    f, x = lambda x: output(copy.deepcopy(module).double(), x), x.double()
    return (f(x + step * tangent) - f(x - step * tangent)).float() / (2 * step)


@probe("`torch.func`: jvp")
def _(module, x):
    tangent = torch.randn_like(x)
    same(jvp(lambda x: output(module, x), (x,), (tangent,))[1], difference(module, x, tangent))


@probe("`torch.func`: hessian")
def _(module, x):
    x, f = x[:1, :1] if x.dim() == 3 else x[:1], lambda x: output(module, x).pow(2).sum()
    same(hessian(f)(x), torch.autograd.functional.hessian(f, x, vectorize=False))


@probe("forward-mode AD")
def _(module, x):
    tangent = torch.randn_like(x)
    with torch.autograd.forward_ad.dual_level():
        found = torch.autograd.forward_ad.unpack_dual(output(module, torch.autograd.forward_ad.make_dual(x, tangent))).tangent
    same(found, difference(module, x, tangent))


@probe("second derivatives")
def _(module, x):
    def second(module):
        (first,) = torch.autograd.grad(output(module, x).pow(2).sum(), x, create_graph=True)
        return torch.autograd.grad(first.pow(2).sum(), list(module.parameters()))

    x = x.requires_grad_()
    same(second(module), second(reverted(module)))


@probe("`vmap` over inputs")
def _(module, x):
    xs = torch.stack([x, 2 * x])
    same(vmap(lambda x: output(module, x))(xs), torch.stack([output(module, x) for x in xs]))


@probe("`vmap` over weights (ensembles)")
def _(module, x):
    models = [module, type(module)(3, 6)]
    stacked = {k: v.detach() for k, v in stack_module_state(models)[0].items()}
    expected = torch.utils._pytree.tree_map(lambda *r: torch.stack(r), *(m(x) for m in models))
    same(vmap(lambda w: functional_call(module, w, (x,)))(stacked), expected)


@probe("per-sample gradients, `vmap(grad(f))`")
def _(module, x):
    xs = torch.stack([x, 2 * x])
    found = vmap(grad(loss(module)), (None, 0))(weights(module), xs)
    for v in range(2):
        same({k: g[v] for k, g in found.items()}, expected_gradients(module, xs[v]))


def roughly_same(found, expected):
    for name, g in expected.items():
        same(found[name].float(), g, rtol=0, atol=0.03 * g.abs().max().item())


@probe("autocast to bfloat16, training")
@bfloat16_everywhere()
def _(module, x):
    expected = plain_gradients(copy.deepcopy(module), x)
    with torch.autocast("cpu", torch.bfloat16):
        roughly_same(plain_gradients(module, x), expected)


@probe("bfloat16 and float16 modules, training")
@bfloat16_everywhere()
def _(module, x):
    for dtype in (torch.bfloat16, torch.float16):
        roughly_same(plain_gradients(copy.deepcopy(module).to(dtype), x.to(dtype)), plain_gradients(module, x))


@probe("padded rows of different `lengths=`, without packing")
def _(module, x):
    lengths = [2, 5, 0, 3]
    found = output(module, x, lengths=torch.tensor(lengths))
    for b, n in enumerate(lengths):
        same(found[:n, b], output(reverted(module), x[:n, b]) if n else found[:0, b])
        assert not found[n:, b].any()


@contextlib.contextmanager
def process_group():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


@probe("`DistributedDataParallel`")
def _(module, x):
    expected = plain_gradients(copy.deepcopy(module), x)
    with process_group():
        found = plain_gradients(torch.nn.parallel.DistributedDataParallel(module), x)
        same(list(found.values()), list(expected.values()))


@probe("FSDP2, `fully_shard`")
def _(module, x):
    expected = plain_gradients(copy.deepcopy(module), x)
    with process_group():
        dist.fsdp.fully_shard(module, mesh=dist.init_device_mesh("cpu", (1,)))
        same([g.full_tensor() for g in plain_gradients(module, x).values()], list(expected.values()))


@probe("`torch.utils.checkpoint`, `save_on_cpu`")
def _(module, x):
    expected = plain_gradients(module, x)
    with torch.autograd.graph.save_on_cpu():
        same(plain_gradients(module, x), expected)
    module.zero_grad()
    torch.utils.checkpoint.checkpoint(output, module, x, use_reentrant=False).pow(2).sum().backward()
    same({name: p.grad for name, p in module.named_parameters()}, expected)


@probe("training on, in a child after `os.fork`")
def _(module, x):
    """Large enough for several threads."""
    module = type(module)(256, 256)
    x = torch.randn(*([20] if x.dim() == 3 else []), 64, 256)
    seed = torch.randn_like(output(module, x))
    run = lambda: torch.autograd.grad(output(module, x), list(module.parameters()), seed)
    expected = run()
    child = os.fork()
    if child == 0:
        try:  # numpy, for a large comparison by torch would wait for the same threads
            os._exit(not all(np.allclose(a.numpy(), b.numpy(), rtol=1e-4, atol=1e-4) for a, b in zip(run(), expected, strict=True)))
        finally:
            os._exit(1)
    asleep = 0
    while asleep < 30:  # looked at 50 ms apart: it waits for a thread that the fork did not bring along
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            assert status == 0
            return
        time.sleep(0.05)
        asleep = asleep + 1 if Path(f"/proc/{child}/stat").read_text().rsplit(")")[1].split()[0] == "S" else 0
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise TimeoutError


@probe("`load_state_dict(assign=True)`, meta device and `to_empty`")
def _(module, x):
    with torch.device("meta"):
        empty, assigned = (type(module)(3, 6) for _ in range(2))
    empty.to_empty(device="cpu").load_state_dict(module.state_dict())
    assigned.load_state_dict(module.state_dict(), assign=True)
    same([output(empty, x), output(assigned, x)], [output(module, x)] * 2)


@probe("`set_swap_module_params_on_conversion`, `load_state_dict` in it")
def _(module, x):
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        other = type(module)(3, 6).double().float()
        other.load_state_dict(module.state_dict())
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)
    same(output(other, x), output(module, x))


@probe("`torch.nn.utils.prune`")
def _(module, x):
    name, plain = next(iter(weights(module))), reverted(module)
    prune.l1_unstructured(module, name, 9)
    mask = getattr(module, f"{name}_mask")
    assert (mask == 0).sum() == 9
    with torch.no_grad():
        getattr(plain, name).mul_(mask)
    expected = plain_gradients(plain, x)
    found = plain_gradients(module, x)
    found[name] = found.pop(f"{name}_orig")
    expected[name] *= mask
    same([found[name] for name in expected], list(expected.values()))


@probe("`torch.use_deterministic_algorithms(True)`")
def _(module, x):
    expected = plain_gradients(copy.deepcopy(module), x)
    torch.use_deterministic_algorithms(True)
    try:
        same(plain_gradients(module, x), expected)
    finally:
        torch.use_deterministic_algorithms(False)


@probe("`torch.utils.flop_counter` counts every product")
def _(module, x):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(x)
    assert counter.get_total_flops() == sum(2 * x[..., 0].numel() * w.numel() for w in weights(module).values() if w.dim() == 2)


@probe("complex numbers")
def _(module, x):
    module, x = type(module)(3, 6, dtype=torch.cfloat), x.to(torch.cfloat)
    same(output(module, x), output(reverted(module), x))


def works(run, package, name):
    torch.manual_seed(0)
    torch.compiler.reset()
    x = torch.randn(*([4] if name.endswith("Cell") else [5, 4]), 3)
    try:
        run(getattr(package, name)(3, 6), x)
    except Exception:
        return False
    return True


def table():
    """{(feature, column): {package: "yes" or "no"}}"""
    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for feature, run in PROBES.items():
            for column, names in COLUMNS.items():
                results = {p: "yes" if all(works(run, package, n) for n in names) else "no" for p, package in PACKAGES.items()}
                found[feature, column] = results
    return found


def page(found):
    lines = ["# What works with our modules and with torch.nn's", "",
             f"Each cell: ours / torch.nn's, on the CPU with torch {torch.__version__}. Every cell is a probe that ran:",
             "`tests/compatibility.py` wrote this page and `make test` compares it with the probes. \"cells\" are LSTMCell, GRUCell",
             "and RNNCell: yes if it works with all three. With oneDNN on, as it is by default, torch.nn's LSTM in bfloat16 needs a CPU with "
             "AVX-512;", "the probes switch it off elsewhere.", "",
             "| | " + " | ".join(COLUMNS) + " |", "|---" * (1 + len(COLUMNS)) + "|"]
    for feature in PROBES:
        cells = (" / ".join(found[feature, column].values()) for column in COLUMNS)
        lines.append(f"| {feature} | " + " | ".join(cells) + " |")
    lines += ["", "AOTInductor packages a model with our modules and loads it again: tests/test_compile.py."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(table()))
