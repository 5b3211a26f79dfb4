"""Several layers of one shape in one call of an op: any of its tensors but batch_sizes may have a dimension more, in front, for the models.

What has none serves all of them. Results and gradients have it always; the gradient of what the models share is the sum over it.
"""

import torch

from . import derivatives
from .derivatives import DATA, DIFFERENTIABLE


def model_dims(name, arguments, cotangents=(), rank=torch.Tensor.dim):
    """For each of a *_bwd op's cotangents and of a layer's arguments 0 where it has that dimension, None where not."""
    n_states = DATA[name] - 1
    direction = (2, 2, 1, 1, 2) if n_states == 2 else (2, 2, 1, 1)  # an LSTM has w_hr
    tokens = 3 if arguments[DIFFERENTIABLE[name]] is None else 2  # of one model's x; packed with batch_sizes
    states = (3,) * n_states
    ranks = (tokens, *states, tokens)[: len(cotangents)], (tokens, *states, *direction, *direction, *states, 1, 1, tokens - 1)
    tensors = *cotangents, *arguments[:-1]
    return (*(0 if t is not None and rank(t) == r + 1 else None for t, r in zip(tensors, sum(ranks, ()))), None)


def model_count(args, dims):
    """How many models there are; None for a plain layer."""
    return next((a.shape[0] for a, d in zip(args, dims) if d is not None), None)


def sum_over_models(gradient, argument):
    """The gradient of an argument which the models may share."""
    return gradient.sum(0) if gradient.dim() > argument.dim() else gradient


def second_derivative(name, needs, cotangents, arguments, d_gradients):
    """`derivatives.second_derivative`, also of an ensemble."""
    dims = model_dims(name, arguments, cotangents)
    if all(d is None for d in dims):
        return derivatives.second_derivative(name, needs, cotangents, arguments, d_gradients)
    n, given = len(cotangents), []

    def of_one_model(d_gradients, *args):
        second = derivatives.second_derivative(name, needs, args[:n], args[n:], d_gradients)
        given[:] = [k for k, d in enumerate(second) if d is not None]
        return [second[k] for k in given]

    followed = [d if needs >> k & 1 else None for k, d in enumerate(d_gradients)]
    dims_of_gradients = [None if d is None else 0 for d in followed]
    results = torch.func.vmap(of_one_model, (dims_of_gradients, *dims))(followed, *cotangents, *arguments)
    second = [None] * (n + DIFFERENTIABLE[name])
    for k, d in zip(given, results):
        second[k] = sum_over_models(d, (*cotangents, *arguments)[k])
    return second
