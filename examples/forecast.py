"""The CO2 in the air a year ahead, week by week: many-to-one regression, many steps at once, with an LSTM.

    python -m examples.forecast

Mauna Loa's weekly CO2, 1958 to 2001 (carried by statsmodels). The LSTM reads the last 104 weeks and its last state
predicts the next 52. A seasonal-naive forecast says "as in the same week a year ago"; the LSTM learns what to add to
that: its inputs are the growth over a year, the change over a week and the season, its targets the growth that is
still to come. It learns from the weeks up to 1989 and forecasts from every week after. Better baselines add the mean
growth of the years up to then, which is all that an untrained head would say, that of the last 20 of them, and the
growth of the last year.

The best one is ridge regression on the LSTM's own inputs, and it wins: a mean error of 0.52 ppm where the LSTM has
0.64. There are 32 years to learn from; on a series like this try the linear map first.
"""

import math

import torch
from torch import nn
from torch.nn.functional import smooth_l1_loss

from . import common

SETTINGS = {
    "quick": dict(steps=500, batch=32, hidden=16),  # 48 units learn the noise: seen on 1985 to 1989, held out for this
    "full": dict(steps=1000),
    "smoke": dict(steps=3, hidden=8),
}
BARS = [
    common.Bar("error", "error of seasonal-naive", by=0.7, lower=True),
    common.Bar("error", "error of seasonal-naive and mean growth", by=0.04, lower=True),
    common.Bar("error", "error of seasonal-naive and last growth", by=0.08, lower=True),
    common.Bar("error", "error of seasonal-naive and 20 years' growth", by=None, lower=True),
    common.Bar("error", "error of ridge regression", by=None, lower=True),
]
YEAR, PAST, FUTURE = 52, 104, 52
VALID_FROM, TEST_FROM = 1980, 1990  # the years between choose the penalty of ridge regression
PENALTIES = [10 ** (k / 2) for k in range(-6, 5)]


class Forecaster(nn.Module):
    def __init__(self, library, inputs, hidden):
        super().__init__()
        self.rnn = library.LSTM(inputs, hidden)
        self.head = nn.Linear(hidden, FUTURE)

    def forward(self, past):
        """past [PAST, B, inputs] -> growth over a year at each of the next weeks [B, FUTURE], in units of its std."""
        return self.head(self.rnn(past)[0][-1])


def load():
    """(CO2 [N] in parts per million, the year of each week [N] as 1958.24)."""
    series = common.require("statsmodels.api", "statsmodels").datasets.co2.load_pandas().data.co2.interpolate()
    days = series.index
    return torch.tensor(series.to_numpy(), dtype=torch.float32), torch.tensor(
        (days.year + days.dayofyear / 365.25).to_numpy()
    )


def features(co2, when):
    """[N - YEAR, 4] for the weeks from YEAR on: growth in a year, change in a week, season as a point on a circle."""
    season = 2 * math.pi * (when % 1).float()
    growth, change = co2[YEAR:] - co2[:-YEAR], co2.diff()[YEAR - 1 :]
    return torch.stack([growth, change, season[YEAR:].sin(), season[YEAR:].cos()], -1)


def ridge(past, targets, penalty):
    """The map past [N, inputs] -> targets [N, FUTURE] with the least mean squared error + penalty |weights|^2."""
    x, mean, offset = past - past.mean(0), past.mean(0), targets.mean(0)
    square = x.t() @ x / len(x) + penalty * torch.eye(x.shape[1], dtype=x.dtype)
    weights = torch.linalg.solve(square, x.t() @ (targets - offset) / len(x))
    return lambda past: (past - mean) @ weights + offset


def ridge_forecast(past, targets, first_valid, first_test):
    """The baseline: forecasts [N, FUTURE] of all test windows, with the penalty that is best from first_valid on."""
    past, targets = past.double(), targets.double()
    known = lambda first: slice(first - FUTURE)  # their future ends before window `first` begins to forecast

    def valid_error(penalty):
        rows = slice(first_valid, first_test - FUTURE)
        guess = ridge(past[known(first_valid)], targets[known(first_valid)], penalty)(past[rows])
        return (guess - targets[rows]).abs().mean()

    best = min(PENALTIES, key=valid_error)
    return ridge(past[known(first_test)], targets[known(first_test)], best)(past[first_test : len(targets)]).float()


def experiment(run):
    co2, when = load()
    x = features(co2, when)
    growth = x[:, 0].clone()
    first_of = lambda year: int((when[YEAR:] < year).sum())
    known = first_of(TEST_FROM)  # the first week that is to be forecast
    mean, std = x[:known].mean(0), x[:known].std(0)
    x = (x - mean) / std
    model = Forecaster(run.library, x.shape[1], run.hidden)
    windows = x.unfold(0, PAST, 1).permute(2, 0, 1)  # [PAST, windows, 4]: window w ends before week w + PAST
    targets = growth[PAST:].unfold(0, FUTURE, 1)  # [windows, FUTURE]
    last_train = known - PAST - FUTURE  # its future ends before the first test week
    first_test = known - PAST

    def loss():
        rows = torch.randint(last_train, (run.batch,))
        past = windows[:, rows]
        return smooth_l1_loss(model(past + 0.1 * torch.randn_like(past)), (targets[rows] - mean[0]) / std[0])

    losses = run.train("forecast", model, loss, lr=2e-3)
    tests = torch.arange(first_test, len(targets))
    with torch.inference_mode():
        predicted = model(windows[:, tests]) * std[0] + mean[0]
    truth = targets[tests]
    last = growth[tests + PAST - 1][:, None]
    guesses = {
        "LSTM": predicted,
        "seasonal-naive": torch.zeros(1),
        "seasonal-naive and mean growth": mean[0],
        "seasonal-naive and 20 years' growth": growth[known - 20 * YEAR : known].mean(),
        "seasonal-naive and last growth": last,
        "ridge regression": ridge_forecast(
            windows.permute(1, 0, 2).flatten(1), targets, first_of(VALID_FROM) - PAST, first_test
        ),
    }
    by_week = {name: (guess - truth).abs().mean(0) for name, guess in guesses.items()}
    metrics = {}
    for name, errors in by_week.items():
        of = "" if name == "LSTM" else f" of {name}"
        metrics |= {f"error{of}": errors.mean(), f"error next week{of}": errors[0]}
    start = tests[len(tests) // 2] + PAST + YEAR  # the week in co2 where the forecast in the picture begins
    naive = co2[start - YEAR : start]
    shown = (
        when[start - 2 * YEAR : start + FUTURE],
        co2[start - 2 * YEAR : start + FUTURE],
        naive,
        naive + predicted[len(tests) // 2],
    )
    return metrics, (shown, by_week, losses)


def draw(pictures):
    (when, co2, naive, predicted), by_week, _ = pictures[0]
    figure, (path, error) = common.figure()
    colors = dict(zip(by_week, (common.BLUE, common.RED, common.GREEN, "#8fc3a3", common.GREY, "black")))
    path.plot(when, co2, color="black", linewidth=1, label="measured")
    path.plot(when[-FUTURE:], naive, color=common.RED, label="seasonal-naive")
    path.plot(when[-FUTURE:], predicted, color=common.BLUE, label="LSTM")
    path.set(title="CO2 at Mauna Loa, ppm: a year ahead")
    path.legend(frameon=False, fontsize=8)
    for name, errors in by_week.items():
        error.plot(range(1, FUTURE + 1), errors, color=colors[name], label=name)
    error.set(title=f"mean error of all forecasts from {TEST_FROM} on, ppm", xlabel="weeks ahead", ylim=(0, None))
    error.legend(frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(0, 0.92))
    return figure


PROGRAM = "forecast", __doc__, SETTINGS, BARS, experiment, draw

if __name__ == "__main__":
    common.start(*PROGRAM)
