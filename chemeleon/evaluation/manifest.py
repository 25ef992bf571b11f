"""What a result must say of itself: without it, it is not written."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from chemeleon.crystals.symmetry import SYMPREC, TIGHT
from chemeleon.evaluation.collection import Collection
from chemeleon.evaluation.describe import OXIDATION_STATES
from chemeleon.evaluation.matching.disordered import (
    MOST_ELECTRONEGATIVITY_DIFFERENCE,
    MOST_RADIUS_DIFFERENCE,
)
from chemeleon.evaluation.matching.pairs import TOLERANCES
from chemeleon.evaluation.metrics import METRICS
from chemeleon.evaluation.metrics.statistics import MMD_LIMIT
from chemeleon.evaluation.reference import Reference
from chemeleon.version import __version__

if TYPE_CHECKING:
    import pandas

_PACKAGES = (
    "pymatgen", "numpy", "scipy", "gemmi", "moyopy", "smact", "torch", "pandas", "ase", "chgnet",
    "matminer", "sevenn",
)  # fmt: skip


def manifest(
    source: object,
    collection: Collection,
    table: pandas.DataFrame,
    matcher: str,
    seconds_per_pair: float,
    references: Sequence[Reference],
    control: Reference | None,
) -> dict[str, Any]:
    """Return source, counts, tolerances, sets and versions of a result, to be written as JSON."""
    ltol, stol, angle_tol = TOLERANCES[matcher]
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "source": str(source) if isinstance(source, str | Path) else "structures in memory",
        "requested": len(collection),
        "parsed": _count(table["status"] == "ok"),
        "valid": _count(table["valid_structure"] & table["valid_composition"]),
        "matcher": {
            "name": matcher, "ltol": ltol, "stol": stol, "angle_tol_degree": angle_tol,
            "seconds_per_pair": seconds_per_pair,
            "timed_out_pairs": _count(table["timed_out_pairs"]),
        },
        "references": [_told(r) for r in references],
        "control": None if control is None else _told(control) | {
            "novel_against": [r.name for r in references if r.fingerprint != control.fingerprint],
        },
        "disordered_novelty": {
            "radius_difference": MOST_RADIUS_DIFFERENCE,
            "electronegativity_difference": MOST_ELECTRONEGATIVITY_DIFFERENCE,
        },
        "metrics": {m.name: {"group": m.group, "basis": m.basis} for m in METRICS if m.basis},
        "space_groups": {"by": "moyopy", "symprec_angstrom": SYMPREC, "strict": TIGHT},
        "composition_validity": {"by": "smact", "oxidation_states": OXIDATION_STATES},
        "mmd_crystals": MMD_LIMIT,
        "versions": {"chemeleon": __version__, **_versions()},
    }  # fmt: skip


def _count(column: Any) -> int:
    return int(np.asarray(column).sum())


def _told(reference: Reference) -> dict[str, Any]:
    return {
        "name": reference.name,
        "source": reference.source,
        "where": reference.where,
        "sha256": reference.fingerprint,
        "crystals": reference.size,
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
