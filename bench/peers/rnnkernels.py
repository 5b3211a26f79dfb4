"""Ours, called exactly as torch.nn is; one step also by a Stepper."""

import rnnkernels

from bench.peers import torch
from bench.peers.torch import supports  # noqa: F401


def prepare(problem):
    if problem.point.mode == "stepper":
        return prepare_stepper(problem)
    return torch.prepare(problem, rnnkernels, **({"recompute": True} if problem.point.recompute else {}))


def prepare_stepper(problem):
    """The first call is the point's step; those after it go on from there."""
    point, x = problem.point, problem.x[0]
    stepper = rnnkernels.Stepper(torch.build(problem, rnnkernels), point.B)
    stepper.reset(problem.hx if point.cell == "LSTM" else problem.hx[0])
    return lambda: stepper.step(x)
