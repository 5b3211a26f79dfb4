"""torch.nn, eager: the modules ours replace.

Its LSTM in bfloat16 raises where oneDNN has none, on CPUs without AVX-512: there oneDNN is off, as its users must have it.
"""

import torch
from torch.nn.utils.rnn import pack_padded_sequence

from bench.problem import projection


def supports(point):
    return True


def build(problem, library=torch.nn, **options):
    point = problem.point
    options |= {"dtype": problem.x.dtype, "device": problem.x.device, **projection(point)}
    module = getattr(library, point.cell)(point.H, point.H, point.L, bidirectional=point.D == 2, **options)
    module.load_state_dict(dict(zip(module.state_dict(), problem.weights)))
    return module.train(point.mode == "train")


def prepare(problem, library=torch.nn, packed=None, **options):
    """`packed` overrides the point's."""
    point, module = problem.point, build(problem, library, **options)
    packed = point.packed if packed is None else packed
    hx = problem.hx if problem.hx is None or point.cell == "LSTM" else problem.hx[0]
    x = problem.x.clone().requires_grad_(point.mode == "train")
    inputs = pack_padded_sequence(x, problem.lengths, enforce_sorted=False) if packed else x
    onednn = torch.backends.mkldnn.enabled
    if library is torch.nn and x.dtype is torch.bfloat16 and not x.is_cuda:
        onednn = onednn and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    if point.mode != "train":
        return with_onednn(onednn, lambda: module(inputs, hx))

    if packed:  # time the layer, not the packing
        leaf = inputs.data.detach().requires_grad_()
        inputs = inputs._replace(data=leaf)
        cotangent = pack_padded_sequence(problem.cotangent, problem.lengths, enforce_sorted=False).data
    else:
        leaf, cotangent = x, problem.cotangent
    wanted = [leaf, *module.parameters()]

    def forward_backward():
        y, _ = module(inputs)
        return torch.autograd.grad(y.data if packed else y, wanted, cotangent)

    return with_onednn(onednn, forward_backward)


def with_onednn(enabled, call):
    """`call`, or one that switches oneDNN off meanwhile."""
    if enabled == torch.backends.mkldnn.enabled:
        return call

    def switched():
        torch.backends.mkldnn.enabled = enabled
        try:
            return call()
        finally:
            torch.backends.mkldnn.enabled = not enabled

    return switched
