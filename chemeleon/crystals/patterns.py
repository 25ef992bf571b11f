"""Patterns: assignments without names of elements, the prototypes that crystals share.

A pattern has slots instead of elements. Some slots are exchanged by a change of axes or origin, as
those of rock salt are: whichever element is on which, the assignment is the same.

Shapes: ``n`` orbits, ``s`` slots. No torch here.
"""

from __future__ import annotations

import functools
import itertools
from typing import NamedTuple

import numpy as np

from chemeleon.crystals.assignments import Counts, letters_of
from chemeleon.crystals.canonical import equivalent, standard
from chemeleon.crystals.orbits import Assignment

Order = tuple[int, ...]  # of s slots


class Pattern(NamedTuple):
    """A space group, and how many atoms of the primitive cell are on which letters, by slots.

    Attributes:
        number: of the space group.
        slots: ``s`` pairs of atoms and the sorted letters that they are on, in their order.
    """

    number: int
    slots: tuple[tuple[int, Counts], ...]

    @property
    def counts(self) -> Counts:
        """Atoms of each slot, in rising order."""
        return tuple(count for count, _ in self.slots)

    def filled(self, elements: Order) -> Assignment:
        """Return the assignment with an element, by atomic number, in each slot."""
        letters = [np.array(letters, np.int64) for _, letters in self.slots]
        sizes = [len(one) for one in letters]
        numbers = np.array(elements, np.int64).repeat(sizes)
        return standard(Assignment(self.number, numbers, np.concatenate(letters)))


def pattern_of(assignment: Assignment) -> tuple[Pattern, tuple[Order, ...]]:
    """Return the pattern of an assignment, and the elements in its slots in each possible order."""
    elements, owner = np.unique(assignment.atomic_numbers, return_inverse=True)
    letters = tuple(assignment.letters.tolist())
    pattern, orders = _pattern(assignment.number, letters, tuple(owner.tolist()))
    return pattern, tuple(tuple(int(elements[i]) for i in order) for order in orders)


@functools.lru_cache(1 << 16)
def _pattern(number: int, letters: Counts, owner: Counts) -> tuple[Pattern, tuple[Order, ...]]:
    sizes, kinds = letters_of(number).multiplicities, range(max(owner) + 1)
    counts = [sum(sizes[x] for x, k in zip(letters, owner, strict=True) if k == j) for j in kinds]
    first: tuple[tuple[int, Counts], ...] | None = None
    orders: set[Order] = set()
    for row in equivalent(number, letters).tolist():
        own = [sorted(x for x, k in zip(row, owner, strict=True) if k == j) for j in kinds]
        slots = [(count, tuple(one)) for count, one in zip(counts, own, strict=True)]
        order = sorted(kinds, key=slots.__getitem__)
        key = tuple(slots[j] for j in order)
        if first is None or key < first:
            first, orders = key, set()
        if key == first:
            same = (tuple(g) for _, g in itertools.groupby(order, slots.__getitem__))
            ways = itertools.product(*(itertools.permutations(g) for g in same))
            orders |= {tuple(itertools.chain(*way)) for way in ways}
    assert first is not None
    return Pattern(number, first), tuple(sorted(orders))


def fillings(counts: Counts, atoms: dict[int, int]) -> list[Order]:
    """Return the ways to put the elements of a cell into slots with as many atoms.

    Args:
        counts: atoms of each slot, in rising order.
        atoms: atomic number to atoms in the cell.
    """
    blocks = [[z for z, n in sorted(atoms.items()) if n == count] for count in sorted(set(counts))]
    if tuple(sorted(atoms.values())) != counts:
        return []
    ways = itertools.product(*(itertools.permutations(block) for block in blocks))
    return [tuple(itertools.chain(*way)) for way in ways]
