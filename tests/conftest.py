"""The tolerance table, and what every test shares: seeds, markers, thread count."""

import contextlib

import pytest
import torch

import rnnkernels
from rnnkernels import fallback

# Lower precision: max|ours - ref64| <= 2 * max|torch.nn - ref64| + FLOOR * max|ref64|, where ref64 is the reference run in
# f64 on the same rounded numbers. f64 has no better reference: max|ours - ref64| <= 1e-12 * max|ref64|.
FLOOR = {torch.float64: 1e-12, torch.float32: 3e-7, torch.bfloat16: 4e-3, torch.float16: 5e-4}
has_extension = rnnkernels.info()["extension"]


def assert_close(ours, ref64, theirs=None, name=""):
    """Applies the table. `theirs` is torch.nn's result in ours' dtype; without it its error counts as none."""
    assert ours.shape == ref64.shape, f"{name}: shape {tuple(ours.shape)}, expected {tuple(ref64.shape)}"
    if not ref64.numel():
        return
    assert ours.isfinite().all(), f"{name}: not finite"
    error = (ours.double() - ref64).abs().max().item()
    allowed = FLOOR[ours.dtype] * ref64.abs().max().item()
    if theirs is not None and ours.dtype is not torch.float64:
        assert theirs.dtype is ours.dtype, f"{name}: {ours.dtype}, torch.nn gives {theirs.dtype}"
        allowed += 2 * (theirs.double() - ref64).abs().max().item()
    assert error <= allowed, f"{name}: error {error:.3e} > {allowed:.3e}"


has_cuda = "cuda" in rnnkernels.info()["devices"] and torch.cuda.is_available()

needs_extension = pytest.mark.skipif(not has_extension, reason="says something about the kernels only; none were built")
needs_cuda = pytest.mark.skipif(not has_cuda, reason="no CUDA kernels in this build, or no card")


def pytest_configure(config):
    config.addinivalue_line("filterwarnings", "ignore:rnnkernels. the extension was not built:RuntimeWarning")


def force_regime(regime, monkeypatch):
    """Makes the CUDA kernels take this regime, if one is given; skips the test where the card cannot."""
    if regime == "R2" and torch.cuda.get_device_capability()[0] < 9:
        pytest.skip("a card without clusters")
    if regime:
        monkeypatch.setenv("RNNKERNELS_CUDA_REGIME", regime)


@contextlib.contextmanager
def tf32(cudnn=False, matmul=False):
    """Whether torch may round the factors of float32 products to TF32 on a card."""
    backends = torch.backends.cudnn, torch.backends.cuda.matmul
    before = [b.allow_tf32 for b in backends]
    try:
        for backend, allow in zip(backends, (cudnn, matmul)):
            backend.allow_tf32 = allow
        yield
    finally:
        for backend, allow in zip(backends, before):
            backend.allow_tf32 = allow


@contextlib.contextmanager
def bfloat16_everywhere():
    """torch.nn's LSTM in bfloat16 by torch's own kernels where oneDNN, which it takes otherwise, raises: on CPUs without AVX-512."""
    before = torch.backends.mkldnn.enabled
    torch.backends.mkldnn.enabled = before and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    try:
        yield
    finally:
        torch.backends.mkldnn.enabled = before


@pytest.fixture
def on_cuda():
    """Tensors and modules are made on the card, and float32 is float32 on both sides."""
    with tf32(), torch.device("cuda"):
        yield


@pytest.fixture(autouse=True)
def _same_start():
    torch.manual_seed(0)
    fallback.seen.clear()
    threads = torch.get_num_threads()
    with torch.backends.__allow_nonbracketed_mutation():  # torch.testing._internal freezes flags that some tests set and restore
        yield
    torch.set_num_threads(threads)
