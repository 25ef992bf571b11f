"""The folder of `chemeleon sample`, read as what was requested: invalid crystals have rows, too."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chemeleon.config.plain_json import parse_json
from chemeleon.config.renamed import current
from chemeleon.config.requests import CONDITIONING
from chemeleon.data.crystal import Record
from chemeleon.errors import DataError
from chemeleon.storage import settle

# CIFs last: those of idealised crystals list conventional cells, of up to four times the atoms
_FORMS = ("structures.extxyz", "structures.json.gz", "poscar", "cif")
_NEEDED = {"requested", "invalid", "formats"}
_TOLD = (
    "model",
    "weights",
    "sampler",
    *CONDITIONING,
    "formulas",
    "formulas_from",
    "prototypes",
    "seed",
    "num_atoms",
    "new_to",
    "trained_on",
)


def sample_manifest(path: Path) -> dict[str, Any] | None:
    """Return the manifest of a folder that `chemeleon sample` wrote, or None for anything else.

    Raises:
        DataError: if it is one, but does not say which crystals are invalid.
    """
    settle(path)
    file = path / "manifest.json"
    if not path.is_dir() or not file.is_file():
        return None
    try:
        found = parse_json(file.read_bytes(), finite=True)
    except ValueError:
        return None
    found = current(found, _NEEDED) if isinstance(found, dict) else {}
    if not found.keys() >= _NEEDED or not any((path / form).exists() for form in _FORMS):
        return None
    invalid = found["invalid"]
    entries = invalid if isinstance(invalid, list) else [None]
    if not all(isinstance(e, dict) and _are_words(e.get("id"), e.get("reason")) for e in entries):
        raise DataError(
            f"{file} does not list the invalid crystals as `chemeleon sample` does (id, reason,"
            " written): it has been changed. Without it the folder is judged by its files alone"
        )
    return found


def _are_words(*values: Any) -> bool:
    return all(isinstance(value, str) for value in values)


def crystals_of(path: Path, manifest: dict[str, Any]) -> tuple[Path, list[Record]]:
    """Return the one form of the crystals to read, and records of those that were not written."""
    form = next(path / form for form in _FORMS if (path / form).exists())
    unwritten = [
        Record("manifest.json", row, one["id"], "problem", f"not written: {one['reason']}", {})
        for row, one in enumerate(manifest["invalid"], start=1)
        if not one.get("written", True)
    ]
    return form, unwritten


def told(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return what the manifest of an evaluation repeats of a sample's.

    What was done to the crystals is kept where it is what `chemeleon sample` writes: the judge's
    independence is told from it (`basis.warnings`).
    """
    found = {key: manifest[key] for key in _TOLD if key in manifest and _is_flat(manifest[key])}
    if isinstance(ranked := manifest.get("ranked_by"), str):
        found["ranked_by"] = ranked
    rewarded = manifest.get("rewarded_by")
    if isinstance(rewarded, list) and _are_words(*rewarded):
        found["rewarded_by"] = rewarded
    relaxation = manifest.get("relaxation")
    if isinstance(relaxation, dict) and isinstance(relaxation.get("potential"), str):
        found["relaxation"] = {key: relaxation.get(key) for key in ("potential", "steps")}
    if isinstance(manifest.get("symmetrization"), dict) or manifest.get("symmetrized") is True:
        found["symmetrized"] = True
    return found


def stated(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a caller knows of the origin; what `basis.warnings` reads as `told` has it."""
    judged = ("ranked_by", "rewarded_by", "relaxation", "symmetrization", "symmetrized")
    return {k: v for k, v in manifest.items() if k not in judged} | told(dict(manifest))


def _is_flat(value: Any, levels: int = 4) -> bool:
    """Tell what a report can show from what is nested as no setting is."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels > 0 and all(_is_flat(item, levels - 1) for item in inner)
