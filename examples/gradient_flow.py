"""Vanishing and exploding gradients: how far back a gradient reaches in an RNN, an LSTM and a GRU.

    python -m examples.gradient_flow

A layer reads 100 random inputs; the loss looks at its last state only. Two things are measured at every step, for
each cell as torch.nn initialises it and with the initialisations of rnnkernels.init:

    gain        by which factor a gradient of random direction grows on its way from the last state back to state t;
                the state of an LSTM is (h, c). It depends on the layer alone, and is what "steps until 1%" counts
    |dL/dh_t|   what arrives at h_t of this loss. Of an LSTM this is only a part, and the smaller one: its memory is c

A count of T steps means that more than 1% is left of the first step's, so it reads "T or more". Then W_hh is rescaled,
gate by gate, to a given spectral radius, the largest |eigenvalue|: below 1 an RNN's gradients vanish, above 1 they
explode until tanh saturates. Gates make an LSTM and a GRU less sensitive to it.
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
GAIN, GRADIENT = (f"steps until 1% of {what} is left" for what in ("the gain", "|dL/dh|"))
BARS = [
    common.Bar(f"{label}: {GAIN}", f"RNN: {GAIN}", by=by, ceiling="T")
    for label, by in (("LSTM, chrono", 40), ("GRU, chrono", 40), ("RNN, orthogonal", 5))
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


def reach(sizes):
    """Steps from the end back to the first one where less than LEFT of the last step's is left; T where there is none.

    sizes [T], a gain or a gradient at each step.
    """
    gone = (sizes.flip(0) < LEFT * sizes[-1]).nonzero()
    return gone[0].item() if len(gone) else len(sizes)


def experiment(run):
    x, direction = 0.2 * torch.randn(run.T, run.B, run.I), torch.randn(run.H)
    loss = lambda out: (out[-1] @ direction).mean()
    metrics, flows, swept = {}, {}, {}
    for cell in run.track(list(CELLS), "three cells"):
        build = lambda: getattr(run.library, cell)(run.I, run.H)
        for name, rnn in (("", build()), better(cell, build(), run.T)):
            label = f"{cell}, {name}" if name else cell
            flows[label] = gradient_flow(rnn, x, loss)
            metrics[f"{label}: {GAIN}"] = reach(flows[label].jacobian[0])
            metrics[f"{label}: {GRADIENT}"] = reach(flows[label].gradient[0])
        start = build()
        swept[cell] = [
            gradient_flow(set_spectral_radius(start, radius), x, loss).gain(0) ** (1 / (run.T - 1))
            for radius in run.radii
        ]
    run.losses["gradients"] = flows["LSTM"].gradient[0].tolist()
    return metrics, (flows, run.radii, swept)


def draw(pictures):
    flows, radii, swept = pictures[0]
    figure, (gains, gradients, sweep) = common.figure(3, width=13)
    for label, flow in flows.items():
        style = dict(color=CELLS[label.split(",")[0]], linestyle="-" if "," in label else ":", label=label)
        gains.semilogy(flow.jacobian[0].clamp(min=1e-14), **style)
        gradients.semilogy(flow.gradient[0].clamp(min=1e-14), **style)
    gains.axhline(LEFT, color="black", linewidth=0.5)
    gains.set(title="gain from the last state back to this one\n(of an LSTM: h and c)", xlabel="step")
    gains.legend(frameon=False, fontsize=8)
    gradients.set(title="|dL/dh| of a loss at the last step\n(of an LSTM: without c)", xlabel="step")
    for cell, color in CELLS.items():
        sweep.plot(radii, swept[cell], "o-", color=color, label=cell)
    sweep.plot(radii, radii, ":", color=common.GREY, label="a linear recurrence")
    sweep.axhline(1, color="black", linewidth=0.5)
    sweep.set(title="the gain, per step", xlabel="spectral radius of W_hh, each gate")
    sweep.legend(frameon=False, fontsize=8)
    return figure


PROGRAM = "gradient_flow", __doc__, SETTINGS, BARS, experiment, draw

if __name__ == "__main__":
    common.start(*PROGRAM)
