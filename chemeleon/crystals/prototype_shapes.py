"""Sizes and free parameters of decorated structure types, from tabulated radii.

Bond lengths are sums of radii; factors beside the geometric sqrt() terms are set so that
well-known members (GaAs, FeS2, BaFe2As2, ...) come out within some per cent of experiment.
"""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from typing import NamedTuple

from chemeleon.crystals.radii import bonded_radius, ionic_radius, metallic_radius, split_ion


class Shape(NamedTuple):
    """The free parameters of a decorated prototype."""

    a: float  # angstrom
    c_over_a: float = 1.0
    u: float = 0.0  # the free coordinate, fractional
    fits: bool = True  # False: these elements do not suit the structure


def ionic_cell(factor: float, *coordinations: int) -> Callable[..., Shape]:
    """Cubic cell whose edge is ``factor`` times the bond length of two ions."""
    return lambda *ions: Shape(factor * sum(map(ionic_radius, ions, coordinations)))


def bonded_cell(factor: float, c_over_a: float = 1.0, u: float = 0.0) -> Callable[..., Shape]:
    """Cell whose edge is ``factor`` times the covalent bond length of two elements."""
    return lambda *ions: Shape(
        factor * sum(bonded_radius(split_ion(ion)[0]) for ion in ions), c_over_a, u
    )


def metal_cell(factor: float, *weights: float, c_over_a: float = 1.0) -> Callable[..., Shape]:
    """Cell whose edge is ``factor`` times a weighted mean of metallic radii."""
    return lambda *metals: Shape(
        factor * sum(map(float.__mul__, map(metallic_radius, metals), weights)) / sum(weights),
        c_over_a,
    )


def rutile(cation: str, anion: str) -> Shape:
    """Six anions at one distance."""
    return Shape((ionic_radius(cation, 6) + ionic_radius(anion, 4)) / 0.4285, 0.66, 0.305)


def perovskite(a: str, b: str, x: str) -> Shape:
    """Compromise between the B-X and A-X bonds, within Goldschmidt's tolerance."""
    short, long = ionic_radius(b, 6) + ionic_radius(x, 6), ionic_radius(a, 12) + ionic_radius(x, 6)
    tolerance = long / (sqrt(2) * short)  # Goldschmidt
    return Shape(1.3 * short + 0.35 * sqrt(2) * long, fits=0.82 < tolerance < 1.09)


def spinel(a: str, b: str, x: str) -> Shape:
    """Both kinds of polyhedra regular in bond length; ``u`` moves the anion off (1/4, 1/4, 1/4)."""
    tetrahedral = ionic_radius(a, 4) + ionic_radius(x, 4)
    octahedral = ionic_radius(b, 6) + ionic_radius(x, 4)
    # O'Neill and Navrotsky, Am. Mineral. 68, 181 (1983)
    root = sqrt(max(33 * octahedral**2 - 8 * tetrahedral**2, 0.0))
    edge = 8 * (5 * tetrahedral + root) / (11 * sqrt(3))
    delta = tetrahedral / (sqrt(3) * edge)
    return Shape(edge, 1.0, delta, fits=0.120 < delta < 0.148)


def nickel_arsenide(metal: str, anion: str) -> Shape:
    """Axial ratio by anion, as it falls from sulphides to antimonides."""
    ratio = {"S": 1.60, "Se": 1.52, "Te": 1.42, "As": 1.38, "Sb": 1.30}[anion]
    bond = bonded_radius(metal) + bonded_radius(anion)
    return Shape(bond / sqrt(1 / 3 + ratio**2 / 16), ratio)


def layered_oxide(a: str, b: str, x: str) -> Shape:
    """Alternating octahedral layers of A and B along c (alpha-NaFeO2)."""
    bond_b, bond_a = (ionic_radius(ion, 6) + ionic_radius(x, 6) for ion in (b, a))
    edge = sqrt(2.08) * bond_b  # octahedra flattened along c
    height_b, height_a = (2 * sqrt(max(bond**2 - edge**2 / 3, 0)) for bond in (bond_b, bond_a))
    c = 3 * (height_a + height_b)
    return Shape(edge, c / edge, 1 / 3 - height_b / (2 * c), fits=4 < c / edge < 7)


def ruddlesden_popper(a: str, b: str, x: str) -> Shape:
    """One perovskite layer between rocksalt layers (n = 1)."""
    bond_b, bond_a = (
        ionic_radius(b, 6) + ionic_radius(x, 6),
        ionic_radius(a, 8) + ionic_radius(x, 6),
    )
    ratio = 0.96 * (2.2 * bond_b + bond_a) / bond_b
    return Shape(2 * bond_b, ratio, 0.155, fits=0.85 < bond_a / (sqrt(2) * bond_b) < 1.02)


def elpasolite(a: str, b: str, c: str, x: str) -> Shape:
    """Ordered double perovskite; ``u`` places X between B and C."""
    bond_b, bond_c = (ionic_radius(ion, 6) + ionic_radius(x, 6) for ion in (b, c))
    tolerance = (ionic_radius(a, 12) + ionic_radius(x, 6)) / ((bond_b + bond_c) / sqrt(2))
    edge = 2 * (bond_b + bond_c)
    return Shape(edge, 1.0, bond_b / edge, fits=0.85 < tolerance < 1.08)


def hexachloride(a: str, b: str, x: str) -> Shape:
    """Antifluorite of A and isolated BX6 octahedra."""
    edge = 2 * sqrt(2) * (ionic_radius(a, 12) + ionic_radius(x, 6))
    u = (ionic_radius(b, 6) + ionic_radius(x, 6)) / edge
    return Shape(edge, 1.0, u, fits=0.2 < u < 0.26)


def barium_iron_arsenide(a: str, b: str, x: str) -> Shape:
    """Near-tetrahedral BX layers with A between them."""
    bond, far = (0.96 * (bonded_radius(metal) + bonded_radius(x)) for metal in (b, a))
    edge = 1.64 * bond
    above_b = sqrt(bond**2 - edge**2 / 4)
    above_a = sqrt(max(far**2 - edge**2 / 2, 0))
    c = 4 * (above_a + above_b)
    return Shape(edge, c / edge, 0.25 + above_b / c, fits=above_a > 1.2)


def laves(a: str, b: str) -> Shape:
    """Mean of A-A and B-B contacts, for the radius ratios seen in Laves phases."""
    ratio = metallic_radius(a) / metallic_radius(b)
    edge = 4 / sqrt(3) * metallic_radius(a) + 2 * sqrt(2) * metallic_radius(b)
    return Shape(edge, fits=1.1 < ratio < 1.42)


def molybdenite(metal: str, anion: str) -> Shape:
    """Trigonal prisms in layers; van der Waals gap by anion size."""
    bond = bonded_radius(metal) + bonded_radius(anion)
    half_layer = sqrt(bond**2 - (1.31 * bond) ** 2 / 3)
    c = 2 * (2 * half_layer + 2.0 + bonded_radius(anion))  # 3 angstrom between sulphur layers
    return Shape(1.31 * bond, c / (1.31 * bond), 0.25 + half_layer / c)


def valence_electrons(*elements: str) -> int:
    """Count s, p and d electrons of main-group and transition elements."""
    columns = {
        1: "Li Na K", 2: "Mg Ca Sr", 3: "Sc Y La Al Ga In", 4: "Ti Zr Hf Si Ge Sn Pb",
        5: "V Nb Ta P As Sb Bi", 8: "Fe Ru Os", 9: "Co Rh Ir", 10: "Ni Pd Pt", 11: "Cu Ag",
        12: "Zn Cd",
    }  # fmt: skip
    of = {element: n for n, words in columns.items() for element in words.split()}
    return sum(of[element] for element in elements)


def is_octet(metal: str, anion: str) -> bool:
    """Whether metal and anion share eight valence electrons."""
    groups = {2: "Be Zn Cd Hg", 3: "B Al Ga In", 1: "Cu Ag", 4: "Si"}
    anions = {5: "N P As Sb", 6: "O S Se Te", 7: "Cl Br I", 4: "C"}
    of = {e: n for table in (groups, anions) for n, words in table.items() for e in words.split()}
    return of[metal] + of[anion] == 8
