"""Which pairs of lattices `StructureMatcher` can map on each other: many at once, and none missed.

pymatgen looks for three lattice vectors of the first crystal whose lengths and angles are within
tolerance of the second crystal's cell, and which span its primitive cell. Most pairs of one
composition have none, and finding that out takes pymatgen a third of a millisecond a pair. Here
one crystal is held against hundreds in one sweep over flat arrays.

All comparisons are loosened by `LENGTH_SLACK` and `ANGLE_SLACK_DEGREE`, which is far beyond
rounding. So a mapping that pymatgen finds is always found here, and a few more may be: an empty
answer is pymatgen's answer, any other is only a candidate.

Shapes: ``C`` candidates, ``P`` lattice vectors in reach. Cells are lengths and angles (radian) of
lattices at volume 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from chemeleon.crystals.batch import ranges
from chemeleon.crystals.lattice import cells_of
from chemeleon.data.niggli import points_within

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
_NONE = np.zeros(0, np.int64)
LENGTH_SLACK = 1e-7
ANGLE_SLACK_DEGREE = 1e-4
_CHUNK = 1_000_000  # entries of a flat array held at a time
_MAX_POINTS = 4000
_BANDS = np.array([1.5, 2.0, 3.0, 4.5, 7.0, 11.0])  # of the longest vector, at volume 1


class Maps(NamedTuple):
    """Maps of one lattice on others.

    Attributes:
        owner: ``(E,)`` int64, the candidate that each is a map on.
        scale: ``(E, 3, 3)`` int64, three lattice vectors in terms of the cell's.
        unknown: candidates with too many lattice points to look at: anything may map on them.
    """

    owner: Ints
    scale: Ints
    unknown: Ints


def unit_volume(lattices: Floats) -> Floats:
    """Return lattices ``(..., 3, 3)`` scaled to volume 1."""
    return lattices / np.cbrt(np.abs(np.linalg.det(lattices)))[..., None, None]


def unit_cells(lattices: Floats) -> Floats:
    """Return the cells ``(..., 6)`` of lattices ``(..., 3, 3)``."""
    return cells_of(unit_volume(lattices))


def possible_maps(lattice: Floats, cells: Floats, ltol: float, angle_tol: float) -> Maps:
    """Return all maps on candidates that ``StructureMatcher.fit`` could look at.

    Args:
        lattice: ``(3, 3)``, reduced lattice of the first argument of ``fit``.
        cells: ``(C, 6)`` of reduced lattices of second arguments.
        ltol: tolerance of lengths, a fraction.
        angle_tol: tolerance of angles, degrees.
    """
    scaled = unit_volume(lattice)
    reach = (1 + ltol) * (1 + LENGTH_SLACK)
    # one long cell must not widen the sphere of all
    band = np.searchsorted(_BANDS, cells[:, :3].max(-1))
    owners, scales, unknown = [_NONE], [_NONE.reshape(0, 3, 3)], [_NONE]
    for value in np.unique(band):
        part = np.flatnonzero(band == value)
        try:
            for owner, scale in _maps(scaled, cells[part], reach, angle_tol):
                owners.append(part[owner])
                scales.append(scale)
        except MemoryError:
            unknown.append(part)  # pymatgen will say
    return Maps(np.concatenate(owners), np.concatenate(scales), np.concatenate(unknown))


def _maps(
    scaled: Floats, cells: Floats, reach: float, angle_tol: float
) -> Iterator[tuple[Ints, Ints]]:
    """Yield the maps of the lattice, of volume 1, on candidates, and which candidates."""
    sides, angles = cells[:, :3], cells[:, 3:]
    radius = float(sides.max()) * reach
    _, _, images, lengths = points_within(np.zeros((1, 3)), scaled, radius)
    if len(images) > _MAX_POINTS:
        raise MemoryError(f"{len(images)} lattice points in reach")
    order = np.argsort(lengths, kind="stable")[1:]  # without the origin
    images, lengths = images[order].astype(np.int64), lengths[order]
    points = images @ scaled
    cosine = points @ points.T / lengths[:, None] / lengths
    first = np.searchsorted(lengths, sides / reach, side="left")  # (C, 3)
    last = np.searchsorted(lengths, sides * reach, side="right")
    margin = np.deg2rad(angle_tol + ANGLE_SLACK_DEGREE)
    low, high = np.cos(np.minimum(angles + margin, np.pi)), np.cos(np.maximum(angles - margin, 0))
    counts = np.maximum(last - first, 0)
    for rows in _split(counts[:, 0] * counts[:, 1]):
        yield from _sweep(rows, first, counts, cosine, low, high, images)


def _split(sizes: Ints) -> list[Ints]:
    """Cut candidates into runs of bounded total size; those of size 0 are left out."""
    rows = np.flatnonzero(sizes)
    group = np.cumsum(sizes[rows]) // _CHUNK
    return np.split(rows, np.flatnonzero(np.diff(group)) + 1) if len(rows) else []


def _sweep(
    rows: Ints, first: Ints, counts: Ints, cosine: Floats, low: Floats, high: Floats, images: Ints
) -> Iterator[tuple[Ints, Ints]]:
    """Yield candidates among ``rows``, with repetitions, and three vectors that fit each."""
    pairs = counts[rows, 0] * counts[rows, 1]
    owner, place = np.repeat(rows, pairs), ranges(np.zeros_like(pairs), pairs)
    i = first[owner, 0] + place // counts[owner, 1]
    j = first[owner, 1] + place % counts[owner, 1]
    between = cosine[i, j]
    kept = np.flatnonzero((between >= low[owner, 2]) & (between <= high[owner, 2]))
    owner, i, j = owner[kept], i[kept], j[kept]
    for part in _split(counts[owner, 2]):
        third = counts[owner[part], 2]
        inner = np.repeat(part, third)
        who, a, b = owner[inner], i[inner], j[inner]
        c = ranges(first[owner[part], 2], third)
        beta = cosine[a, c]
        kept = np.flatnonzero((beta >= low[who, 1]) & (beta <= high[who, 1]))
        who, a, b, c = who[kept], a[kept], b[kept], c[kept]
        alpha = cosine[b, c]
        kept = np.flatnonzero((alpha >= low[who, 0]) & (alpha <= high[who, 0]))
        who, a, b, c = who[kept], a[kept], b[kept], c[kept]
        scale = np.stack([images[a], images[b], images[c]], axis=1)
        kept = np.flatnonzero(np.abs(np.round(np.linalg.det(scale))) == 1)
        yield who[kept], scale[kept]
