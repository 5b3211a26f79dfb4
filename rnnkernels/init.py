"""Initialisations of recurrent layers, and an exchange of gates, applied to every LSTM, GRU and RNN (and cell) in a module, which they return.

    lstm = init.chrono(init.orthogonal(init.xavier(rnnkernels.LSTM(64, 128))), t_max=200)

Modules of torch.nn are taken as well as ours. A weight of G gates is G matrices on top of each other, and each is
drawn by itself: the fans and the orthogonality of the whole [G*H, K] have no meaning. What a function does not name
it leaves alone.

TypeError where the module has no layer of the kind. ValueError, before anything is changed, where a layer has no bias
to set or the parameter is computed by weight_norm or a parametrization.
"""

import math

import torch

from .support import parameter_names

__all__ = ["orthogonal", "xavier", "forget_bias", "chrono", "flip_update_gate"]

_GATES = {"LSTM": ("i", "f", "g", "o"), "GRU": ("r", "z", "n"), "RNN": ("h",)}  # torch.nn's order in memory
_CELLS = {torch.nn.LSTMCell: "LSTM", torch.nn.GRUCell: "GRU", torch.nn.RNNCell: "RNN"}  # read here: patch_torch renames them


@torch.no_grad()
def orthogonal(module, gain=1.0):
    """weight_hh: each gate's [H, H] orthogonal times `gain`; [H, P], with a projection, of orthonormal rows or columns.

    A linear recurrence then keeps the length of every gradient (Saxe et al. 2014, arXiv:1312.6120; Le et al. 2015,
    arXiv:1504.00941, for the identity).
    """
    for layer, weight in _named(module, _GATES, "weight_hh"):
        for block in _gates(layer, weight):
            wide = block.to(torch.promote_types(block.dtype, torch.float32))  # LAPACK has no half precision
            block.copy_(torch.nn.init.orthogonal_(wide, gain))
    return module


@torch.no_grad()
def xavier(module, gain=1.0):
    """weight_ih, and a projection's weight_hr: each gate's [H, I] uniform in +-gain * sqrt(6 / (H + I)).

    Keeps the variance of activations and gradients from layer to layer (Glorot & Bengio 2010).
    """
    inputs, projections = _named(module, _GATES, "weight_ih"), _named(module, _GATES, "weight_hr", required=False)
    for block in [block for named in inputs for block in _gates(*named)] + [weight for _, weight in projections]:
        torch.nn.init.xavier_uniform_(block, gain)
    return module


@torch.no_grad()
def forget_bias(module, value=1.0):
    """LSTM: sets the bias of the forget gate, b_if + b_hf, to `value`.

    The gate is the part of c that a step keeps, at first about sigmoid(value): half with torch.nn's biases around 0, which loses
    what a step stored within a few more, 0.73 with 1. Gers et al. 2000; Jozefowicz et al. 2015, "An empirical exploration of
    recurrent network architectures", who find that 1 makes an LSTM as good as the best cells they searched for. A GRU has no
    forget gate: see `chrono`.
    """
    for layer, biases in _biases(module, ("LSTM",)):
        _set_gate(layer, biases, "f", value)
    return module


@torch.no_grad()
def chrono(module, t_max):
    """LSTM and GRU: gates that keep, unit by unit, memories of 1 to `t_max` steps, the longest dependency expected.

    Tallec & Ollivier 2018 (arXiv:1804.11188), section 2: with u uniform in 1..t_max-1, b_f = log u and b_i = -log u, so
    that f = u / (1 + u) forgets in about u steps. A GRU of torch.nn keeps h where z is 1: b_z = log u.
    ValueError for t_max <= 2 or infinite.
    """
    if not 2 < t_max < math.inf:
        raise ValueError(f"chrono: t_max, the longest dependency in steps, must be above 2 and finite, got {t_max}")
    for layer, biases in _biases(module, ("LSTM", "GRU")):
        log_u = torch.empty_like(biases[0][: layer.hidden_size]).uniform_(1, t_max - 1).log()
        if _kind(layer) == "LSTM":
            _set_gate(layer, biases, "f", log_u)
            _set_gate(layer, biases, "i", -log_u)
        else:
            _set_gate(layer, biases, "z", log_u)
    return module


@torch.no_grad()
def flip_update_gate(module):
    """GRU: exchanges z and 1 - z.

    torch.nn's state is h' = (1 - z) n + z h. For weights of a model that writes h' = (1 - z) h + z n (Cho et al. 2014 do, in one of their
    papers): load them, then flip. 1 - sigmoid(a) = sigmoid(-a), so the gate's rows of all weights and biases change their sign.
    """
    found = _named(module, ("GRU",), "weight") + _named(module, ("GRU",), "bias", required=False)
    for layer, parameter in {id(p): (layer, p) for layer, p in found}.values():  # once where layers share it
        _gates(layer, parameter)[_GATES["GRU"].index("z")].neg_()
    return module


def _kind(layer):
    """LSTM, GRU or RNN for a layer or cell of torch.nn's or ours, None for another module."""
    if isinstance(layer, torch.nn.RNNBase):
        return layer.mode.split("_")[0]
    return next((kind for cell, kind in _CELLS.items() if isinstance(layer, cell)), None)


def _named(module, kinds, prefix, required=True):
    """(layer, parameter) for all parameters whose names begin with `prefix`, of all layers of these kinds.

    required  ValueError where a layer has none, or has None for one
    """
    layers = [m for m in module.modules() if _kind(m) in kinds]
    if not layers:
        raise TypeError(
            f"expected {', '.join(kinds)} layers or cells in the module, found none in {type(module).__name__}"
        )
    found = []
    for layer in layers:
        names = [name for name in parameter_names(layer) if name.startswith(prefix)]
        given = [name for name in names if getattr(layer, name) is not None]
        if required and (not names or given != names):
            raise ValueError(f"{type(layer).__name__} has no {prefix}: build it with bias=True")
        for name in given:
            if name not in layer._parameters:
                raise ValueError(f"{name} is computed by a parametrization: call this before it is added to the {_kind(layer)}")
            found.append((layer, layer._parameters[name]))
    return found


def _biases(module, kinds):
    """(layer, (b_ih, b_hh)) for each layer and direction: the gate sees their sum."""
    pairs = zip(_named(module, kinds, "bias_ih"), _named(module, kinds, "bias_hh"))
    return [(layer, (b_ih, b_hh)) for (layer, b_ih), (_, b_hh) in pairs]


def _gates(layer, weight):
    return weight.chunk(len(_GATES[_kind(layer)]))


def _set_gate(layer, biases, gate, value):
    """b_ih + b_hh of one gate."""
    index = _GATES[_kind(layer)].index(gate)
    b_ih, b_hh = (_gates(layer, bias)[index] for bias in biases)
    b_ih.copy_(torch.as_tensor(value))
    b_hh.zero_()
