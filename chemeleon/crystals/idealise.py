"""Crystals moved onto the symmetry that they almost have: what there is to choose from.

Which candidate is taken is for `evaluation.idealise` to say, which knows energies. Shapes: ``N``
atoms. No torch here, as worker processes import this.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from chemeleon.crystals.batch import Crystal
from chemeleon.crystals.symmetry import (
    EXACT,
    PARTS,
    TIGHT,
    Axes,
    dataset,
    lattice_points,
    operations,
    wrapped,
)

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


class Exact(NamedTuple):
    """A crystal that operations map onto itself, in the axes of a cell.

    Attributes:
        crystal: all atoms of the cell.
        number: of its space group.
        rotations, shifts: ``(G, 3, 3)`` whole numbers and ``(G, 3)``: all operations of the group,
            modulo translations of the cell.
    """

    crystal: Crystal
    number: int
    rotations: NDArray[np.int64]
    shifts: NDArray[np.float64]


def exact(crystal: Crystal, axes: Axes) -> Exact | None:
    """Return a crystal with its symmetry as exact as rounding lets it be, and its operations.

    Args:
        crystal: in any cell.
        axes: of a standard cell, or ``given``: the cell stays, its origin moves to the group's.
            Where its axes are not those of the symmetry, as in a skewed cell or in some of several
            primitive ones, the standard primitive cell takes its place.

    Returns:
        None where no group is found. What is not symmetric has group 1. Atoms move by less than
        `EXACT` in given axes, by less than `TIGHT` in those of a standard cell.
    """
    group = dataset(*crystal, EXACT if axes == "given" else TIGHT)
    if group is None:
        return None
    if axes == "given" and (found := _in_own_axes(crystal, group)) is not None:
        return found
    cell = group.std_cell if axes == "conventional" else group.prim_std_cell
    return Exact(_arrays(cell), group.number, *operations(group.number, axes != "conventional"))


def _in_own_axes(crystal: Crystal, group: Any) -> Exact | None:
    """Return a crystal in the axes it has; None if operations are no triplets of a CIF there."""
    ideal, owner = _arrays(group.prim_std_cell), np.array(group.mapping_std_prim)
    axes = np.array(group.prim_std_linear)  # columns: the primitive vectors in the given axes
    back = np.linalg.inv(axes)
    rotations, shifts = operations(group.number, primitive=True)
    turned = axes @ rotations @ back
    several = len(owner) > len(ideal.atomic_numbers)  # else a skewed cell is not searched
    inside = lattice_points(np.round(back.T)) if several else np.zeros((1, 3))
    moved = (shifts @ axes.T)[:, None] + inside
    wholes = np.concatenate([turned.ravel(), PARTS * moved.ravel()])
    # readers know no 2x beside y, as it would stand in the axes of a skewed cell
    if np.abs(wholes - np.round(wholes)).max() > 1e-6 or np.abs(turned).max() > 1.5:
        return None
    coords = (crystal.frac_coords - np.array(group.prim_std_origin_shift)) @ back.T
    places = ideal.frac_coords[owner]
    places = places + np.round(coords - places)
    whole = Crystal(crystal.atomic_numbers, wrapped(places @ axes.T), back.T @ ideal.lattice)
    turned = np.round(turned).astype(np.int64).repeat(len(inside), 0)
    return Exact(whole, group.number, turned, moved.reshape(-1, 3))


def orbits(found: Exact) -> list[tuple[int, int]]:
    """Return the first atom of every orbit, and how many atoms of the cell it has."""
    numbers, frac, lattice = found.crystal
    left, parts = np.ones(len(numbers), bool), []
    while left.any():
        first = int(left.argmax())
        images = found.rotations @ frac[first] + found.shifts
        ways = images[:, None] - frac[None]
        near = np.linalg.norm((ways - np.round(ways)) @ lattice, axis=-1) < TIGHT
        members = near.any(0) & left & (numbers == numbers[first])
        parts.append((first, int(members.sum())))
        left &= ~members
    return parts


def _arrays(cell: Any) -> Crystal:
    numbers = np.array(cell.numbers, np.int64)
    return Crystal(numbers, wrapped(np.array(cell.positions)), np.array(cell.basis))
