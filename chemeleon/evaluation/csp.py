"""Crystal structure prediction: how many targets are met by their samples, and how closely.

A target is met if one of its samples matches at the `cdvae` preset; RMSE is the least of its
samples', as pymatgen gives it, in units of (V/N)^(1/3). Rates are over all targets: what could not
be read, on either side, is not met.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from chemeleon.errors import DataError
from chemeleon.evaluation.collection import Collection
from chemeleon.evaluation.matching import match_pairs
from chemeleon.evaluation.packed import Packed
from chemeleon.evaluation.statistics import wilson
from chemeleon.evaluation.summary import finite

_SUFFIX = re.compile(r"[-_.](?:sample[-_]?)?(\d+)$")
_NOTHING = (np.zeros((3, 3)), np.zeros(0, np.int64), np.zeros((0, 3)))
_PAIRS = 20_000  # held at a time


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
        ``targets``, ``k`` (most samples of a target), ``timed_out`` pairs.

    Raises:
        DataError: if samples cannot be assigned to targets.
    """
    rows = assign(samples.ids, targets.ids)
    pairs = [(target, rank, row) for target, of in enumerate(rows) for rank, row in enumerate(of)]
    first = np.full(len(targets), np.inf)
    best = np.full(len(targets), np.inf)
    timed_out = 0
    for begin in range(0, len(pairs), _PAIRS):
        part = pairs[begin : begin + _PAIRS]
        arrays = [
            (_arrays(samples.crystals, row), _arrays(targets.crystals, target))
            for target, _, row in part
        ]
        found = match_pairs(arrays, "cdvae", jobs, seconds)
        timed_out += int(found.timed_out.sum())
        for (target, rank, _), rmse in zip(part, found.rmse.tolist(), strict=True):
            if rmse == rmse:  # not NaN
                best[target] = min(best[target], rmse)
                if rank == 0:
                    first[target] = rmse
    return {
        "matcher": "cdvae",
        "targets": len(targets),
        "k": max((len(of) for of in rows), default=0),
        "at_1": rate(first),
        "at_k": rate(best),
        "timed_out": timed_out,
    }


def rate(rmse: np.ndarray) -> dict[str, Any]:
    """Return match rate and mean RMSE of the targets' ``rmse``, infinite where one is not met."""
    met = np.isfinite(rmse)
    value, low, high = wilson(int(met.sum()), len(rmse))
    return {
        "value": finite(value),
        "low": finite(low),
        "high": finite(high),
        "count": int(met.sum()),
        "of": len(rmse),
        "rmse": finite(float(rmse[met].mean()) if met.any() else None),
    }


def _arrays(crystals: Packed, row: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if crystals.counts[row] == 0:
        return _NOTHING
    numbers, frac, lattice = crystals.crystal(row)
    return lattice, numbers, frac
