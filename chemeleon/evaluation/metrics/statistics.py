"""Intervals and distances between distributions.

Shapes: ``S`` samples, ``R`` references, ``F`` features.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_Z95 = 1.959963984540054
MMD_LIMIT = 2000  # crystals of each side, evenly spread; the kernel matrix is quadratic


def share(count: int, total: int) -> dict[str, Any]:
    """Return the share ``count / total`` as JSON, with its 95 % interval (Wilson, JASA 22, 209
    (1927)); nothing out of nothing has neither."""
    value = low = high = None
    if total:
        value, z2 = count / total, _Z95**2
        centre = (value + z2 / (2 * total)) / (1 + z2 / total)
        spread = math.sqrt(value * (1 - value) / total + z2 / (4 * total**2))
        half = _Z95 * spread / (1 + z2 / total)
        low, high = max(0.0, centre - half), min(1.0, centre + half)
    return {"value": value, "low": low, "high": high, "count": count, "of": total}


def percentages(counts: Mapping[str, float], total: float | None = None) -> dict[str, float]:
    """Return counts by name in percent of a total, by default of their sum."""
    total = sum(counts.values()) if total is None else total
    return {name: 100 * count / max(total, 1) for name, count in counts.items()}


def finite(value: float | None) -> float | None:
    """Return a number for JSON: None for NaN and infinities."""
    return None if value is None or not math.isfinite(value) else float(value)


def evenly(total: int, most: int) -> NDArray[np.int64]:
    """Return at most so many rows of a total, evenly spread over it."""
    return np.unique(np.linspace(0, total - 1, min(total, most)).round().astype(np.int64))


def wasserstein(sample: Floats, reference: Floats) -> float:
    """Return the first Wasserstein distance of ``(S,)`` and ``(R,)`` values; NaNs are left out.

    It is in the unit of the values, as CDVAE has it (arXiv:2110.06197, section 5.2).
    """
    sides = [np.sort(side[np.isfinite(side)]) for side in (sample, reference)]
    if any(len(side) == 0 for side in sides):
        return math.nan
    # the area between the two cumulative shares; scipy.stats is half a second of imports
    steps = np.sort(np.concatenate(sides))
    ours, theirs = (np.searchsorted(side, steps[:-1], "right") / len(side) for side in sides)
    return float((np.abs(ours - theirs) * np.diff(steps)).sum())


def jensen_shannon(one: Floats, two: Floats) -> float:
    """Return the Jensen-Shannon distance of two counts ``(K,)``: the square root of the divergence
    to base 2, from 0 (same shares) to 1 (nothing in common); NaN if one side counts nothing.

    Source: J. Lin, IEEE Trans. Inf. Theory 37, 145 (1991).
    """
    if not (one.sum() > 0 and two.sum() > 0):
        return math.nan
    from scipy.spatial.distance import jensenshannon

    return float(jensenshannon(one, two, base=2))


def standardised(sample: Floats, reference: Floats) -> tuple[Floats, Floats]:
    """Return both in units of the reference's mean and deviation; rows with gaps are left out."""
    sample = sample[np.isfinite(sample).all(-1)]
    reference = reference[np.isfinite(reference).all(-1)]
    if len(reference) == 0:
        return sample, reference
    mean, deviation = reference.mean(0), reference.std(0)
    deviation = np.where(deviation > 1e-12, deviation, 1.0)
    return (sample - mean) / deviation, (reference - mean) / deviation


def frechet(sample: Floats, reference: Floats) -> float:
    """Return the squared Frechet distance of two normal distributions fitted to the features.

    ``|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))`` (Heusel et al., arXiv:1706.08500, eq. 6).

    Args:
        sample: ``(S, F)``, standardised.
        reference: ``(R, F)``, standardised.
    """
    if len(sample) < 2 or len(reference) < 2:
        return math.nan
    gap = sample.mean(0) - reference.mean(0)
    one, two = (np.atleast_2d(np.cov(x, rowvar=False)) for x in (sample, reference))
    # the roots of the eigenvalues of C1 C2, by the symmetric C1^(1/2) C2 C1^(1/2)
    values, vectors = np.linalg.eigh(one)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ two @ root), 0)).sum()
    return float(max(0.0, gap @ gap + np.trace(one) + np.trace(two) - 2 * cross))


def mmd(sample: Floats, reference: Floats) -> float:
    """Return the squared maximum mean discrepancy, unbiased, with a Gaussian kernel.

    The kernel's width is the median distance between references (Gretton et al., JMLR 13, 723
    (2012), lemma 6 and section 8). Being unbiased, it may be slightly below 0.

    Args:
        sample: ``(S, F)``, standardised; at most `MMD_LIMIT` evenly spread rows are used.
        reference: ``(R, F)``, standardised; the same holds.
    """
    sample, reference = (side[evenly(len(side), MMD_LIMIT)] for side in (sample, reference))
    if len(sample) < 2 or len(reference) < 2:
        return math.nan
    within = _squared(reference, reference)
    width = np.median(within[~np.eye(len(within), dtype=bool)])
    scale = 1 / (2 * width) if width > 0 else 1.0
    inner = np.exp(-_squared(sample, sample) * scale)
    outer = np.exp(-within * scale)
    s, r = len(sample), len(reference)
    first = (inner.sum() - np.trace(inner)) / (s * (s - 1))
    second = (outer.sum() - np.trace(outer)) / (r * (r - 1))
    return float(first + second - 2 * np.exp(-_squared(sample, reference) * scale).mean())


def _squared(one: Floats, two: Floats) -> Floats:
    lengths = (one * one).sum(-1)[:, None] + (two * two).sum(-1)
    return np.maximum(lengths - 2 * one @ two.T, 0)
