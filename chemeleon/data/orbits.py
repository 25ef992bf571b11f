"""All atoms of a cell from its sites and operations; short thirds are put where they belong.

A file that writes 0.33 or 0.667 for a site on a threefold axis does not mean the general position
beside it. So a site whose image lies within 0.5 A of it is moved onto the special position, but
only as far as its digits are uncertain; a site that would have to move further is refused.

Shapes: ``S`` sites, ``N`` atoms, ``K`` operations.
"""

from __future__ import annotations

import numpy as np

from chemeleon.data.crystal import Array, BadCrystalError
from chemeleon.data.limits import Limits
from chemeleon.data.operations import Operations

MIN_DISTANCE_ANGSTROM = 0.5
_MOST_MOVED = 0.01  # of a cell edge: two digits, cut off instead of rounded
_SAME = 1e-4  # fractional coordinates of one place


def expand(
    frac: Array, units: Array, operations: Operations, lattice: Array, limits: Limits
) -> tuple[Array, list[int]]:
    """Return the coordinates of all atoms, orbit after orbit, and the site of each atom.

    Args:
        frac: ``(S, 3)`` sites.
        units: ``(S, 3)`` what they can be off.
        operations: a group; atoms come in its order.
        lattice: the cell.
        limits: bounds the atoms.

    Raises:
        BadCrystalError: if atoms of one site are closer than 0.5 A, or there are too many.
    """
    coords: list[Array] = []
    owner: list[int] = []
    for site, (position, unit) in enumerate(zip(frac, units, strict=True)):
        images = _orbit(position, unit, operations, lattice, site)
        if len(owner) + len(images) > limits.atoms:
            raise BadCrystalError(limits.over("atoms", f"over {limits.atoms:,} atoms"))
        coords.append(images)
        owner += [site] * len(images)
    return np.concatenate(coords), owner


def _orbit(
    position: Array, unit: Array, operations: Operations, lattice: Array, site: int
) -> Array:
    images = operations.rotations @ position + operations.shifts
    delta = images - position
    delta -= np.round(delta)
    cartesian = delta @ lattice
    squared = (cartesian * cartesian).sum(1)
    own = squared < MIN_DISTANCE_ANGSTROM**2
    if own.sum() > 1:
        centre = position + delta[own].mean(0)
        moved = np.abs(centre - position)
        furthest = np.maximum(np.minimum(unit, _MOST_MOVED), _SAME) + 1e-9
        images = operations.rotations @ centre + operations.shifts
        delta = images[own] - centre
        delta -= np.round(delta)
        if (moved > furthest).any() or (np.abs(delta) > 1e-6).any():
            distance = np.sqrt(squared[squared > 1e-8].min(initial=np.inf))
            raise BadCrystalError(
                f"site {site + 1} and its image by symmetry are {distance:.3f} A apart"
            )
        images = _distinct(images, int(own.sum()))
    return images - np.floor(images)


def _distinct(images: Array, times: int) -> Array:
    """Return the first of each group of equal images; each of them comes ``times``."""
    found: list[Array] = []
    left = images
    while len(left):
        delta = left - left[0]
        same = (np.abs(delta - np.round(delta)) < _SAME).all(1)
        if same.sum() != times:
            raise BadCrystalError("the images of a site by symmetry are not evenly spread")
        found.append(left[0])
        left = left[~same]
    return np.array(found)
