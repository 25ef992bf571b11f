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
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch

from chemeleon.crystals.assignments import Counts
from chemeleon.crystals.batch import LETTERS, Array, Crystals
from chemeleon.crystals.orbits import (
    Assignment,
    OrbitCrystal,
    crystals_of,
    orbit_crystal,
    put_together,
)
from chemeleon.crystals.patterns import Order, Pattern, fillings, pattern_of
from chemeleon.evaluation.matching.amd import average_minimum_distances, chebyshev
from chemeleon.generation.prototype_index import Index
from chemeleon.generation.volumes import multiplicities

SCALE = 0.1  # eV/atom: a crystal this far above the hull has 1/e of the weight of a stable one
VOTERS = 32  # the heaviest, that are compared
NEIGHBOURS = 30  # whose distances are
NEAR = 0.01  # of them, in units of (V/N)^(1/3); chosen on mp/val
OWN_SCALE = 0.03  # the same of crystals of the formula itself: it is they that are (un)stable


class Candidate(NamedTuple):
    """An assignment of a formula that a training crystal has with other elements.

    Attributes:
        assignment: in standard form.
        share: of the votes of all training crystals for the formula.
        way: elements in the slots of the pattern.
        voters: ``(V,)`` rows of the training crystals with the heaviest votes, heaviest first.
        votes: ``(V,)`` of these, as shares of all.
        example: row of the training crystal that the candidate is made of.
        name: of that crystal; empty if it has none.
        elements: ``(n,)`` atomic numbers of the orbits of that crystal, after the exchange.
    """

    assignment: Assignment
    share: float
    way: Order
    voters: Array
    votes: Array
    example: int
    name: str
    elements: Array


class Prototypes:
    """Training crystals, to be found by the numbers of atoms in their cells.

    Args:
        orbits: ``M`` training crystals written as orbits (`orbit_sets.write_as_orbits`).
        energies: ``(M,)`` above the hull in eV/atom; NaN weighs 1/e. Without them all crystals
            weigh the same.
        index: of the crystals; None: it is made, which takes seconds for large sets.
    """

    def __init__(
        self, orbits: Crystals[Array], energies: Array | None = None, index: Index | None = None
    ) -> None:
        self.orbits = orbits
        above = np.zeros(len(orbits)) if energies is None else np.asarray(energies, float)
        known = np.where(np.isnan(above), 0.0, np.maximum(above, 0.0))
        self.weights = np.exp(np.where(np.isnan(above), -1.0, -known / SCALE))
        self.own_weights = np.exp(np.where(np.isnan(above), -1.0, -known / OWN_SCALE))
        self.index = Index.of(orbits) if index is None else index
        self._shelves: dict[Counts, list[int]] = defaultdict(list)
        for kind, pattern in enumerate(self.index.patterns):
            self._shelves[pattern.counts].append(kind)
        sizes = np.array([len(pattern.slots) for pattern in self.index.patterns])
        self._ends = sizes[self.index.kinds].cumsum()

    @property
    def most_atoms(self) -> int:
        """Atoms of the largest primitive cell."""
        return max(map(sum, self._shelves))

    def __len__(self) -> int:
        """Return how many distinct patterns there are."""
        return len(self.index.patterns)

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
        found: list[tuple[float, Pattern, Order, Array, Array]] = []
        for key, kinds in self._shelves.items():
            times = key[0] // wanted[0]
            if key != tuple(times * n for n in wanted) or (units and times not in units):
                continue
            atoms = {element: times * n for element, n in formula.items()}
            found += self._votes(kinds, fillings(key, atoms))
        total = sum(votes for votes, *_ in found)
        found.sort(key=lambda one: (-one[0], one[1:]))
        return [
            self._candidate(votes / total, pattern, way, rows, own / total)
            for votes, pattern, way, rows, own in found[:k]
        ]

    def _votes(
        self, kinds: Sequence[int], ways: Sequence[Order]
    ) -> list[tuple[float, Pattern, Order, Array, Array]]:
        """Return votes, pattern, elements, voters and the vote of each, of some patterns' fillings.

        Those that mean the same assignment are one.
        """
        slots, index = np.array(ways), self.index
        rows = np.flatnonzero(np.isin(index.kinds, kinds))
        elements = index.elements[self._ends[rows, None] + np.arange(-slots.shape[1], 0)]
        alike = index.similarities[elements[:, None], slots].sum(-1)  # (X, F)
        place = {way: i for i, way in enumerate(ways)}
        itself = [order in place for order in map(tuple, elements.tolist())]
        weights = (
            np.exp(alike) * np.where(itself, self.own_weights[rows], self.weights[rows])[:, None]
        )
        found, everything = [], np.arange(len(ways))
        for kind in kinds:
            own = np.flatnonzero(index.kinds[rows] == kind)
            votes, turns, first = weights[own], index.turns[kind], everything
            if len(turns) > 1:
                same = [[place[tuple(way[i] for i in turn)] for turn in turns] for way in ways]
                votes = votes[:, same].max(-1)
                first = np.flatnonzero(np.min(same, 1) == everything)
            pattern, total, voters = index.patterns[kind], votes.sum(0).tolist(), rows[own]
            found += [(total[i], pattern, ways[i], voters, votes[:, i]) for i in first.tolist()]
        return found

    def _candidate(
        self, share: float, pattern: Pattern, way: Order, rows: Array, votes: Array
    ) -> Candidate:
        heaviest = np.argsort(-votes, kind="stable")[:VOTERS]
        rows, votes = rows[heaviest], votes[heaviest]
        return Candidate(pattern.filled(way), share, way, rows, votes, *self._made(rows[0], way))

    def _made(self, row: int, way: Order) -> tuple[int, str, Array]:
        """Return row, name and exchanged elements of a training crystal of a candidate."""
        example = self.example(row)
        _, orders = pattern_of(Assignment(example.number, example.atomic_numbers, example.letters))
        alike = self.index.similarities
        scores = [sum(alike[a, b] for a, b in zip(o, way, strict=True)) for o in orders]
        new = dict(zip(orders[int(np.argmax(scores))], way, strict=True))
        elements = np.array([new[z] for z in example.atomic_numbers.tolist()])
        return int(row), self.orbits.ids[row] if self.orbits.ids else "", elements

    def typical(self, candidate: Candidate) -> Candidate:
        """Return a candidate made of the voter that is the most like all voters, by their votes.

        Crystals with the same letters may differ in free coordinates and cells; the heaviest vote
        may come from an odd one. They are compared by their average minimum distances.
        """
        rows, votes = candidate.voters, candidate.votes
        if len(rows) == 1:
            return candidate
        crystals = crystals_of(put_together([self.example(row) for row in rows])).tensors()
        room = torch.linalg.det(crystals.lattice).abs() / crystals.num_atoms
        scaled = crystals.lattice / room[:, None, None] ** (1 / 3)
        distances = average_minimum_distances(replace(crystals, lattice=scaled), NEIGHBOURS)
        apart = chebyshev(distances, distances).nan_to_num(torch.inf).fill_diagonal_(0).numpy()
        like = np.exp(-((apart / NEAR) ** 2) / 2) @ votes
        best = int(np.argmax(votes * like))
        number, name, elements = self._made(rows[best], candidate.way)
        return candidate._replace(example=number, name=name, elements=elements)

    def example(self, row: int) -> OrbitCrystal:
        """Return a training crystal."""
        return orbit_crystal(self.orbits, row)

    def crystal(self, candidate: Candidate) -> OrbitCrystal:
        """Return the example of a candidate with its elements exchanged and its volume scaled."""
        old = self.example(candidate.example)
        sizes = multiplicities(LETTERS * old.number + old.letters)
        before = sizes @ self.index.volumes[old.atomic_numbers]
        after = sizes @ self.index.volumes[candidate.elements]
        cell = old.cell.copy()
        cell[:3] *= (after / before) ** (1 / 3)
        return old._replace(cell=cell, atomic_numbers=candidate.elements)
