"""The closest atoms of a crystal by a neighbour list: memory grows with the atoms, not their pairs.

Shapes: ``N`` atoms. Coordinates ``(N, 3)`` fractional, lattice ``(3, 3)`` angstrom.
"""

from __future__ import annotations

import numpy as np

from chemeleon.crystals.lattice import plane_spacings, whole_steps
from chemeleon.data.crystal import Array
from chemeleon.data.niggli import points_within, reduced_basis

_FEW = 64  # up to here all pairs are quicker than a list of neighbours


def closest_pair(frac: Array, lattice: Array, cutoff: float) -> tuple[int, int, float] | None:
    """Return the two atoms that are closest, if they are no further apart than ``cutoff``.

    Periodic images count, an atom's own too (both numbers are then equal). Exact however skewed
    the cell is.

    Args:
        frac: any coordinates, not only of one cell.
        lattice: a cell of some volume.
        cutoff: angstrom.

    Returns:
        Numbers from 0, the smaller first, and the distance; None if all are further apart.
    """
    # a thin cell may be a skewed one: its shortest vectors tell
    if thin := bool((2 * cutoff >= plane_spacings(lattice)).any()):
        basis = np.array(reduced_basis(lattice))
        frac, lattice = frac @ lattice @ np.linalg.inv(basis), basis
        steps = whole_steps(1, 1, 1) @ basis
        shortest = float(np.linalg.norm(steps[steps.any(1)], axis=1).min())
        if shortest <= cutoff and len(frac):
            return 0, 0, shortest
        thin = bool((2 * cutoff >= plane_spacings(lattice)).any())
    frac = frac - np.floor(frac)
    # within half a spacing the rounded difference is the nearest image
    search = _among_all if len(frac) <= _FEW and not thin else _by_cells
    return search(frac, lattice, cutoff)


def _among_all(frac: Array, lattice: Array, cutoff: float) -> tuple[int, int, float] | None:
    if len(frac) < 2:
        return None
    delta = frac[:, None] - frac[None]
    delta -= np.round(delta)
    delta = delta @ lattice
    squared = (delta * delta).sum(-1)
    np.fill_diagonal(squared, np.inf)
    at = int(squared.argmin())
    least = float(squared.ravel()[at]) ** 0.5
    if least > cutoff:
        return None
    i, j = sorted(divmod(at, len(frac)))
    return i, j, least


def _by_cells(frac: Array, lattice: Array, cutoff: float) -> tuple[int, int, float] | None:
    first, second, images, distances = points_within(frac @ lattice, lattice, cutoff)
    others = np.flatnonzero((first != second) | images.any(1))
    if not len(others):
        return None
    at = others[distances[others].argmin()]
    i, j = sorted((int(first[at]), int(second[at])))
    return i, j, float(distances[at])
