"""The closest atoms of a crystal by a neighbour list: memory grows with the atoms, not their pairs.

Shapes: ``N`` atoms. Coordinates ``(N, 3)`` fractional, lattice ``(3, 3)`` angstrom.
"""

from __future__ import annotations

import itertools

import numpy as np

from chemeleon.data.crystal import Array
from chemeleon.data.niggli import reduced_basis

_FEW = 64  # up to here all pairs are quicker than a tree


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
    reach = cutoff * _inverse_spacings(lattice)
    if (reach >= 0.5).any():
        # a thin cell may be a skewed one: its shortest vectors tell
        basis = np.array(reduced_basis(lattice))
        frac = frac @ lattice @ np.linalg.inv(basis)
        lattice, reach = basis, cutoff * _inverse_spacings(basis)
        shortest = _shortest_vector(basis)
        if shortest <= cutoff and len(frac):
            return 0, 0, shortest
    frac = frac - np.floor(frac)
    # within 0.5 spacings the rounded difference is the nearest image
    if len(frac) <= _FEW and (reach < 0.5).all():
        return _among_all(frac, lattice, cutoff)
    return _by_tree(frac, lattice, cutoff, reach)


def _inverse_spacings(lattice: Array) -> Array:
    inverse = np.linalg.inv(lattice)  # its columns are the reciprocal vectors
    return np.sqrt((inverse * inverse).sum(0))


def _shortest_vector(basis: Array) -> float:
    steps = np.array([s for s in itertools.product((-1, 0, 1), repeat=3) if any(s)])
    return float(np.sqrt(((steps @ basis) ** 2).sum(1).min()))


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


def _by_tree(
    frac: Array, lattice: Array, cutoff: float, reach: Array
) -> tuple[int, int, float] | None:
    from scipy.spatial import KDTree

    points, owner = frac, np.arange(len(frac))
    for axis in range(3):
        # images of the atoms that lie within the cutoff of the cell's faces
        steps = np.arange(-int(np.ceil(reach[axis])), int(np.ceil(reach[axis])) + 1)
        shifted = [points + step * np.eye(3)[axis] for step in steps]
        near = [(p[:, axis] >= -reach[axis]) & (p[:, axis] <= 1 + reach[axis]) for p in shifted]
        points = np.concatenate([p[n] for p, n in zip(shifted, near, strict=True)])
        owner = np.concatenate([owner[n] for n in near])
    tree = KDTree(points @ lattice)
    distances, found = tree.query(frac @ lattice, k=2, distance_upper_bound=cutoff * (1 + 1e-12))
    nearest = distances[:, 1]  # the first is the atom itself, or one in its very place
    at = int(nearest.argmin())
    if not nearest[at] <= cutoff:
        return None
    others = [int(owner[k]) for k in np.asarray(found)[at].tolist()]
    other = others[1] if others[0] == at else others[0]
    i, j = sorted((at, other))
    return i, j, float(nearest[at])
