"""One description of a call, run by ours, by torch.nn and by the f64 reference on the same random numbers.

Everything is made on torch's default device: inside `with torch.device("cuda")` all three run there.
"""

from dataclasses import dataclass, replace

import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import rnnkernels
from conftest import assert_close
from rnnkernels import reference
from rnnkernels.stack import stack

CELLS = ("LSTM", "GRU", "RNN_TANH", "RNN_RELU")


@dataclass(frozen=True)
class Case:
    cell: str = "LSTM"
    dtype: torch.dtype = torch.float64
    T: int = 5
    B: int = 4
    I: int = 3
    H: int = 17
    L: int = 1
    D: int = 1
    P: int = 0
    bias: bool = True
    batch_first: bool = False
    hx: bool = True
    layout: str = "padded"  # "packed", "unsorted", "lengths" or "unbatched"
    strided: bool = False  # inputs and cotangents with odd strides

    def __str__(self):
        default = Case()
        words = [f"{k}={v}".replace("torch.", "") for k, v in vars(self).items() if v != getattr(default, k)]
        return " ".join(words) or "default"

    @property
    def is_lstm(self):
        return self.cell == "LSTM"

    def build(self, package, dtype=None):
        kwargs = {"proj_size": self.P} if self.is_lstm else {}
        if self.cell.startswith("RNN"):
            kwargs["nonlinearity"] = self.cell[4:].lower()
        cls = getattr(package, self.cell[:4].rstrip("_"))
        return cls(self.I, self.H, num_layers=self.L, bias=self.bias, batch_first=self.batch_first,
                   bidirectional=self.D == 2, dtype=dtype or self.dtype, **kwargs)

    def lengths(self):
        """At least one row runs to T and one is short; sorted for "packed". On the CPU, as packing wants them."""
        lengths = torch.randint(1, self.T + 1, (self.B,), device="cpu")
        lengths[-1], lengths[self.B // 2] = 1, self.T
        return lengths.sort(descending=True).values if self.layout == "packed" else lengths


def random(shape, dtype, strided=False):
    """Normal numbers rounded to dtype; strided: every second element of a transposed buffer."""
    if strided and len(shape) > 1:
        return torch.randn(*reversed(shape[1:]), 2 * shape[0]).to(dtype)[..., ::2].permute(*range(len(shape) - 1, -1, -1))
    return torch.randn(shape).to(dtype)


@dataclass
class Numbers:
    weights: dict
    x: torch.Tensor
    hx: tuple
    lengths: torch.Tensor
    cotangents: tuple

    @classmethod
    def draw(cls, case):
        c = case
        # Well-conditioned: larger recurrent weights make a chaotic map, where rounding alone decides the result.
        scale = lambda shape: 0.8 / shape[1] ** 0.5 if len(shape) == 2 else 0.5
        weights = {k: random(v.shape, c.dtype) * scale(v.shape) for k, v in c.build(torch.nn).state_dict().items()}
        batch = () if c.layout == "unbatched" else (c.B,)
        shape = (*batch, c.T, c.I) if c.batch_first else (c.T, *batch, c.I)
        widths = (c.P or c.H, c.H) if c.is_lstm else (c.H,)
        states = [(c.L * c.D, *batch, w) for w in widths]
        lengths = c.lengths() if c.B else torch.zeros(0, dtype=torch.int64, device="cpu")
        out = (int(lengths.sum()), c.D * widths[0]) if c.layout in ("packed", "unsorted") else (*shape[:-1], c.D * widths[0])
        return cls(weights, random(shape, c.dtype, c.strided), tuple(random(s, c.dtype, c.strided) for s in states),
                   lengths, tuple(random(s, c.dtype, c.strided) for s in (out, *states)))

    def to(self, dtype):
        convert = lambda ts: tuple(t.to(dtype) for t in ts)
        return Numbers({k: v.to(dtype) for k, v in self.weights.items()}, self.x.to(dtype), convert(self.hx),
                       self.lengths, convert(self.cotangents))


def call_module(module, case, x, hx, lengths):
    """Flat outputs (out, h_n[, c_n]) of a module of ours or torch.nn's; packed output as its data."""
    hx = None if not case.hx else hx if case.is_lstm else hx[0]
    ours = type(module).__module__ == "rnnkernels"
    if case.layout in ("packed", "unsorted") or case.layout == "lengths" and not ours:
        x = pack_padded_sequence(x, lengths, case.batch_first, enforce_sorted=case.layout == "packed")
        out, last = module(x, hx)
        out = pad_packed_sequence(out, case.batch_first, total_length=case.T)[0] if case.layout == "lengths" else out.data
    elif case.layout == "lengths":
        out, last = module(x, hx, lengths=lengths)
    else:
        out, last = module(x, hx)
    return out, *(last if case.is_lstm else (last,))


def call_reference(case, x, hx, weights, lengths):
    """The same outputs from `reference`; a packed sequence runs as a padded one with lengths."""
    layer = getattr(reference, case.cell[:4].rstrip("_").lower())
    extra = (case.cell.removeprefix("RNN_").lower(),) if case.cell.startswith("RNN") else ()
    unbatched = case.layout == "unbatched"
    if unbatched:
        x, hx = x.unsqueeze(0 if case.batch_first else 1), [s.unsqueeze(1) for s in hx]
    if not case.hx:
        hx = [torch.zeros_like(s) for s in hx]
    ragged = case.layout in ("packed", "unsorted", "lengths")
    out, *last = stack(layer, x, hx, weights, case.bias, case.L, 0.0, False, case.D == 2, case.batch_first,
                       None, lengths if ragged else None, None, (None, None), *extra)
    if case.layout in ("packed", "unsorted"):
        out = pack_padded_sequence(out, lengths, case.batch_first, enforce_sorted=case.layout == "packed").data
    if unbatched:
        out, last = out.squeeze(0 if case.batch_first else 1), [s.squeeze(1) for s in last]
    return out, *last


def results(case, numbers, call, weights):
    """Outputs and all gradients, by name. `weights`: name -> leaf tensors that `call` reads."""
    leaves = {"d_x": numbers.x, **({"d_h0": numbers.hx[0]} if case.hx else {}),
              **({"d_c0": numbers.hx[1]} if case.hx and case.is_lstm else {})}
    leaves = {k: v.detach().requires_grad_() for k, v in leaves.items()}
    hx = (leaves["d_h0"], *([leaves["d_c0"]] if case.is_lstm else [])) if case.hx else numbers.hx
    outputs = call(leaves["d_x"], hx)
    leaves |= {f"d_{k}": v for k, v in weights.items()}
    grads = torch.autograd.grad(outputs, list(leaves.values()), numbers.cotangents)
    return dict(zip(("out", "h_n", "c_n"), outputs)) | dict(zip(leaves, grads))


def module_results(case, numbers, package):
    module = case.build(package)
    module.load_state_dict(numbers.weights)
    return results(case, numbers, lambda x, hx: call_module(module, case, x, hx, numbers.lengths),
                   dict(module.named_parameters()))


def reference_results(case, numbers):
    numbers = numbers.to(torch.float64)
    weights = {k: v.requires_grad_() for k, v in numbers.weights.items()}
    return results(case, numbers, lambda x, hx: call_reference(case, x, hx, list(weights.values()), numbers.lengths), weights)


def check(case):
    """Outputs and all gradients of ours against the reference, by the tolerance table. Returns ours."""
    numbers = Numbers.draw(case)
    ours, ref = module_results(case, numbers, rnnkernels), reference_results(case, numbers)
    theirs = {} if case.dtype is torch.float64 else module_results(case, numbers, torch.nn)
    for name, value in ref.items():
        assert_close(ours[name], value, theirs.get(name), f"{case}: {name}")
    return ours


def vary(case=Case(), **options):
    """The case with each option in turn, one at a time: vary(L=(1, 2), bias=(False,))."""
    return [replace(case, **{k: v}) for k, values in options.items() for v in values]
