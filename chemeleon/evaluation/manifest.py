"""What a result must say of itself: without it, it is not written."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from chemeleon.crystals.symmetry import SYMPREC, TIGHT
from chemeleon.evaluation.describe import OXIDATION_STATES
from chemeleon.evaluation.matching.disordered import (
    MOST_ELECTRONEGATIVITY_DIFFERENCE,
    MOST_RADIUS_DIFFERENCE,
)
from chemeleon.evaluation.matching.pairs import TOLERANCES
from chemeleon.evaluation.metrics import METRICS
from chemeleon.evaluation.metrics.base import Options
from chemeleon.evaluation.metrics.statistics import MMD_LIMIT
from chemeleon.evaluation.origin import sample_manifest, stated, told
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
    known: Mapping[str, Any],
    table: pandas.DataFrame,
    done: Mapping[str, Any],
    options: Options,
) -> dict[str, Any]:
    """Return source, counts, tolerances, sets and versions of a result, to be written as JSON.

    Args:
        source: where the crystals are from; of a sample's folder its manifest is repeated.
        known: what a caller says of their origin.
        table: of the crystals.
        done: what is said of energies and of idealising.
        options: of the run.
    """
    settings, references, control = options.settings, options.references, options.control
    ltol, stol, angle_tol = TOLERANCES[settings.matcher]
    path = Path(source) if isinstance(source, str | Path) else None
    wanted = {name: asked._asdict() for name, asked in settings.wanted.items()}
    properties = {"predictor": str(settings.predictor), "wanted": wanted}
    made = None if path is None else sample_manifest(path)
    return {
        **stated(known),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "source": "structures in memory" if path is None else str(source),
        "requested": len(table),
        "parsed": _count(table["status"] == "ok"),
        "valid": _count(table["valid_structure"] & table["valid_composition"]),
        "matcher": {
            "name": settings.matcher, "ltol": ltol, "stol": stol, "angle_tol_degree": angle_tol,
            "seconds_per_pair": settings.seconds_per_pair,
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
        **done,
        **({"properties": properties} if wanted else {}),
        **({} if made is None else told(made)),
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
