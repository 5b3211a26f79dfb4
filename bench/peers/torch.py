"""torch.nn, eager: the modules ours replace."""

import torch
from torch.nn.utils.rnn import pack_padded_sequence


def supports(point):
    return True


def prepare(problem, library=torch.nn):
    point = problem.point
    module = getattr(library, point.cell)(point.H, point.H, dtype=problem.x.dtype)
    module.load_state_dict(dict(zip(module.state_dict(), problem.weights)))
    hx = problem.hx if problem.hx is None or point.cell == "LSTM" else problem.hx[0]

    x = problem.x.clone().requires_grad_(point.mode == "train")
    inputs = pack_padded_sequence(x, problem.lengths, enforce_sorted=False) if point.packed else x
    if point.mode != "train":
        module.eval()
        return lambda: module(inputs, hx)

    if point.packed:  # time the layer, not the packing
        leaf = inputs.data.detach().requires_grad_()
        inputs = inputs._replace(data=leaf)
        cotangent = pack_padded_sequence(problem.cotangent, problem.lengths, enforce_sorted=False).data
    else:
        leaf, cotangent = x, problem.cotangent
    wanted = [leaf, *module.parameters()]

    def forward_backward():
        y, _ = module(inputs)
        return torch.autograd.grad(y.data if point.packed else y, wanted, cotangent)

    return forward_backward
