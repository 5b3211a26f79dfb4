"""Ours on the padded batch: what a packed point would cost if nobody knew the lengths. Its numbers are those of another problem."""

import rnnkernels

from bench.peers import torch


def supports(point):
    return point.packed


def prepare(problem):
    return torch.prepare(problem, rnnkernels, packed=False)
