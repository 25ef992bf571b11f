"""How much room atoms take, from the cells of a training set.

Shapes: slot = atomic number, ``M`` crystals, ``A`` orbits of all.
"""

from __future__ import annotations

import numpy as np

from chemeleon.crystals.assignments import letters_of
from chemeleon.crystals.batch import LETTERS, MAX_ATOMIC_NUMBER, Array, Crystals
from chemeleon.crystals.wyckoff import group

_LEAST = 3.0  # angstrom^3
_PSEUDO = 1.0  # crystals of an element that have the mean volume of all atoms


def multiplicities(sites: Array) -> Array:
    """Return the atoms of orbits in the primitive cell, ``(A,)``, by `Crystals.sites`."""
    kinds, place = np.unique(sites, return_inverse=True)
    sizes = [letters_of(site // LETTERS).multiplicities[site % LETTERS] for site in kinds.tolist()]
    return np.array(sizes, np.int64)[place]


def cell_volumes(orbits: Crystals[Array]) -> Array:
    """Return the volumes of the primitive cells of crystals with sites, ``(M,)`` angstrom^3."""
    assert orbits.sites is not None
    groups = orbits.sites[orbits.starts] // LETTERS
    parts = {n: abs(np.linalg.det(group(n).primitive)) for n in np.unique(groups).tolist()}
    shares = np.array([parts[number] for number in groups.tolist()])
    return np.abs(np.linalg.det(orbits.lattice)) * shares


def atomic_volumes(orbits: Crystals[Array]) -> Array:
    """Return the volume of each element's atoms, ``(100,)`` angstrom^3.

    Sums of them are the nearest to the volumes of the cells, by relative errors.

    Args:
        orbits: ``M`` training crystals with sites.
    """
    assert orbits.sites is not None
    counts = np.zeros((len(orbits), MAX_ATOMIC_NUMBER + 1))
    np.add.at(counts, (orbits.owners, orbits.atomic_numbers), multiplicities(orbits.sites))
    volumes = cell_volumes(orbits)
    mean = volumes.sum() / counts.sum()
    shares = counts / volumes[:, None]
    left = shares.T @ shares + np.eye(len(counts[0])) * _PSEUDO / mean**2
    found = np.linalg.solve(left, shares.sum(0) + _PSEUDO / mean)
    return np.maximum(found, _LEAST)
