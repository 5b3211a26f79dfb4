"""torch.compile: lets Dynamo trace our layers.

Dynamo refuses to trace any instance of torch.nn.LSTM, GRU or RNN, so ours too, unless torch._dynamo.config.allow_rnn is
set. With that flag set, torch.nn's own layers are unrolled over time, and in torch 2.13 an LSTM then fails in training. So
the flag is up only while Dynamo looks at a module of ours: everybody else's are treated as before.
"""

import functools

from .when_imported import when_imported


def trace(cls):
    """Lets Dynamo trace instances of cls."""

    def wrap(builder):
        from torch._dynamo import config

        wrap_module = builder.VariableBuilder.wrap_module  # the one method that asks for the flag

        @functools.wraps(wrap_module)
        def wrapped(self, value):
            with config.patch(allow_rnn=config.allow_rnn or isinstance(value, cls)):
                return wrap_module(self, value)

        builder.VariableBuilder.wrap_module = wrapped

    when_imported("torch._dynamo.variables.builder", wrap)
