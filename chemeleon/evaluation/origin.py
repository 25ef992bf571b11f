"""The folder of `chemeleon sample`, read as what was asked for: broken crystals keep their rows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from chemeleon.data.sources import Record
from chemeleon.storage import settle

_FORMS = ("structures.extxyz", "structures.json.gz", "cif")
_TOLD = (
    "model",
    "weights",
    "sampler",
    "conditions",
    "guidance",
    "guidance_interval",
    "allow_elements",
    "forbid_elements",
    "formulas",
    "formulas_from",
    "ranked_by",
    "seed",
    "num_atoms",
)


def sample_manifest(path: Path) -> dict[str, Any] | None:
    """Return the manifest of a folder that `chemeleon sample` wrote, or None for anything else."""
    settle(path)
    file = path / "manifest.json"
    if not path.is_dir() or not file.is_file():
        return None
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        return None
    ours = isinstance(found, dict) and {"requested", "broken", "formats"} <= found.keys()
    return found if ours and any((path / form).exists() for form in _FORMS) else None


def crystals_of(path: Path, manifest: dict[str, Any]) -> tuple[Path, list[Record]]:
    """Return the one form of the crystals to read, and records of those that were not written."""
    form = next(path / form for form in _FORMS if (path / form).exists())
    return form, list(_unwritten(manifest))


def told(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return what the manifest of an evaluation repeats of a sample's."""
    return {key: manifest[key] for key in _TOLD if key in manifest}


def _unwritten(manifest: dict[str, Any]) -> Iterator[Record]:
    for row, entry in enumerate(manifest["broken"], start=1):
        if not entry.get("written", True):
            reason = f"not written: {entry['reason']}"
            yield Record("manifest.json", row, str(entry["id"]), "problem", reason, {})
