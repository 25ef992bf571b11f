"""What is said of one crystal alone: formula, symmetry, density, cell, composition validity.

Runs in worker processes; no torch here.

Space groups are those of `crystals.symmetry`. Composition validity is SMACT's rule as CDVAE uses it
(charge neutrality and Pauling test, metals pass) with the oxidation states named below.
"""

from __future__ import annotations

import functools
import warnings
from typing import Any, NamedTuple

import numpy as np

from chemeleon.crystals.symmetry import SYMPREC, TIGHT, space_group
from chemeleon.data.niggli import cell_parameters
from chemeleon.data.parse import BadCrystalError, Crystal, parse_as_given
from chemeleon.evaluation.matching.limits import TimeUpError, time_limit
from chemeleon.evaluation.work import Each
from chemeleon.workers import NO_ANSWER

DESCRIPTION_VERSION = 2  # part of the key of cached references
OXIDATION_STATES = "smact14"
_GRAM_PER_DALTON_ANGSTROM3 = 1.66053906660
_SECONDS = 10.0  # of processor time
# read before the first crystal, so that what readers import is not counted as its time
_FIRST: tuple[tuple[str, Any], ...] = (
    ("cif", "data_x\n_cell_length_a 4\n_cell_length_b 4\n_cell_length_c 4\n_cell_angle_alpha 90\n"
            "_cell_angle_beta 90\n_cell_angle_gamma 90\n_symmetry_space_group_name_H-M 'P m -3 m'\n"
            "loop_\n_atom_site_label\n_atom_site_type_symbol\n_atom_site_fract_x\n"
            "_atom_site_fract_y\n_atom_site_fract_z\nCs1 Cs 0 0 0\nCl1 Cl 0.5 0.5 0.5\n"),
    ("poscar", "x\n1.0\n4 0 0\n0 4 0\n0 0 4\nCs Cl\n1 1\ndirect\n0 0 0\n0.5 0.5 0.5\n"),
    ("dict", {"lattice": {"matrix": [[4, 0, 0], [0, 4, 0], [0, 0, 4]]},
              "sites": [{"species": [{"element": "Cs", "occu": 1}], "abc": [0, 0, 0]}]}),
    ("extxyz", 'Lattice="4 0 0 0 4 0 0 0 4" Properties=species:S:1:pos:R:3 pbc="T T T"\n'
               "Cs 0 0 0\nCl 2 2 2\n"),
)  # fmt: skip
_TAME_ATOMS, _TAME_LETTERS = 200, 20_000
TEXTS = ("formula", "reduced_formula", "space_group_symbol", "crystal_system")
NUMBERS = (
    "num_atoms", "num_elements", "space_group", "density_g_cm3", "volume_per_atom_a3",
    "a", "b", "c", "alpha", "beta", "gamma", "valid_composition", "space_group_strict",
)  # fmt: skip

WHOLE = ("num_atoms", "num_elements", "space_group", "space_group_strict")  # of these


class Described(NamedTuple):
    """A crystal with what is said of it.

    Attributes:
        crystal: as given; None where there is a reason.
        reason: why it could not be read, else None.
        numbers: `NUMBERS`, NaN where unknown.
        texts: `TEXTS`, empty where unknown.
    """

    crystal: Crystal | None
    reason: str | None
    numbers: list[float]
    texts: tuple[str, ...]


class Describe(Each):
    """Read and describe crystals given as (kind, content), see `data.parse.parse`."""

    size = 128

    @property
    def is_tame(self) -> bool:
        return all(
            kind == "problem"
            or (kind == "arrays" and len(content[0]) <= _TAME_ATOMS)
            or (isinstance(content, str | bytes) and len(content) <= _TAME_LETTERS)
            or (isinstance(content, dict) and len(content.get("sites") or ()) <= _TAME_ATOMS)
            for kind, content in self.items
        )

    def lost(self, reason: str) -> Described:
        return Described(None, reason, [np.nan] * len(NUMBERS), ("",) * len(TEXTS))

    def answer(self, item: tuple[str, Any]) -> Described:
        kind, content = item
        if kind == "problem":  # found while reading; the content is the reason
            return self.lost(str(content))
        _warm(kind)
        try:
            with time_limit(_SECONDS):
                crystal = parse_as_given(kind, content)
        except (BadCrystalError, MemoryError) as error:
            return self.lost(str(error) or "too large to read")
        except TimeUpError:
            return self.lost(f"not read within {_SECONDS:g} s of processor time")
        return Described(crystal, None, *_describe(crystal))


@functools.cache
def _warm(kind: str) -> None:
    """Have the reader of a kind import what it needs."""
    if kind in dict(_FIRST):
        parse_as_given(kind, dict(_FIRST)[kind])


def _describe(crystal: Crystal) -> tuple[list[float], tuple[str, ...]]:
    numbers, _, lattice = crystal
    formula, reduced, mass, valid = _composition(tuple(np.bincount(numbers).tolist()))
    volume = abs(float(np.linalg.det(lattice)))
    lengths, angles = cell_parameters(lattice)
    group, symbol, system = _symmetry(crystal, SYMPREC)
    row = [
        len(numbers),
        len(np.unique(numbers)),
        group,
        mass * _GRAM_PER_DALTON_ANGSTROM3 / volume,
        volume / len(numbers),
        *lengths.tolist(),
        *np.degrees(angles).tolist(),
        valid,
        _symmetry(crystal, TIGHT)[0],
    ]
    return row, (formula, reduced, symbol, system)


@functools.lru_cache(maxsize=100_000)
def _composition(counts: tuple[int, ...]) -> tuple[str, str, float, float]:
    """Return formula, reduced formula, mass in dalton and SMACT's verdict (NaN without one)."""
    from pymatgen.core import Composition, Element

    found = Composition({Element.from_Z(z): n for z, n in enumerate(counts) if n})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # formulas go by electronegativity, which some lack
        formula, reduced = found.formula, found.reduced_formula
    return formula, reduced, float(found.weight), _smact(reduced)


class Smact(Each):
    """SMACT's verdicts on reduced formulas, NaN for one that takes too long.

    Raises:
        RuntimeError: if SMACT does not work; NaN would make every composition invalid.
    """

    size = 8  # one with many oxidation states takes long

    def lost(self, reason: str) -> float:
        if reason == NO_ANSWER:
            return np.nan
        raise RuntimeError(
            f"SMACT gives no verdict on a composition: {reason}; see whether"
            " python -c 'import smact.screening' works and memory is left"
        )

    def answer(self, item: str) -> float:
        return _smact(item)


@functools.lru_cache(maxsize=100_000)
def _smact(reduced_formula: str) -> float:
    from smact.screening import smact_validity

    try:
        with warnings.catch_warnings(), time_limit(_SECONDS):
            warnings.simplefilter("ignore")
            return float(smact_validity(reduced_formula, oxidation_states_set=OXIDATION_STATES))
    except TimeUpError:
        return np.nan
    except Exception:  # elements without data
        return 0.0


def _symmetry(crystal: Crystal, symprec: float) -> tuple[float, str, str]:
    numbers, frac, lattice = crystal
    try:
        with time_limit(_SECONDS):
            found = space_group(numbers, frac, lattice, symprec)
    except TimeUpError:
        found = None
    return (np.nan, "", "") if found is None else found
