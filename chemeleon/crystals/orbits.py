"""Crystals as a space group, a cell and one atom of each orbit, and back.

`canonical` writes a crystal so; here is what it is then, and how its atoms come back. Shapes: ``M``
crystals, ``O`` orbits of all of them, ``n`` of one. No torch here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from chemeleon.crystals.batch import Array, Crystals
from chemeleon.crystals.ragged import ranges
from chemeleon.crystals.symmetry import crystal_system, wrapped
from chemeleon.crystals.wyckoff import group

_FLAT = 1e-6  # square of a cell's volume over that of a box with its sides


class OrbitCrystal(NamedTuple):
    """One crystal as orbits, sorted by element, then letter, then coordinates.

    Attributes:
        number: of the space group.
        cell: ``(6,)`` of the conventional cell: a, b, c in angstrom, alpha, beta, gamma in radian.
        atomic_numbers: ``(n,)`` int64.
        letters: ``(n,)`` int64, 0 for Wyckoff letter a.
        coords: ``(n, 3)`` fractional coordinates of one atom, on the letter's `wyckoff.Place`.
    """

    number: int
    cell: Array
    atomic_numbers: Array
    letters: Array
    coords: Array


@dataclass(frozen=True)
class Orbits:
    """Any number of crystals as orbits, those of one after those of the other.

    Attributes:
        numbers: ``(M,)`` int64, space groups; 0 for a crystal that has none, and no orbits.
        cells: ``(M, 6)``, as in `OrbitCrystal`.
        num_orbits: ``(M,)`` int64.
        atomic_numbers: ``(O,)`` int64.
        letters: ``(O,)`` int64.
        coords: ``(O, 3)``.
    """

    numbers: Array
    cells: Array
    num_orbits: Array
    atomic_numbers: Array
    letters: Array
    coords: Array

    @staticmethod
    def of(crystals: Sequence[OrbitCrystal | None]) -> Orbits:
        """Put crystals one after the other; None becomes a crystal of no orbits."""
        good = [c for c in crystals if c is not None]
        whole, none = np.zeros(0, np.int64), np.zeros(6)
        return Orbits(
            np.array([0 if c is None else c.number for c in crystals], np.int64),
            np.array([none if c is None else c.cell for c in crystals]).reshape(-1, 6),
            np.array([0 if c is None else len(c.letters) for c in crystals], np.int64),
            np.concatenate([whole, *(c.atomic_numbers for c in good)]),
            np.concatenate([whole, *(c.letters for c in good)]),
            np.concatenate([np.zeros((0, 3)), *(c.coords for c in good)]),
        )

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Iterator[OrbitCrystal]:
        """Yield one crystal after the other."""
        ends = self.num_orbits.cumsum()
        for row, (start, end) in enumerate(zip(ends - self.num_orbits, ends, strict=True)):
            own = slice(int(start), int(end))
            parts = self.atomic_numbers[own], self.letters[own], self.coords[own]
            yield OrbitCrystal(int(self.numbers[row]), self.cells[row], *parts)


def projected_cells(number: int, cells: Array) -> Array:
    """Return cells ``(M, 6)`` moved onto what the crystal system of a group demands."""
    system, cells = crystal_system(number), cells.copy()
    if system == "triclinic":
        return cells
    if system == "monoclinic":
        cells[:, [3, 5]] = np.pi / 2
        return cells
    cells[:, 3:] = np.pi / 2
    if system in ("trigonal", "hexagonal"):
        cells[:, 5] = 2 * np.pi / 3
    if system == "cubic":
        cells[:, :3] = cells[:, :3].mean(1, keepdims=True)
    elif system != "orthorhombic":
        cells[:, :2] = cells[:, :2].mean(1, keepdims=True)
    return cells


def basis_of(number: int, cells: Array) -> Array:
    """Return conventional cells ``(..., 3, 3)`` of a group, rows a, b, c, a along x, in angstrom.

    Args:
        number: 1 to 230; cells are moved onto its crystal system.
        cells: ``(..., 6)``, as in `OrbitCrystal`; of one with impossible angles all is NaN.
    """
    flat = projected_cells(number, cells.reshape(-1, 6))
    cosines = np.tile(np.eye(3), (len(flat), 1, 1))
    for angle, (i, j) in enumerate(((1, 2), (0, 2), (0, 1)), 3):
        cosines[:, i, j] = cosines[:, j, i] = np.cos(flat[:, angle])
    real = (np.linalg.det(cosines) > _FLAT) & (flat[:, :3] > 0).all(1)
    bases = np.full(cosines.shape, np.nan)
    bases[real] = flat[real, :3, None] * np.linalg.cholesky(cosines[real])
    return bases.reshape(*cells.shape[:-1], 3, 3)


def crystals_of(orbits: Orbits) -> Crystals[Array]:
    """Return the primitive cells of crystals, exactly as symmetric as their groups say.

    Representatives are moved onto their letters' places, cells onto the crystal system.

    Returns:
        Crystals in the order of ``orbits``, atoms orbit after orbit; one without a group, or with
        angles that no cell has, has no atoms.
    """
    owners = np.arange(len(orbits)).repeat(orbits.num_orbits)
    lattices = np.zeros((len(orbits), 3, 3))
    counts = np.zeros(len(owners), np.int64)
    parts: list[tuple[Array, Array]] = []
    for number in np.unique(orbits.numbers[orbits.numbers > 0]).tolist():
        table, rows = group(number), orbits.numbers == number
        bases = basis_of(number, orbits.cells[rows])
        rows[rows] = real = np.isfinite(bases).all((1, 2))
        lattices[rows] = table.primitive @ bases[real]
        inverse = np.linalg.inv(table.primitive)
        for letter in np.unique(orbits.letters[rows[owners]]):
            chosen = np.flatnonzero(rows[owners] & (orbits.letters == letter))
            place = table.places[letter]
            images = place.images(place.project(orbits.coords[chosen])[:, None])
            counts[chosen] = images.shape[1]
            parts.append((chosen, wrapped(images @ inverse)))
    starts = counts.cumsum() - counts
    coords = np.empty((int(counts.sum()), 3))
    for chosen, images in parts:
        coords[ranges(starts[chosen], counts[chosen])] = images.reshape(-1, 3)
    atoms = np.bincount(owners, counts, len(orbits)).astype(np.int64)
    return Crystals(orbits.atomic_numbers.repeat(counts).astype(np.uint8), coords, lattices, atoms)
