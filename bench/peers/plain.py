"""Ours without recompute: what recomputing costs."""

from dataclasses import replace

from bench.peers import rnnkernels


def supports(point):
    return point.recompute and point.mode == "train"


def prepare(problem):
    return rnnkernels.prepare(replace(problem, point=replace(problem.point, recompute=False)))
