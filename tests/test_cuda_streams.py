"""Calls beside other work on a card: any stream, no waiting, and capture into CUDA graphs."""

import time

import pytest
import torch
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import rnnkernels
from cases import CELLS, Case, Numbers, call_module
from conftest import force_regime, needs_cuda, tf32

pytestmark = [needs_cuda, pytest.mark.usefixtures("on_cuda")]
LAYOUTS = ("padded", "packed", "unsorted", "lengths")
SECOND = 1_500_000_000  # cycles, about


class Job:
    """A training step of a case on buffers that stay where they are; `draw` fills them with new numbers."""

    def __init__(self, case, recompute=False, dropout=0.0):
        self.case, numbers = case, Numbers.draw(case)
        self.module = case.build(rnnkernels)
        self.module.load_state_dict(numbers.weights)
        self.module.dropout = dropout
        if recompute:
            self.module.recompute = True
        self.x, self.hx, self.cotangents = numbers.x, numbers.hx, numbers.cotangents
        self.lengths = numbers.lengths.cuda() if case.layout == "lengths" else numbers.lengths
        self.leaves = [self.x.requires_grad_(), *(h.requires_grad_() for h in self.hx), *self.module.parameters()]
        self.packed = None
        if case.layout in ("packed", "unsorted"):  # packing waits for the card: it is not ours to test
            self.packed = pack_padded_sequence(self.x.detach(), self.lengths, enforce_sorted=case.layout == "packed")
            self.leaves[0] = self.packed.data.requires_grad_()

    def draw(self):
        with torch.no_grad():
            for buffer in (self.leaves[0], *self.hx, *self.cotangents):
                buffer.normal_()
        if self.case.layout == "lengths":
            self.lengths.copy_(self.case.lengths())

    def forward(self):
        hx = self.hx if self.case.is_lstm else self.hx[0]
        if self.packed is not None:
            out, last = self.module(PackedSequence(self.leaves[0], *self.packed[1:]), hx)
            return out.data, *(last if self.case.is_lstm else (last,))
        return call_module(self.module, self.case, self.x, self.hx, self.lengths)

    def train(self):
        outputs = self.forward()
        return [*outputs, *torch.autograd.grad(outputs, self.leaves, self.cotangents)]


PLAIN = [*(Case(cell, torch.float32, T=12, B=6, I=20, H=40, L=2, D=2, layout=layout) for cell in CELLS for layout in LAYOUTS),
         *(Case("LSTM", dtype, T=12, B=6, I=20, H=40, P=8, layout="lengths")
           for dtype in (torch.float64, torch.bfloat16, torch.float16)),
         Case("GRU", torch.float32, T=1000, B=70, I=40, H=260)]  # several chunks
# R1 to R4 forced, in shapes that fit them forward and backward.
JOBS = [*((case, None) for case in PLAIN),
        *((Case(cell, torch.bfloat16, T=12, B=6, I=20, H=H, D=2, layout="lengths"), regime)
          for cell in CELLS[:3] for regime, H in (("R1", 60), ("R2", 72), ("R3", 72), ("R4", 61))),
        (Case("LSTM", torch.float32, T=12, B=6, I=20, H=60), "R1")]
of_jobs = pytest.mark.parametrize("case, forced", JOBS, ids=str, indirect=["forced"])


@pytest.fixture
def forced(on_cuda, request, monkeypatch):
    """Forces a regime; then float32 may be TF32."""
    force_regime(request.param, monkeypatch)
    with tf32(cudnn=request.param is not None):
        yield


@of_jobs
def test_runs_on_the_current_stream(case, forced):
    """The input arrives late on a stream of its own: who does not wait for it reads zeros."""
    job = Job(case)
    expected = job.train()
    late = job.leaves[0].detach().clone()
    stream = torch.cuda.Stream()
    job.leaves[0].data.zero_()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(SECOND // 10)
        job.leaves[0].data.copy_(late)
        results = job.train()
    stream.synchronize()
    assert all(map(torch.equal, results, expected))


@pytest.mark.parametrize("where", ("cpu", "cuda"))
@of_jobs
def test_never_waits(case, where, forced):
    """The host is back before a long kernel in front of ours has ended, and torch saw no copy that waits."""
    job = Job(case, dropout=0.2)
    if case.layout == "lengths":
        job.lengths = job.lengths.to(where)
    job.train()  # cuBLAS, its workspace, the allocator's blocks
    torch.cuda._sleep(SECOND // 10)
    job.train()  # pinned memory for all copies that are under way at once
    torch.cuda.synchronize()
    torch.cuda._sleep(SECOND)
    start = time.perf_counter()
    torch.cuda.set_sync_debug_mode("error")
    try:
        job.train()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    finished = torch.cuda.current_stream().query()
    elapsed = time.perf_counter() - start
    if case.T < 100:  # the queue of launches itself is finite
        assert not finished, f"the card had finished after {elapsed:.2f} s"


LAUNCHES = 10_000


@pytest.mark.parametrize("regime, H", (("R1", 60), ("R2", 200), ("R3", 200), ("R4", 64)))
def test_many_launches_beside_busy_streams(regime, H, monkeypatch):
    """Back to back, where CTAs that wait for each other must share the card with others' work: no hang, and the same bits every time."""
    force_regime(regime, monkeypatch)
    job = Job(Case("LSTM", torch.bfloat16, T=4, B=16, I=20, H=H))
    expected = job.train()
    factor, streams = torch.randn(2048, 2048), [torch.cuda.Stream() for _ in range(2)]
    wrong = torch.zeros((), dtype=torch.bool)
    torch.cuda.synchronize()
    for k in range(LAUNCHES // 2):  # one forward, one backward
        if k % 8 == 0:
            for stream in streams:
                with torch.cuda.stream(stream):
                    factor @ factor
        for result, value in zip(job.train(), expected):
            wrong |= (result != value).any()
    torch.cuda.synchronize()
    assert not wrong.item()


def capture(run):
    """A graph of `run` and the tensors that its replays write."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = run()
    return graph, results


@pytest.mark.parametrize("trains", (False, True), ids=("forward", "training"))
@of_jobs
def test_graphs(case, trains, forced):
    job = Job(case)
    run = job.train if trains else torch.no_grad()(job.forward)
    graph, results = capture(run)
    for _ in range(3):
        job.draw()
        graph.replay()
        replayed = [r.clone() for r in results]
        assert all(map(torch.equal, replayed, run()))


@pytest.mark.parametrize("cell", CELLS[:2])
def test_graphs_that_recompute(cell):
    job = Job(Case(cell, torch.float32, T=12, B=6, I=20, H=40, D=2), recompute=True)
    graph, results = capture(job.train)
    job.draw()
    graph.replay()
    replayed = [r.clone() for r in results]
    assert all(map(torch.equal, replayed, job.train()))


def test_graph_of_a_whole_step_of_training():
    """Forward, backward and the optimizer, replayed: the losses of eager training."""
    losses = []
    for captured in (False, True):
        torch.manual_seed(3)
        module = rnnkernels.LSTM(8, 16, 2, dtype=torch.float64)
        optimizer = torch.optim.SGD(module.parameters(), 0.1)
        x, target = torch.randn(20, 4, 8, dtype=torch.float64), torch.randn(20, 4, 16, dtype=torch.float64)

        def step():
            optimizer.zero_grad(set_to_none=True)
            loss = (module(x)[0] - target).pow(2).mean()
            loss.backward()
            optimizer.step()
            return loss

        if captured:
            weights = [p.detach().clone() for p in module.parameters()]
            graph, loss = capture(step)
            with torch.no_grad():  # as before the calls that warmed up
                for p, w in zip(module.parameters(), weights):
                    p.copy_(w)
            values = []
            for _ in range(5):
                graph.replay()
                values.append(loss.item())
        else:
            values = [step().item() for _ in range(5)]
        losses.append(values)
    assert losses[0] == losses[1] and losses[0][-1] < losses[0][0]


def test_lengths_on_the_cpu_cannot_be_captured():
    """A replay would read memory that is gone by then."""
    module, x = rnnkernels.GRU(3, 4), torch.randn(5, 2, 3)
    lengths = torch.tensor([3, 5], device="cpu")
    module(x, lengths=lengths)
    with torch.cuda.graph(torch.cuda.CUDAGraph()):
        x.add(1)
        with pytest.raises(RuntimeError, match="cannot capture lengths on the CPU; move them to cuda:0 first"):
            module(x, lengths=lengths)
