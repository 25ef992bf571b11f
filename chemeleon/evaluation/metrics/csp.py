"""Crystal structure prediction: how many targets are met by their samples, and how closely.

A target is met if one of its samples matches at the `cdvae` preset; RMSE is the least of its
samples', as pymatgen gives it, in units of (V/N)^(1/3). Rates are over all targets: what could not
be read, on either side, is not met.

Published rates stand on two scales, so both are told. Over all pairs; and over valid ones, where a
pair counts as not met unless sample and target are valid by CDVAE's rule (distances, volume and
SMACT; Xie et al., arXiv:2110.06197), still out of all targets, as DiffCSP's code has it. How many
of the targets with a valid pair are met stands beside.

Where a composition has several targets, a sample may be right and yet not that of its own target.
METRe (Martirossyan et al., arXiv:2509.12178) is the share of targets that a sample of the same
reduced composition meets, whichever target it was made for. It is published for one sample per
target, as its code (OMatG) takes no more of them than targets: that is METRe at 1, of the first
samples. METRe at k, of all samples, is not comparable with it. (The definition was read in public
ports of that code; an earlier version of it counted samples that meet any target instead.)

cRMSE (same source) stands beside every RMSE in tables: the mean over all targets, the matcher's
stol for those not met, so that a model that meets few targets well does not look better for it.

Shapes: ``K`` pairs of a target and a sample, by their rows.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chemeleon.crystals.soundness import MIN_DISTANCE, MIN_VOLUME, of_each, shortest_distances
from chemeleon.errors import DataError
from chemeleon.evaluation.collection import Collection
from chemeleon.evaluation.matching.grouping import composition_keys
from chemeleon.evaluation.matching.pairs import TOLERANCES, match_pairs
from chemeleon.evaluation.metrics.base import Metric, Options, View
from chemeleon.evaluation.metrics.statistics import finite, share

_MATCHER = "cdvae"
_METRE_PAIRS = 200_000  # beyond the targets' own; some 20 ms each
_SUFFIX = re.compile(r"[-_.](?:sample[-_]?)?(\d+)$")
_PAIRS = 20_000  # held at a time
RATES = {
    "at_1": "Match rate at 1",
    "at_k": "Match rate at {k}",
    "valid_at_1": "Match rate at 1, valid pairs",
    "valid_at_k": "Match rate at {k}, valid pairs",
    "among_valid_at_1": "Met at 1, of targets with a valid pair",
    "among_valid_at_k": "Met at {k}, of targets with a valid pair",
    "metre_at_1": "METRe at 1: met by any first sample of the composition",
    "metre_at_k": "METRe at {k}: met by any sample of the composition",
}


class Prediction(Metric):
    """Match rates, METRe and RMSE: rows of their own beside the headline."""

    name = group = "csp"
    basis = (
        f"Of all targets, by matcher {_MATCHER}. RMSE of those met, cRMSE of all with"
        f" {TOLERANCES[_MATCHER][1]:g} for those not met, in units of (V/N)^(1/3). A valid pair is"
        " a sample and a target that CDVAE's rule passes, SMACT included; others count as not met."
    )

    def facts(
        self, crystals: View, control: View | None, options: Options, headline: Any
    ) -> Mapping[str, Any]:
        if options.targets is None or crystals.crystals is None:
            return {}
        found = match_targets(
            crystals.crystals,
            options.targets,
            jobs=options.settings.jobs,
            seconds=options.settings.seconds_per_pair,
        )
        return {"csp": found}

    def entries(self, summary: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        found = summary.get("csp") or {}
        rows: dict[str, tuple[str, Mapping[str, Any]]] = {}
        for name, label in RATES.items():
            met = found.get(name) or {}
            if met.get("value") is None or (name.endswith("_k") and found.get("k") == 1):
                continue
            label = label.format(k=found.get("k", "k"))
            rows[name] = label, met
            for error, value in (("RMSE", met.get("rmse")), ("cRMSE", corrected(met))):
                rounded = value and round(value, 6)  # what is left of equal crystals is noise
                rows[f"{name}_{error.lower()}"] = f"{label}, {error}", {"value": rounded}
        metre = found.get("metre") or {}
        if metre:
            label = "Targets that share their composition with another"
            rows["polymorphs"] = label, {"value": metre.get("polymorphs")}
        if "left_out" in metre:
            rows["metre_at_1"] = f"METRe, left out: {metre['left_out']}", {"value": None}
        if found:
            rows["timed_out"] = "Pairs that timed out", {"value": found.get("timed_out", 0)}
        for name, (label, values) in rows.items():
            yield {"name": f"csp_{name}", "label": label, "group": self.group, **values}


def assign(samples: list[str], targets: list[str]) -> list[list[int]]:
    """Return for each target the rows of its samples, by their numbers.

    Samples are found by the target's id, alone or with a number behind (``mp-1_0``, ``mp-1-1``).
    Without any such ids, and with a whole multiple of as many samples as targets, the first k
    samples belong to the first target, and so on.

    Raises:
        DataError: if neither gives an assignment.
    """
    place = {name: i for i, name in enumerate(targets)}
    numbered: list[list[tuple[int, int]]] = [[] for _ in targets]
    for row, name in enumerate(samples):
        at, number = place.get(name), 0
        if at is None and (suffix := _SUFFIX.search(name)):
            at, number = place.get(name[: suffix.start()]), int(suffix[1])
        if at is not None:
            numbered[at].append((number, row))
    if any(numbered):
        return [[row for _, row in sorted(of)] for of in numbered]
    k, rest = divmod(len(samples), max(len(targets), 1))
    if rest or k == 0:
        raise DataError(
            f"{len(samples)} samples cannot be told apart over {len(targets)} targets: give them"
            " the ids of the targets (with -0, -1, ... behind), or k samples for each in order"
        )
    return [list(range(k * i, k * i + k)) for i in range(len(targets))]


def match_targets(
    samples: Collection, targets: Collection, *, jobs: int | None = None, seconds: float = 10.0
) -> dict[str, Any]:
    """Match every sample with its target.

    Args:
        samples: what a model made.
        targets: what it should have made.
        jobs: processes; all cores if None.
        seconds: limit per pair; beyond it a pair counts as not matched.

    Returns:
        ``at_1`` and ``at_k``: match rate with its interval, and mean RMSE over the targets met;
        ``valid_at_1``, ``valid_at_k``: the same, met by valid pairs only,
        ``among_valid_at_1`` and ``among_valid_at_k``: of the targets with a valid pair;
        ``metre_at_1`` and ``metre_at_k``, with their cRMSE, and of what they are (``metre``),
        where a composition has several targets; ``targets``, ``k`` (most samples of a target),
        ``timed_out`` pairs.

    Raises:
        DataError: if samples cannot be assigned to targets.
    """
    rows = assign(samples.ids, targets.ids)
    pairs = np.array([(i, row) for i, of in enumerate(rows) for row in of], int).reshape(-1, 2)
    first = np.array([rank == 0 for of in rows for rank in range(len(of))], bool)
    rmse, timed_out = _rmse(samples, targets, pairs, jobs, seconds)
    valid = _valid(targets)[pairs[:, 0]] & _valid(samples)[pairs[:, 1]]
    found: dict[str, Any] = {
        "matcher": _MATCHER,
        "targets": len(targets),
        "k": max((len(of) for of in rows), default=0),
    }
    for name, asked in (("at_1", first), ("at_k", np.ones_like(first))):
        found[name] = rate(_least(pairs[asked, 0], rmse[asked], len(targets)))
        asked = asked & valid
        met = _least(pairs[asked, 0], rmse[asked], len(targets))
        found[f"valid_{name}"] = rate(met)
        found[f"among_valid_{name}"] = rate(met[np.unique(pairs[asked, 0])])
    more, told = _polymorphs(samples, targets, pairs)
    if told:
        found["metre"] = told
    if more is not None:
        further, late = _rmse(samples, targets, more, jobs, seconds)
        timed_out += late
        every, rmse = np.concatenate([pairs, more]), np.concatenate([rmse, further])
        first = np.isin(every[:, 1], pairs[first, 1])
        for name, asked in (("metre_at_1", first), ("metre_at_k", np.ones_like(first))):
            met = rate(_least(every[asked, 0], rmse[asked], len(targets)))
            found[name] = met | {"crmse": corrected(met)}
    return found | {"timed_out": timed_out}


def _polymorphs(
    samples: Collection, targets: Collection, pairs: NDArray[np.int64]
) -> tuple[NDArray[np.int64] | None, dict[str, Any]]:
    """Return the pairs ``(K, 2)`` of one composition beyond those given, None of too many or where
    no composition has several targets; and what is said of them."""
    keys = composition_keys(targets.crystals)
    polymorphs = sum(count for key, count in Counter(keys).items() if key and count > 1)
    if not polymorphs:
        return None, {}
    of_key: dict[bytes, list[int]] = {}
    for row, key in enumerate(composition_keys(samples.crystals)):
        of_key.setdefault(key, []).append(row)
    known = set(map(tuple, pairs.tolist()))
    like = ((i, row) for i, key in enumerate(keys) if key for row in of_key.get(key, ()))
    more = [pair for pair in like if pair not in known]
    told: dict[str, Any] = {"polymorphs": polymorphs, "pairs": len(more) + len(known)}
    if len(more) > _METRE_PAIRS:
        return None, {**told, "left_out": f"over {_METRE_PAIRS:,} pairs of like composition"}
    return np.array(more, dtype=np.int64).reshape(-1, 2), told


def _rmse(
    samples: Collection,
    targets: Collection,
    pairs: NDArray[np.int64],
    jobs: int | None,
    seconds: float,
) -> tuple[NDArray[np.float64], int]:
    """Return the RMSE of ``(K, 2)`` targets and samples, infinite without a match, and how many
    timed out."""
    found, late = np.full(len(pairs), np.inf), 0
    for begin in range(0, len(pairs), _PAIRS):
        part = slice(begin, begin + _PAIRS)
        arrays = [
            (samples.crystals.crystal(row), targets.crystals.crystal(target))
            for target, row in pairs[part].tolist()
        ]
        answer = match_pairs(arrays, _MATCHER, jobs, seconds)
        late += int(answer.timed_out.sum())
        found[part] = np.where(np.isnan(answer.rmse), np.inf, answer.rmse)
    return found, late


def _least(target: NDArray[np.int64], rmse: NDArray[np.float64], total: int) -> NDArray[np.float64]:
    """Return the least RMSE of each of ``total`` targets, infinite where there is none."""
    best = np.full(total, np.inf)
    np.minimum.at(best, target, rmse)
    return best


def _valid(crystals: Collection) -> NDArray[np.bool_]:
    """Return which crystals are valid by CDVAE's rule, ``(C,)``."""
    with np.errstate(invalid="ignore"):
        volume = crystals.column("volume_per_atom_a3") * crystals.column("num_atoms")
        apart = of_each(shortest_distances, crystals.crystals) > MIN_DISTANCE
    return (volume > MIN_VOLUME) & apart & (crystals.column("valid_composition") == 1)


def rate(rmse: np.ndarray) -> dict[str, Any]:
    """Return match rate and mean RMSE of the targets' ``rmse``, infinite where one is not met."""
    met = np.isfinite(rmse)
    mean = float(rmse[met].mean()) if met.any() else None
    return {**share(int(met.sum()), len(rmse)), "rmse": finite(mean)}


def corrected(found: Mapping[str, Any]) -> float:
    """Return the cRMSE of a `rate`: targets that are not met count with the matcher's stol."""
    missed = TOLERANCES[_MATCHER][1] * (found["of"] - found["count"])
    return (found["count"] * (found["rmse"] or 0.0) + missed) / found["of"]
