"""Ours, called exactly as torch.nn is."""

import rnnkernels

from bench.peers import torch
from bench.peers.torch import supports  # noqa: F401


def prepare(problem):
    return torch.prepare(problem, rnnkernels)
