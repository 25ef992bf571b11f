"""Partial assignments: what has been chosen so far, and what may be chosen next.

Chosen are, in turn, formula units per primitive cell, space group, and the letter of each orbit:
element by element, lightest first, those of an element in the order of the alphabet.

Shapes: ``R`` partial assignments, ``E`` elements, ``N`` orbits.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from chemeleon.crystals.assignments import (
    Counts,
    atoms_of,
    letters_of,
    next_letters,
    possible_groups,
)
from chemeleon.crystals.batch import LETTERS, Array
from chemeleon.crystals.canonical import standard
from chemeleon.crystals.formula import reduced
from chemeleon.crystals.orbits import Assignment
from chemeleon.models.assignment import Formulas, Orbits


class PartialAssignment(NamedTuple):
    """A partial assignment.

    Attributes:
        formula: its elements and amounts, lightest first.
        target: number of the formula.
        log: logarithm of its probability.
        rank: what beams are cut by.
        units: formula units per primitive cell; 0 before they are chosen.
        group: space group; 0 before it is chosen.
        steps: of each orbit the place of its element in the formula, the atoms left of it before,
            and the letter.
        used: letters that one orbit may have and has, as bits.
    """

    formula: tuple[tuple[int, int], ...]
    target: int
    log: float = 0.0
    rank: float = 0.0
    units: int = 0
    group: int = 0
    steps: tuple[tuple[int, int, int], ...] = ()
    used: int = 0

    def next(self) -> tuple[int, int, int]:
        """Return the place and the atoms left of the next orbit's element, and the last letter.

        Behind the last orbit the place is that of no element.
        """
        place, left, last = 0, self.units * self.formula[0][1], 0
        if self.steps:
            place, before, last = self.steps[-1]
            left = before - letters_of(self.group).multiplicities[last]
            if not left:
                place, last = place + 1, 0
                left = self.units * self.formula[place][1] if place < len(self.formula) else 0
        return place, left, last

    def choices(self, most: int, units: Iterable[int] | None) -> Array:
        """Return what may be chosen next so that the formula can still be met exactly.

        Args:
            most: atoms of a cell.
            units: formula units that are allowed, of those that a cell has room for; None: all.
        """
        amounts = [count for _, count in self.formula]
        if not self.units:
            every = range(1, most // sum(amounts) + 1)
            return np.array([n for n in every if units is None or n in units], np.int64)
        if not self.group:
            return np.flatnonzero(possible_groups([self.units * count for count in amounts]))
        place, left, last = self.next()
        later: Counts = tuple(self.units * count for count in amounts[place + 1 :])
        return np.array(next_letters(self.group, (left, *later), last, self.used), np.int64)

    def chosen(self, choice: int, log: float, rank: float) -> PartialAssignment:
        """Return what this becomes by a choice."""
        new = self._replace(log=log, rank=rank)
        if not self.units:
            return new._replace(units=choice)
        if not self.group:
            return new._replace(group=choice)
        place, left, _ = self.next()
        used = self.used | letters_of(self.group).single[choice] << choice
        return new._replace(steps=(*self.steps, (place, left, choice)), used=used)

    @property
    def complete(self) -> bool:
        """Whether all atoms have letters."""
        return bool(self.steps) and self.next()[0] == len(self.formula)

    def assignment(self) -> Assignment:
        """Return a complete one in standard form."""
        numbers = np.array([self.formula[place][0] for place, _, _ in self.steps])
        letters = np.array([letter for *_, letter in self.steps])
        return standard(Assignment(self.group, numbers, letters))


def tensors(
    nodes: Sequence[PartialAssignment], energy: float, device: torch.device
) -> tuple[Formulas, Tensor, Tensor, Orbits]:
    """Return what the model reads of nodes: what is given, units, groups and orbits."""
    size, most = len(nodes), max(len(node.formula) for node in nodes)
    elements, amounts = np.zeros((2, size, most), np.int64)
    steps = [[*node.steps, *_next_step(node)] for node in nodes]
    width = max(map(len, steps))
    owner, left, before = np.zeros((3, size, width), np.int64)
    mask = np.zeros((size, width), bool)
    for i, (node, own) in enumerate(zip(nodes, steps, strict=True)):
        elements[i, : len(node.formula)], amounts[i, : len(node.formula)] = zip(
            *node.formula, strict=True
        )
        for j, (place, rest, letter) in enumerate(own):
            owner[i, j], left[i, j], mask[i, j] = place, rest, True
            if j + 1 < width:
                before[i, j + 1] = LETTERS * node.group + letter
    units, groups = (np.array([(node.units, node.group) for node in nodes])).T
    arrays = (elements, amounts, units, groups, owner, left, before, mask)
    there = [torch.from_numpy(np.ascontiguousarray(x)).to(device) for x in arrays]
    energies = torch.full((size,), energy, device=device)
    formulas = Formulas(there[0], there[1], energies)
    return formulas, there[2], there[3], Orbits(*there[4:])


def _next_step(node: PartialAssignment) -> list[tuple[int, int, int]]:
    """Return the orbit whose letter is to be chosen, if one is."""
    if not node.group or node.complete:
        return []
    place, left, _ = node.next()
    return [(place, left, 0)]


def completed(assignment: Assignment) -> PartialAssignment:
    """Return what a standard assignment is once all is chosen."""
    formula, units = reduced(atoms_of(assignment))
    node = PartialAssignment(tuple(formula.items()), 0, units=units, group=assignment.number)
    for letter in assignment.letters.tolist():
        node = node.chosen(letter, 0.0, 0.0)
    return node
