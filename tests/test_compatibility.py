"""docs/compatibility.md says what runs."""

import re

import pytest
import torch

import compatibility
from conftest import needs_extension

pytest.importorskip("onnxscript")


@needs_extension
def test_the_page_is_what_the_probes_find():
    """torch.nn's half of a cell is compared where the page was written with this torch."""
    written, found = compatibility.PAGE.read_text(), compatibility.page(compatibility.table())
    if f"torch {torch.__version__}." not in written:
        written, found = (re.sub(r" / (yes|no)|torch \S+", "", text) for text in (written, found))
    assert found.splitlines() == written.splitlines()
