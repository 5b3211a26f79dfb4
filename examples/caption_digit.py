"""One-to-many: a picture goes in, its name comes out letter by letter.

    python -m examples.caption_digit

A small CNN encodes an 8x8 digit (scikit-learn's, 1,797 of them) and its features are the GRU's initial state, as in
"Show and Tell" (Vinyals et al. 2015, arXiv:1411.4555): the picture is seen once, before the first letter. In training
the GRU reads the right letters (teacher forcing) and all steps are one call. In writing each letter that it chose is
its next input, until it writes the end mark: one call per letter, or rather one step of a `Stepper`, which copies the
weights once.

The point is the letters. To know the digit alone takes no network that writes: the nearest picture to learn from (1-NN
on pixels) has 0.961 of them right, more than this network after a quick run and less than after --full. The test's
pictures are of writers who are not among the training's.
"""

import rnnkernels
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from . import common

SETTINGS = {
    "quick": dict(steps=700, batch=64, hidden=64),
    "full": dict(steps=1500, hidden=96),
    "smoke": dict(steps=4, hidden=8),
}
BARS = [
    common.Bar("names right", "names right by the nearest mean", by=0.04),
    common.Bar("names right", "names right by the nearest picture", by=None),
]
NAMES = "zero one two three four five six seven eight nine".split()
LETTERS = "." + "".join(sorted(set("".join(NAMES))))  # "." begins and ends a name
LONGEST = max(map(len, NAMES)) + 1
FIRST_TEST = 1287  # a writer's form begins here, with the digits 0 to 9 three times over


class Captioner(nn.Module):
    def __init__(self, library, hidden):
        super().__init__()
        self.encode = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(),
                                    nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
                                    nn.Flatten(), nn.Dropout(0.3), nn.Linear(512, hidden))  # fmt: skip
        self.letters = nn.Embedding(len(LETTERS), 16)
        self.rnn = library.GRU(16, hidden)
        self.head = nn.Linear(hidden, len(LETTERS))

    def forward(self, pictures, names):
        """pictures [B, 1, 8, 8], names [T, B]: the letters so far -> logits of the next ones [T, B, letters]."""
        out, _ = self.rnn(self.letters(names), self.encode(pictures)[None])
        return self.head(out)

    @torch.inference_mode()
    def write(self, pictures):
        """Names, and the chance that the model gave each of their letters."""
        letter, written, chances = torch.zeros(len(pictures), dtype=torch.int64), [], []
        stepper = rnnkernels.Stepper(self.rnn, len(pictures))
        stepper.reset(self.encode(pictures)[None])
        for _ in range(LONGEST):
            chance, letter = self.head(stepper.step(self.letters(letter))).softmax(-1).max(-1)
            written.append(letter)
            chances.append(chance)
        texts = ["".join(LETTERS[i] for i in row).split(".")[0] for row in torch.stack(written, 1)]
        return texts, torch.stack(chances, 1)


def load():
    """(pictures [N, 1, 8, 8] in 0..1, digits [N]) to learn from, and to test: the last forms, by other writers."""
    digits = common.require("sklearn.datasets", "scikit-learn").load_digits()
    pictures, labels = torch.tensor(digits.images / 16, dtype=torch.float32)[:, None], torch.tensor(digits.target)
    return (pictures[:FIRST_TEST], labels[:FIRST_TEST]), (pictures[FIRST_TEST:], labels[FIRST_TEST:])


def spelled(digits):
    """Letters [T + 1, B] of the digits' names between two end marks; end marks fill up."""
    texts = ["." + NAMES[d] + "." for d in digits]
    return torch.tensor([[LETTERS.index(c) for c in text.ljust(LONGEST + 1, ".")] for text in texts]).t()


def nearest_mean(train, test):
    """A baseline: the name of the mean picture that is nearest."""
    means = torch.stack([train[0][train[1] == d].mean(0).flatten() for d in range(10)])
    return [NAMES[d] for d in torch.cdist(test[0].flatten(1), means).argmin(1)]


def nearest_picture(train, test):
    """A better one: the name of the nearest of all pictures to learn from."""
    return [NAMES[d] for d in train[1][torch.cdist(test[0].flatten(1), train[0].flatten(1)).argmin(1)]]


def experiment(run):
    train, test = load()
    model = Captioner(run.library, run.hidden)

    def loss():
        rows = torch.randint(len(train[1]), (run.batch,))
        names = spelled(train[1][rows])
        shifted = train[0][rows].roll(
            torch.randint(-1, 2, (2,)).tolist(), (2, 3)
        )  # a pixel up, down, left, right, or not
        logits = model(shifted, names[:-1])
        return cross_entropy(logits.flatten(0, 1), names[1:].flatten())

    losses = run.train("caption_digit", model, loss)
    written, chances = model.write(test[0])
    right = lambda names: sum(NAMES[d] == name for d, name in zip(test[1], names)) / len(names)
    metrics = {"names right": right(written), "names right by the nearest mean": right(nearest_mean(train, test)),
               "names right by the nearest picture": right(nearest_picture(train, test)),
               "written names that exist": sum(name in NAMES for name in written) / len(written)}  # fmt: skip
    return metrics, (losses, test, written, chances)


def draw(pictures):
    losses, (digits, labels), written, chances = pictures[0]
    wrong = [i for i, name in enumerate(written) if name != NAMES[labels[i]]]
    figure, axes = common.figure(6, rows=2, width=11, height=4)
    for axis, i in zip(axes[:-1], [*range(8), *wrong[:3]] if len(wrong) > 2 else range(11)):
        axis.imshow(digits[i, 0], cmap="gray_r")
        chance = chances[i, : len(written[i]) + 1].prod()
        axis.set_title(
            f"{written[i]}\n{chance:.0%}", fontsize=9, color="black" if written[i] == NAMES[labels[i]] else common.RED
        )
        axis.axis("off")
    axes[-1].plot(common.smooth(losses), color=common.BLUE)
    axes[-1].set_title("training loss", fontsize=9)
    return figure


PROGRAM = "caption_digit", __doc__, SETTINGS, BARS, experiment, draw

if __name__ == "__main__":
    common.start(*PROGRAM)
