"""Disordered novelty: 200 pairs of known answer, and pymatgen's matcher of disordered crystals."""

from __future__ import annotations

import itertools
import warnings
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from pymatgen.analysis.structure_matcher import OrderDisorderElementComparator, StructureMatcher
from pymatgen.core import Element, Lattice, Structure

import chemeleon
from chemeleon.crystals.batch import Array, Crystals
from chemeleon.data.parse import Crystal
from chemeleon.errors import ConfigError
from chemeleon.evaluation.matching.disordered import alike, find_alike, groups_of
from chemeleon.evaluation.matching.grouping import composition_keys, find_known, prepare
from chemeleon.evaluation.matching.pairs import TOLERANCES

# radii in angstrom (Slater) and electronegativities (Pauling) of both behind each
LIKE = [
    ("Ca", "Sr"),  # 1.80 2.00, 1.00 0.95
    ("Sr", "Ba"),  # 2.00 2.15, 0.95 0.89
    ("Fe", "Ni"),  # 1.40 1.35, 1.83 1.91
    ("Ti", "Zr"),  # 1.40 1.55, 1.54 1.33
    ("K", "Rb"),  # 2.20 2.35, 0.82 0.82
    ("Cl", "Br"),  # 1.00 1.15, 3.16 2.96
    ("S", "Se"),  # 1.00 1.15, 2.58 2.55
    ("Ti", "Y"),  # 1.40 1.80 (25 %), 1.54 1.22
]
UNLIKE = [
    ("Na", "Cl"),  # 1.80 1.00
    ("Li", "Cs"),  # 1.45 2.60
    ("Be", "Ba"),  # 1.05 2.15
    ("Cu", "Cl"),  # 1.35 1.00 (29.8 %), but 1.90 3.16
    ("Ti", "Cl"),  # 1.40 1.00 (33 %)
    ("Zn", "K"),  # 1.35 2.20
    ("Mg", "S"),  # 1.50 1.00
    ("Sc", "Br"),  # 1.60 1.15 (32.7 %)
]
THIRD = "N"  # 0.65: unlike every element above


class Pair(NamedTuple):
    kind: str
    one: Structure
    two: Structure
    same: bool


def _layers(order: str, one: str, two: str, a: float) -> Structure:
    """CsCl cells in a row, the corner of each held by one (A) or the other (B) of two elements."""
    count = len(order)
    corners = [[0, 0, k / count] for k in range(count)]
    centres = [[0.5, 0.5, (k + 0.5) / count] for k in range(count)]
    species = [one if letter == "A" else two for letter in order]
    cell = Lattice.tetragonal(a, a * count)
    return Structure(cell, [*species, *[THIRD] * count], [*corners, *centres])


def _shaken(structure: Structure, rng: np.random.Generator, by: float = 0.03) -> Structure:
    found = structure.copy()
    for i, shift in enumerate(rng.normal(0, by, (len(found), 3))):
        found.translate_sites([i], shift, frac_coords=False)
    return found


def _exchanged(structure: Structure, elements: tuple[str, str], order: list[int]) -> Structure:
    """The same with the atoms of two elements put on each other's sites."""
    at = [i for i, site in enumerate(structure) if site.specie.symbol in elements]
    found = structure.copy()
    for i, k in zip(at, order, strict=True):
        found.replace(i, structure[at[k]].specie)
    return found


def _pairs() -> list[Pair]:
    """Return 25 pairs of each of eight kinds."""
    found = []
    for i in range(25):
        rng, a = np.random.default_rng(i), 3.6 + 0.04 * i
        like, unlike = LIKE[i % len(LIKE)], UNLIKE[i % len(UNLIKE)]
        for word, pair, same in (("like", like, True), ("unlike", unlike, False)):
            one = _layers("AABB", *pair, a)
            two = _shaken(_layers("ABAB", *pair, a), rng)
            found.append(Pair(f"{word} swap", one, two, same))
            one, two = _layers("AAABBB", *pair, a), _layers("AABABB", *pair, a)
            found.append(Pair(f"{word} swap, six layers", one, _shaken(two, rng), same))
        full = _layers("AABB", *like, a)
        for kind, site in (("vacancy", 4 + i % 4), ("vacancy of a like element", i % 4)):
            lacking = full.copy()
            lacking.remove_sites([site])
            found.append(Pair(kind, full, lacking, False))
        cell = full.copy()
        cell.make_supercell([2, 1, 1])
        order = rng.permutation(8).tolist()
        found.append(Pair("like supercell", full, _exchanged(cell, like, order), True))
        full = _layers("AABB", *unlike, a)
        cell = full.copy()
        cell.make_supercell([2, 1, 1])
        # sites 0 to 3 are of one element: an exchange of 0 and 4 is no symmetry of the crystal
        order = [4, 1, 2, 3, 0, 5, 6, 7] if i % 2 else list(range(8))
        two = _shaken(_exchanged(cell, unlike, order), rng)
        found.append(Pair("unlike supercell", full, two, i % 2 == 0))
    return found


def _spread(structure: Structure) -> Structure:
    """The average that MatterGen's publication speaks of, from pymatgen's own data."""
    groups: list[set[str]] = [{element.symbol} for element in structure.composition]
    for one, two in itertools.combinations(structure.composition, 2):
        radii = float(one.atomic_radius), float(two.atomic_radius)
        if abs(radii[0] - radii[1]) <= 0.3 * sum(radii) / 2 and abs(one.X - two.X) <= 1.0:
            joined = [g for g in groups if g & {one.symbol, two.symbol}]
            groups = [g for g in groups if g not in joined] + [set().union(*joined)]
    counts = {element.symbol: n for element, n in structure.composition.items()}
    shares = {
        symbol: {s: counts[s] / sum(counts[x] for x in group) for s in sorted(group)}
        for group in groups
        for symbol in group
    }
    species = [shares[site.specie.symbol] for site in structure]
    return Structure(structure.lattice, species, structure.frac_coords)


def _pymatgen(one: Structure, two: Structure) -> bool:
    if one.composition.reduced_formula != two.composition.reduced_formula:
        return False
    if StructureMatcher().fit(one, two):
        return True
    comparator = OrderDisorderElementComparator()
    both = StructureMatcher(comparator=comparator).fit(_spread(one), _spread(two))
    # as MatterGen's public code has it: one is spread, the other looked for in its supercells
    among = StructureMatcher(comparator=comparator, attempt_supercell=True, allow_subset=True)
    spread = _spread(one)
    assert both == (not spread.is_ordered and bool(among.fit(spread, two)))
    return both


def _packed(structures: list[Structure]) -> Crystals[Array]:
    return Crystals.of(
        [Crystal(np.array(s.atomic_numbers), s.frac_coords, s.lattice.matrix) for s in structures]
    )


def _ours(one: Structure, two: Structure) -> bool:
    crystal, known = _packed([one]), _packed([two])
    tolerances, common = TOLERANCES["pymatgen"], {"seconds": 10.0, "workers": 1}
    mine, theirs = prepare(crystal, **common), prepare(known, **common)
    if find_known(mine, theirs, tolerances, **common).match[0] >= 0:
        return True
    asked = np.array([True])
    found = find_alike(crystal, mine.keys, asked, known, theirs.keys, tolerances, **common)
    assert found.undecided.sum() == 0
    return bool(found.match[0] >= 0)


def test_two_hundred_pairs_have_the_answers_of_the_rule_and_of_pymatgen() -> None:
    pairs = _pairs()
    assert Counter(Counter(p.kind for p in pairs).values()) == {25: 8}
    wrong = [(p.kind, p.one.formula, "rule") for p in pairs if _ours(p.one, p.two) != p.same]
    wrong += [(p.kind, p.one.formula, "order") for p in pairs if _ours(p.two, p.one) != p.same]
    wrong += [
        (p.kind, p.one.formula, "pymatgen") for p in pairs if _pymatgen(p.one, p.two) != p.same
    ]
    assert not wrong


@pytest.mark.parametrize(("pairs", "answer"), [(LIKE, True), (UNLIKE, False)])
def test_which_elements_are_alike(pairs: list[tuple[str, str]], answer: bool) -> None:
    for one, two in pairs:
        assert alike(Element(one).Z, Element(two).Z) is answer, (one, two)
        assert alike(Element(two).Z, Element(one).Z) is answer


def test_elements_are_joined_by_a_chain_and_those_without_data_by_none() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not any(alike(2, z) or alike(z, 96) for z in range(1, 119))
    chain = _layers("AB", "Ti", "La", 4.0)  # 1.40 and 1.95: unlike, but both like Y, 1.80
    assert groups_of(composition_keys(_packed([chain]))[0]) == {}
    chain.append("Y", [0.5, 0, 0])
    assert groups_of(composition_keys(_packed([chain]))[0]) == {7: 7, 22: 22, 39: 22, 57: 22}


@pytest.fixture
def sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Structure]:
    """Folders of one crystal each, by their names."""
    monkeypatch.setenv("CHEMELEON_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    found = {
        "first": _layers("AABB", "Ca", "Sr", 4.0),
        "second": _layers("AAAB", "Ca", "Sr", 4.0),
        "disordered_third": _layers("AABB", "Li", "Cs", 4.0),
    }
    for name, structure in found.items():
        Path(name).mkdir()
        structure.to(filename=str(tmp_path / name / "a.cif"))
    return found


def test_novelty_is_told_twice_and_joined(sets: dict[str, Structure]) -> None:
    given = [
        sets["first"],
        _layers("ABAB", "Ca", "Sr", 4.0),
        sets["second"],
        _layers("AB", "Na", "Cl", 4.0),
    ]
    report = chemeleon.evaluate(given, references=["first", "second"], control="disordered_third")
    table = report.crystals
    assert table["novel_first"].tolist() == [False, True, True, True]
    assert table["novel_second"].tolist() == [True, True, False, True]
    assert table["novel"].tolist() == [False, True, False, True]
    assert table["novel_disordered_first"].tolist() == [False, False, True, True]
    assert table["novel_disordered"].tolist() == [False, False, False, True]
    headline = report.headline
    assert headline["value"]["novel"] == headline["value"]["unique_novel"] == 0.5
    assert headline["label"]["unique_novel"] == "Unique and novel: first + second"
    assert headline["label"]["novel_disordered_second"] == "Novel, disordered: second"
    assert headline["value"]["novel_disordered"] == 0.25
    assert headline["control"]["novel"] == 1


def test_no_control_is_judged_against_itself(sets: dict[str, Structure]) -> None:
    report = chemeleon.evaluate([sets["first"]], references=["first", "second"], control="second")
    headline = report.headline
    assert headline["control"]["novel_first"] == headline["control"]["novel"] == 1
    assert np.isnan(headline["control"]["novel_second"])


def test_a_reference_may_be_called_disordered_but_not_like_a_column(
    sets: dict[str, Structure],
) -> None:
    report = chemeleon.evaluate([sets["first"]], references=["disordered_third"], control="none")
    assert report.headline["label"]["unique_novel"] == "Unique and novel: disordered_third"
    assert "novel_disordered_disordered_third" in report.crystals
    Path("disordered_first").mkdir()
    with pytest.raises(ConfigError, match="disordered_first"):
        chemeleon.evaluate([sets["first"]], references=["first", "disordered_first"])
