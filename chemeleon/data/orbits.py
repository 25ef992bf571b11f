"""All atoms of a cell from its sites and operations; short thirds are put where they belong.

A file that writes 0.33 or 0.667 for a site on a threefold axis does not mean the general position
beside it. So a site whose image lies within 0.5 A of it is moved onto the special position, but
only as far as its digits are uncertain. Where that is not far enough, both stay, too close.

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
        BadCrystalError: if there are too many.
    """
    coords: list[Array] = []
    owner: list[int] = []
    for site, (position, unit) in enumerate(zip(frac, units, strict=True)):
        images = _orbit(position, unit, operations, lattice)
        if len(owner) + len(images) > limits.atoms:
            raise BadCrystalError(limits.over("atoms", f"over {limits.atoms:,} atoms"))
        coords.append(images)
        owner += [site] * len(images)
    return np.concatenate(coords), owner


def _orbit(position: Array, unit: Array, operations: Operations, lattice: Array) -> Array:
    images, delta = _images(position, operations)
    cartesian = delta @ lattice
    near = (cartesian * cartesian).sum(1) < MIN_DISTANCE_ANGSTROM**2
    if near.sum() == 1:
        return images - np.floor(images)
    furthest = np.maximum(np.minimum(unit, _MOST_MOVED), _SAME) + 1e-9
    # the special position may itself lie close to one of higher symmetry, which is not meant
    for own in (near, near & (np.abs(delta) <= 3 * furthest).all(1)):
        if (np.abs(delta[own]) < _SAME).all():
            break  # it is there already
        centre = position + delta[own].mean(0)
        moved, off = _images(centre, operations)
        if (np.abs(centre - position) <= furthest).all() and (np.abs(off[own]) < 1e-6).all():
            images = moved
            break
    images = _distinct(images)
    return images - np.floor(images)


def _images(position: Array, operations: Operations) -> tuple[Array, Array]:
    """Return all images, and how far each lies from the position, to the nearest cell."""
    images = operations.rotations @ position + operations.shifts
    delta = images - position
    return images, delta - np.round(delta)


def _distinct(images: Array) -> Array:
    """Return the first of each group of equal images."""
    found: list[Array] = []
    while len(images):
        delta = images - images[0]
        found.append(images[0])
        images = images[(np.abs(delta - np.round(delta)) >= _SAME).any(1)]
    return np.array(found)
