"""Two processes, started by spawn, with gloo: DistributedDataParallel and FSDP2 give the gradients of one process."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

import rnnkernels
from conftest import assert_close

pytestmark = pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="this torch has no gloo")
T, B, I, H, WORLD = 5, 4, 3, 6, 2


class Model(torch.nn.Module):
    """Every recurrent module of ours."""

    def __init__(self):
        super().__init__()
        layers = rnnkernels.LSTM(I, H, 2, bidirectional=True), rnnkernels.GRU(2 * H, H), rnnkernels.RNN(H, H)
        cells = rnnkernels.GRUCell(H, H), rnnkernels.RNNCell(H, H), rnnkernels.LSTMCell(H, H)
        self.layers, self.cells = torch.nn.ModuleList(layers), torch.nn.ModuleList(cells)

    def forward(self, x):
        for layer in self.layers:
            x, _ = layer(x)
        x = x[-1]
        for cell in self.cells:
            x = cell(x)
        return x[0]


def loss_of(model, x):
    return model(x).pow(2).sum(1).mean()


def setup():
    torch.manual_seed(1)
    return Model().double(), torch.randn(T, B, I, dtype=torch.float64)


def work(rank, folder):
    """One of WORLD processes, on its share of the batch."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=WORLD)
    model, x = setup()
    own = x.chunk(WORLD, 1)[rank]
    replicated = torch.nn.parallel.DistributedDataParallel(model)
    loss_of(replicated, own).backward()
    gradients = {"ddp": {name: p.grad for name, p in model.named_parameters()}}

    sharded, _ = setup()
    mesh = dist.init_device_mesh("cpu", (WORLD,))
    for part in (*sharded.layers, *sharded.cells, sharded):
        dist.fsdp.fully_shard(part, mesh=mesh)
    loss_of(sharded, own).backward()
    gradients["fsdp"] = {name: p.grad.full_tensor() for name, p in sharded.named_parameters()}
    if rank == 0:
        torch.save(gradients, f"{folder}/gradients.pt")
    dist.destroy_process_group()


def test_gradients_equal_those_of_one_process(tmp_path):
    model, x = setup()
    loss_of(model, x).backward()
    mp.spawn(work, (str(tmp_path),), WORLD)
    for gradients in torch.load(tmp_path / "gradients.pt").values():
        for name, p in model.named_parameters():
            assert_close(gradients[name], p.grad, name=name)
