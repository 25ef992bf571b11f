"""Prototypes: crystals of a training set that a formula fits, with its elements in their place.

A formula is compared with every training crystal whose cell has as many atoms of each kind, in all
ways to put its elements in the place of that crystal's. Each way is a vote for an assignment; it
weighs the more, the more alike the elements are (`substitution`) and the more stable the crystal.

Shapes: ``M`` training crystals, ``X`` of them with the same numbers of atoms, ``F`` ways to fill
slots, ``s`` slots, ``n`` orbits.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from chemeleon.crystals.assignments import Counts, assignments_of
from chemeleon.crystals.batch import LETTERS, Array, Crystals
from chemeleon.crystals.orbits import Assignment, OrbitCrystal, orbit_crystal
from chemeleon.crystals.patterns import Order, Pattern, fillings, pattern_of
from chemeleon.generation.substitution import similarities
from chemeleon.generation.volumes import atomic_volumes, multiplicities

SCALE = 0.1  # eV/atom: a crystal this far above the hull has 1/e of the weight of a stable one


class Candidate(NamedTuple):
    """An assignment of a formula that a training crystal has with other elements.

    Attributes:
        assignment: in standard form.
        share: of the votes of all training crystals for the formula.
        example: row of the training crystal with the heaviest vote.
        name: of that crystal; empty if it has none.
        elements: ``(n,)`` atomic numbers of the orbits of that crystal, after the exchange.
    """

    assignment: Assignment
    share: float
    example: int
    name: str
    elements: Array


class _Shelf(NamedTuple):
    """Training crystals whose cells have the same numbers of atoms of each kind.

    Attributes:
        patterns: the distinct ones.
        kinds: ``(X,)`` index into them.
        elements: ``(X, s)`` atomic numbers.
        rows: ``(X,)`` of the training set.
    """

    patterns: list[Pattern]
    kinds: Array
    elements: Array
    rows: Array


class Prototypes:
    """An index of training crystals by the numbers of atoms in their cells.

    Args:
        orbits: ``M`` training crystals written as orbits (`orbit_sets.write_as_orbits`).
        energies: ``(M,)`` above the hull in eV/atom; NaN counts as `SCALE`. Without them all
            crystals weigh the same.
    """

    def __init__(self, orbits: Crystals[Array], energies: Array | None = None) -> None:
        self.orbits = orbits
        above = np.zeros(len(orbits)) if energies is None else np.asarray(energies, float)
        above = np.where(np.isnan(above), SCALE, above)
        self.weights = np.exp(-np.maximum(above, 0.0) / SCALE)
        found = [pattern_of(assignment) for assignment in assignments_of(orbits)]
        self.similarities = similarities(found)
        self.volumes = atomic_volumes(orbits)
        self._turns: dict[Pattern, list[Order]] = {}
        rows: dict[Counts, list[int]] = defaultdict(list)
        for row, (pattern, orders) in enumerate(found):
            rows[pattern.counts].append(row)
            if pattern not in self._turns:
                place = {element: i for i, element in enumerate(orders[0])}
                turns = [tuple(place[element] for element in order) for order in orders]
                self._turns[pattern] = turns
        self._shelves = {key: _shelf(found, own) for key, own in rows.items()}

    @property
    def most_atoms(self) -> int:
        """Atoms of the largest primitive cell."""
        return max(map(sum, self._shelves))

    def __len__(self) -> int:
        """Return how many distinct patterns there are."""
        return len(self._turns)

    def propose(
        self, formula: dict[int, int], k: int, units: Iterable[int] | None = None
    ) -> list[Candidate]:
        """Return the ``k`` assignments with the most votes, or as many as there are.

        Args:
            formula: atomic number to atoms of one formula unit.
            k: how many.
            units: formula units per primitive cell to consider; None: all that there are.
        """
        wanted = tuple(sorted(formula.values()))
        found: list[tuple[float, Pattern, Order, int]] = []
        for key, shelf in self._shelves.items():
            times = key[0] // wanted[0]
            if key != tuple(times * n for n in wanted) or (units and times not in units):
                continue
            atoms = {element: times * n for element, n in formula.items()}
            found += self._votes(shelf, fillings(key, atoms))
        total = sum(votes for votes, *_ in found)
        found.sort(key=lambda one: (-one[0], one[1:]))
        return [
            self._candidate(votes / total, pattern, way, row)
            for votes, pattern, way, row in found[:k]
        ]

    def _votes(
        self, shelf: _Shelf, ways: Sequence[Order]
    ) -> list[tuple[float, Pattern, Order, int]]:
        """Return votes, pattern, elements and first example of all assignments of a shelf."""
        slots = np.array(ways)
        alike = self.similarities[shelf.elements[:, None], slots[None]].sum(-1)  # (X, F)
        weights = np.exp(alike) * self.weights[shelf.rows, None]
        place = {way: i for i, way in enumerate(ways)}
        found, everything = [], np.arange(len(ways))
        for kind, pattern in enumerate(shelf.patterns):
            own = np.flatnonzero(shelf.kinds == kind)
            votes, turns, first = weights[own], self._turns[pattern], everything
            if len(turns) > 1:
                same = [[place[tuple(way[i] for i in turn)] for turn in turns] for way in ways]
                votes = votes[:, same].max(-1)
                first = np.flatnonzero(np.min(same, 1) == everything)
            best, total = shelf.rows[own[votes.argmax(0)]].tolist(), votes.sum(0).tolist()
            found += [(total[i], pattern, ways[i], best[i]) for i in first.tolist()]
        return found

    def _candidate(self, share: float, pattern: Pattern, way: Order, row: int) -> Candidate:
        example = self.example(row)
        _, orders = pattern_of(Assignment(example.number, example.atomic_numbers, example.letters))
        scores = [sum(self.similarities[a, b] for a, b in zip(o, way, strict=True)) for o in orders]
        new = dict(zip(orders[int(np.argmax(scores))], way, strict=True))
        elements = np.array([new[z] for z in example.atomic_numbers.tolist()])
        name = self.orbits.ids[row] if self.orbits.ids else ""
        return Candidate(pattern.filled(way), share, row, name, elements)

    def example(self, row: int) -> OrbitCrystal:
        """Return a training crystal."""
        return orbit_crystal(self.orbits, row)

    def crystal(self, candidate: Candidate) -> OrbitCrystal:
        """Return the example of a candidate with its elements exchanged and its volume scaled."""
        old = self.example(candidate.example)
        sizes = multiplicities(LETTERS * old.number + old.letters)
        before = sizes @ self.volumes[old.atomic_numbers]
        after = sizes @ self.volumes[candidate.elements]
        cell = old.cell.copy()
        cell[:3] *= (after / before) ** (1 / 3)
        return old._replace(cell=cell, atomic_numbers=candidate.elements)


def _shelf(found: Sequence[tuple[Pattern, tuple[Order, ...]]], rows: Sequence[int]) -> _Shelf:
    patterns: dict[Pattern, int] = {}
    kinds = [patterns.setdefault(found[row][0], len(patterns)) for row in rows]
    elements = np.array([found[row][1][0] for row in rows])
    return _Shelf(list(patterns), np.array(kinds), elements, np.array(rows))
