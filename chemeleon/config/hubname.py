"""Recognise names of models wherever one is asked for: ``hub:NAME`` and ``shipped:NAME``."""

from __future__ import annotations

import re


def hub_name(reference: str) -> str | None:
    """Return NAME of ``hub:NAME`` or ``${hub:NAME}``, else None."""
    match = re.fullmatch(r"\$\{hub:([^}]*)\}|hub:(.*)", reference.strip())
    return (match[1] or match[2] or "") if match else None


def shipped_name(reference: str) -> str | None:
    """Return NAME of ``shipped:NAME``, a model inside the package, else None."""
    match = re.fullmatch(r"shipped:(.*)", reference.strip())
    return match.group(1) if match else None


def is_name(reference: str) -> bool:
    """Return whether a reference is a name, good in every folder, and no path."""
    return hub_name(reference) is not None or shipped_name(reference) is not None
