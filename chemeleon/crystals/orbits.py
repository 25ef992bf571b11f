"""Crystals as a space group, a cell and one atom of each orbit, and back.

`canonical` writes a crystal so; here is what it is then, and how its atoms come back. Shapes: ``M``
crystals, ``n`` orbits of one. No torch here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from chemeleon.crystals.batch import LETTERS, MAX_ATOMIC_NUMBER, Array, Crystals
from chemeleon.crystals.lattice import cells_of
from chemeleon.crystals.ragged import ranges
from chemeleon.crystals.symbols import SPACE_GROUPS
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

    @property
    def assignment(self) -> Assignment:
        """Which letters its elements are on."""
        return Assignment(self.number, self.atomic_numbers, self.letters)


class Assignment(NamedTuple):
    """Which Wyckoff letters the elements of a crystal are on: an `OrbitCrystal` without geometry.

    Orbits are sorted by element, then letter.

    Attributes:
        number: of the space group.
        atomic_numbers: ``(n,)`` int64.
        letters: ``(n,)`` int64, 0 for Wyckoff letter a.
    """

    number: int
    atomic_numbers: Array
    letters: Array

    def problem(self) -> str | None:
        """Return why no crystal can have these orbits, or None."""
        number, elements, letters = self.number, list(self.atomic_numbers), list(self.letters)
        if not 1 <= number <= SPACE_GROUPS:
            return f"space groups have numbers of 1 to {SPACE_GROUPS}, got {number}"
        if not elements or len(elements) != len(letters):
            return (
                "each orbit has an element and a letter, and there is at least one orbit: got"
                f" {len(elements)} elements and {len(letters)} letters"
            )
        if min(elements) < 1 or max(elements) > MAX_ATOMIC_NUMBER:
            return f"elements are atomic numbers of 1 to {MAX_ATOMIC_NUMBER}, got {elements}"
        places = group(number).places
        if min(letters) < 0 or max(letters) >= len(places):
            return (
                f"Wyckoff letters of space group {number} are 0 (a) to {len(places) - 1}"
                f" ({places[-1].letter}), got {letters}"
            )
        for letter in set(letters):
            if letters.count(letter) > 1 and not places[letter].free.any():
                return (
                    f"{letters.count(letter)} orbits are on letter {places[letter].letter} of space"
                    f" group {number}, whose points cannot be moved apart: one orbit takes them all"
                )
        return None


def put_together(crystals: Sequence[OrbitCrystal | None]) -> Crystals[Array]:
    """Put crystals one after the other, as `Crystals` with sites; None becomes one of no orbits."""
    good = [c for c in crystals if c is not None]
    whole, none = np.zeros(0, np.int64), np.zeros((3, 3))
    return Crystals(
        np.concatenate([whole, *(c.atomic_numbers for c in good)]).astype(np.uint8),
        np.concatenate([np.zeros((0, 3)), *(c.coords for c in good)]),
        np.array([none if c is None else basis_of(c.number, c.cell) for c in crystals]),
        np.array([0 if c is None else len(c.letters) for c in crystals], np.int64),
        sites=np.concatenate([whole, *(LETTERS * c.number + c.letters for c in good)]),
    )


def orbit_crystal(crystals: Crystals[Array], row: int) -> OrbitCrystal:
    """Return one of crystals with sites, in arrays, that has orbits."""
    numbers, coords, basis = crystals.crystal(row)
    assert crystals.sites is not None
    start = int(crystals.starts[row])
    groups, letters = np.divmod(crystals.sites[start : start + len(numbers)], LETTERS)
    return OrbitCrystal(int(groups[0]), cells_of(basis), numbers, letters, coords)


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


def crystals_of(orbits: Crystals[Array]) -> Crystals[Array]:
    """Return the primitive cells of crystals, exactly as symmetric as their groups say.

    Atoms are moved onto the nearest points of their letters' places, cells onto the crystal system.

    Args:
        orbits: in arrays, with sites.

    Returns:
        Crystals of all atoms in the order of ``orbits``, orbit after orbit; one without orbits, or
        with angles that no cell has, has no atoms.
    """
    assert orbits.sites is not None
    groups, letters = np.divmod(orbits.sites, LETTERS)
    numbers = np.zeros(len(orbits), np.int64)
    numbers[orbits.owners] = groups
    lattices = np.zeros((len(orbits), 3, 3))
    counts = np.zeros(len(groups), np.int64)
    parts: list[tuple[Array, Array]] = []
    for number in np.unique(numbers[numbers > 0]).tolist():
        table, rows = group(number), numbers == number
        rows[rows] = np.isfinite(orbits.lattice[rows]).all((1, 2))
        bases = basis_of(number, cells_of(orbits.lattice[rows]))
        rows[rows] = real = np.isfinite(bases).all((1, 2))
        lattices[rows] = table.primitive @ bases[real]
        inverse = np.linalg.inv(table.primitive)
        for letter in np.unique(letters[rows[orbits.owners]]):
            chosen = np.flatnonzero(rows[orbits.owners] & (letters == letter))
            place = table.places[letter]
            images = place.images(table.nearest(place, orbits.frac_coords[chosen])[:, None])
            counts[chosen] = images.shape[1]
            parts.append((chosen, wrapped(images @ inverse)))
    starts = counts.cumsum() - counts
    coords = np.empty((int(counts.sum()), 3))
    for chosen, images in parts:
        coords[ranges(starts[chosen], counts[chosen])] = images.reshape(-1, 3)
    atoms = np.bincount(orbits.owners, counts, len(orbits)).astype(np.int64)
    numbers = orbits.atomic_numbers.repeat(counts).astype(np.uint8)
    return Crystals(numbers, coords, lattices, atoms, orbits.targets, ids=orbits.ids)
