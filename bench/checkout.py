"""What is measured: the tree that this bench lies in, by its commit and, since git may rewrite that or be missing, by a digest of the sources."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]


def csrc() -> str:
    """A digest of all that the extension is built from."""
    return digest(ROOT / "setup.py", *(path for path in (ROOT / "csrc").rglob("*") if path.is_file()))


def digest(*paths: Path) -> str:
    """Of the files' names and bytes, in any order."""
    sha = hashlib.sha256()
    for path in sorted(paths):
        content = path.read_bytes()
        sha.update(f"{path.relative_to(ROOT)} {len(content)}\n".encode() + content)
    return sha.hexdigest()[:12]


def commit() -> str | None:
    """The revision measured, if this is a checkout; `-dirty` tells that it was not exactly that."""
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
