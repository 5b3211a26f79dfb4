"""Two problems that need nothing but memory, where an RNN fails and an LSTM and a GRU learn.

    python -m examples.memory_task

Adding (Hochreiter & Schmidhuber 1997): of T random numbers two are marked, and the answer after the last one is their
sum. Copying: a few symbols, a long silence, then a signal to repeat them. The gradient has to come back over the
whole silence. Guessing recalls 1/8 of the symbols; knowing which two they were, but not which came first, recalls 9/16.

Each cell runs as torch.nn initialises it and with rnnkernels.init: orthogonal recurrent weights, and gates that start
with memories as long as the task (`chrono`). The last line trains without clipping the gradient. With --full the
tasks get longer, up to 1000 steps.
"""

import math

import torch
from rnnkernels import init
from torch.nn.functional import cross_entropy, mse_loss

from . import common

SETTINGS = {
    "quick": dict(steps=700, batch=32, hidden=64, lr=dict(adding=1e-2, copying=3e-2), adding=(50,), copying=(50,)),
    "full": dict(steps=1000, adding=(50, 200, 1000), copying=(50, 200)),
    "smoke": dict(steps=3, hidden=8, adding=(12,), copying=(12,)),
}
TOKENS = 16_000  # in a batch at most: 16 rows of 1000 steps
SYMBOLS, COPIED = 8, 2
UNORDERED = 0.5 + 0.5 / SYMBOLS  # recalled by one who knows the two symbols without their order: half if they differ
GUESS = 1 / 6  # the mean squared error of always answering 1: the variance of a sum of two numbers in 0..1
# name -> cell, with rnnkernels.init, with clipping
VARIANTS = {
    "RNN": ("RNN", False, True),
    "RNN, init": ("RNN", True, True),
    "GRU": ("GRU", False, True),
    "GRU, init": ("GRU", True, True),
    "LSTM": ("LSTM", False, True),
    "LSTM, init": ("LSTM", True, True),
    "LSTM, init, no clipping": ("LSTM", True, False),
}
BEST = "RNN, init", "GRU, init", "LSTM, init"  # what the longer tasks are given to
BARS = [
    common.Bar("adding, GRU, init: error", "adding: error of always answering 1", by=0.1, lower=True),
    common.Bar("adding, LSTM, init: error", "adding: error of always answering 1", by=0.1, lower=True),
    common.Bar("copying, GRU, init: recalled", "copying: recalled by guessing", by=0.3),
    common.Bar("copying, LSTM, init: recalled", "copying: recalled by guessing", by=0.3),
    common.Bar("adding, GRU, init: error", "adding, RNN: error", by=0.1, lower=True),
    common.Bar("copying, GRU: recalled", "copying, RNN: recalled", by=0.3),
    common.Bar("copying, GRU, init: recalled", "copying: recalled without their order", by=0.1),
    common.Bar("copying, LSTM, init: recalled", "copying: recalled without their order", by=None),
    common.Bar("copying, GRU, init: recalled", "copying, GRU: recalled", by=None),
    common.Bar("copying, LSTM, init: recalled", "copying, RNN, init: recalled", by=None),
]


def adding(T, B):
    """(x [T, B, 2]: a number and whether it is marked, the sum [B])."""
    marks = torch.zeros(T, B)
    for low, high in ((0, T // 2), (T // 2, T)):
        marks[torch.randint(low, high, (B,)), torch.arange(B)] = 1
    numbers = torch.rand(T, B)
    return torch.stack([numbers, marks], -1), (numbers * marks).sum(0)


def copying(T, B):
    """(x [T, B, SYMBOLS + 2] one-hot: symbols, blanks and the signal, the symbols [COPIED, B])."""
    symbols = torch.randint(SYMBOLS, (COPIED, B))
    x = torch.full((T, B), SYMBOLS)
    x[:COPIED], x[-COPIED - 1] = symbols, SYMBOLS + 1
    return torch.nn.functional.one_hot(x, SYMBOLS + 2).float(), symbols


class Task(torch.nn.Module):
    """One of the two problems with a layer to learn it."""

    def __init__(self, name, rnn, T, B):
        super().__init__()
        self.name, self.T, self.B, self.rnn = name, T, B, rnn
        self.head = torch.nn.Linear(rnn.hidden_size, 1 if name == "adding" else SYMBOLS)
        self.scores = []  # the error of each batch, or the part of its symbols that was recalled

    def loss(self):
        if self.name == "adding":
            x, answer = adding(self.T, self.B)
            value = mse_loss(self.head(self.rnn(x)[0][-1]).squeeze(-1), answer)
            self.scores.append(value.item())
        else:
            x, answer = copying(self.T, self.B)
            logits = self.head(self.rnn(x)[0][-COPIED:])
            value = cross_entropy(logits.flatten(0, 1), answer.flatten())
            self.scores.append((logits.argmax(-1) == answer).float().mean().item())
        return value


def learn(run, name, T, variant):
    """Trains one variant; returns the scores, batch by batch (every batch is new, so they are test scores)."""
    cell, with_init, clip = VARIANTS[variant]
    rnn = getattr(run.library, cell)(2 if name == "adding" else SYMBOLS + 2, run.hidden)
    if with_init:
        init.orthogonal(rnn)
        if cell != "RNN":
            init.chrono(rnn, T)
    task = Task(name, rnn, T, min(run.batch, TOKENS // T))
    lr = run.lr[name] * (0.3 if cell == "RNN" else 1)
    run.train(f"{name} T={T} {variant}", task, task.loss, lr=lr, clip=1.0 if clip else math.inf)
    return task.scores


def experiment(run):
    metrics = {"adding: error of always answering 1": GUESS, "copying: recalled by guessing": 1 / SYMBOLS,
               "copying: recalled without their order": UNORDERED}  # fmt: skip
    curves = {}
    for name, lengths, word in (("adding", run.adding, "error"), ("copying", run.copying, "recalled")):
        for T in lengths:
            for variant in VARIANTS if T == lengths[0] else BEST:
                scores = curves[name, T, variant] = learn(run, name, T, variant)
                last = scores[-len(scores) // 10 :]
                where = "" if T == lengths[0] else f" T={T}"
                metrics[f"{name}{where}, {variant}: {word}"] = sum(last) / len(last)
    return metrics, curves


def draw(pictures):
    tasks = list(dict.fromkeys((name, T) for name, T, _ in pictures[0]))
    figure, axes = common.figure(len(tasks), width=5 * len(tasks))
    colors = {"RNN": common.RED, "GRU": common.BLUE, "LSTM": common.GREEN}
    for axis, task in zip(axes, tasks):
        for variant, (cell, with_init, clip) in VARIANTS.items():
            if (*task, variant) not in pictures[0]:
                continue
            style = ":" if not with_init else "-" if clip else "--"
            axis.plot(common.smooth(pictures[0][(*task, variant)], 25), style, color=colors[cell], label=variant)
        for level in [GUESS] if task[0] == "adding" else [1 / SYMBOLS, UNORDERED]:
            axis.axhline(level, color="black", linewidth=0.5)
        axis.set(
            title=f"{task[0]}, T={task[1]}: " + ("error" if task[0] == "adding" else "part recalled"), xlabel="step"
        )
    axes[0].set_ylim(0, 0.35)
    axes[0].legend(frameon=False, fontsize=8, ncols=2, loc="upper right")
    return figure


PROGRAM = "memory_task", __doc__, SETTINGS, BARS, experiment, draw

if __name__ == "__main__":
    common.start(*PROGRAM)
