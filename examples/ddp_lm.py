"""The character model on two processes: data-parallel truncated BPTT, and the proof that it is the same training.

    python -m examples.ddp_lm

Starts `torchrun --nproc-per-node 2`. The text runs as parallel streams; each process reads half of them, carries the
states of its own half and computes its gradient, which DistributedDataParallel averages while the backward pass still
runs. One process that reads all streams must then see the same losses, and it is run to compare. A fused layer is one
node of the autograd graph whose gradients all arrive at once, which is all that DistributedDataParallel asks for:
nothing here knows whose LSTM it is.
"""

import json
import os
import subprocess
import sys
from itertools import islice

import rnnkernels
import torch
from torch import distributed, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from . import common
from .char_lm import AGREE, AGREE_STEPS, DISTANCE, CharLM, as_streams, character_pairs, load_text, perplexity

SETTINGS = {
    "quick": dict(steps=150, batch=16, chunk=48, hidden=128, lr=5e-3),
    "full": dict(steps=400, hidden=192),
    "smoke": dict(steps=5, batch=4, chunk=8, hidden=16),
}
BARS = [
    common.Bar("perplexity", "perplexity of character pairs", by=1.0, lower=True),
    common.Bar(DISTANCE, AGREE, lower=True),
]
PROCESSES = 2


def build(settings, characters):
    torch.manual_seed(settings["seed"])  # every process draws the same model
    return CharLM(rnnkernels if settings["library"] == "rnnkernels" else nn, "LSTM", characters, settings["hidden"])


def train(model, streams, settings):
    """Truncated BPTT over the streams [N, B]; yields the loss of each step."""
    optimizer = torch.optim.Adam(model.parameters(), settings["lr"])
    chunks = rnnkernels.tbptt((streams[:-1], streams[1:]), settings["chunk"])
    for (x, y), state in islice(chunks, settings["steps"]):
        logits, chunks.state = model(x, state)
        loss = cross_entropy(logits.flatten(0, 1), y.flatten())
        optimizer.zero_grad()
        loss.backward()  # with DistributedDataParallel the mean over the processes
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        yield loss.detach()


def worker(settings):
    """One of the processes that torchrun starts. The first one prints each step's loss and saves the model."""
    distributed.init_process_group("gloo")
    rank, world = distributed.get_rank(), distributed.get_world_size()
    text, _, alphabet = load_text()
    model = build(settings, len(alphabet))
    own = as_streams(text, settings["batch"]).chunk(world, 1)[rank]
    for loss in train(DistributedDataParallel(model), own, settings):
        distributed.all_reduce(loss)
        if rank == 0:
            print(json.dumps(loss.item() / world), flush=True)
    if rank == 0:
        torch.save(model.state_dict(), settings["path"])
    distributed.destroy_process_group()


def torchrun(settings):
    """Yields the losses of the run on two processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={PROCESSES}", "-m",
               "examples.ddp_lm", json.dumps(settings)]  # fmt: skip
    threads = max(1, torch.get_num_threads() // PROCESSES)
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "TORCH_CPP_LOG_LEVEL": "ERROR"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        yield from (json.loads(line) for line in process.stdout)
    if process.returncode:
        raise SystemExit(f"torchrun ended with status {process.returncode}")


def collect(losses, run, label):
    values = []
    for _ in run.track(range(run.steps), label, lambda: f"loss {values[-1]:.3f}"):
        values.append(float(next(losses)))
    for _ in losses:  # nothing comes, but torchrun has still to end
        pass
    return values


def experiment(run):
    text, valid, alphabet = load_text()
    settings = run.settings | {"seed": run.seed, "library": run.library.__name__, "path": str(run.out / "ddp_lm.pt")}
    alone = build(settings, len(alphabet))
    one = collect(train(alone, as_streams(text, run.batch), settings), run, "one process")
    two = collect(torchrun(settings), run, f"{PROCESSES} processes")
    run.losses |= {"one process": one, f"{PROCESSES} processes": two}
    model = build(settings, len(alphabet))
    model.load_state_dict(torch.load(settings["path"]))
    os.remove(settings["path"])
    metrics = {
        "perplexity": perplexity(model, as_streams(valid, run.batch), run.chunk),
        "perplexity of character pairs": character_pairs(text, valid, len(alphabet)),
        DISTANCE: max(abs(a - b) for a, b in zip(one[:AGREE_STEPS], two)),
    }
    return metrics, (one, two)


def draw(pictures):
    one, two = pictures[0]
    figure, (curves, apart) = common.figure()
    curves.plot(one, color=common.RED, alpha=0.35, linewidth=5, label="one process")
    curves.plot(two, color=common.BLUE, label=f"{PROCESSES} processes")
    curves.set(title="training loss, nats per character", xlabel="step")
    curves.legend(frameon=False)
    common.draw_distance(apart, one, two, AGREE_STEPS, AGREE)
    return figure


PROGRAM = "ddp_lm", __doc__, SETTINGS, BARS, experiment, draw

if __name__ == "__main__":
    if "LOCAL_RANK" in os.environ:
        worker(json.loads(sys.argv[1]))
    else:
        common.start(*PROGRAM)
