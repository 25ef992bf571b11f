"""Coverage after CDVAE (Xie et al., arXiv:2110.06197, appendix B.2): COV-R and COV-P.

A crystal covers another if both fingerprints lie within their cut-offs. COV-R is the share of the
reference crystals that are covered, COV-P the share of the crystals asked for that cover one; as in
CDVAE's code the nearest of each kind of fingerprint is looked for on its own.

Fingerprints are matminer's: `CrystalNNFingerprint` (preset ``ops``), the mean over the atoms, and
`ElementProperty` (preset ``magpie``). CDVAE scales the latter with constants of its own; here the
reference's own means and deviations do that, so figures may differ slightly from those of its code.

Shapes: ``C`` crystals, ``R`` of the reference, ``F`` entries of both fingerprints.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
import json
import logging
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chemeleon.crystals.batch import Array, Crystals
from chemeleon.data.cache import cache_dir
from chemeleon.data.crystal import structure_of
from chemeleon.data.pool import Rescue
from chemeleon.errors import ConfigError, DataError
from chemeleon.evaluation.collection import Progress, parallel
from chemeleon.evaluation.matching._match_worker import TimeUpError, time_limit
from chemeleon.evaluation.metrics.statistics import wilson
from chemeleon.evaluation.reference import Reference
from chemeleon.storage import write_atomically

logger = logging.getLogger(__name__)
Floats = NDArray[np.float64]

# distances of structure and composition: CDVAE's for MP-20; for Perov-5 and Carbon-24
CUTOFFS = {"mp_20": (0.4, 10.0), "perov_5": (0.2, 4.0), "carbon_24": (0.2, 4.0)}
STRUCTURE, COMPOSITION = 61, 132
_VERSION = 1  # part of the key of the cache
_CHUNK = 8
_ROWS = 256  # of a table of distances held at a time
_SECONDS = 120.0


def check_installed() -> None:
    """Raise ConfigError if matminer is missing."""
    if importlib.util.find_spec("matminer") is None:
        raise ConfigError(
            "coverage needs the fingerprints of a package that is not installed: pip install"
            " 'chemeleon[coverage]' (matminer), or leave --coverage out"
        )


def fingerprints(
    crystals: Crystals[Array],
    wanted: NDArray[np.bool_],
    *,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Floats:
    """Return ``(C, F)``, structure first, NaN for what is not wanted or has no fingerprint.

    Args:
        crystals: as given.
        wanted: ``(C,)``.
        workers: processes; all cores if None.
        progress: called with a word and the share done.
    """
    found = np.full((len(crystals), STRUCTURE + COMPOSITION), np.nan)
    rows = np.flatnonzero(wanted & (crystals.num_atoms > 0))
    chunks = [rows[i : i + _CHUNK] for i in range(0, len(rows), _CHUNK)]
    jobs = (crystals.subset(chunk) for chunk in chunks)
    parts = parallel(f"{__name__}:fingerprint_chunk", fingerprint_chunk, jobs, workers, _RESCUE)
    for done, (chunk, part) in enumerate(zip(chunks, parts, strict=True), start=1):
        found[chunk] = part
        if progress:
            progress("fingerprints", done / len(chunks))
    return found


def reference_fingerprints(reference: Reference, **options: Any) -> Floats:
    """Return the fingerprints of a reference set ``(R, F)``, from the cache if they are there.

    Raises:
        DataError: if there is not one.
    """
    key = [reference.fingerprint, _VERSION, version("matminer"), version("pymatgen")]
    name = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]
    file = cache_dir() / "coverage" / f"{name}.npy"
    size = len(reference.collection)
    try:
        found = np.load(file, allow_pickle=False)
        if found.shape == (size, STRUCTURE + COMPOSITION):
            return found
    except (OSError, ValueError, EOFError):
        pass  # none yet, or damaged
    found = fingerprints(reference.collection.crystals, np.ones(size, bool), **options)
    if size and not np.isfinite(found).any():
        raise DataError(f"matminer gives no fingerprint for any crystal of {reference.name}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, lambda path: _save(path, found))
    except OSError as error:
        logger.warning("fingerprints are not cached: %s (set CHEMELEON_CACHE)", error)
    return found


def coverage(ours: Floats, theirs: Floats, name: str, *, is_control: bool) -> dict[str, Any]:
    """Return COV-R and COV-P with their intervals, and what they were made with.

    Args:
        ours: ``(C, F)``; those without a fingerprint count as covering nothing.
        theirs: ``(R, F)``; those without one are left out.
        name: of the reference, which also chooses the cut-offs.
        is_control: whether the reference is the control set; then ``control`` holds the coverage
            of one half of it by the other.
    """
    cutoffs = next((c for key, c in CUTOFFS.items() if name.startswith(key)), CUTOFFS["mp_20"])
    theirs = theirs[np.isfinite(theirs).all(-1)]
    recall, precision = covered(ours, theirs, cutoffs)
    control: dict[str, float] = {}
    if is_control and len(theirs) > 1:
        halves = covered(theirs[::2], theirs[1::2], cutoffs)
        control = {key: float(flag.mean()) for key, flag in zip(_NAMES, halves, strict=True)}
    return {
        "reference": name,
        "reference_crystals": len(theirs),
        "crystals": int(np.isfinite(ours).all(-1).sum()),
        "fingerprints": "matminer CrystalNNFingerprint ops, ElementProperty magpie",
        "cutoffs": {"structure": cutoffs[0], "composition": cutoffs[1]},
        **{key: _share(flag) for key, flag in zip(_NAMES, (recall, precision), strict=True)},
        "control": control,
    }


_NAMES = ("cov_recall", "cov_precision")


def covered(
    ours: Floats, theirs: Floats, cutoffs: tuple[float, float]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which of theirs ``(R,)`` are covered, and which of ours ``(C,)`` cover one."""
    from scipy.spatial.distance import cdist

    kept = np.isfinite(ours).all(-1)
    if not kept.any() or not len(theirs):
        return np.zeros(len(theirs), bool), np.zeros(len(ours), bool)
    near_theirs = np.full((2, len(theirs)), np.inf)
    near_ours = np.full((2, len(ours)), np.inf)
    mean, deviation = theirs.mean(0), theirs.std(0)
    mean[:STRUCTURE], deviation[:STRUCTURE] = 0, 1  # as they are
    deviation = np.where(deviation > 1e-12, deviation, 1.0)
    theirs = (theirs - mean) / deviation
    parts = (slice(None, STRUCTURE), slice(STRUCTURE, None))
    rows = np.flatnonzero(kept)
    for begin in range(0, len(rows), _ROWS):
        some = rows[begin : begin + _ROWS]
        scaled = (ours[some] - mean) / deviation
        for k, part in enumerate(parts):
            distance = cdist(scaled[:, part], theirs[:, part])
            near_ours[k, some] = distance.min(1)
            near_theirs[k] = np.minimum(near_theirs[k], distance.min(0))
    limits = np.array(cutoffs)[:, None]
    return np.all(near_theirs <= limits, axis=0), np.all(near_ours <= limits, axis=0)


def entries(found: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    """Return (name, label, share) of the two figures, for a headline."""
    by = found["reference"]
    return [
        ("cov_recall", f"COV-R: {by} that is covered", found["cov_recall"]),
        ("cov_precision", f"COV-P: of these, near {by}", found["cov_precision"]),
    ]


def _share(flag: NDArray[np.bool_]) -> dict[str, Any]:
    count = int(flag.sum())
    value, low, high = wilson(count, len(flag))
    return {"value": value, "low": low, "high": high, "count": count, "of": len(flag)}


def fingerprint_chunk(crystals: Crystals[Array]) -> Floats:
    """Return ``(C, F)`` in a worker process; rows of NaN where matminer has no answer."""
    structure_by, composition_by = _featurizers()
    found = np.full((len(crystals), STRUCTURE + COMPOSITION), np.nan)
    for row, arrays in enumerate(crystals):
        try:
            with warnings.catch_warnings(), np.errstate(all="ignore"), time_limit(_SECONDS):
                warnings.simplefilter("ignore")
                crystal = structure_of(arrays)
                sites = [structure_by.featurize(crystal, i) for i in range(len(crystal))]
                found[row, :STRUCTURE] = np.mean(sites, 0)
                found[row, STRUCTURE:] = composition_by.featurize(crystal.composition)
        except (Exception, TimeUpError):  # no neighbours, no Voronoi cell, an unknown element
            found[row] = np.nan
    return found


@functools.cache
def _featurizers() -> tuple[Any, Any]:
    composition = importlib.import_module("matminer.featurizers.composition")
    site = importlib.import_module("matminer.featurizers.site")
    return (
        site.CrystalNNFingerprint.from_preset("ops"),
        composition.ElementProperty.from_preset("magpie"),
    )


def _save(path: Path, found: Floats) -> None:
    with path.open("wb") as file:
        np.save(file, found, allow_pickle=False)


_RESCUE = Rescue(
    split=lambda crystals: [crystals.subset([i]) for i in range(len(crystals))],
    join=np.concatenate,
    give_up=lambda crystals, reason: np.full((len(crystals), STRUCTURE + COMPOSITION), np.nan),
)
