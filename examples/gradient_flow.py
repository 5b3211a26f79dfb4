"""Vanishing and exploding gradients: how far back a gradient reaches in an RNN, an LSTM and a GRU.

    python -m examples.gradient_flow

A layer reads 100 random inputs; the loss looks at its last state only. For each cell the gradient |dL/dh_t| is
measured at every step, as torch.nn initialises the layer and with the initialisations of rnnkernels.init. Then W_hh
is rescaled, gate by gate, to a given spectral radius, the largest |eigenvalue|: below 1 an RNN's gradients vanish,
above 1 they explode until tanh saturates. Gates make an LSTM and a GRU far less sensitive to it.
"""

import torch
from rnnkernels import init
from rnnkernels.diagnostics import gradient_flow

from . import common

SETTINGS = {
    "quick": dict(T=100, B=4, I=16, H=48, radii=(0.5, 0.75, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0)),
    "full": dict(T=200, H=64),
    "smoke": dict(T=12, H=8, radii=(0.5, 2.0)),
}
LEFT = 0.01  # a gradient has vanished when less than this part of it is left
CELLS = {"RNN": common.RED, "GRU": common.BLUE, "LSTM": common.GREEN}
BARS = [
    common.Bar("LSTM, chrono: steps until 1% is left", "RNN: steps until 1% is left", by=40),
    common.Bar("GRU, chrono: steps until 1% is left", "RNN: steps until 1% is left", by=40),
    common.Bar("RNN, orthogonal: steps until 1% is left", "RNN: steps until 1% is left", by=5),
]


def better(cell, rnn, T):
    """(name, the layer with the initialisation that helps its gradients)."""
    init.orthogonal(rnn)
    return ("orthogonal", rnn) if cell == "RNN" else ("chrono", init.chrono(rnn, T))


@torch.no_grad()
def set_spectral_radius(rnn, radius):
    for gate in rnn.weight_hh_l0.split(rnn.hidden_size):
        gate *= radius / torch.linalg.eigvals(gate).abs().max()
    return rnn


def reach(flow):
    """Steps from the end back to the first one where less than LEFT of the gradient's gain is left (T: nowhere)."""
    gains = flow.jacobian[0].flip(0)
    gone = (gains < LEFT).nonzero()
    return len(gains) if not len(gone) else gone[0].item()


def experiment(run):
    x, direction = 0.2 * torch.randn(run.T, run.B, run.I), torch.randn(run.H)
    loss = lambda out: (out[-1] @ direction).mean()
    metrics, flows, swept = {}, {}, {}
    for cell in run.track(list(CELLS), "three cells"):
        build = lambda: getattr(run.library, cell)(run.I, run.H)
        for name, rnn in (("", build()), better(cell, build(), run.T)):
            label = f"{cell}, {name}" if name else cell
            flows[label] = gradient_flow(rnn, x, loss)
            metrics[f"{label}: steps until 1% is left"] = reach(flows[label])
        start = build()
        swept[cell] = [
            gradient_flow(set_spectral_radius(start, radius), x, loss).gain(0) ** (1 / (run.T - 1))
            for radius in run.radii
        ]
    run.losses["gradients"] = flows["LSTM"].gradient[0].tolist()
    return metrics, (flows, run.radii, swept)


def draw(pictures):
    flows, radii, swept = pictures[0]
    figure, (curves, sweep) = common.figure()
    for label, flow in flows.items():
        good = "," in label
        curves.semilogy(
            flow.gradient[0].clamp(min=1e-14),
            color=CELLS[label.split(",")[0]],
            linestyle="-" if good else ":",
            label=label,
        )
    curves.set(title="|dL/dh| of a loss at the last step", xlabel="step")
    curves.legend(frameon=False, fontsize=8)
    for cell, color in CELLS.items():
        sweep.plot(radii, swept[cell], "o-", color=color, label=cell)
    sweep.plot(radii, radii, ":", color=common.GREY, label="a linear recurrence")
    sweep.axhline(1, color="black", linewidth=0.5)
    sweep.set(title="growth of a gradient per step", xlabel="spectral radius of W_hh, each gate")
    sweep.legend(frameon=False, fontsize=8)
    return figure


PROGRAM = "gradient_flow", __doc__, SETTINGS, BARS, experiment, draw

if __name__ == "__main__":
    common.start(*PROGRAM)
