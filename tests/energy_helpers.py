"""Crystals, potentials and rows of the package's data that the tests of energies use."""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
from ase.calculators.lj import LennardJones
from pymatgen.core import Lattice, Structure

from chemeleon.config.schema import DataConfig
from chemeleon.crystals.batch import Crystals
from chemeleon.data.dataset import load_report
from chemeleon.energy.compositions import formula_of
from chemeleon.energy.hull_crystals import compositions_of

MP = DataConfig.model_validate({"name": "mp"})


# written down, as pymatgen takes a second each time to make the operations of Fm-3m
def rocksalt(a: float = 5.69, cation: str = "Na", anion: str = "Cl") -> Structure:
    """The primitive cell."""
    cell = a / 2 * (np.ones((3, 3)) - np.eye(3))
    return Structure(Lattice(cell), [cation, anion], [[0, 0, 0], [0.5, 0.5, 0.5]])


def rocksalt_cube(a: float = 5.64, cation: str = "Na", anion: str = "Cl") -> Structure:
    """The conventional cell of eight atoms."""
    faces = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    return Structure(Lattice.cubic(a), [cation] * 4 + [anion] * 4, [*faces, *(faces + 0.5) % 1])


def various() -> list[Structure]:
    """One to eight atoms; dense, layered, sheared, without angles, outside the cell, at random."""
    rng = np.random.default_rng(3)
    perovskite = Structure.from_spacegroup(
        "Pm-3m", Lattice.cubic(3.9), ["Sr", "Ti", "O"], [[0] * 3, [0.5] * 3, [0.5, 0.5, 0]]
    )
    shaken = perovskite.copy()
    shaken.translate_sites([0], [2.03, -1.05, 0.02], to_unit_cell=False)
    for i, shift in enumerate(rng.normal(0, 0.06, (5, 3))):
        shaken.translate_sites([i], shift, frac_coords=False, to_unit_cell=False)
    skewed = Structure(
        Lattice(np.array([[2.5, 0, 0], [1.2, 2.2, 0], [7.1, 1.9, 3.0]])), ["Fe"], [[0.1, 0.2, 0.3]]
    )
    layered = Structure(
        Lattice.from_parameters(3.2, 3.2, 12, 90, 90, 120),
        ["Mo", "S", "S"],
        [[1 / 3, 2 / 3, 0.25], [2 / 3, 1 / 3, 0.38], [2 / 3, 1 / 3, 0.12]],
    )
    sparse = Structure(Lattice.cubic(5.0), ["K"], [[0, 0, 0]])
    grid = np.stack(np.meshgrid(*[[0.25, 0.75]] * 3), -1).reshape(8, 3)
    random = Structure(
        Lattice.cubic(4.6), ["Li", "Fe", "P", "O"] * 2, grid + rng.normal(0, 0.04, (8, 3))
    )
    return [perovskite, shaken, skewed, layered, sparse, rocksalt(), random]


def lennard_jones() -> LennardJones:
    """An ASE calculator that `load_potential` finds by name."""
    return LennardJones(epsilon=0.1, sigma=2.3, rc=6.0, smooth=True)


class FailsOnGold(LennardJones):
    """Raises for one element, as real calculators do."""

    def calculate(self, atoms=None, *words, **named):
        if atoms is not None and "Au" in atoms.get_chemical_symbols():
            raise RuntimeError("no parameters for Au")
        super().calculate(atoms, *words, **named)


class Rows(NamedTuple):
    """Crystals of mp/val with the values of the Materials Project, eV/atom."""

    crystals: Crystals
    ids: list[str]
    formulas: list[str]
    formation_ev: np.ndarray
    above_ev: np.ndarray


@functools.cache
def val_rows() -> Rows:
    found = load_report(MP, "val", partial="any")
    return Rows(
        found.crystals,
        list(found.crystals.ids),
        [formula_of(parts) for parts in compositions_of(found.crystals)],
        found.columns["formation_energy_per_atom"].double().numpy(),
        found.columns["e_above_hull"].double().numpy(),
    )
