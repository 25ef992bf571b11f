"""Whether a crystal is another arrangement of like elements on the sites of a known one.

The rule is MatterGen's (Zeni et al., Nature 639, 624 (2025), supplement, and its public code). Two
crystals of one reduced formula are the same if they match as they are, or else once elements that
may stand for each other are spread evenly over their sites. Two elements may, if

- their atomic radii differ by at most `MOST_RADIUS_DIFFERENCE` of the mean of both, and
- their electronegativities differ by at most `MOST_ELECTRONEGATIVITY_DIFFERENCE`,

a modified Hume-Rothery rule with limits found on the ICSD; nothing is asked of valence or of the
crystal structures of the pure elements. Radii are J. C. Slater's (J. Chem. Phys.
41, 3199 (1964)), electronegativities Pauling's, both as pymatgen has them; an element without one
of the two (noble gases, Fr, Cm and beyond) stands for no other. Elements joined by a chain of like
ones form one group, among the elements of the crystal alone.

What the publication leaves open, or its code does otherwise: it spreads the elements of one crystal
only, and looks for the other in a supercell of it, where sites may be left empty. Here both are
spread and reduced to primitive cells, as pymatgen's matcher does with two disordered structures:
neither is treated otherwise than the other, and a crystal with vacancies is not the full one.
Its code also joins crystals with partly occupied sites whose compositions differ by a tenth; here
no crystal has such sites. An earlier version of it compared ordered crystals only if their space
groups agree; neither the later one nor this does.

A site with an even share of a group's elements compares as one of a single element does, so the
crystals are written with one element for each group, and the matcher of ordered crystals answers.
"""

from __future__ import annotations

import functools
import warnings
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chemeleon.crystals.batch import Array, Crystals
from chemeleon.evaluation.matching.grouping import (
    Novelty,
    Prepared,
    elements_of,
    find_known,
    first_joined,
    prepare,
)
from chemeleon.evaluation.matching.limits import Tolerances

MOST_RADIUS_DIFFERENCE = 0.3
MOST_ELECTRONEGATIVITY_DIFFERENCE = 1.0


@functools.cache
def alike(one: int, two: int) -> bool:
    """Tell whether two elements, by atomic number, may stand for each other."""
    (radius, x), (other_radius, other_x) = _properties(one), _properties(two)
    apart = abs(radius - other_radius) / ((radius + other_radius) / 2)
    near = apart <= MOST_RADIUS_DIFFERENCE
    return bool(near and abs(x - other_x) <= MOST_ELECTRONEGATIVITY_DIFFERENCE)


@functools.cache
def _properties(number: int) -> tuple[float, float]:
    """Return radius in angstrom and electronegativity, NaN where there is none."""
    from pymatgen.core import Element

    element = Element.from_Z(number)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of those without electronegativity
        return float(element.atomic_radius or np.nan), float(element.X)


def groups_of(key: bytes) -> dict[int, int]:
    """Return the like elements of a composition: each to the first of its group.

    Args:
        key: one of `grouping.composition_keys`.

    Returns:
        Atomic number to atomic number; of nothing if no two elements are alike.
    """
    elements = sorted(elements_of(key))
    pairs = [(i, j) for i, j in combinations(range(len(elements)), 2)
             if alike(elements[i], elements[j])]  # fmt: skip
    first = first_joined(len(elements), np.array(pairs, dtype=np.int64).reshape(-1, 2))
    return {z: elements[i] for z, i in zip(elements, first.tolist(), strict=True)} if pairs else {}


def find_alike(
    crystals: Crystals[Array],
    keys: list[bytes],
    asked: NDArray[np.bool_],
    known: Crystals[Array],
    known_keys: list[bytes],
    tolerances: Tolerances,
    **common: Any,
) -> Novelty:
    """Look for crystals among known ones, like elements standing for each other.

    Args:
        crystals: ``C`` crystals as given.
        keys: their compositions.
        asked: ``(C,)``, which to look for: those that have no match as they are.
        known: crystals of the reference as given.
        known_keys: their compositions.
        tolerances: ltol, stol, angle_tol in degrees.
        common: ``seconds``, ``workers`` and ``progress`` of `grouping.prepare`.
    """
    match = np.full(len(keys), -1, dtype=np.int64)
    undecided = np.zeros(len(keys), dtype=np.int64)
    there = {k for k, ask in zip(keys, asked, strict=True) if ask}.intersection(known_keys)
    groups = {key: group for key in there if (group := groups_of(key))}
    rows = np.array([i for i, k in enumerate(keys) if asked[i] and k in groups], dtype=np.int64)
    others = np.array([i for i, k in enumerate(known_keys) if k in groups], dtype=np.int64)
    if len(rows) == 0:
        return Novelty(match, undecided)
    ours = _spread(crystals, keys, rows, groups, common)
    theirs = _spread(known, known_keys, others, groups, common)
    found = find_known(ours, theirs, tolerances, **common)
    match[rows] = np.where(found.match >= 0, others[found.match], -1)
    undecided[rows] = found.undecided
    return Novelty(match, undecided)


def _spread(
    crystals: Crystals[Array],
    keys: list[bytes],
    rows: NDArray[np.int64],
    groups: dict[bytes, dict[int, int]],
    common: dict[str, Any],
) -> Prepared:
    """Return crystals with one element for each group, reduced, under the keys they had."""
    part = crystals.subset(rows)
    chosen = [keys[row] for row in rows.tolist()]
    atoms = zip(part.owners.tolist(), part.atomic_numbers.tolist(), strict=True)
    numbers = np.array([groups[chosen[i]][z] for i, z in atoms], dtype=part.atomic_numbers.dtype)
    return prepare(replace(part, atomic_numbers=numbers), **common)._replace(keys=chosen)
