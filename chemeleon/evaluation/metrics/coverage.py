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
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chemeleon.crystals.batch import Array, Crystal, Crystals
from chemeleon.data.crystal import structure_of
from chemeleon.errors import ConfigError, DataError
from chemeleon.evaluation.matching.limits import TimeUpError, time_limit
from chemeleon.evaluation.metrics.base import Figure, Metric, Options, View
from chemeleon.evaluation.reference import Reference
from chemeleon.evaluation.work import Each, answers, told
from chemeleon.storage import cache_dir, write_atomically

logger = logging.getLogger(__name__)
Floats = NDArray[np.float64]

# distances of structure and composition: CDVAE's for MP-20; for Perov-5 and Carbon-24
CUTOFFS = {"mp_20": (0.4, 10.0), "perov_5": (0.2, 4.0), "carbon_24": (0.2, 4.0)}
STRUCTURE, COMPOSITION = 61, 132
_VERSION = 2  # part of the key of the cache
_VECTORS = "fingerprints"
_ROWS = 256  # of a table of distances held at a time
_SECONDS = 120.0


def check_installed() -> None:
    """Raise ConfigError if matminer is missing."""
    if importlib.util.find_spec("matminer") is None:
        raise ConfigError(
            "coverage needs the fingerprints of a package that is not installed: pip install"
            " 'chemeleon[coverage]' (matminer), or leave --coverage out"
        )


class Coverage(Metric):
    """COV-R and COV-P, with what they were made with."""

    name = "coverage"
    group = "distance"
    as_given = True

    def vectors(self, crystals: View, options: Options) -> Mapping[str, Floats]:
        if not options.settings.coverage:
            return {}
        if options.indexed is not None:
            return {_VECTORS: reference_fingerprints(options.indexed, options)}
        assert crystals.crystals is not None
        sound = crystals.flags("valid_structure")
        return {_VECTORS: fingerprints(crystals.crystals.crystals, sound, options)}

    def distances(self, crystals: View, control: View, options: Options) -> Iterator[Figure]:
        if options.settings.coverage and options.compared is not None:
            by = options.compared.name
            vectors = crystals.vectors[_VECTORS], control.vectors[_VECTORS]
            recall, precision = covered(*vectors, cutoffs(by))
            yield Figure("cov_recall", f"COV-R: {by} that is covered", flag=recall)
            yield Figure("cov_precision", f"COV-P: of these, near {by}", flag=precision)

    def comparable(self, control: View) -> NDArray[np.int64]:
        found = control.vectors.get(_VECTORS)
        return super().comparable(control) if found is None else _known(found)

    def facts(
        self, crystals: View, control: View | None, options: Options, headline: Any
    ) -> Mapping[str, Any]:
        if not options.settings.coverage or control is None or options.compared is None:
            return {}
        by, kept = options.compared.name, ("value", "low", "high", "count", "of")
        known, ours = (len(_known(side.vectors[_VECTORS])) for side in (control, crystals))
        shares = {name: headline[name] for name in ("cov_recall", "cov_precision")}
        found = {
            "reference": by,
            "reference_crystals": known,
            "crystals": ours,
            "fingerprints": "matminer CrystalNNFingerprint ops, ElementProperty magpie",
            "cutoffs": dict(zip(("structure", "composition"), cutoffs(by), strict=True)),
            **{name: {key: entry[key] for key in kept} for name, entry in shares.items()},
        }
        return {"coverage": found}


def cutoffs(name: str) -> tuple[float, float]:
    """Return the cut-offs of structure and composition for a reference of this name."""
    return next((c for key, c in CUTOFFS.items() if name.startswith(key)), CUTOFFS["mp_20"])


def fingerprints(crystals: Crystals[Array], wanted: NDArray[np.bool_], options: Options) -> Floats:
    """Return ``(C, F)``, structure first, NaN for what is not wanted or has no fingerprint.

    Args:
        crystals: as given.
        wanted: ``(C,)``.
        options: of the run, for processes and progress.
    """
    found = np.full((len(crystals), STRUCTURE + COMPOSITION), np.nan)
    rows = np.flatnonzero(wanted & (crystals.num_atoms > 0))
    report = told(options.progress, "fingerprints", len(rows))
    made = answers(Fingerprint([]), crystals.subset(rows), options.settings.jobs, report)
    for row, one in zip(rows, made, strict=True):
        found[row] = one
    return found


def reference_fingerprints(reference: Reference, options: Options) -> Floats:
    """Return the fingerprints of a reference set ``(R, F)``, from the cache if they are there.

    Raises:
        DataError: if there is not one.
    """
    versions = [version(package) for package in ("matminer", "pymatgen")]
    key = [reference.fingerprint, reference.where, _VERSION, *versions]
    name = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]
    file = cache_dir() / "coverage" / f"{name}.npy"
    size = len(reference.collection)
    try:
        found = np.load(file, allow_pickle=False)
        if found.shape == (size, STRUCTURE + COMPOSITION):
            return found
    except (OSError, ValueError, EOFError):
        pass  # none yet, or damaged
    found = fingerprints(reference.collection.crystals, np.ones(size, bool), options)
    if size and not np.isfinite(found).any():
        raise DataError(f"matminer gives no fingerprint for any crystal of {reference.name}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, lambda path: _save(path, found))
    except OSError as error:
        logger.warning("fingerprints are not cached: %s (set CHEMELEON_CACHE)", error)
    return found


def covered(
    ours: Floats, theirs: Floats, limits: tuple[float, float]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which of theirs are covered, and which of ours ``(C,)`` cover one.

    Of theirs ``(R, F)`` those without a fingerprint are left out; ours without one cover nothing.
    """
    from scipy.spatial.distance import cdist

    theirs, rows = theirs[_known(theirs)], _known(ours)
    if not len(rows) or not len(theirs):
        return np.zeros(len(theirs), bool), np.zeros(len(ours), bool)
    near_theirs = np.full((2, len(theirs)), np.inf)
    near_ours = np.full((2, len(ours)), np.inf)
    mean, deviation = theirs.mean(0), theirs.std(0)
    mean[:STRUCTURE], deviation[:STRUCTURE] = 0, 1  # as they are
    deviation = np.where(deviation > 1e-12, deviation, 1.0)
    theirs = (theirs - mean) / deviation
    parts = (slice(None, STRUCTURE), slice(STRUCTURE, None))
    for begin in range(0, len(rows), _ROWS):
        some = rows[begin : begin + _ROWS]
        scaled = (ours[some] - mean) / deviation
        for k, part in enumerate(parts):
            distance = cdist(scaled[:, part], theirs[:, part])
            near_ours[k, some] = distance.min(1)
            near_theirs[k] = np.minimum(near_theirs[k], distance.min(0))
    most = np.array(limits)[:, None]
    return np.all(near_theirs <= most, axis=0), np.all(near_ours <= most, axis=0)


def _known(found: Floats) -> NDArray[np.int64]:
    """Return the rows with a fingerprint."""
    return np.flatnonzero(np.isfinite(found).all(-1))


class Fingerprint(Each):
    """Both fingerprints of crystals, ``(F,)``; NaN where matminer has no answer."""

    size = 8

    def lost(self, reason: str) -> Floats:
        return np.full(STRUCTURE + COMPOSITION, np.nan)

    def answer(self, item: Crystal) -> Floats:
        structure_by, composition_by = _featurizers()
        try:
            with warnings.catch_warnings(), np.errstate(all="ignore"), time_limit(_SECONDS):
                warnings.simplefilter("ignore")
                crystal = structure_of(item)
                sites = [structure_by.featurize(crystal, i) for i in range(len(crystal))]
                composition = composition_by.featurize(crystal.composition)
                return np.concatenate([np.mean(sites, 0), composition])
        except (Exception, TimeUpError) as error:  # no neighbours, no Voronoi cell, an element
            return self.lost(str(error))


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
