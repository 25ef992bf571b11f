"""Changes of axes and origin that a crystal's description may be chosen from, see `canonical`.

Shapes: ``C`` changes, ``T`` changes of the cell vectors. No torch here.
"""

from __future__ import annotations

import functools

import numpy as np

from chemeleon.crystals.batch import Array
from chemeleon.crystals.lattice import cells_of, whole_steps
from chemeleon.crystals.maps import Maps
from chemeleon.crystals.symmetry import crystal_system
from chemeleon.crystals.wyckoff import Changes, Group, group

SAME_CELL = 1e-4  # angstrom, and radian


def changes_of(table: Group, basis: Array) -> Changes:
    """Return the changes of axes and origin to choose from; see the first rule above."""
    if table.system not in ("triclinic", "monoclinic"):
        return table.changes(table.normaliser)
    return _with_axes(table, _reduced_axes(table.number, basis))


def any_axes(table: Group) -> Changes:
    """Return all changes of letters and points, of monoclinic groups with unreduced axes, too."""
    if table.system == "monoclinic":
        return _with_axes(table, _steps(table.number))
    return table.changes(table.normaliser)


def _with_axes(table: Group, vectors: Array) -> Changes:
    """Return the changes of axes and origin that go with changes of the cell vectors, (C, 3, 3)."""
    axes = np.linalg.inv(vectors).swapaxes(1, 2)
    kept = table.normaliser
    # what is left of the change of axes when one of the table's is taken off keeps the origin
    rest = axes[:, None] @ np.linalg.inv(kept.rotations)
    valid = _is_even(table.system, rest)
    shifts = (rest @ kept.shifts[..., None])[..., 0] % 1.0
    rotations = np.broadcast_to(axes[:, None], rest.shape)[valid]
    return table.changes(Maps(np.round(rotations), np.round(shifts[valid], 6) % 1.0))


def _is_even(system: str, rest: Array) -> Array:
    """Return which changes of axes no operation notices; in monoclinic groups, those of 2a, 2c."""
    if system == "triclinic":
        return np.ones(rest.shape[:-2], bool)
    return (np.round(rest - np.eye(3)) % 2 == 0).all((-1, -2))


@functools.cache
def _steps(number: int) -> Array:
    """Return changes of the cell vectors that keep the setting of a group, ``(T, 3, 3)``.

    The reduced cell of a lattice, and all as short as it, are one step from each other.
    """
    if crystal_system(number) == "triclinic":
        steps = whole_steps(*[1] * 9).reshape(-1, 3, 3)
    else:
        plane = whole_steps(*[2] * 4).reshape(-1, 2, 2)
        turned = np.round(np.linalg.det(plane))
        steps = np.zeros((len(plane), 3, 3), np.int64)
        steps[:, 0::2, 0::2], steps[:, 1, 1] = plane, turned
    steps = steps[np.round(np.linalg.det(steps)) == 1].astype(float)
    axes = np.round(np.linalg.inv(steps)).swapaxes(1, 2)
    table = group(number)
    rest = axes[:, None] @ np.linalg.inv(table.normaliser.rotations)
    return steps[_is_even(table.system, rest).any(1)]


def _reduced_axes(number: int, basis: Array) -> Array:
    """Return the changes of the cell vectors that give reduced cells, ``(C, 3, 3)``.

    Monoclinic b stays. More than one are left where cells differ by less than `SAME_CELL`.
    """
    steps, taken = _steps(number), np.eye(3)
    while True:
        cells = steps @ taken @ basis
        sizes = (cells * cells).sum((1, 2))
        best = sizes.argmin()
        if sizes[best] >= (taken @ basis * (taken @ basis)).sum() * (1 - 1e-6):
            break
        taken = steps[best] @ taken
    near = sizes <= sizes[best] * (1 + SAME_CELL)
    steps, cells = steps[near], cells_of(cells[near])
    return steps[first_rows(cell_order(cells), SAME_CELL)] @ taken


def first_rows(rows: Array, tolerance: float = 0) -> Array:
    """Return which of the rows are first in the order of their columns, as bool."""
    left = np.ones(len(rows), bool)
    for column in rows.T:
        left &= column <= column[left].min() + tolerance
    return left


def cell_order(cells: Array) -> Array:
    """Return what cells ``(C, 6)`` are compared by, in turn, the smaller first."""
    return np.concatenate([cells[:, :3], -cells[:, 3:]], 1)
