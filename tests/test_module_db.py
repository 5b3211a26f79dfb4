"""PyTorch's own samples and error samples for its recurrent modules, run on ours."""

import pytest
import torch
from torch.nn.utils.rnn import PackedSequence
from torch.testing._internal.common_modules import module_db

import rnnkernels
from conftest import assert_close

INFOS = [info for info in module_db if info.module_cls.__name__ in rnnkernels.__all__]


def flatten(result):
    if isinstance(result, PackedSequence):
        return [result.data]
    return sum(map(flatten, result), []) if isinstance(result, tuple) else [result]


def ours_of(info):
    return getattr(rnnkernels, info.module_cls.__name__)


def test_all_are_there():
    assert {info.module_cls for info in INFOS} == {torch.nn.LSTM, torch.nn.GRU, torch.nn.RNN,
                                                   torch.nn.LSTMCell, torch.nn.GRUCell, torch.nn.RNNCell}


@pytest.mark.parametrize("training", (True, False))
@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
@pytest.mark.parametrize("info", INFOS, ids=lambda info: info.module_cls.__name__)
def test_samples(info, dtype, training):
    for sample in info.module_inputs_func(info, device="cpu", dtype=dtype, requires_grad=True, training=training):
        new, call = sample.constructor_input, sample.forward_input
        theirs = info.module_cls(*new.args, **new.kwargs, dtype=dtype).train(training)
        ours = ours_of(info)(*new.args, **new.kwargs, dtype=dtype).train(training)
        ours.load_state_dict(theirs.state_dict())
        assert repr(ours) == repr(theirs)
        if sample.reference_fn is not None:
            for a, b in zip(flatten(ours(*call.args, **call.kwargs)), flatten(sample.reference_fn(ours, *call.args, **call.kwargs))):
                torch.testing.assert_close(a, b)
        exact = [t.double() for t in flatten(theirs.double()(*map(widen, call.args), **call.kwargs))]
        single = flatten(theirs.to(dtype)(*call.args, **call.kwargs))
        for a, b, c in zip(flatten(ours(*call.args, **call.kwargs)), exact, single):
            assert_close(a, b.detach(), c)


def widen(value):
    if isinstance(value, (torch.Tensor, PackedSequence)):
        return value.double()
    return tuple(map(widen, value)) if isinstance(value, tuple) else value


@pytest.mark.parametrize("info", INFOS, ids=lambda info: info.module_cls.__name__)
def test_error_samples(info):
    samples = list(info.module_error_inputs_func(info, device="cpu", dtype=torch.float32, requires_grad=False, training=False))
    assert samples
    for sample in samples:
        new, call = sample.module_error_input.constructor_input, sample.module_error_input.forward_input
        with pytest.raises(sample.error_type, match=sample.error_regex):
            ours_of(info)(*new.args, **new.kwargs)(*call.args, **call.kwargs)
