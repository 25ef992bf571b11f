"""Distances between sets of crystals, by simple, named features.

Structure: logarithm of the volume per atom, the two ratios of sorted cell lengths to the cube root
of the volume, the three angles of the cell as given (generators and data sets here use the Niggli
cell), atoms per cell, shortest distance over the cube root of the volume per atom.

Composition: weighted mean, deviation and range of atomic number, Pauling electronegativity, group,
row and covalent radius over the atoms, and the number of elements.

Shapes: ``C`` crystals, ``F`` features.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from chemeleon.evaluation.metrics.base import Figure, Metric, Options, View
from chemeleon.evaluation.metrics.statistics import frechet, mmd, standardised, wasserstein

Floats = NDArray[np.float64]
STRUCTURE = (
    "log volume per atom", "shortest length / V^(1/3)", "longest length / V^(1/3)",
    "alpha", "beta", "gamma", "atoms", "shortest distance / (V/N)^(1/3)",
)  # fmt: skip
_PROPERTIES = ("Z", "electronegativity", "group", "row", "covalent radius")
COMPOSITION = (
    *(f"{kind} of {name}" for name in _PROPERTIES for kind in ("mean", "deviation", "range")),
    "elements",
)


class Distances(Metric):
    """Wasserstein distances of density and number of elements; Fréchet distance and maximum mean
    discrepancy of the features of structure and of composition."""

    name = "distances"
    group = "distance"
    as_given = True

    def distances(self, crystals: View, control: View, options: Options) -> Iterator[Figure]:
        for name, column, label in (
            ("density", "density_g_cm3", "density, g/cm³"),
            ("elements", "num_elements", "the number of elements"),
        ):
            value = wasserstein(crystals.numbers(column), control.numbers(column))
            yield Figure(f"wasserstein_{name}", f"Wasserstein distance of {label}", value=value)
        for name, features in (
            ("structure", structure_features),
            ("composition", composition_features),
        ):
            ours, theirs = standardised(features(crystals), features(control))
            label = f"Fréchet distance of {name}"
            yield Figure(f"frechet_{name}", label, value=frechet(ours, theirs))
            yield Figure(f"mmd_{name}", f"MMD of {name}", value=mmd(ours, theirs))


def structure_features(crystals: View) -> Floats:
    """Return `STRUCTURE`, ``(C, 8)``, NaN for crystals that were not read."""
    volume, atoms = crystals.numbers("volume_per_atom_a3"), crystals.numbers("num_atoms")
    lengths = np.sort(np.stack([crystals.numbers(x) for x in "abc"], -1), -1)
    with np.errstate(all="ignore"):
        edge = np.cbrt(volume * atoms)
        columns = [
            np.log(volume),
            lengths[:, 0] / edge,
            lengths[:, 2] / edge,
            *(crystals.numbers(x) for x in ("alpha", "beta", "gamma")),
            atoms,
            crystals.numbers("shortest_distance_a") / np.cbrt(volume),
        ]
    return np.stack(columns, -1)


def composition_features(crystals: View) -> Floats:
    """Return `COMPOSITION`, ``(C, 16)``, NaN for crystals that were not read."""
    assert crystals.crystals is not None
    packed = crystals.crystals.crystals
    rows = np.full((len(packed), len(COMPOSITION)), np.nan)
    kept = np.flatnonzero(packed.num_atoms)
    if len(kept) == 0:
        return rows
    values = _elements()[packed.atomic_numbers]  # (A, P)
    begins, counts = packed.starts[kept], packed.num_atoms[kept, None]
    mean = np.add.reduceat(values, begins) / counts
    square = np.add.reduceat(values * values, begins) / counts
    deviation = np.sqrt(np.maximum(square - mean * mean, 0))
    spread = np.maximum.reduceat(values, begins) - np.minimum.reduceat(values, begins)
    rows[kept, :-1] = np.stack([mean, deviation, spread], -1).reshape(len(kept), -1)
    rows[kept, -1] = crystals.numbers("num_elements")[kept]
    return rows


@functools.cache
def _elements() -> Floats:
    """Return properties by atomic number, ``(100, 5)``; a gap becomes the mean of the others."""
    from ase.data import covalent_radii
    from pymatgen.core import Element

    table = np.full((100, len(_PROPERTIES)), np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for z in range(1, 100):
            element = Element.from_Z(z)
            radius = float(covalent_radii[z]) if z < len(covalent_radii) else math.nan
            table[z] = (z, element.X, element.group, element.row, radius)
    gaps = np.isnan(table)
    return np.where(gaps, np.nanmean(table, axis=0), table)
