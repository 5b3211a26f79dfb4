"""The suites that know nothing of devices, run again with everything on the card: outputs, gradients of any order, lengths, cells."""

import pytest

import test_cells
import test_dropin
import test_equivalence
import test_gradients
import test_lengths
import test_profiler
import test_recompute
from conftest import needs_cuda

pytestmark = [needs_cuda, pytest.mark.usefixtures("on_cuda")]


def suite(module, *without):
    """The module's tests as a class, less those that are about the CPU."""
    tests = {name: staticmethod(test) for name, test in vars(module).items() if name.startswith("test_")}
    for name in without:
        del tests[name]
    return type(module.__name__, (), tests)


TestEquivalence = suite(test_equivalence)
# pack_sequence makes its lengths on the default device, where packing does not want them.
TestLengths = suite(test_lengths, "test_lengths_with_a_packed_sequence")
TestGradients = suite(test_gradients)
TestCells = suite(test_cells)
# The gates of a chunk are recomputed by one product, whose sums are in another order than a step's: close, not the same bits.
TestRecompute = suite(test_recompute, "test_same_bits", "test_any_number_of_threads")
TestProfiler = suite(test_profiler, "test_under_autocast")
# cuDNN draws masks of its own, and see above for pack_sequence.
TestDropin = suite(test_dropin, "test_dropout_masks_are_torchs", "test_activation_checkpointing",
                   "test_packed_output_keeps_its_indices")
