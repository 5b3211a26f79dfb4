"""A character language model, trained with rnnkernels and with torch.nn side by side.

    python -m examples.char_lm

Stateful truncated backpropagation through time: the text is laid out as B parallel streams, read in chunks of T
characters. Each chunk starts from the hidden state in which the previous one ended, so the model remembers further
back than T, but that state is detached, so gradients stop at the chunk's border and a step costs the same anywhere in
the text. The baseline is a table: how often each character follows each other one.
"""

from __future__ import annotations

import math
import time

import rnnkernels
import torch
from rich.text import Text
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from . import common

SETTINGS = {
    "quick": dict(cell="LSTM", steps=300, batch=16, chunk=64, hidden=256, lr=3e-3, written=400),
    "full": dict(steps=800),
    "smoke": dict(steps=25, chunk=32, hidden=64, written=80),
}
AGREE_STEPS, AGREE = 20, 1e-4  # the two loss curves may differ by this much over the first steps
DISTANCE = f"distance of the losses over {AGREE_STEPS} steps"
SPEEDUP = "times torch.nn's training speed"
BARS = [
    common.Bar("perplexity", "perplexity of character pairs", by=3.0, lower=True),
    common.Bar(DISTANCE, AGREE, lower=True),
]


class CharLM(nn.Module):
    def __init__(self, library, cell: str, characters: int, hidden: int):
        super().__init__()
        self.embed = nn.Embedding(characters, 64)
        self.rnn = getattr(library, cell)(64, hidden, num_layers=2)  # the only line that knows whose LSTM it is
        self.head = nn.Linear(hidden, characters)

    def forward(self, chars: Tensor, state=None):
        """chars [T, B] and the state before them -> logits [T, B, characters] and the state after them."""
        y, state = self.rnn(self.embed(chars), state)
        return self.head(y), state


class Training:
    """A model with everything that changes while it trains."""

    def __init__(self, library, run: common.Run, streams: Tensor, characters: int):
        torch.manual_seed(run.seed)  # both models draw the same initial weights
        self.model = CharLM(library, run.cell, characters, run.hidden)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=run.lr)
        self.chunks = text_chunks(streams, run.chunk)
        self.losses: list[float] = []
        self.seconds: list[float] = []

    def step(self):
        """One chunk of truncated BPTT: predict each next character, follow the gradient, carry the state on."""
        start = time.perf_counter()
        (x, y), state = next(self.chunks, None) or next(iter(self.chunks))  # at its end the text begins again
        logits, self.chunks.state = self.model(x, state)
        loss = cross_entropy(logits.flatten(0, 1), y.flatten())
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.seconds.append(time.perf_counter() - start)
        self.losses.append(loss.item())

    def speed(self, tokens: int) -> float:
        """Tokens per second, from the median step: a hiccup of the machine is not the model's."""
        return tokens / sorted(self.seconds)[len(self.seconds) // 2]


def load_text() -> tuple[Tensor, Tensor, list[str]]:
    """(training characters, validation characters, alphabet), characters as numbers."""
    text = "\n\n".join(common.manual())
    alphabet = sorted(set(text))
    number = {char: i for i, char in enumerate(alphabet)}
    encoded = torch.tensor([number[char] for char in text])
    return *encoded.split([len(encoded) * 9 // 10, len(encoded) - len(encoded) * 9 // 10]), alphabet


def as_streams(text: Tensor, B: int) -> Tensor:
    """[N] -> [N // B, B]: column b reads the b-th part of the text from top to bottom."""
    return text[: len(text) // B * B].view(B, -1).t().contiguous()


def text_chunks(streams: Tensor, T: int):
    """((x, y), state) for one pass over the text: y is x one character later."""
    return rnnkernels.tbptt((streams[:-1], streams[1:]), T)


@torch.inference_mode()
def perplexity(model: CharLM, streams: Tensor, T: int) -> float:
    """exp of the mean loss per character, the state carried through the whole text."""
    total, chunks = 0.0, text_chunks(streams, T)
    for (x, y), state in chunks:
        logits, chunks.state = model(x, state)
        total += cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="sum").item()
    return math.exp(total / streams[1:].numel())


def character_pairs(train: Tensor, valid: Tensor, characters: int) -> float:
    """The baseline: perplexity of the next character given the present one, counted in the text to learn from."""
    ones = torch.ones(len(train) - 1)
    pairs = torch.ones(characters, characters).index_put_((train[:-1], train[1:]), ones, accumulate=True)
    chances = pairs / pairs.sum(1, keepdim=True)
    return chances[valid[:-1], valid[1:]].log().mean().neg().exp().item()


@torch.inference_mode()
def generate(model: CharLM, alphabet: list[str], prompt: str, length: int, temperature: float = 0.6) -> str:
    """The model's own text: each character it draws is its next input."""
    chars, state, text = torch.tensor([[alphabet.index(char)] for char in prompt]), None, prompt
    for _ in range(length):
        logits, state = model(chars, state)
        chars = torch.multinomial((logits[-1] / temperature).softmax(-1), 1)
        text += alphabet[chars.item()]
    return text


def experiment(run):
    text, valid, alphabet = load_text()
    streams = as_streams(text, run.batch)
    ours, theirs = (Training(library, run, streams, len(alphabet)) for library in (run.library, nn))
    say = lambda: f"loss {ours.losses[-1]:.4f}, torch.nn {theirs.losses[-1]:.4f}"
    for i in run.track(range(run.steps), f"both {run.cell}s", say):
        for training in (ours, theirs) if i % 2 else (theirs, ours):  # taking turns: neither meets a quieter machine
            training.step()
    run.losses |= {"ours": ours.losses, "torch.nn": theirs.losses}

    tokens, unseen = run.batch * run.chunk, as_streams(valid, run.batch)
    metrics = {
        "perplexity": perplexity(ours.model, unseen, run.chunk),
        "perplexity with torch.nn": perplexity(theirs.model, unseen, run.chunk),
        "perplexity of character pairs": character_pairs(text, valid, len(alphabet)),
        DISTANCE: max(abs(a - b) for a, b in zip(ours.losses[:AGREE_STEPS], theirs.losses)),
        "tokens/s in training": ours.speed(tokens),
        "tokens/s in training with torch.nn": theirs.speed(tokens),
        SPEEDUP: ours.speed(tokens) / theirs.speed(tokens),
    }
    run.progress.console.print(Text(generate(ours.model, alphabet, "The ", run.written), "italic"))
    return metrics, (ours.losses, theirs.losses, metrics)


def draw(pictures):
    """Both loss curves, their difference, and the speeds."""
    ours, theirs, metrics = pictures[0]
    figure, (curves, apart, speeds) = common.figure(3, width=13)
    curves.plot(theirs, color=common.RED, alpha=0.35, linewidth=5, label="torch.nn")
    curves.plot(ours, color=common.BLUE, linewidth=1.2, label="ours")
    curves.set(title="training loss", xlabel="step", ylabel="nats per character")
    curves.legend(frameon=False)
    common.draw_distance(apart, ours, theirs, AGREE_STEPS, AGREE)
    values = [metrics[f"tokens/s in training{whose}"] for whose in (" with torch.nn", "")]
    bars = speeds.bar(["torch.nn", "ours"], values, color=[common.RED, common.BLUE], width=0.6)
    speeds.bar_label(bars, fmt="{:,.0f}", padding=2)
    speeds.set(title=f"tokens/s in training: {metrics[SPEEDUP]:.2f}x")
    speeds.margins(y=0.12)
    return figure


PROGRAM = "char_lm", __doc__, SETTINGS, BARS, experiment, draw

if __name__ == "__main__":
    common.start(*PROGRAM)
