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
import importlib
import importlib.util
import io
import warnings
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chemeleon.caching import cache_file, keep
from chemeleon.crystals.batch import Array, Crystal, Crystals
from chemeleon.data.crystal import structure_of
from chemeleon.errors import ConfigError, DataError
from chemeleon.evaluation.matching.limits import TimeUpError, time_limit
from chemeleon.evaluation.metrics.base import Figure, Metric, Options, View
from chemeleon.evaluation.reference import Reference
from chemeleon.evaluation.work import Each, answers, told

Floats = NDArray[np.float64]

# distances of structure and composition: CDVAE's for MP-20; for Perov-5 and Carbon-24
CUTOFFS = {"mp_20": (0.4, 10.0), "perov_5": (0.2, 4.0), "carbon_24": (0.2, 4.0)}
STRUCTURE, COMPOSITION = 61, 132
_VERSION = 2  # part of the key of the cache
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

    def vectors(self, crystals: View, options: Options) -> Floats | None:
        if not options.settings.coverage:
            return None
        if options.indexed is not None:
            return reference_fingerprints(options.indexed, options)
        assert crystals.crystals is not None
        return fingerprints(crystals.crystals.crystals, crystals.flags("valid_structure"), options)

    def distances(self, crystals: View, control: View, options: Options) -> Iterator[Figure]:
        if options.settings.coverage and options.compared is not None:
            by = options.compared.name
            vectors = crystals.vectors[self.name], control.vectors[self.name]
            recall, precision = covered(*vectors, cutoffs(by))
            yield Figure("cov_recall", f"COV-R: {by} that is covered", flag=recall)
            yield Figure("cov_precision", f"COV-P: of these, near {by}", flag=precision)

    def facts(
        self, crystals: View, control: View | None, options: Options, headline: Any
    ) -> Mapping[str, Any]:
        if not options.settings.coverage or control is None or options.compared is None:
            return {}
        by, kept = options.compared.name, ("value", "low", "high", "count", "of")
        known, ours = (len(_known(side.vectors[self.name])) for side in (control, crystals))
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
    """Return ``(C, F)``, structure first; NaN for what is not wanted or was lost, see
    `Fingerprint`.

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

    Those that were lost are made again.

    Raises:
        DataError: if there is not one.
    """
    versions = [version(package) for package in ("matminer", "pymatgen")]
    key = [reference.fingerprint, reference.where, _VERSION, *versions]
    file, crystals = cache_file("coverage", key, ".npy"), reference.collection.crystals
    found = np.full((len(crystals), STRUCTURE + COMPOSITION), np.nan)
    with suppress(OSError, ValueError, EOFError):  # none yet, or damaged
        cached = np.load(file, allow_pickle=False)
        found = cached if cached.shape == found.shape else found
    missing = (crystals.num_atoms > 0) & np.isnan(found).any(-1)
    if missing.any():
        found[missing] = fingerprints(crystals, missing, options)[missing]
        content = io.BytesIO()
        np.save(content, found, allow_pickle=False)
        keep(file, content.getvalue(), "fingerprints are")
    if len(found) and not np.isfinite(found).any():
        raise DataError(f"matminer gives no fingerprint for any crystal of {reference.name}")
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
    """Both fingerprints of crystals, ``(F,)``; infinite where matminer has none, and NaN where the
    answer was lost, for lack of time or memory, and may be there another time."""

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
                found = np.concatenate([np.mean(sites, 0), composition])
        except (TimeUpError, MemoryError) as error:
            return self.lost(str(error))
        except Exception:  # no neighbours, no Voronoi cell, an element
            found = np.array(np.nan)
        return found if np.isfinite(found).all() else np.full(STRUCTURE + COMPOSITION, np.inf)


@functools.cache
def _featurizers() -> tuple[Any, Any]:
    composition = importlib.import_module("matminer.featurizers.composition")
    site = importlib.import_module("matminer.featurizers.site")
    return (
        site.CrystalNNFingerprint.from_preset("ops"),
        composition.ElementProperty.from_preset("magpie"),
    )
