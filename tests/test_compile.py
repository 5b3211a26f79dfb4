"""torch.compile: one graph with one op per layer, for any T and B, in training too; torch.export, reloaded elsewhere."""

import importlib.util
import subprocess
import sys

import pytest
import torch
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import rnnkernels
from cases import Case, Numbers
from conftest import assert_close, needs_extension
from rnnkernels.when_imported import when_imported

pytestmark = needs_extension
CELLS = ("LSTM", "GRU", "RNN_TANH")
LAYOUTS = ("padded", "packed", "unsorted", "lengths", "unbatched")


class Graphs:
    """A backend that runs what Dynamo captured as it is, and keeps it."""

    def __init__(self):
        self.seen = []

    def __call__(self, module, example_inputs):
        self.seen.append(module)
        return module.forward

    def ops(self):
        """Our ops in the one graph."""
        (module,) = self.seen
        targets = [str(node.target) for node in module.graph.nodes if node.op == "call_function"]
        return [target for target in targets if target.startswith("rnnkernels.")]


class Model(torch.nn.Module):
    """A recurrent module between other ops."""

    def __init__(self, recurrent, width):
        super().__init__()
        self.recurrent, self.head = recurrent, torch.nn.Linear(width, 2, dtype=torch.float64)

    def forward(self, x, hx=None, lengths=None, reset=None):
        x = PackedSequence(x.data.sin(), *x[1:]) if isinstance(x, PackedSequence) else x.sin()
        out, last = self.recurrent(x, hx, lengths=lengths, reset=reset)
        return self.head(out.data if isinstance(out, PackedSequence) else out), last


@pytest.fixture(autouse=True)
def _fresh_dynamo():
    torch.compiler.reset()


def call(case):
    """The model, positional arguments and keywords of a case."""
    numbers = Numbers.draw(case)
    x = numbers.x
    if case.layout in ("packed", "unsorted"):
        x = pack_padded_sequence(x, numbers.lengths, case.batch_first, enforce_sorted=case.layout == "packed")
    hx = None if not case.hx else numbers.hx if case.is_lstm else numbers.hx[0]
    kwargs = {"lengths": numbers.lengths} if case.layout == "lengths" else {}
    return Model(case.build(rnnkernels), case.D * case.H), (x, hx), kwargs


def same(ours, eager):
    flat = lambda result: torch.utils._pytree.tree_leaves(result)
    for a, b in zip(flat(ours), flat(eager), strict=True):
        assert_close(a, b.detach())


def sum_of_squares(results):
    return sum(t.pow(2).sum() for t in torch.utils._pytree.tree_leaves(results))


@pytest.mark.parametrize("dynamic", (False, True))
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("cell", CELLS)
def test_one_op_per_layer(cell, layout, dynamic):
    for hx in (False, True):
        model, args, kwargs = call(Case(cell, L=2, D=2, hx=hx, layout=layout, batch_first=hx))
        graphs = Graphs()
        compiled = torch.compile(model, fullgraph=True, dynamic=dynamic, backend=graphs)
        same(compiled(*args, **kwargs), model(*args, **kwargs))
        assert graphs.ops() == [f"rnnkernels.{cell[:4].rstrip('_').lower()}"] * 2


@pytest.mark.parametrize("cell", ("LSTMCell", "GRUCell", "RNNCell"))
def test_cells(cell):
    module, graphs = getattr(rnnkernels, cell)(3, 17), Graphs()
    compiled = torch.compile(module, fullgraph=True, dynamic=True, backend=graphs)
    for B in (5, 4, 9):
        x = torch.randn(B, 3)
        assert torch.equal(*(torch.stack(m(x)) if cell == "LSTMCell" else m(x) for m in (compiled, module)))
    assert graphs.ops() == [f"rnnkernels.{cell[:-4].lower()}"]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("cell", CELLS)
def test_no_recompilation_for_other_sizes(cell, layout):
    """No two sizes are equal and none is 1: Dynamo takes equal ones for one size and makes constants of 0 and 1."""
    graphs, compiled = Graphs(), None
    for T, B in ((7, 4), (12, 5), (5, 6)):
        model, args, kwargs = call(Case(cell, T=T, B=B, L=2, hx=False, layout=layout))
        if compiled is None:
            first = model
            compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=graphs)
        same(compiled(*args, **kwargs), first(*args, **kwargs))
    assert len(graphs.seen) == 1


@pytest.mark.parametrize("layout", ("padded", "unsorted", "lengths"))
@pytest.mark.parametrize("cell", CELLS)
def test_training(cell, layout):
    """Every gradient of eager mode, through dropout between layers with the same masks."""
    model, args, kwargs = call(Case(cell, L=2, D=2, layout=layout))
    model.recurrent.dropout = 0.3
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
    gradients = []
    for run in (compiled, model):
        torch.manual_seed(3)
        model.zero_grad()
        out, last = run(*args, **kwargs)
        (out.pow(2).sum() + sum(s.sum() for s in (last if isinstance(last, tuple) else (last,)))).backward()
        gradients.append([p.grad for p in model.parameters()])
    same(*gradients)


@pytest.mark.parametrize("cell", CELLS)
def test_resets(cell):
    """One op a layer, any T and B, every gradient; and exported."""
    model, (_, hx), _ = call(Case(cell, T=9, B=5, L=2, D=2))
    graphs, name = Graphs(), f"rnnkernels.{cell[:4].rstrip('_').lower()}"
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=graphs)
    for T in (9, 7):
        x, reset, gradients = torch.randn(T, 5, 3, dtype=torch.float64), torch.rand(T, 5) < 0.4, []
        for run in (compiled, model):
            out, last = run(x, hx, reset=reset)
            loss = out.pow(2).sum() + sum(s.sum() for s in (last if isinstance(last, tuple) else (last,)))
            gradients.append([out, last, *torch.autograd.grad(loss, list(model.parameters()))])
        same(*gradients)
    assert graphs.ops() == [name] * 2
    program = torch.export.export(model, (x, hx, None, reset))
    targets = [str(node.target) for node in program.graph.nodes]
    assert [target for target in targets if target.startswith("rnnkernels.")] == [f"{name}.default"] * 2
    same(program.module()(x, hx, None, ~reset), model(x, hx, None, ~reset))


@pytest.mark.parametrize("cell", ("LSTM", "GRU", "RNN", "LSTMCell", "GRUCell", "RNNCell"))
def test_inductor(cell):
    """The default backend, training, with a state."""
    module = getattr(rnnkernels, cell)(3, 17)
    before = torch.nn.Linear(5, 3)
    x = torch.randn(*([4] if cell.endswith("Cell") else [7, 4]), 5)
    hx = torch.randn(*([] if cell.endswith("Cell") else [1]), 4, 17, requires_grad=True)
    model = lambda x, hx: module(before(x), (hx, hx.tanh()) if cell.startswith("LSTM") else hx)
    wanted, gradients = [hx, *before.parameters(), *module.parameters()], []
    for run in (torch.compile(model, fullgraph=True), model):
        gradients.append(torch.autograd.grad(sum_of_squares(run(x, hx)), wanted))
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_aot_inductor(tmp_path):
    model, x = torch.nn.Sequential(torch.nn.Linear(5, 3), rnnkernels.LSTM(3, 17)).eval(), torch.randn(7, 4, 5)
    with torch.no_grad():
        package = torch._inductor.aoti_compile_and_package(torch.export.export(model, (x,)), package_path=str(tmp_path / "model.pt2"))
        torch.testing.assert_close(torch._inductor.aoti_load_package(package)(x)[0], model(x)[0])


def test_compiled_autograd():
    """The backward pass of eager calls as one graph, whatever was given to the layers and however much of it wants a gradient."""
    torch.compiler.reset()
    x, lengths, done = torch.randn(7, 4, 3, requires_grad=True), torch.tensor([5, 7, 1, 4]), torch.rand(7, 4) < 0.3
    h0 = torch.randn(2, 4, 5, requires_grad=True)
    frozen = rnnkernels.GRU(3, 5)
    frozen.weight_hh_l0.requires_grad_(False)
    calls = (
        lambda m=rnnkernels.LSTM(3, 5, 2, dropout=0.5, bidirectional=True): (m, m(x)),
        lambda m=rnnkernels.LSTM(3, 5, proj_size=2, recompute=True): (m, m(x, reset=done, return_cells=True)),
        lambda m=rnnkernels.GRU(3, 5, bidirectional=True, bias=False): (m, m(x, h0, lengths=lengths)),
        lambda: (frozen, frozen(x.detach())),
        lambda m=rnnkernels.GRU(3, 5, reset_after=False): (m, m(x)[1]),
        lambda m=rnnkernels.RNN(3, 5): (m, m(pack_padded_sequence(x.detach(), lengths, enforce_sorted=False))[0].data),
        lambda m=rnnkernels.LSTMCell(3, 5): (m, m(x[0])[1]),
    )

    def gradients(call):
        torch.manual_seed(0)  # of dropout
        module, results = call()
        wanted = [t for t in (x, h0, *module.parameters()) if t.requires_grad]
        for t in wanted:
            t.grad = None
        sum_of_squares(results).backward()
        return [t.grad for t in wanted if t.grad is not None]

    for call in calls:
        eager = gradients(call)
        with torch._dynamo.compiled_autograd._enable(torch.compile(fullgraph=True, backend="eager")):
            same(eager, gradients(call))


def test_autocast_and_bfloat16():
    x = torch.randn(7, 4, 3)
    for module, dtype in ((rnnkernels.LSTM(3, 17, 2), torch.float32), (rnnkernels.LSTM(3, 17, 2).bfloat16(), torch.bfloat16)):
        compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.float32):
            ours, eager = compiled(x.to(dtype)), module(x.to(dtype))
        same(ours, eager)
        assert ours[0].dtype is torch.bfloat16


def test_only_ours_are_traced():
    """torch.nn's own modules break the graph as before: traced, a torch.nn.LSTM would not even train."""
    for cell in ("LSTM", "GRU", "RNN"):
        with pytest.raises(torch._dynamo.exc.Unsupported):
            torch.compile(getattr(torch.nn, cell)(3, 4), fullgraph=True, backend="eager")(torch.randn(5, 2, 3))
    assert torch._dynamo.config.allow_rnn is False


@pytest.mark.parametrize("first", ("rnnkernels", "torch._dynamo"))
def test_either_may_be_imported_first(first):
    second = {"rnnkernels": "torch._dynamo", "torch._dynamo": "rnnkernels"}[first]
    program = f"import sys, torch, {first}\nassert '{second}' not in sys.modules\nimport {second}, rnnkernels\n" \
              "torch.compile(rnnkernels.GRU(3, 4), fullgraph=True, backend='eager')(torch.randn(5, 2, 3))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


RELOAD = """
import sys, torch, rnnkernels
for cell in sys.argv[2:]:
    program = torch.export.load(f"{sys.argv[1]}/{cell}.pt2").module()
    for args, expected in torch.load(f"{sys.argv[1]}/{cell}.pt"):
        for a, b in zip(torch.utils._pytree.tree_leaves(program(*args)), expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=0)
"""


def save(folder, name, program, module, calls):
    """The program, and what the module returns for these arguments."""
    torch.export.save(program, folder / f"{name}.pt2")
    torch.save([(args, [t.detach() for t in torch.utils._pytree.tree_leaves(module(*args))]) for args in calls], folder / f"{name}.pt")


def check_in_a_new_process(folder, names):
    done = subprocess.run([sys.executable, "-c", RELOAD, str(folder), *names], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("layout", ("padded", "lengths"))
def test_export(layout, tmp_path):
    """T and B stay free; a new process that imports rnnkernels loads the programs and gets our results."""
    T, B = torch.export.Dim("T"), torch.export.Dim("B")
    for cell in CELLS:
        calls = []
        for sizes in ((7, 4), (12, 5), (3, 2)):
            model, (x, _), kwargs = call(Case(cell, torch.float64, *sizes, L=2, D=2, hx=False, layout=layout))
            lengths = kwargs.get("lengths")
            if not calls:
                exported = model
                shapes = {0: T, 1: B}, None, {0: B} if kwargs else None
                program = torch.export.export(model, (x, None, lengths), dynamic_shapes=shapes)
            calls.append((x, None, lengths))
        ops = [str(node.target) for node in program.graph.nodes if str(node.target).startswith("rnnkernels.")]
        assert ops == [f"rnnkernels.{cell[:4].rstrip('_').lower()}.default"] * 2
        save(tmp_path, cell, program, exported, calls)
    check_in_a_new_process(tmp_path, CELLS)


def test_export_of_cells(tmp_path):
    cells = "LSTMCell", "GRUCell", "RNNCell"
    for cell in cells:
        module = getattr(rnnkernels, cell)(3, 5, dtype=torch.float64)
        calls = [(torch.randn(B, 3, dtype=torch.float64),) for B in (4, 7)]
        program = torch.export.export(module, calls[0], dynamic_shapes=({0: torch.export.Dim("B")},))
        save(tmp_path, cell, program, module, calls)
    check_in_a_new_process(tmp_path, cells)


def test_what_is_to_follow_an_import(tmp_path, monkeypatch):
    """It follows the import, not a search for the module, and leaves no trace."""
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "imported_late.py").write_text("value = 1\n")
    before, seen = list(sys.meta_path), []
    for i in (1, 2):
        when_imported("imported_late", lambda module, i=i: seen.append((i, module.value)))
    assert importlib.util.find_spec("imported_late").loader.get_source("imported_late") == "value = 1\n" and not seen
    module = importlib.import_module("imported_late")
    assert sorted(seen) == [(1, 1), (2, 1)] and sys.meta_path == before
    assert type(module.__loader__) is type(module.__spec__.loader) is type(importlib.util.find_spec("string").loader)
    when_imported("no_such_module", seen.append)
    assert importlib.util.find_spec("no_such_module") is None
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("no_such_module")
