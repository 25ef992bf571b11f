"""Histograms of a sample beside a reference, in shares, so that sets of unlike size compare."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_BINS = 36
_TAIL = 0.005  # share of each set that may lie beyond either end of the axis
_MOST_DISCRETE = 60  # wider ranges of whole numbers are binned


class Histogram(NamedTuple):
    """Shares in percent of the finite values of each set; `H` bins."""

    edges: np.ndarray  # (H + 1,)
    sample: np.ndarray  # (H,)
    reference: np.ndarray | None  # (H,), None without a reference
    discrete: bool  # one bin per whole number, in the middle of its bin
    beyond: tuple[float, float]  # percent outside the axis: sample, reference
    counts: tuple[int, int]  # finite values


def histogram(sample: Sequence[float], reference: Sequence[float] = ()) -> Histogram | None:
    """Bin two sets on common edges; None where neither has a finite value.

    Whole numbers within a range of 60 get a bin each; otherwise 36 bins span all but the outermost
    half percent of each set at either end.
    """
    ours, theirs = _finite(sample), _finite(reference)
    both = [values for values in (ours, theirs) if len(values)]
    if not both:
        return None
    low = min(float(values.min()) for values in both)
    high = max(float(values.max()) for values in both)
    whole = all(np.array_equal(values, np.round(values)) for values in both)
    discrete = whole and high - low <= _MOST_DISCRETE
    if discrete:
        edges = np.arange(low - 0.5, high + 1)
    else:
        low = min(float(np.quantile(values, _TAIL)) for values in both)
        high = max(float(np.quantile(values, 1 - _TAIL)) for values in both)
        pad = 0.02 * (high - low) or max(abs(low), 1.0) * 0.05
        low = 0.0 if 0 <= low < 0.15 * high else low - pad
        edges = np.linspace(low, high + pad, _BINS + 1)
    shares, outside = [], []
    for values in (ours, theirs):
        counts, _ = np.histogram(values, edges)
        total = max(len(values), 1)
        shares.append(100 * counts / total)
        outside.append(100 * (len(values) - int(counts.sum())) / total)
    return Histogram(
        edges,
        shares[0],
        shares[1] if len(theirs) else None,
        discrete,
        (outside[0], outside[1]),
        (len(ours), len(theirs)),
    )


def _finite(values: Sequence[float]) -> np.ndarray:
    numbers = np.array([np.nan if value is None else value for value in values], float)
    return numbers[np.isfinite(numbers)]
