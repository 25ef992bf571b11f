"""Recognise ``hub:NAME`` and ``${hub:NAME}`` wherever a checkpoint is named."""

from __future__ import annotations

import re


def hub_name(reference: str) -> str | None:
    """Return NAME of ``hub:NAME`` or ``${hub:NAME}``, else None."""
    match = re.fullmatch(r"\$\{hub:([^}]+)\}|hub:(.+)", reference.strip())
    return (match.group(1) or match.group(2)) if match else None
