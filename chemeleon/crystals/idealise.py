"""Crystals moved onto the symmetry that they almost have: what there is to choose from.

Which candidate is taken is for `evaluation.idealise` to say, which knows energies. Shapes: ``N``
atoms. No torch here, as worker processes import this.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from chemeleon.crystals.batch import Crystal
from chemeleon.crystals.symmetry import TIGHT, Cell, dataset, operations, wrapped

STEP = 2 / 3  # of one tolerance to the next


class Candidate(NamedTuple):
    """A crystal with exact symmetry, near a given one.

    Attributes:
        crystal: ``(N,)`` atomic numbers, ``(N, 3)`` fractional coordinates and ``(3, 3)`` lattice
            of the standard primitive cell.
        number: of its space group.
        symprec: at which the given crystal has this group, angstrom.
        moved_angstrom: the longest way of an atom, without the shift of the whole crystal.
        strain: largest relative change of a length.
        cells: primitive cells in the cell that was given.
    """

    crystal: Crystal
    number: int
    symprec: float
    moved_angstrom: float
    strain: float
    cells: int


class Bounds(NamedTuple):
    """How far idealising may go.

    Attributes:
        symprec: largest tolerance, angstrom.
        moved_angstrom: longest way of an atom.
        strain: largest relative change of a length.
    """

    symprec: float
    moved_angstrom: float
    strain: float


def candidates(crystal: Crystal, bounds: Bounds) -> tuple[int | None, list[Candidate]]:
    """Return the group that a crystal has already, and the ones it may be given, highest first.

    From one tolerance to the next, 2/3 as large, down to `TIGHT`, each group is tried once.
    """
    now = dataset(*crystal, TIGHT)
    found: list[Candidate] = []
    seen: set[tuple[int, int]] = {(1, len(crystal[0]))}  # P1 is what every crystal has
    symprec = max(bounds.symprec, TIGHT)
    last = None if now is None else (now.number, len(now.prim_std_cell.numbers))
    while symprec >= TIGHT * (1 - 1e-9):
        group = dataset(*crystal, symprec)
        if group is not None:
            kind = (group.number, len(group.prim_std_cell.numbers))
            if kind not in seen:
                candidate = _candidate(crystal, group, min(symprec, group.symprec), bounds)
                found += [] if candidate is None else [candidate]
            seen.add(kind)
            if kind in ((1, len(crystal[0])), last):
                break  # no smaller tolerance gives another one
        symprec = TIGHT if STEP * symprec < TIGHT < symprec * (1 - 1e-9) else STEP * symprec
    return (None if now is None else now.number), found


def _candidate(crystal: Crystal, group: Any, symprec: float, bounds: Bounds) -> Candidate | None:
    numbers = crystal.atomic_numbers
    ideal = _arrays(group.prim_std_cell)
    owner = np.array(group.mapping_std_prim)
    cells = len(numbers) // len(ideal[0])
    same = (np.bincount(owner, minlength=len(ideal[0])) == cells).all()
    if not same or (ideal[0][owner] != numbers).any():
        return None
    moved, strain = distortion(crystal, group)
    if not (moved <= bounds.moved_angstrom and strain <= bounds.strain):
        return None
    check = dataset(*ideal, TIGHT)
    if check is None or check.number != group.number:
        return None
    return Candidate(ideal, group.number, symprec, moved, strain, cells)


def distortion(crystal: Crystal, group: Any) -> tuple[float, float]:
    """Return how far a crystal is from its symmetry.

    Args:
        crystal: as it was given to `dataset`.
        group: what that returned.

    Returns:
        The longest way of an atom, without the shift of the whole crystal, in angstrom, and the
        largest relative change of a length.
    """
    _, frac, lattice = crystal
    ideal = _arrays(group.prim_std_cell)
    axes = np.array(group.prim_std_linear)
    shift = np.array(group.prim_std_origin_shift)
    ways = (frac - shift) @ np.linalg.inv(axes).T - ideal[1][np.array(group.mapping_std_prim)]
    ways -= np.round(ways)
    moved = np.linalg.norm((ways - ways.mean(0)) @ ideal[2], axis=1).max()
    given = axes.T @ lattice
    stretch = np.linalg.eigvals(np.linalg.solve(given @ given.T, ideal[2] @ ideal[2].T)).real
    return float(moved), float(np.abs(np.sqrt(stretch) - 1).max())


def exact(crystal: Crystal, cell: Cell) -> tuple[Crystal, int] | None:
    """Return an exactly symmetric crystal in its standard cell, and the number of its group."""
    group = dataset(*crystal, TIGHT)
    if group is None:
        return None
    found = group.std_cell if cell == "conventional" else group.prim_std_cell
    return _arrays(found), group.number


def orbits(crystal: Crystal, number: int, cell: Cell) -> list[tuple[int, int]]:
    """Return the first atom of every orbit of a standard cell, and how many atoms it has."""
    numbers, frac, lattice = crystal
    rotations, shifts = operations(number, cell == "primitive")
    left, found = np.ones(len(numbers), bool), []
    while left.any():
        first = int(left.argmax())
        images = rotations @ frac[first] + shifts
        ways = images[:, None] - frac[None]
        near = np.linalg.norm((ways - np.round(ways)) @ lattice, axis=-1) < TIGHT
        members = near.any(0) & left & (numbers == numbers[first])
        found.append((first, int(members.sum())))
        left &= ~members
    return found


def _arrays(cell: Any) -> Crystal:
    numbers = np.array(cell.numbers, np.int64)
    return Crystal(numbers, wrapped(np.array(cell.positions)), np.array(cell.basis))
