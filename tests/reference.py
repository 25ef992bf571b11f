"""The recorded numbers of the published models, and their small checkpoints.

They lie packed in tests/reference (its README says what they are) and are unpacked into a
temporary folder when a file of them is first asked for, once per process.
"""

from __future__ import annotations

import tarfile
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

ARCHIVE = Path(__file__).parent / "reference" / "published.tar.xz"


def reference(name: str) -> Path:
    """Return a file or folder, such as ``checkpoints/vae_dng_small.ckpt`` or ``golden``."""
    path = Path(_unpacked().name, name)
    if not path.exists():
        raise FileNotFoundError(f"{ARCHIVE} holds no {name}")
    return path


def checkpoint(name: str) -> Path:
    """Return a published checkpoint by its short name, such as ``vae_dng``."""
    return reference(f"checkpoints/{name}_small.ckpt")


@cache
def _unpacked() -> TemporaryDirectory[str]:
    folder = TemporaryDirectory(prefix="chemeleon-reference-")  # goes with the process
    with tarfile.open(ARCHIVE) as archive:
        for member in archive:
            target = Path(folder.name, member.name)
            target.parent.mkdir(parents=True, exist_ok=True)
            content = archive.extractfile(member)
            assert content is not None
            target.write_bytes(content.read())
    return folder
