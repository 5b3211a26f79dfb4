"""Gives a text its capitals and punctuation back: tagging, many-to-many aligned, with a deep bidirectional LSTM.

    python -m examples.restore_case

Python's reference manual (pydoc_data, on every machine), stripped to lower-case words. Every word gets two tags: its
case and the mark after it. What a word should look like depends on the words before it and after it, so both
directions are read, and two layers combine them. The baseline gives each word the tags that it had most often in the
text to learn from.
"""

import re
import textwrap
from collections import Counter

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from . import common

SETTINGS = {
    "quick": dict(steps=500, batch=16, T=64, hidden=96, layers=2),
    "full": dict(steps=700, hidden=128),
    "smoke": dict(steps=3, T=8, hidden=8),
}
BARS = [
    common.Bar("both tags right", "both tags right of the baseline", by=0.02),
    common.Bar("F1 of Capital", "F1 of Capital of the baseline", by=0.2),
    common.Bar("F1 of .", "F1 of . of the baseline", by=0.2),
]
CASES = "lower", "Capital", "OTHER"  # OTHER: ALL CAPITALS, camelCase
MARKS = "", ",", "."
UNKNOWN = 0  # a word that the text to learn from has less than twice


class Restorer(nn.Module):
    def __init__(self, library, words, hidden, layers):
        super().__init__()
        self.embed = nn.Embedding(words, 64)
        self.rnn = library.LSTM(64, hidden, layers, bidirectional=True, dropout=0.3)
        self.case, self.mark = (nn.Linear(2 * hidden + 64, len(tags)) for tags in (CASES, MARKS))

    def forward(self, words):
        """words [T, B] -> logits [T, B, CASES], [T, B, MARKS]."""
        x = nn.functional.dropout(self.embed(words), 0.3, self.training)
        out = torch.cat([self.rnn(x)[0], x], -1)  # the word itself says much about its case
        return self.case(out), self.mark(out)


def load():
    """The text as (word in lower case, its case, its mark) for each word, the part to learn from and the part to test.

    Prose only, so nothing deeply indented.
    """
    paragraphs = (" ".join(p.split()) for p in common.manual() if p[:5].strip())
    prose = [p for p in paragraphs if ">>>" not in p and p.endswith((".", ":")) and p.count(" ") > 8]
    parts = [], []
    for i, paragraph in enumerate(prose):
        for word, after in re.findall(r"([A-Za-z]+)([^A-Za-z]*)", paragraph):
            case = 0 if word.islower() else 1 if word[1:].islower() or len(word) == 1 else 2
            mark = after.lstrip("\"'*_")[:1]
            parts[i % 10 == 9].append((word.lower(), case, MARKS.index(mark) if mark in MARKS else 0))
    return parts


def numbered(tagged, vocabulary):
    """[N] words, cases and marks as numbers."""
    words, cases, marks = zip(*tagged)
    return torch.tensor([vocabulary.get(w, UNKNOWN) for w in words]), torch.tensor(cases), torch.tensor(marks)


def most_frequent(train, test):
    """The baseline: (cases, marks) that each word had most often; a new word is lower case without a mark."""
    habits = {}
    for word, *tags in train:
        habits.setdefault(word, (Counter(), Counter()))
        for count, tag in zip(habits[word], tags):
            count[tag] += 1
    habit = lambda word, which: habits[word][which].most_common(1)[0][0] if word in habits else 0
    return tuple(torch.tensor([habit(word, which) for word, *_ in test]) for which in (0, 1))


def f1(guess, truth, tags):
    """F1 of each tag: the harmonic mean of how many of the guessed are right and how many of the right are guessed."""
    guess, truth = (one[:, None] == torch.arange(tags) for one in (guess, truth))  # [N, tags]
    return 2 * (guess & truth).sum(0) / (guess.sum(0) + truth.sum(0)).clamp(min=1)


def scores(guess, truth, of=""):
    """(metrics, F1 by tag)."""
    names = *CASES, "no mark", *MARKS[1:]
    by_tag = dict(zip(names, [*f1(guess[0], truth[0], len(CASES)), *f1(guess[1], truth[1], len(MARKS))]))
    both = (guess[0] == truth[0]) & (guess[1] == truth[1])
    metrics = {f"F1 of {tag}{of}": value for tag, value in by_tag.items()}
    return {f"both tags right{of}": both.float().mean()} | metrics, by_tag


def spelled(tagged, cases, marks):
    shape = str, str.capitalize, str.upper
    return " ".join(shape[case](word) + MARKS[mark] for (word, *_), case, mark in zip(tagged, cases, marks))


def experiment(run):
    train, test = load()
    counts = Counter(word for word, *_ in train)
    vocabulary = {word: i for i, word in enumerate((w for w, n in counts.items() if n > 1), 1)}
    words, cases, marks = (
        numbers[: len(numbers) // run.T * run.T].view(-1, run.T).t() for numbers in numbered(train, vocabulary)
    )
    model = Restorer(run.library, len(vocabulary) + 1, run.hidden, run.layers)

    def loss():
        rows = torch.randint(words.shape[1], (run.batch,))
        case, mark = (logits.flatten(0, 1) for logits in model(words[:, rows]))
        return cross_entropy(case, cases[:, rows].flatten()) + cross_entropy(mark, marks[:, rows].flatten())

    losses = run.train("restore_case", model, loss, lr=5e-3)
    unseen, *truth = numbered(test, vocabulary)
    with torch.inference_mode():
        guess = [logits[:, 0].argmax(-1) for logits in model(unseen[:, None])]  # the whole test as one sequence
    ours, by_tag = scores(guess, truth)
    baseline, baseline_by_tag = scores(most_frequent(train, test), truth, " of the baseline")
    return ours | baseline, (losses, by_tag, baseline_by_tag, spelled(test[:60], guess[0], guess[1]))


def draw(pictures):
    losses, by_tag, baseline_by_tag, text = pictures[0]
    figure, (tags, curve) = common.figure(width=11, height=4.4)
    place = torch.arange(len(by_tag))
    tags.bar(place - 0.2, [*baseline_by_tag.values()], 0.4, color=common.GREY, label="the word's most frequent tags")
    tags.bar(place + 0.2, [*by_tag.values()], 0.4, color=common.BLUE, label="bidirectional LSTM")
    tags.set_xticks(place, [*by_tag])
    tags.set(title="F1 of each tag", ylim=(0, 1.15))
    tags.legend(frameon=False, fontsize=8, ncols=2)
    curve.plot(common.smooth(losses), color=common.BLUE)
    curve.set(title="training loss", xlabel="step")
    figure.text(0.5, -0.02, textwrap.fill(text, 150), ha="center", va="top", fontsize=8, style="italic")
    return figure


PROGRAM = "restore_case", __doc__, SETTINGS, BARS, experiment, draw

if __name__ == "__main__":
    common.start(*PROGRAM)
