"""What could not run on our kernels: each reason is told once as a warning and listed by `rnnkernels.info()`."""

import warnings

seen: dict[str, None] = {}  # reasons, in the order they were met


def note(reason: str) -> None:
    """Warns the first time `reason` is met."""
    if reason not in seen:
        seen[reason] = None
        warnings.warn(f"rnnkernels: {reason}", RuntimeWarning, stacklevel=3)
