"""Vanishing and exploding gradients, measured.

    flow = rnnkernels.diagnostics.gradient_flow(rnn, x, lambda out: cross_entropy(head(out[-1]), y))
    flow.report()                  # which layers vanish or explode, and what to do
    flow.plot("flow.png")

Two measures, for every layer, direction and step (Bengio et al. 1994; Pascanu et al. 2013, arXiv:1211.5063):

    |dL/dh_t|            the gradient that arrives at a state, from the loss of its own step and of all later ones
    J_t = ds_T / ds_t    the product of the Jacobians of the steps after t, which carries a gradient from the last state
                         s_T back to s_t. It does not depend on the loss

The plain-PyTorch steps of `reference` run here, one by one, for the fused kernels return no gradient of an inner state.
"""

import math
from dataclasses import dataclass

import torch

from . import reference
from .layers import check_layer
from .support import read_parameters, state_widths

__all__ = ["gradient_flow", "GradientFlow"]

VANISHED, EXPLODED = 1e-3, 1e3  # of a gradient, over the whole sequence


@dataclass
class GradientFlow:
    """What `gradient_flow` measured. A row per layer and direction, in the order of h_n: [L*D]; a column per step.

    kind      LSTM, GRU or RNN
    layers    names of the rows
    gradient  [L*D, T] |dL/dh_t|, the norm over batch and units
    cell      [L*D, T] |dL/dc_t| of an LSTM, whose c is what carries gradients far (by way of h_t too); None for others
    jacobian  [L*D, T] the gain of J_t: by which factor a gradient of random direction grows (root mean square) on its
              way from the direction's last step back to step t, |J_t|_F / sqrt(n) for a state s of n numbers, of an
              LSTM (h, c); mean over the batch. 1 at the last step (for a reverse direction that is t = 0)
    """

    kind: str
    layers: list[str]
    gradient: torch.Tensor
    cell: torch.Tensor | None
    jacobian: torch.Tensor

    def gain(self, row):
        """The factor by which a gradient grows on its way through all T steps of a layer."""
        gains = self.jacobian[row]
        return gains[-1 if self.layers[row].endswith("reverse") else 0].item()

    def verdict(self, row):
        """'vanishes' (gain below 1e-3), 'explodes' (above 1e3), 'flows', or 'is not finite' where inputs or the loss are not."""
        gain = self.gain(row)
        if gain > EXPLODED:
            return "explodes"
        if math.isnan(gain) or not self.gradient[row].isfinite().all():
            return "is not finite"
        return "vanishes" if gain < VANISHED else "flows"

    def report(self):
        """Prints, per layer, how gradients change on their way back through the steps, and what to do about it."""
        print(self)

    def __str__(self):
        T = self.gradient.shape[1]
        lines = [f"gradient flow of {self.kind} over {T} steps",
                 f"{'layer':<18}{'|dL/dh|, first step':>20}{'last step':>11}{'gain':>10}{'a step':>8}"]  # fmt: skip
        verdicts = set()
        for row, name in enumerate(self.layers):
            first, last, gain = self.gradient[row, 0], self.gradient[row, -1], self.gain(row)
            a_step, verdict = gain ** (1 / max(T - 1, 1)), self.verdict(row)
            lines.append(f"{name:<18}{first:>20.2e}{last:>11.2e}{gain:>10.1e}{a_step:>8.3f}  {verdict}")
            verdicts.add(verdict)
        return "\n".join(lines + [_ADVICE[v](self.kind, T) for v in sorted(verdicts) if v in _ADVICE])

    def plot(self, path=None):
        """Both measures over the steps, on a logarithmic scale. Returns the matplotlib Figure and writes it to `path`."""
        try:
            from matplotlib.figure import Figure
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError("GradientFlow.plot needs matplotlib: pip install matplotlib") from error

        figure = Figure(figsize=(10, 4), layout="constrained")
        left, right = figure.subplots(1, 2)
        for row, name in enumerate(self.layers):
            (line,) = left.semilogy(self.gradient[row], label=name)
            if self.cell is not None:
                left.semilogy(self.cell[row], color=line.get_color(), linestyle=":", label=f"{name}, dL/dc")
            right.semilogy(self.jacobian[row], color=line.get_color())
        left.set(title="|dL/dh| at each step", xlabel="step")
        right.set(title="gain from the last step back to this one", xlabel="step")
        right.axhline(1, color="black", linewidth=0.5)
        left.legend(frameon=False)
        if path is not None:
            figure.savefig(path, dpi=100)
        return figure


_ADVICE = {  # chrono knows no memory of two steps or less
    "vanishes": lambda kind, T: {
        "RNN": "vanishes: use an LSTM or a GRU, or rnnkernels.init.orthogonal(module)",
        "LSTM": f"vanishes: rnnkernels.init.chrono(module, t_max={max(T, 3)}), or forget_bias(module) for shorter memories",
        "GRU": f"vanishes: rnnkernels.init.chrono(module, t_max={max(T, 3)})",
    }[kind],
    "is not finite": lambda kind, T: "is not finite: look for nan and inf in the input, the parameters and the loss",
    "explodes": lambda kind, T: "explodes: torch.nn.utils.clip_grad_norm_(parameters, 1.0) after backward(), "
                                "rnnkernels.init.orthogonal(module), a smaller learning rate",
}  # fmt: skip


def gradient_flow(module, x, loss):
    """Measures how gradients travel through the layers and steps of a recurrent module. Returns a `GradientFlow`.

    module  LSTM, GRU or RNN, ours or torch.nn's; its parameters and their .grad stay as they are. No dropout is applied
    x       the module's input, [T, B, I] or, when batch_first, [B, T, I]
    loss    a function from the module's output (its first result, in its layout and dtype) to a scalar

    Time and memory are those of T small steps and T*B Jacobians [n, n]: a few rows of a batch say as much as all.
    TypeError for another module, one with a forward of its own, or an x that is no tensor; ValueError for an input of another shape, or a loss
    that is no scalar or does not depend on the output.
    """
    check_layer(module, "gradient_flow")
    if not isinstance(x, torch.Tensor):
        raise TypeError(f"gradient_flow: x must be a tensor, got {type(x).__name__}")
    if x.dim() != 3 or x.shape[-1] != module.input_size or not x.numel():
        raise ValueError(
            f"gradient_flow: x must be [T, B, {module.input_size}] (batch_first: [B, T, ...]), got {list(x.shape)}"
        )
    steps = x.transpose(0, 1) if module.batch_first else x
    with torch.inference_mode(False), torch.enable_grad():
        rows, output = _run(module, steps.clone().detach())  # a clone, for what inference_mode made has no gradient
        value = loss(output.transpose(0, 1) if module.batch_first else output)
        scalar = isinstance(value, torch.Tensor) and value.numel() == 1 and value.requires_grad
        if not scalar or torch.autograd.grad(value, output, retain_graph=True, allow_unused=True)[0] is None:
            raise ValueError("gradient_flow: loss must return a scalar tensor computed from the module's output")
        gradients = _gradients(value, rows)
    return GradientFlow(
        kind=module.mode.split("_")[0],
        layers=[row.name for row in rows],
        gradient=gradients[0],
        cell=gradients[1] if len(gradients) == 2 else None,
        jacobian=torch.stack([_gains(row) for row in rows]),
    )


@dataclass
class _Row:
    """One layer in one direction: its step (x, *states, *weights) -> states; what went in and out, as it ran."""

    name: str
    reverse: bool
    step: callable
    weights: list
    inputs: list
    states: list  # T + 1 tuples; the first is zero


def _run(module, x):
    """All layers, step by step: (rows, output [T, B, D*P])."""
    directions = 2 if module.bidirectional else 1
    flat = read_parameters(module, module._flat_weights_names)
    per_row = len(flat) // (module.num_layers * directions)
    rows = []
    for layer in range(module.num_layers):
        inputs = list(x)
        for d in range(directions):
            weights = flat[len(rows) * per_row :][:per_row]
            name = f"layer {layer}" + " reverse" * d
            row = _Row(name, bool(d), *_step(module, weights), inputs[::-1] if d else inputs, [])
            rows.append(row)
            row.states.append(tuple(x.new_zeros(x.shape[1], n, requires_grad=True) for n in state_widths(module)))
            for x_t in row.inputs:
                row.states.append(row.step(x_t, *row.states[-1], *row.weights))
        outputs = [[h for h, *_ in (row.states[:0:-1] if row.reverse else row.states[1:])] for row in rows[-directions:]]  # by t
        x = torch.stack([torch.cat(h, -1) for h in zip(*outputs)])
    return rows, x


def _step(module, weights):
    """The cell of `reference` and its weights: w_ih, w_hh, b_ih, b_hh and, for a projection, w_hr."""
    weights = list(weights)
    if not module.bias:
        weights[2:2] = None, None
    if module.mode == "LSTM":
        return reference.lstm_step, weights
    if module.mode == "GRU":
        return reference.gru_step if getattr(module, "reset_after", True) else reference.gru_reset_before_step, weights
    nonlinearity = module.mode.removeprefix("RNN_").lower()
    return (lambda *a: reference.rnn_step(*a, nonlinearity)), weights


def _gradients(value, rows):
    """|dL/ds_t| for each part of the state (h, and c): tensors [L*D, T]."""
    states = [s for row in rows for s in row.states[1:]]
    flat = torch.autograd.grad(value, [part for s in states for part in s], allow_unused=True, materialize_grads=True)
    norms = torch.stack([g.double().norm() for g in flat]).view(len(rows), -1, len(states[0]))  # [L*D, T, parts]
    norms = torch.stack([n.flip(0) if row.reverse else n for row, n in zip(rows, norms)])
    return list(norms.cpu().unbind(-1))


@torch.no_grad()
def _gains(row):
    """[T]: |J_t|_F / sqrt(n), in f64: a product of a thousand Jacobians leaves the range of f32."""
    widths = [s.shape[-1] for s in row.states[0]]
    weights = [w if w is None else w.double() for w in row.weights]

    def step(state, x):  # one row of the batch: [n], [I] -> [n]
        return torch.cat(row.step(x, *state.split(widths), *weights), -1)

    jacobian = torch.func.vmap(torch.func.jacrev(step))
    states = [torch.cat(s, -1).double() for s in row.states]
    product, n = None, sum(widths)
    gains = [states[0].new_tensor(1.0)]
    for state, x in zip(states[-2:0:-1], row.inputs[:0:-1]):
        J = jacobian(state, x.double())
        product = J if product is None else product @ J
        gains.append((product.norm(dim=(1, 2)) / n**0.5).mean())
    return torch.stack(gains if row.reverse else gains[::-1]).cpu()
