"""The options that our modules have and torch.nn's do not: reset_after, recompute and nonlinearity="sigmoid"."""

SIGMOID = "nonlinearity='sigmoid'"


def beyond_torch_nn(module):
    """The options of a layer or cell that torch.nn would ignore."""
    beyond = [] if getattr(module, "reset_after", True) else ["reset_after=False"]
    chosen = getattr(module, "mode", None) or getattr(module, "nonlinearity", None)  # a layer goes by its mode
    return beyond + [SIGMOID] * (chosen in ("RNN_SIGMOID", "sigmoid"))


def checked_bool(name, value):
    """value; TypeError, as torch.nn's for `bias`, where it is no bool: reset_after="no" would be taken for true."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} should be of type bool, got: {type(value).__name__}")
    return value


class ResetAfter:
    """The option reset_after of a GRU and a GRUCell; it stands first among their bases."""

    reset_after = True  # an instance has the attribute only where it is False

    def __init__(self, *args, reset_after=True, **kwargs):
        super().__init__(*args, **kwargs)
        if not checked_bool("reset_after", reset_after):
            self.reset_after = False

    def extra_repr(self):
        return super().extra_repr() + ("" if self.reset_after else ", reset_after=False")


class Recompute:
    """The option recompute of an LSTM and a GRU, whose gates need not be kept; it stands before `_Fused` among their bases."""

    recompute = False  # an instance has the attribute only where it is True

    def __init__(self, *args, recompute=False, **kwargs):
        super().__init__(*args, **kwargs)
        if checked_bool("recompute", recompute):
            self.recompute = True

    def extra_repr(self):
        return super().extra_repr() + (", recompute=True" if self.recompute else "")
