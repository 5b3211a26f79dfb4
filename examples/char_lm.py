"""A character language model, trained with rnnkernels and with torch.nn side by side.

    python -m examples.char_lm

Stateful truncated backpropagation through time: the text is laid out as B parallel streams, read in chunks of T
characters. Each chunk starts from the hidden state in which the previous one ended, so the model remembers further
back than T, but that state is detached, so gradients stop at the chunk's border and a step costs the same anywhere in
the text.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from pathlib import Path
from pydoc_data.topics import topics  # Python's own reference manual: real text that is on every machine

import rnnkernels
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

AGREE_STEPS, AGREE = 20, 1e-4  # the two loss curves may differ by this much over the first steps
PICTURE = Path(__file__).parent / "out" / "char_lm.png"


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

    def __init__(self, library, args: argparse.Namespace, streams: Tensor, characters: int):
        torch.manual_seed(args.seed)  # both models draw the same initial weights
        self.model = CharLM(library, args.cell, characters, args.hidden)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=args.lr)
        self.chunks = text_chunks(streams, args.chunk)
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
    text = "\n".join(topics[name] for name in sorted(topics))
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


@torch.inference_mode()
def generate(model: CharLM, alphabet: list[str], prompt: str, length: int, temperature: float = 0.6) -> str:
    """The model's own text: each character it draws is its next input."""
    chars, state, text = torch.tensor([[alphabet.index(char)] for char in prompt]), None, prompt
    for _ in range(length):
        logits, state = model(chars, state)
        chars = torch.multinomial((logits[-1] / temperature).softmax(-1), 1)
        text += alphabet[chars.item()]
    return text


def train(ours: Training, theirs: Training, args: argparse.Namespace, console: Console):
    """Both on the same chunks, taking turns at going first, so that neither meets a quieter machine."""
    said = TextColumn("{task.description}")
    columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), said)
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=args.steps)
        for i in range(args.steps):
            for training in (ours, theirs) if i % 2 else (theirs, ours):
                training.step()
            progress.update(task, advance=1, description=f"loss {ours.losses[-1]:.4f}  torch.nn {theirs.losses[-1]:.4f}")


def draw(ours: Training, theirs: Training, tokens: int, cell: str):
    """Both loss curves, their difference, and the speeds."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    blue, red = "#2e86ab", "#d1495b"
    figure, (curves, apart, speeds) = plt.subplots(1, 3, figsize=(13, 4), width_ratios=(5, 4, 3), layout="constrained")
    curves.plot(theirs.losses, color=red, alpha=0.35, linewidth=5, label=f"torch.nn.{cell}")
    curves.plot(ours.losses, color=blue, linewidth=1.2, label=f"rnnkernels.{cell}")
    curves.set(title="training loss", xlabel="step", ylabel="nats per character")
    curves.legend(frameon=False)

    apart.semilogy([max(abs(a - b), 1e-8) for a, b in zip(ours.losses, theirs.losses)], color="#555555", linewidth=1)
    apart.hlines(AGREE, 0, AGREE_STEPS, color="black", label=f"required over the first {AGREE_STEPS} steps")
    apart.set(title="distance between the curves", xlabel="step (rounding grows as in any chaotic system)")
    apart.legend(frameon=False)

    bars = speeds.bar(["torch.nn", "rnnkernels"], [theirs.speed(tokens), ours.speed(tokens)], color=[red, blue], width=0.6)
    speeds.bar_label(bars, fmt="{:,.0f}", padding=2)
    speeds.set(title=f"tokens/s in training: {ours.speed(tokens) / theirs.speed(tokens):.2f}x")
    speeds.margins(y=0.12)
    for axis in figure.axes:
        axis.spines[["top", "right"]].set_visible(False)
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE, dpi=120)


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m examples.char_lm", description=__doc__.splitlines()[0])
    parser.add_argument("--cell", type=str.upper, choices=("LSTM", "GRU", "RNN"), default="LSTM")
    parser.add_argument("--steps", type=int, default=500, help="training steps of each model")
    parser.add_argument("--smoke", action="store_true", help="a few seconds: a small model, 25 steps")
    args = parser.parse_args(argv)
    args.batch, args.chunk, args.hidden, args.lr, args.seed = 16, 64, 256, 3e-3, 0
    if args.smoke:
        args.steps, args.chunk, args.hidden = 25, 32, 64
    return args


def main(argv: list[str] | None = None) -> int:
    args, console = arguments(argv), Console(highlight=False)
    train_text, valid_text, alphabet = load_text()
    streams = as_streams(train_text, args.batch)
    ours, theirs = (Training(library, args, streams, len(alphabet)) for library in (rnnkernels, torch.nn))
    console.print(f"{len(train_text):,} characters of Python's reference manual, 2-layer {args.cell}, H={args.hidden}, "
                  f"{args.batch} streams in chunks of {args.chunk}, {torch.get_num_threads()} threads")  # fmt: skip
    train(ours, theirs, args, console)

    apart = max(abs(a - b) for a, b in zip(ours.losses[:AGREE_STEPS], theirs.losses[:AGREE_STEPS]))
    agree = apart <= AGREE  # False for NaN as well
    tokens, valid = args.batch * args.chunk, as_streams(valid_text, args.batch)
    console.print(f"loss curves: {apart:.1e} apart at most over the first {AGREE_STEPS} steps "
                  f"({'agree' if agree else 'DISAGREE'}: at most {AGREE:.0e} is allowed)")  # fmt: skip
    for name, training in (("rnnkernels", ours), ("torch.nn", theirs)):
        console.print(f"{name:>11}: perplexity {perplexity(training.model, valid, args.chunk):.3f} on unseen text, "
                      f"{training.speed(tokens):,.0f} tokens/s in training")  # fmt: skip
    console.print(f"[bold]{ours.speed(tokens) / theirs.speed(tokens):.2f}x[/] the training speed of torch.nn.{args.cell}\n")
    console.print(generate(ours.model, alphabet, "The ", 80 if args.smoke else 400), style="italic", markup=False)
    draw(ours, theirs, tokens, args.cell)
    console.print(f"\nwrote {PICTURE}")
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
