"""How likely an element stands for another one in the same crystal structure.

Two sources are added up: how often two elements are found on the same sites of crystals that
agree in all else (data-mined substitution, as in Hautier et al., Inorg. Chem. 50, 656 (2011) and
Glawe et al., New J. Phys. 18, 093011 (2016), but without oxidation states), and how near they are
in Pauling electronegativity and atomic radius, which also speaks of rare elements.

Shapes: slot = atomic number, ``E`` = 100.
"""

from __future__ import annotations

import functools
import warnings
from collections import defaultdict
from collections.abc import Iterable

import numpy as np

from chemeleon.crystals.batch import MAX_ATOMIC_NUMBER, Array
from chemeleon.crystals.patterns import Order, Pattern

SELF = 3.0  # of an element with itself; chosen on mp/val, as is all that follows
_ELECTRONEGATIVITY, _RADIUS = 0.55, 0.37  # Pauling's units; angstrom
_PSEUDO = 2.0  # pairs of any element, spread as the other elements are
_FLOOR = 20.0  # of the same, with a substitution that was never seen
_SIZE = MAX_ATOMIC_NUMBER + 1


def similarities(patterns: Iterable[tuple[Pattern, tuple[Order, ...]]]) -> Array:
    """Return how alike elements are, as logarithms, ``(E, E)``; the larger the better.

    Args:
        patterns: of the training crystals, as `pattern_of` returns them.
    """
    pairs = _pairs(patterns)
    of_one, share = pairs.sum(1, keepdims=True), pairs.sum(0) / max(pairs.sum(), 1.0)
    share = np.maximum(share, 1e-9)
    mined = np.log((pairs + _PSEUDO * share) / (of_one * share + _FLOOR * share + 1e-4))
    found = (mined + mined.T) / 2 - nearness()
    np.fill_diagonal(found, SELF)
    return found


def _pairs(patterns: Iterable[tuple[Pattern, tuple[Order, ...]]]) -> Array:
    """Count pairs of elements on one slot of crystals with the same elements on all others."""
    seen: dict[tuple[Pattern, int, Order], set[int]] = defaultdict(set)
    for pattern, orders in patterns:
        for elements in orders:
            for slot, element in enumerate(elements):
                rest = elements[:slot] + elements[slot + 1 :]
                seen[pattern, slot, rest].add(element)
    pairs = np.zeros((_SIZE, _SIZE))
    for found in seen.values():
        if len(found) > 1:  # each element counts once, with however many others
            elements = np.array(sorted(found))
            pairs[np.ix_(elements, elements)] += 1 / (len(found) - 1)
    np.fill_diagonal(pairs, 0)
    return pairs


@functools.cache
def nearness() -> Array:
    """Return half the squared distances of elements in electronegativity and radius, scaled."""
    from pymatgen.core import Element

    table = np.zeros((_SIZE, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of elements without electronegativity
        for z in range(1, _SIZE):
            element = Element.from_Z(z)
            table[z] = float(element.X), float(element.atomic_radius or np.nan)
    table = np.where(np.isnan(table), np.nanmean(table[1:], 0), table)
    ways = (table[:, None] - table) / (_ELECTRONEGATIVITY, _RADIUS)
    return (ways * ways).sum(-1) / 2
