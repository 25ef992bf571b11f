"""What is said of one crystal alone: formula, symmetry, density, cell, composition validity.

Runs in worker processes on chunks of crystals; no torch here.

Space groups are those of `crystals.symmetry`. Composition validity is SMACT's rule as CDVAE uses it
(charge neutrality and Pauling test, metals pass) with the oxidation states named below.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from chemeleon.crystals.batch import Array, Crystals
from chemeleon.crystals.symmetry import SYMPREC, TIGHT, space_group
from chemeleon.data.niggli import cell_parameters
from chemeleon.data.parse import BadCrystalError, Crystal, parse_as_given
from chemeleon.data.pool import Rescue
from chemeleon.evaluation.matching._match_worker import TimeUpError, time_limit

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


class Described(NamedTuple):
    """Crystals of a chunk with what is said of them.

    Attributes:
        crystals: as given; of no atoms where there is a reason.
        reasons: why a crystal could not be read, else None.
        numbers: ``(C, len(NUMBERS))`` float64, NaN where unknown.
        texts: rows of `TEXTS`.
    """

    crystals: Crystals[Array]
    reasons: list[str | None]
    numbers: NDArray[np.float64]
    texts: list[tuple[str, ...]]


def is_tame(items: list[tuple[str, Any]]) -> bool:
    """Tell whether no crystal here is so large that compiled code could take long over it."""
    return all(
        kind == "problem"
        or (kind == "arrays" and len(content[0]) <= _TAME_ATOMS)
        or (isinstance(content, str | bytes) and len(content) <= _TAME_LETTERS)
        or (isinstance(content, dict) and len(content.get("sites") or ()) <= _TAME_ATOMS)
        for kind, content in items
    )


def _give_up(items: list[tuple[str, Any]], reason: str) -> Described:
    return describe_chunk([("problem", reason)] * len(items))


def _join(parts: Sequence[Described]) -> Described:
    return Described(
        Crystals.join([p.crystals for p in parts]),
        [reason for p in parts for reason in p.reasons],
        np.concatenate([p.numbers for p in parts]),
        [text for p in parts for text in p.texts],
    )


RESCUE = Rescue(
    split=lambda items: [items[i : i + -(-len(items) // 8)]
                         for i in range(0, len(items), -(-len(items) // 8))],
    join=_join,
    give_up=_give_up,
)  # fmt: skip


def describe_chunk(items: list[tuple[str, Any]]) -> Described:
    """Read and describe crystals given as (kind, content), see `data.parse.parse`."""
    crystals: list[Crystal | None] = []
    reasons: list[str | None] = []
    rows, texts = [], []
    for kind in {kind for kind, _ in items}:
        _warm(kind)
    for kind, content in items:
        crystal, reason = None, None
        if kind == "problem":  # found while reading; the content is the reason
            reason = str(content)
        else:
            try:
                with time_limit(_SECONDS):
                    crystal = parse_as_given(kind, content)
            except (BadCrystalError, MemoryError) as error:
                reason = str(error) or "too large to read"
            except TimeUpError:
                reason = f"not read within {_SECONDS:g} s of processor time"
        if crystal is None:
            row, text = [np.nan] * len(NUMBERS), ("",) * len(TEXTS)
        else:
            row, text = _describe(crystal)
        crystals.append(crystal)
        reasons.append(reason)
        rows.append(row)
        texts.append(text)
    numbers = np.array(rows, dtype=np.float64).reshape(-1, len(NUMBERS))
    return Described(Crystals.of(crystals), reasons, numbers, texts)


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


def smact_chunk(formulas: list[str]) -> list[float]:
    """Return SMACT's verdicts on reduced formulas, NaN without one, in a worker process."""
    return [_smact(formula) for formula in formulas]


def _symmetry(crystal: Crystal, symprec: float) -> tuple[float, str, str]:
    numbers, frac, lattice = crystal
    try:
        with time_limit(_SECONDS):
            found = space_group(numbers, frac, lattice, symprec)
    except TimeUpError:
        found = None
    return (np.nan, "", "") if found is None else found
