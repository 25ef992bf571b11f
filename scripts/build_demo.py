"""Build the `demo` data set: well-known structure types decorated with real elements.

Each prototype is given by its conventional axes, the Niggli cell in terms of them, and its sites
(International Tables; spinel and Laves: origin at -43m), one primitive cell each. A decoration
supplies the elements and, from tabulated radii, the size of the cell; each decorated crystal
appears in a few strained variants. Strains keep the Bravais type (one factor for a, one for c),
because lower ones would flip a crystal between Niggli cells of nearly the same lattice.

The crystals are plausible, not measured: lengths follow from radii and are within some per cent.

    python scripts/build_demo.py -o chemeleon/datasets/demo
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import sqrt
from pathlib import Path

import numpy as np
import torch
from ase.data import atomic_masses, atomic_numbers
from demo_shapes import (
    Shape,
    barium_iron_arsenide,
    bonded_cell,
    bonded_radius,
    elpasolite,
    hexachloride,
    ionic_cell,
    ionic_radius,
    is_octet,
    laves,
    layered_oxide,
    metal_cell,
    molybdenite,
    nickel_arsenide,
    perovskite,
    ruddlesden_popper,
    rutile,
    spinel,
    split_ion,
    valence_electrons,
)
from pack_dataset import Packed, pack

from chemeleon.crystals.lattice import lattice_angles, lattice_from_parameters, lattice_lengths
from chemeleon.data.crystal import Record
from chemeleon.data.names import ARCHIVE_SUFFIX

SEED = 20
STRAIN, MAX_STRAIN = 0.01, 0.02
U_JITTER = 0.002
SPLIT_ENDS = {"train": (0.0, 0.8), "val": (0.8, 0.9), "test": (0.9, 1.0)}
DALTON_PER_CUBIC_ANGSTROM = 1.66053906660  # in g/cm3 (CODATA 2018)
LENGTH_DECIMALS = 12

# Niggli cells, rows in units of the conventional axes.
_P = ((1, 0, 0), (0, 1, 0), (0, 0, 1))
_P_SHORT_C = ((0, 0, 1), (1, 0, 0), (0, 1, 0))
_F = ((0, 0.5, 0.5), (0.5, 0, 0.5), (0.5, 0.5, 0))
_BCC = ((-0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0.5, 0.5, -0.5))
_I_LONG_C = ((1, 0, 0), (0, 1, 0), (-0.5, -0.5, 0.5))  # tetragonal, c > sqrt(2) a
_R_LONG_C = ((1, 0, 0), (1, 1, 0), (2 / 3, 1 / 3, 1 / 3))  # hexagonal axes, c > sqrt(6) a


Site = tuple[int, float, float, float]  # role, and coordinates on the conventional axes


@dataclass(frozen=True)
class Prototype:
    """A structure type.

    Attributes:
        name: what the ids say.
        cell: Niggli cell, rows in units of the conventional axes.
        roles: space-separated elements or ions allowed in each role, e.g. ``("Na1 K1", "Cl-1")``.
            Ions are combined only where the charges of the cell sum to zero.
        shape: element or ion of each role -> free parameters.
        sites: free coordinate -> sites of one primitive cell.
        hexagonal: whether the conventional a and b make 120 degrees.
        accepts: a further condition on the elements of the roles.
        limit: most decorations kept.
        variants: strained copies of each.
    """

    name: str
    cell: tuple[tuple[float, ...], ...]
    roles: tuple[str, ...]
    shape: Callable[..., Shape]
    sites: Callable[[float], list[Site]]
    hexagonal: bool = False
    accepts: Callable[..., bool] = lambda *_: True
    limit: int = 120
    variants: int = 2

    def decorations(self) -> Iterator[tuple[tuple[str, ...], Shape]]:
        """Yield the elements of the roles, with the shape, for every combination that fits."""
        counts = np.bincount([site[0] for site in self.sites(0.1)])
        for choice in itertools.product(*(words.split() for words in self.roles)):
            elements, charges = zip(*map(split_ion, choice), strict=True)
            neutral = int(np.dot(counts, charges)) == 0
            if neutral and len(set(elements)) == len(elements) and self.accepts(*elements):
                shape = self.shape(*choice)
                if shape.fits:
                    yield elements, shape

    def formula(self, elements: tuple[str, ...]) -> str:
        """Write the formula of one cell, divided by the common factor, in the order of roles."""
        counts = np.bincount([site[0] for site in self.sites(0.1)])
        counts = counts // np.gcd.reduce(counts)
        pairs = zip(elements, counts, strict=True)
        return "".join(f"{element}{count if count > 1 else ''}" for element, count in pairs)


_ALKALI, _ALKALINE_EARTH = "Li1 Na1 K1 Rb1 Cs1", "Mg2 Ca2 Sr2 Ba2"
_HALIDE, _CHALCOGENIDE = "F-1 Cl-1 Br-1 I-1", "O-2 S-2 Se-2 Te-2"
_TRANSITION2 = "Mn2 Fe2 Co2 Ni2 Zn2 Cd2"
_TRANSITION3 = "Ti3 V3 Cr3 Mn3 Fe3 Co3 Ni3"

_ROCKSALT: list[Site] = [(0, 0, 0, 0), (1, 0.5, 0.5, 0.5)]
_ZINCBLENDE: list[Site] = [(0, 0, 0, 0), (1, 0.25, 0.25, 0.25)]
_FLUORITE: list[Site] = [(0, 0, 0, 0), (1, 0.25, 0.25, 0.25), (1, 0.75, 0.75, 0.75)]
_PEROVSKITE: list[Site] = [(0, 0.5, 0.5, 0.5), (1, 0, 0, 0)]
_PEROVSKITE += [(2, 0.5, 0, 0), (2, 0, 0.5, 0), (2, 0, 0, 0.5)]
_DIAMOND_SITES = [(0, 0, 0), (0.25, 0.25, 0.25)]
_NETWORK_16D = [(0.625, 0.625, 0.625), (0.625, 0.875, 0.875)]
_NETWORK_16D += [(0.875, 0.625, 0.875), (0.875, 0.875, 0.625)]
_TETRAHEDRON = [(1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1)]
_HCP_SITES = [(1 / 3, 2 / 3), (2 / 3, 1 / 3)]
_TETRAHEDRAL_PAIRS = ("Be B Al Ga In Zn Cd Hg Cu Ag Si", "N P As Sb O S Se Te Cl Br I C")


def _spinel_sites(delta: float) -> list[Site]:
    near_second = [(2, *(0.25 + delta * k for k in corner)) for corner in _TETRAHEDRON]
    near_first = [(2, *(-delta * k for k in corner)) for corner in _TETRAHEDRON]
    metals = [(0, *site) for site in _DIAMOND_SITES] + [(1, *site) for site in _NETWORK_16D]
    return metals + near_first + near_second


def _axial_pairs(role: int, u: float) -> list[Site]:
    plus = [(role, u, 0, 0), (role, 0, u, 0), (role, 0, 0, u)]
    return plus + [(role, -x, -y, -z) for _, x, y, z in plus]


def _pyrite_sites(u: float) -> list[Site]:
    metals = [(0, 0, 0, 0), (0, 0.5, 0, 0.5), (0, 0, 0.5, 0.5), (0, 0.5, 0.5, 0)]
    half = [(u, u, u), (0.5 - u, -u, 0.5 + u), (-u, 0.5 + u, 0.5 - u), (0.5 + u, 0.5 - u, -u)]
    return [*metals, *((1, *site) for site in half), *((1, -x, -y, -z) for x, y, z in half)]


_FCC = "Al Ca Ni Cu Sr Rh Pd Ag Ce Ir Pt Au"
_BCC_METALS = "Li Na K V Cr Fe Rb Nb Mo Cs Ba Ta W"
_HCP = "Be Mg Sc Ti Co Y Zr Ru Hf Re Os Gd"

# fmt: off
PROTOTYPES: tuple[Prototype, ...] = (
    Prototype("fcc", _F, (_FCC,), metal_cell(2 * sqrt(2), 1.0),
              lambda _: [(0, 0, 0, 0)], variants=4),
    Prototype("bcc", _BCC, (_BCC_METALS,), metal_cell(3.88 / sqrt(3), 1.0),
              lambda _: [(0, 0, 0, 0)], variants=4),
    Prototype("hcp", _P, (_HCP,), metal_cell(2.0, 1.0, c_over_a=1.6),
              lambda _: [(0, 1 / 3, 2 / 3, 0.25), (0, 2 / 3, 1 / 3, 0.75)],
              hexagonal=True, variants=4),
    Prototype("diamond", _F, ("C Si Ge Sn",), bonded_cell(8 / sqrt(3)),
              lambda _: [(0, *site) for site in _DIAMOND_SITES], variants=4),
    Prototype("rocksalt", _F,
              (f"{_ALKALI} Ag1 {_ALKALINE_EARTH} Eu2 Pb2 Mn2 Fe2 Co2 Ni2 Cd2",
               f"{_HALIDE} {_CHALCOGENIDE}"),
              ionic_cell(2, 6, 6), lambda _: _ROCKSALT, variants=3,
              accepts=lambda a, x: a != "Ag" or x != "I"),
    Prototype("nitride", _F, ("Sc3 Ti3 V3 Cr3 Y3 La3 Ce3 Nd3 Gd3", "N-3"), ionic_cell(2, 6, 4),
              lambda _: _ROCKSALT, variants=4),
    Prototype("CsCl", _P, ("K1 Rb1 Cs1 Tl1", "Cl-1 Br-1 I-1"), ionic_cell(2 / sqrt(3), 8, 6),
              lambda _: [(0, 0, 0, 0), (1, 0.5, 0.5, 0.5)], variants=4),
    Prototype("B2", _P, ("Mg Al Sc Ti Y Zr La Hf", "Fe Co Ni Cu Zn Ru Rh Pd Ag Cd Ir Pt Au"),
              metal_cell(4 / sqrt(3) * 0.97, 1.0, 1.0),
              lambda _: [(0, 0, 0, 0), (1, 0.5, 0.5, 0.5)]),
    Prototype("CuAu", _P, ("Ti Mn Fe Co Ni Cu Mg Al", "Al Pd Pt Au Rh Ir"),
              metal_cell(2.0 * 1.03, 1.0, 1.0, c_over_a=1.33),
              lambda _: [(0, 0, 0, 0), (1, 0.5, 0.5, 0.5)]),
    Prototype("Cu3Au", _P, ("Al Ga In Sc Ti Y Zr La Hf Pt Au Mg Ca", "Fe Ni Cu Rh Pd Ag Ir Pt"),
              metal_cell(2 * sqrt(2), 1.0, 3.0),
              lambda _: [(0, 0, 0, 0), (1, 0, 0.5, 0.5), (1, 0.5, 0, 0.5), (1, 0.5, 0.5, 0)]),
    Prototype("A15", _P, ("Al Ga Si Ge Sn Sb Pt Ir Au Os", "Ti V Cr Nb Mo Ta"),
              bonded_cell(4 / sqrt(5) * 0.99),
              lambda _: [(0, 0, 0, 0), (0, 0.5, 0.5, 0.5),
                         (1, 0.25, 0, 0.5), (1, 0.75, 0, 0.5), (1, 0.5, 0.25, 0),
                         (1, 0.5, 0.75, 0), (1, 0, 0.5, 0.25), (1, 0, 0.5, 0.75)]),
    Prototype("Laves", _F, ("Mg Ca Sr Sc Y Zr La Ce Nd Gd Hf Ti",
                            "Al Cr Mn Fe Co Ni Cu Zn Ru Rh Pt"),
              laves, lambda _: [(0, *site) for site in _DIAMOND_SITES]
              + [(1, *site) for site in _NETWORK_16D], limit=60),
    Prototype("AlB2", _P, ("Mg Al Sc Ti V Cr Y Zr Nb Hf Ta Mo", "B"),
              bonded_cell(1.06 / 0.79, 1.08), hexagonal=True, variants=4,
              sites=lambda _: [(0, 0, 0, 0), *((1, *xy, 0.5) for xy in _HCP_SITES)]),
    Prototype("zincblende", _F, _TETRAHEDRAL_PAIRS, bonded_cell(4 / sqrt(3)), lambda _: _ZINCBLENDE,
              accepts=is_octet, variants=3),
    Prototype("wurtzite", _P, _TETRAHEDRAL_PAIRS, bonded_cell(sqrt(8 / 3), 1.625, 0.376),
              lambda u: [(0, *_HCP_SITES[0], 0), (0, *_HCP_SITES[1], 0.5),
                         (1, *_HCP_SITES[0], u), (1, *_HCP_SITES[1], u + 0.5)],
              hexagonal=True, accepts=is_octet, variants=3),
    Prototype("chalcopyrite", _I_LONG_C, ("Cu1 Ag1 Zn2 Cd2",
                                          "Al3 Ga3 In3 Ge4 Sn4", "S-2 Se-2 Te-2"),
              lambda a, b, x: Shape(1.15 * (2 * bonded_radius(split_ion(x)[0])
                                    + bonded_radius(split_ion(a)[0])
                                    + bonded_radius(split_ion(b)[0])), 1.97, 0.25),
              lambda u: [(0, 0, 0, 0), (0, 0, 0.5, 0.25), (1, 0, 0, 0.5), (1, 0, 0.5, 0.75),
                         (2, u, 0.25, 0.125), (2, -u, 0.75, 0.125),
                         (2, 0.75, u, 0.875), (2, 0.25, -u, 0.875)], variants=3),
    Prototype("NiAs", _P, ("Ti V Cr Mn Fe Co Ni Rh Pd Pt", "S Se Te As Sb"), nickel_arsenide,
              lambda _: [(0, 0, 0, 0), (0, 0, 0, 0.5), (1, *_HCP_SITES[0], 0.25),
                         (1, *_HCP_SITES[1], 0.75)], hexagonal=True, variants=3),
    Prototype("CdI2", _P, ("Mg2 Ca2 Mn2 Fe2 Co2 Ni2 Zn2 Cd2 Pb2 Ti4 V4 Zr4 Hf4 Nb4 Sn4 Pt4",
                           "Cl-1 Br-1 I-1 S-2 Se-2 Te-2"),
              lambda m, x: Shape((ionic_radius(m, 6) + ionic_radius(x, 6)) / 0.702, 1.6, 0.25),
              lambda u: [(0, 0, 0, 0), (1, *_HCP_SITES[0], u), (1, *_HCP_SITES[1], -u)],
              hexagonal=True),
    Prototype("MoS2", _P, ("Nb Mo Ta W", "S Se Te"), molybdenite,
              lambda u: [(0, *_HCP_SITES[0], 0.25), (0, *_HCP_SITES[1], 0.75),
                         (1, *_HCP_SITES[0], u + 0.5), (1, *_HCP_SITES[0], 1 - u),
                         (1, *_HCP_SITES[1], u), (1, *_HCP_SITES[1], 0.5 - u)],
              hexagonal=True, variants=4),
    Prototype("fluorite", _F, ("Ca2 Sr2 Ba2 Eu2 Cd2 Pb2 Hg2 Mn2 Zr4 Hf4 Ce4 Th4 U4 Pb4",
                               "F-1 Cl-1 O-2"), ionic_cell(4 / sqrt(3), 8, 4),
              lambda _: _FLUORITE, variants=4),
    Prototype("antifluorite", _F, ("Li1 Na1 K1 Rb1", _CHALCOGENIDE), ionic_cell(4 / sqrt(3), 4, 8),
              lambda _: [(1 - role, x, y, z) for role, x, y, z in _FLUORITE], variants=4),
    Prototype("rutile", _P_SHORT_C, ("Mg2 Mn2 Fe2 Co2 Ni2 Zn2 Ti4 V4 Mn4 Ge4 Nb4 Ru4 Sn4"
                                     " Os4 Ir4 Pt4 Pb4", "F-1 O-2"), rutile,
              lambda u: [(0, 0, 0, 0), (0, 0.5, 0.5, 0.5), (1, u, u, 0), (1, -u, -u, 0),
                         (1, 0.5 + u, 0.5 - u, 0.5), (1, 0.5 - u, 0.5 + u, 0.5)], variants=4),
    Prototype("pyrite", _P, ("Mn Fe Co Ni Ru Os", "S Se"), bonded_cell(0.96 / 0.418, 1.0, 0.385),
              _pyrite_sites, variants=3),
    Prototype("ReO3", _P, ("Al3 Ga3 In3 Sc3 Cr3 Fe3 Ti3 V3 W6 Re6", "F-1 O-2"), ionic_cell(2, 6, 6),
              lambda _: [(0, 0, 0, 0), *((1, *site) for site in np.eye(3) / 2)], variants=4),
    Prototype("perovskite", _P,
              ("Na1 K1 Rb1 Cs1 Tl1 Ca2 Sr2 Ba2 Pb2 La3 Ce3 Nd3",
               f"Mg2 Ca2 {_TRANSITION2} Pb2 Al3 Ga3 Sc3 {_TRANSITION3} Ti4 Zr4 Hf4 Sn4 Nb5 Ta5 Ru4",
               f"{_HALIDE} O-2 S-2"), perovskite, lambda _: _PEROVSKITE, limit=220),
    Prototype("antiperovskite", _P, ("Li1 Na1 K1 Ag1", "O-2 S-2 Se-2", _HALIDE),
              lambda x, b, a: Shape(ionic_radius(b, 6) + ionic_radius(x, 4)
                                    + (ionic_radius(a, 12) + ionic_radius(x, 4)) / sqrt(2)),
              lambda _: [(2 - role, x, y, z) for role, x, y, z in _PEROVSKITE]),
    Prototype("halfHeusler", _F, ("Fe Co Ni Ru Rh Pd Ir Pt Li", "Sc Ti V Y Zr Nb La Hf Ta Mg Zn Cd",
                                  "Al Ga In Si Ge Sn Pb P As Sb Bi"),
              lambda x, y, z: Shape(0.97 * 4 / sqrt(3) * (bonded_radius(x) + 0.35 * bonded_radius(y)
                                                   + 0.65 * bonded_radius(z))),
              lambda _: [(0, 0.25, 0.25, 0.25), (1, 0.5, 0.5, 0.5), (2, 0, 0, 0)],
              accepts=lambda x, y, z: valence_electrons(x, y, z) == (8 if x == "Li" else 18)),
    Prototype("Heusler", _F, ("Fe Co Ni Cu Ru Rh Pd", "Ti V Cr Mn Zr Nb Hf Sc",
                              "Al Si Ga Ge In Sn"),
              lambda x, y, z: Shape(0.96 * 4 / sqrt(3) * (bonded_radius(x) + 0.5 * bonded_radius(y)
                                                   + 0.5 * bonded_radius(z))),
              lambda _: [(0, 0.25, 0.25, 0.25), (0, 0.75, 0.75, 0.75), (1, 0.5, 0.5, 0.5),
                         (2, 0, 0, 0)]),
    Prototype("NaFeO2", _R_LONG_C, ("Li1 Na1 K1 Ag1",
                                    f"Al3 Ga3 In3 Sc3 Rh3 {_TRANSITION3}", "O-2 S-2"),
              layered_oxide,
              lambda u: [(0, 0, 0, 0.5), (1, 0, 0, 0), (2, 0, 0, u), (2, 0, 0, -u)],
              hexagonal=True),
    Prototype("ThCr2Si2", _I_LONG_C, ("Ca Sr Ba La Ce Nd Eu Gd Y", "Mn Fe Co Ni Cu Ru Rh Pd",
                                      "Si Ge P As"), barium_iron_arsenide,
              lambda u: [(0, 0, 0, 0), (1, 0, 0.5, 0.25), (1, 0.5, 0, 0.25), (2, 0, 0, u),
                         (2, 0, 0, -u)]),
    Prototype("K2NiF4", _I_LONG_C, ("K1 Rb1 Cs1 Ca2 Sr2 Ba2 La3 Nd3",
                                    f"Mg2 {_TRANSITION2} Ti4 Zr4 Sn4 Mn4 Ru4 Ir4", "F-1 O-2 Cl-1"),
              ruddlesden_popper,
              lambda u: [(0, 0, 0, 0.355), (0, 0, 0, -0.355), (1, 0, 0, 0), (2, 0.5, 0, 0),
                         (2, 0, 0.5, 0), (2, 0, 0, u), (2, 0, 0, -u)], limit=60),
    Prototype("K2PtCl6", _F, ("K1 Rb1 Cs1 Tl1", "Ti4 Zr4 Hf4 Sn4 Te4 Pt4 Re4 Os4 Ir4 Pb4",
                              "Cl-1 Br-1 I-1"), hexachloride,
              lambda u: [(0, 0.25, 0.25, 0.25), (0, 0.75, 0.75, 0.75), (1, 0, 0, 0),
                         *_axial_pairs(2, u)], limit=60),
    Prototype("elpasolite", _F, ("K1 Rb1 Cs1 Sr2 Ba2", "Li1 Na1 K1 Ag1 Mg2 Mn2 Fe2 Co2 Ni2 Zn2",
                                 "Al3 Sc3 Y3 In3 Bi3 La3 Cr3 Fe3 W6 Re6", "F-1 Cl-1 Br-1 O-2"),
              elpasolite,
              lambda u: [(0, 0.25, 0.25, 0.25), (0, 0.75, 0.75, 0.75), (1, 0, 0, 0),
                         (2, 0.5, 0.5, 0.5), *_axial_pairs(3, u)], limit=110),
    Prototype("spinel", _F, ("Mg2 Mn2 Fe2 Co2 Ni2 Zn2 Cd2",
                             "Al3 Ga3 In3 Sc3 Ti3 V3 Cr3 Mn3 Fe3 Co3 Rh3",
                             "O-2 S-2 Se-2"), spinel, _spinel_sites, limit=90),
)
# fmt: on


def _strains(generator: np.random.Generator, count: int) -> np.ndarray:
    return 1 + np.clip(generator.normal(0, STRAIN, count), -MAX_STRAIN, MAX_STRAIN)


def _build(
    prototype: Prototype, generator: np.random.Generator
) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray]:
    """Return ids, ``(K, n)`` atomic numbers, ``(K, n, 3)`` coordinates, ``(K, 3, 3)`` cells."""
    chosen = list(prototype.decorations())
    if len(chosen) > prototype.limit:
        kept = generator.permutation(len(chosen))[: prototype.limit]
        chosen = [chosen[i] for i in sorted(kept)]
    rows = [row for row in chosen for _ in range(prototype.variants)]
    cubic = all(shape.c_over_a == 1.0 for _, shape in rows)
    along_a = _strains(generator, len(rows))
    along_c = along_a if cubic else _strains(generator, len(rows))
    shifts = np.clip(generator.normal(0, U_JITTER, len(rows)), -2 * U_JITTER, 2 * U_JITTER)

    axes = np.array([[1, 0, 0], [-0.5, sqrt(0.75), 0], [0, 0, 1]]) if prototype.hexagonal else None
    transform = np.array(prototype.cell)
    inverse = np.linalg.inv(transform)
    ids, numbers, coords, cells = [], [], [], []
    for i, (elements, shape) in enumerate(rows):
        a = shape.a * along_a[i]
        c = shape.a * shape.c_over_a * along_c[i]
        cells.append(transform @ (np.diag([a, a, c]) @ (np.eye(3) if axes is None else axes)))
        sites = prototype.sites(shape.u + shifts[i])
        coords.append(np.array([site[1:] for site in sites]) @ inverse)
        numbers.append([atomic_numbers[elements[site[0]]] for site in sites])
        variant = i % prototype.variants
        ids.append(f"demo-{prototype.name}-{prototype.formula(elements)}-{variant}")
    return ids, np.array(numbers), np.array(coords), np.array(cells)


def crystals() -> tuple[list[Record], list[Packed]]:
    """Make all crystals: their names with density (g/cm3) and volume per atom (A3), and atoms."""
    generator = np.random.Generator(np.random.PCG64(SEED))
    records, packed = [], []
    for prototype in PROTOTYPES:
        ids, numbers, coords, cells = _build(prototype, generator)
        volume = np.abs(np.linalg.det(cells))
        density = atomic_masses[numbers].sum(1) / volume * DALTON_PER_CUBIC_ANGSTROM
        exact = torch.from_numpy(cells)
        lattice = lattice_from_parameters(lattice_lengths(exact), lattice_angles(exact)).numpy()
        # rounding first keeps -1e-17 from becoming 1.0 in float32
        coords = np.round(coords, 7) % 1.0
        for i, name in enumerate(ids):
            targets = {"density": density[i], "volume_per_atom": volume[i] / numbers.shape[1]}
            records.append(Record("demo", len(records) + 1, name, "arrays", None, targets))
            packed.append(Packed(numbers[i], coords[i], lattice[i], np.eye(3)))
    return records, packed


def main() -> None:
    """Write the three splits."""
    parser = argparse.ArgumentParser(description="Build the demo data set.")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    output = parser.parse_args().output
    output.mkdir(parents=True, exist_ok=True)
    records, packed = crystals()
    order = np.random.Generator(np.random.PCG64(SEED + 1)).permutation(len(records))
    for split, ends in SPLIT_ENDS.items():
        start, end = (round(share * len(records)) for share in ends)
        rows = np.sort(order[start:end])
        # lengths are no decimals of a source: twelve give float32 back to the last bit
        content = pack([records[i] for i in rows], [packed[i] for i in rows], LENGTH_DECIMALS)
        (output / f"{split}{ARCHIVE_SUFFIX}").write_bytes(content)
        print(f"{split}: {len(rows):,} crystals, {len(content):,} bytes")


if __name__ == "__main__":
    main()
