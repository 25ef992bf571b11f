"""Files that save work and can be made again: where they lie, and how they get there."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chemeleon.storage import at_home, write_atomically

if TYPE_CHECKING:
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)


def cache_dir() -> Path:
    """Return ``$CHEMELEON_CACHE``, else ``~/.cache/chemeleon``."""
    given = os.environ.get("CHEMELEON_CACHE")
    return at_home(given or "~/.cache/chemeleon")


def cache_file(folder: str, key: Any, suffix: str) -> Path:
    """Return the file of the cache for what a key stands for.

    Args:
        folder: of files of this kind.
        key: all that the content depends on: a text, or what can be written as JSON.
        suffix: of the file.
    """
    text = key if isinstance(key, str) else json.dumps(key, sort_keys=True)
    return cache_dir() / folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}{suffix}"


def digest_of(*arrays: NDArray[Any]) -> str:
    """Return what stands for the content of arrays in a key; not for their shapes and types."""
    digest = hashlib.sha256()
    for values in arrays:
        digest.update(values.tobytes())
    return digest.hexdigest()


def keep(file: Path, content: bytes, what: str) -> None:
    """Put a file of the cache in place; that it cannot be written is said, and stops nothing."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, lambda path: path.write_bytes(content))
    except OSError as error:
        logger.warning("%s not cached: %s (set CHEMELEON_CACHE)", what, error)
