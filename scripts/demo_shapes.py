"""Radii of ions and atoms in angstrom, and the cells of structure types that follow from them.

Bond lengths are sums of radii; factors beside the geometric sqrt() terms are set so that
well-known members (GaAs, FeS2, BaFe2As2, ...) come out within some per cent of experiment.

Sources:
    Ions: effective ionic radii, R. D. Shannon, Acta Cryst. A 32, 751 (1976); high spin where
        there is a choice. N3- is given for coordination 4 only.
    Bonded atoms: J. C. Slater, J. Chem. Phys. 41, 3199 (1964).
    Metals: radii in twelvefold coordination, N. N. Greenwood and A. Earnshaw, Chemistry of the
        Elements, 2nd ed. (1997).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from math import sqrt
from typing import NamedTuple

# ion, then coordination:radius
_SHANNON = """
Li1 4:.59 6:.76 8:.92; Na1 4:.99 6:1.02 8:1.18 12:1.39; K1 4:1.37 6:1.38 8:1.51 12:1.64
Rb1 6:1.52 8:1.61 12:1.72; Cs1 6:1.67 8:1.74 12:1.88; Tl1 6:1.5 8:1.59 12:1.7
Ag1 4:1.0 6:1.15 8:1.28; Cu1 4:.6 6:.77
Mg2 4:.57 6:.72 8:.89; Ca2 6:1.0 8:1.12 12:1.34; Sr2 6:1.18 8:1.26 12:1.44
Ba2 6:1.35 8:1.42 12:1.61; Eu2 6:1.17 8:1.25; Pb2 6:1.19 8:1.29 12:1.49
Mn2 4:.66 6:.83 8:.96; Fe2 4:.63 6:.78 8:.92; Co2 4:.58 6:.745 8:.9; Ni2 4:.55 6:.69
Zn2 4:.6 6:.74 8:.9; Cd2 4:.78 6:.95 8:1.1 12:1.31; Hg2 4:.96 6:1.02 8:1.14
Al3 4:.39 6:.535; Ga3 4:.47 6:.62; In3 4:.62 6:.8 8:.92; Sc3 6:.745 8:.87; Y3 6:.9 8:1.019
La3 6:1.032 8:1.16 12:1.36; Ce3 6:1.01 8:1.143 12:1.34; Nd3 6:.983 8:1.109 12:1.27
Gd3 6:.938 8:1.053; Ti3 6:.67; V3 6:.64; Cr3 6:.615; Mn3 6:.645; Fe3 4:.49 6:.645 8:.78
Co3 6:.61; Ni3 6:.6; Rh3 6:.665; Bi3 6:1.03 8:1.17
Ti4 4:.42 6:.605 8:.74; Zr4 4:.59 6:.72 8:.84; Hf4 4:.58 6:.71 8:.83; Ce4 6:.87 8:.97 12:1.14
Th4 6:.94 8:1.05 12:1.21; U4 6:.89 8:1.0 12:1.17; V4 6:.58 8:.72; Nb4 6:.68 8:.79
Mn4 4:.39 6:.53; Ru4 6:.62; Sn4 4:.55 6:.69 8:.81; Pb4 4:.65 6:.775 8:.94; Pt4 6:.625
Te4 4:.66 6:.97; Ge4 4:.39 6:.53; Ir4 6:.625; Os4 6:.63; Re4 6:.63
Nb5 4:.48 6:.64 8:.74; Ta5 6:.64 8:.74; W6 4:.42 6:.6; Re6 6:.55
F-1 4:1.31 6:1.33; Cl-1 6:1.81; Br-1 6:1.96; I-1 6:2.2
O-2 4:1.38 6:1.4 8:1.42; S-2 6:1.84; Se-2 6:1.98; Te-2 6:2.21; N-3 4:1.46
"""

_SLATER = """
Li 1.45 Be 1.05 B .85 C .7 N .65 O .6 Na 1.8 Mg 1.5 Al 1.25 Si 1.1 P 1.0 S 1.0 Cl 1.0 K 2.2
Ca 1.8 Sc 1.6 Ti 1.4 V 1.35 Cr 1.4 Mn 1.4 Fe 1.4 Co 1.35 Ni 1.35 Cu 1.35 Zn 1.35 Ga 1.3 Ge 1.25
As 1.15 Se 1.15 Br 1.15 Rb 2.35 Sr 2.0 Y 1.8 Zr 1.55 Nb 1.45 Mo 1.45 Ru 1.3 Rh 1.35 Pd 1.4
Ag 1.6 Cd 1.55 In 1.55 Sn 1.45 Sb 1.45 Te 1.4 I 1.4 Cs 2.6 Ba 2.15 La 1.95 Ce 1.85 Nd 1.85
Eu 1.85 Gd 1.8 Hf 1.55 Ta 1.45 W 1.35 Re 1.35 Os 1.3 Ir 1.35 Pt 1.35 Au 1.35 Hg 1.5 Pb 1.8
Bi 1.6
"""

_METALLIC = """
Li 1.52 Be 1.12 Na 1.86 Mg 1.6 Al 1.43 K 2.27 Ca 1.97 Sc 1.62 Ti 1.47 V 1.34 Cr 1.28 Mn 1.27
Fe 1.26 Co 1.25 Ni 1.24 Cu 1.28 Zn 1.34 Ga 1.35 Rb 2.48 Sr 2.15 Y 1.8 Zr 1.6 Nb 1.46 Mo 1.39
Ru 1.34 Rh 1.34 Pd 1.37 Ag 1.44 Cd 1.51 In 1.67 Cs 2.65 Ba 2.22 La 1.87 Ce 1.818 Nd 1.814
Gd 1.804 Hf 1.59 Ta 1.46 W 1.39 Re 1.37 Os 1.35 Ir 1.355 Pt 1.385 Au 1.44 Hg 1.51
"""


@cache
def _ions() -> dict[str, dict[int, float]]:
    table = {}
    for entry in re.split(r"[;\n]", _SHANNON.strip()):
        ion, *pairs = entry.split()
        radii = (pair.split(":") for pair in pairs)
        table[ion] = {int(coordination): float(radius) for coordination, radius in radii}
    return table


@cache
def _pairs(text: str) -> dict[str, float]:
    words = text.split()
    return dict(zip(words[::2], map(float, words[1::2]), strict=True))


def ionic_radius(ion: str, coordination: int) -> float:
    """Return the radius of an ion such as ``Na1`` or ``O-2`` in angstrom.

    The nearest tabulated coordination stands in for one that Shannon does not list.
    """
    table = _ions()[ion]
    return table[min(table, key=lambda known: (abs(known - coordination), known))]


def bonded_radius(element: str) -> float:
    """Return Slater's radius in angstrom; two of them add up to a bond length."""
    return _pairs(_SLATER)[element]


def metallic_radius(element: str) -> float:
    """Return half the distance of neighbours in a close-packed metal, in angstrom."""
    return _pairs(_METALLIC)[element]


def split_ion(ion: str) -> tuple[str, int]:
    """Split ``Na1`` into ``("Na", 1)``; a plain element has charge 0."""
    element = ion.rstrip("-0123456789")
    return element, int(ion[len(element) :] or 0)


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
