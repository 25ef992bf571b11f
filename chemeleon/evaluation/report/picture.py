"""What is seen of a crystal: its conventional cell, the atoms in it and on its faces, the bonds.

Letters: `N` atoms of the crystal, `K` atoms drawn, `M` bonds. Lengths are in angstrom. Pictures
(`draw`) and the viewer of the report (`report_html`) both show what this module finds.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from chemeleon.crystals.symmetry import dataset, lattice_points

if TYPE_CHECKING:
    from pymatgen.core import Structure

BOND_RADIUS = 0.11  # angstrom
_BOUNDARY = 0.03  # fractional: atoms this near a face are drawn on the opposite one too
_BOND_FACTOR = 1.15  # bonds are shorter than this times the sum of covalent radii,
_NEIGHBOUR_FACTOR = 1.25  # and than this times the nearest neighbour of either atom
_MOST_ATOMS = 60  # larger conventional cells are drawn as given
_SLENDER = 3.6  # a cell this many times longer than wide is repeated sideways


class Picture(NamedTuple):
    """One crystal, ready to be drawn: c is along z, a lies in the xz plane, the middle is at 0."""

    cell: np.ndarray  # (3, 3), rows a b c of the cell drawn
    numbers: np.ndarray  # (K,) atomic numbers
    centres: np.ndarray  # (K, 3)
    bonds: np.ndarray  # (M, 2), indices of bonded atoms
    corners: np.ndarray  # (C, 3), of every cell drawn
    edges: np.ndarray  # (E, 2), indices of the corners that an edge joins


def picture(structure: Structure, like: Structure | None = None) -> Picture:
    """Return what is to be drawn of an ordered crystal.

    The conventional cell has the atoms where they are, not idealised; those on faces and edges are
    repeated, and slender cells are repeated sideways.

    Args:
        structure: the crystal.
        like: the same atoms in the same order elsewhere, such as the relaxed crystal. Its
            conventional cell is taken, so that the two pictures compare.
    """
    from pymatgen.core import Lattice

    numbers = np.array(structure.atomic_numbers)
    model = structure
    if like is not None and np.array_equal(numbers, like.atomic_numbers):
        model = like
    found = _conventional(model)
    lattice, inside = structure.lattice, np.asarray(structure.frac_coords, float)
    if found is not None:
        whole, points, shift = found
        lattice = Lattice(whole @ lattice.matrix)
        inside = ((inside @ np.linalg.inv(whole))[:, None] + points + shift).reshape(-1, 3)
        numbers = numbers.repeat(len(points))
    cell = Lattice.from_parameters(*lattice.parameters).matrix
    repeats = _repeats(lattice.abc)
    source, coords = _with_boundary(inside, repeats)
    middle = repeats @ cell / 2
    centres = coords @ cell - middle
    bonds = _bonds(cell, inside, numbers, centres, source)
    corners, edges = _grid(repeats)
    return Picture(cell, numbers[source], centres, bonds, corners @ cell - middle, edges)


@cache
def element_colours() -> np.ndarray:
    """Colours of the elements in Jmol's table, slightly softened; ``(Z, 3)`` RGB in 0 to 1."""
    from ase.data.colors import jmol_colors

    return 0.90 * jmol_colors + 0.08


@cache
def ball_radii() -> np.ndarray:
    """Radius at which each element is drawn, in angstrom; ``(Z,)``."""
    from ase.data import covalent_radii

    return 0.22 + 0.27 * covalent_radii


@cache
def _metallic() -> np.ndarray:
    """Whether each element is a metal or a metalloid; ``(Z,)``."""
    from pymatgen.core import Element

    elements = [Element.from_Z(z) for z in range(1, 119)]
    return np.array([False, *(one.is_metal or one.is_metalloid for one in elements)])


def _conventional(structure: Structure) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Find the conventional cell of a crystal; None if it is best drawn as given.

    Returns:
        ``(3, 3)`` its vectors in units of those given, ``(P, 3)`` the lattice points in it and
        ``(3,)`` the shift of the origin, both in units of its own vectors.
    """
    found = dataset(structure.atomic_numbers, structure.frac_coords, structure.lattice.matrix)
    if found is None:
        return None
    cells = np.array(found.std_linear).T
    whole = np.round(cells)
    count = round(float(np.linalg.det(whole)))
    if np.abs(cells - whole).max() > 1e-3 or not 1 <= count <= _MOST_ATOMS / len(structure):
        return None
    shift = -np.array(found.std_origin_shift) @ np.linalg.inv(whole)
    return whole, lattice_points(whole), shift


def _repeats(lengths: Sequence[float]) -> np.ndarray:
    """How often a slender cell is shown along each axis, ``(3,)``."""
    return np.array([2 if max(lengths) / length >= _SLENDER else 1 for length in lengths])


def _grid(repeats: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Corners of all cells, ``(C, 3)`` fractional, and the pairs that an edge joins, ``(E, 2)``."""
    corners = np.array(list(itertools.product(*(range(count + 1) for count in repeats))))
    steps = np.abs(corners[:, None] - corners[None]).sum(-1)
    return corners, np.argwhere(np.triu(steps == 1))


def _with_boundary(coords: np.ndarray, repeats: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fill the cells, faces included: ``(K,)`` indices of atoms and ``(K, 3)`` coordinates."""
    inside = coords - np.floor(coords + _BOUNDARY)
    source, places = [], []
    for shift in itertools.product(*(range(count + 1) for count in repeats)):
        moved = inside + shift
        kept = (moved <= repeats + _BOUNDARY).all(1)
        source.append(np.flatnonzero(kept))
        places.append(moved[kept])
    return np.concatenate(source), np.concatenate(places)


def _bonds(
    cell: np.ndarray, coords: np.ndarray, numbers: np.ndarray, centres: np.ndarray,
    source: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """Return pairs of drawn atoms that are bonded; metals only where there is nothing else."""
    from ase.data import covalent_radii

    nearest = _nearest_neighbours(cell, coords)[source]
    radii, metal = covalent_radii[numbers][source], _metallic()[numbers]
    distance = np.linalg.norm(centres[:, None] - centres[None], axis=-1)
    reach = _BOND_FACTOR * (radii[:, None] + radii[None])
    close = _NEIGHBOUR_FACTOR * np.minimum(nearest[:, None], nearest[None])
    allowed = ~(metal[source][:, None] & metal[source][None]) | metal.all()
    bonded = allowed & (distance < reach) & (distance < close) & (distance > 0.3)
    return np.argwhere(np.triu(bonded, 1))


def _nearest_neighbours(cell: np.ndarray, coords: np.ndarray) -> np.ndarray:
    """Distance from each atom to the nearest other atom or image in adjacent cells; ``(N,)``."""
    shifts = np.array(list(itertools.product((-1, 0, 1), repeat=3)))
    delta = coords[:, None] - coords[None]
    vectors = (delta - np.round(delta))[:, :, None] + shifts
    distance = np.linalg.norm(vectors @ cell, axis=-1)
    distance[distance < 1e-6] = np.inf
    return distance.min((1, 2))
