"""Which pairs of crystals `StructureMatcher` can match by their atoms: all maps at once.

pymatgen puts an atom of the second crystal on each atom of its kind in the first, for each map of
the lattices, and first asks whether every atom has one of its kind within a box. Setting that up
takes it a millisecond per map; here the question is asked of all maps of many pairs in one sweep.

The box is enlarged by `SLACK`, far beyond rounding. So what pymatgen would match always passes.

Shapes: ``C`` candidates, ``n`` atoms, ``E`` maps of lattices, ``A`` anchors, ``P`` pairs of atoms.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from chemeleon.crystals.batch import Array, Crystal, Crystals
from chemeleon.evaluation.matching.lattice_maps import Floats, Maps, unit_cells, unit_volume

SLACK = 1e-5
_CHUNK = 1_000_000  # entries of a flat array held at a time


def maps_that_fit(
    first: Crystal, others: Crystals[Array], cells: Floats, maps: Maps, stol: float
) -> NDArray[np.bool_]:
    """Return which maps could match the atoms, ``(E,)``.

    Args:
        first: reduced crystal, the first argument of ``fit``.
        others: ``C`` second arguments, of as many atoms.
        cells: ``(C, 6)`` of them, see `unit_cells`.
        maps: maps of the first lattice on theirs.
        stol: site tolerance, in units of ``(V/n)^(1/3)``.
    """
    atoms = len(first.atomic_numbers)
    numbers = others.atomic_numbers.reshape(-1, atoms)
    frac = others.frac_coords.reshape(-1, atoms, 3)
    box = _boxes(maps.scale @ unit_volume(first.lattice), cells[maps.owner], stol)
    box /= np.cbrt(atoms)
    # whole matrices of determinant 1 or -1 have whole inverses
    own = first.frac_coords @ np.round(np.linalg.inv(maps.scale))  # (E, n, 3)
    passed = np.zeros(len(maps.owner), dtype=bool)
    kinds, where = np.unique(numbers[maps.owner], axis=0, return_inverse=True)
    for kind, order in enumerate(kinds):  # nearly always one, as crystals are sorted by element
        same = order[:, None] == first.atomic_numbers  # (n of the second, n of the first)
        anchor = int(same.sum(1).argmin())
        anchors = np.flatnonzero(same[anchor])
        their, mine = np.nonzero(same)
        begins = np.searchsorted(their, np.arange(len(order)))
        rows = np.flatnonzero(where.reshape(-1) == kind)
        step = max(1, _CHUNK // (3 * len(anchors) * len(their)))
        for begin in range(0, len(rows), step):
            part = rows[begin : begin + step]
            moved = frac[maps.owner[part]]
            moved = moved - moved[:, anchor, None]
            apart = moved[:, their] - own[part][:, mine]  # (E, P, 3)
            apart = apart[:, None] + own[part][:, anchors, None]  # (E, A, P, 3)
            apart -= np.round(apart)
            near = (np.abs(apart) <= box[part][:, None, None]).all(-1)
            met = np.logical_or.reduceat(near, begins, axis=-1)  # (E, A, n)
            passed[part] = met.all(-1).any(-1)
    return passed


def _boxes(vectors: Floats, cells: Floats, stol: float) -> Floats:
    """Return the boxes ``(E, 3)`` for one atom per cell, fractional, of pymatgen's mean lattices.

    Args:
        vectors: ``(E, 3, 3)`` mapped lattices of volume 1.
        cells: ``(E, 6)`` that they are mapped on.
        stol: site tolerance.
    """
    mean = ((unit_cells(vectors) + cells) / 2).T
    (a, b, c), cosine, sine = mean[:3], np.cos(mean[3:]), np.sin(mean[3:])
    root = 1 - (cosine * cosine).sum(0) + 2 * cosine.prod(0)
    volume = a * b * c * np.sqrt(np.maximum(root, 1e-12))
    faces = np.stack([b * c * sine[0], a * c * sine[1], a * b * sine[2]], -1)
    return 2 * stol * faces / np.cbrt(volume * volume)[:, None] * (1 + SLACK) + SLACK
