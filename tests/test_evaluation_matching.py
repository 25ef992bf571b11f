"""Verdicts, groups and novelty are those of pymatgen's plain double loop, crystal by crystal."""

from __future__ import annotations

import time
import warnings
from typing import Any

import numpy as np
import pytest
from conftest import demo_crystals

from chemeleon.crystals.batch import Array, Crystals
from chemeleon.data.parse import Crystal
from chemeleon.evaluation.matching import lattice_maps, verdicts
from chemeleon.evaluation.matching.grouping import (
    Prepared,
    find_groups,
    find_known,
    prepare,
    shared,
)
from chemeleon.evaluation.matching.lattice_maps import possible_maps, unit_cells
from chemeleon.evaluation.matching.pairs import TOLERANCES
from chemeleon.evaluation.matching.reduced import reduce_crystal
from chemeleon.evaluation.matching.verdicts import UNDECIDED, MatchJob


def possible_matches(lattice: Any, cells: Array, ltol: float, angle_tol: float) -> Any:
    maps = possible_maps(lattice, cells, ltol, angle_tol)
    return np.union1d(maps.owner, maps.unknown)


PRESETS = ("pymatgen", "cdvae", "lemat")


def _disturb(crystal: Crystal, rng: np.random.Generator) -> Crystal:
    """Noise, strain, supercell, rotation, permutation and shift of the origin."""
    numbers, frac, lattice = crystal
    lattice = lattice @ (np.eye(3) + rng.normal(0, rng.choice([0, 0.02, 0.06]), (3, 3)))
    if rng.random() < 0.4:
        factor = 1 + np.eye(3)[rng.integers(3)]
        frac = np.concatenate([frac, frac + factor - 1]) / factor
        numbers, lattice = np.tile(numbers, 2), lattice * factor[:, None]
    noise = rng.normal(0, rng.choice([0.005, 0.05, 0.2]), frac.shape)
    order = rng.permutation(len(numbers))
    frac = (frac + noise @ np.linalg.inv(lattice) + rng.random(3))[order]
    return Crystal(numbers[order], frac, lattice @ np.linalg.qr(rng.normal(size=(3, 3)))[0])


def _crystals(count: int, copies: int, seed: int, largest: int = 6) -> Crystals[Array]:
    rng = np.random.default_rng(seed)
    demo = demo_crystals("train")
    arrays = [a for a in demo if len(a[0]) <= largest]
    chosen = [arrays[i] for i in rng.permutation(len(arrays))[:count]]
    made = []
    for numbers, frac, lattice in chosen:
        # one chemistry for all, so that different prototypes are held against each other
        kinds = np.unique(numbers, return_inverse=True)[1]
        crystal = Crystal(np.array([11, 17, 8, 22, 3])[kinds], frac, lattice)
        made += [crystal, *(_disturb(crystal, rng) for _ in range(copies))]
    return Crystals.of(made)


def _structures(crystals: Crystals[Array]) -> list[Any]:
    from pymatgen.core import Structure

    return [Structure(lattice, numbers.tolist(), frac) for numbers, frac, lattice in crystals]


def _matcher(name: str) -> Any:
    from pymatgen.analysis.structure_matcher import StructureMatcher

    ltol, stol, angle = TOLERANCES[name]
    return StructureMatcher(ltol=ltol, stol=stol, angle_tol=angle)


@pytest.fixture(autouse=True)
def _quiet() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.parametrize("name", PRESETS)
def test_groups_and_novelty_equal_the_plain_loop(name: str) -> None:
    crystals, others = _crystals(7, 2, seed=1), _crystals(6, 1, seed=2)
    ours, theirs, matcher = _structures(crystals), _structures(others), _matcher(name)
    parent = list(range(len(ours)))
    for i in range(len(ours)):
        for j in range(i + 1, len(ours)):
            if matcher.fit(ours[i], ours[j]):
                low, high = sorted((parent[i], parent[j]))
                parent = [low if p == high else p for p in parent]
    novel = [not any(matcher.fit(a, b) for b in theirs) for a in ours]
    prepared = prepare(crystals)
    groups = find_groups(prepared, TOLERANCES[name])
    np.testing.assert_array_equal(groups.group, parent)
    np.testing.assert_array_equal(groups.unique, [p == i for i, p in enumerate(parent)])
    known = find_known(prepared, prepare(others), TOLERANCES[name])
    np.testing.assert_array_equal(known.match < 0, novel)
    assert all(matcher.fit(ours[i], theirs[j]) for i, j in enumerate(known.match) if j >= 0)
    assert 0 < groups.unique.sum() < len(ours)
    assert 0 < sum(novel) < len(ours)
    assert not groups.undecided.any()


@pytest.mark.parametrize("name", PRESETS)
def test_every_verdict_equals_fit(name: str) -> None:
    """Also for pairs that grouping never asks about; both orders of the arguments."""
    crystals = _crystals(9, 1, seed=5)
    structures, matcher = _structures(crystals), _matcher(name)
    reduced = [reduce_crystal(crystal) for crystal in crystals]
    asked = passed = 0
    for i, first in enumerate(reduced):
        for j, second in enumerate(reduced):
            assert not isinstance(first, str)
            assert not isinstance(second, str)
            if sorted(first.atomic_numbers) != sorted(second.atomic_numbers):
                assert not matcher.fit(structures[i], structures[j])
                continue
            expected = matcher.fit(structures[i], structures[j])
            cells = unit_cells(second.lattice[None])
            ltol, _, angle = TOLERANCES[name]
            possible = len(possible_matches(first.lattice, cells, ltol, angle)) > 0
            assert possible or not expected, "the bound excluded a match"
            assert verdicts.fits(first, second, TOLERANCES[name]) == expected
            asked, passed = asked + 1, passed + possible
    assert passed < asked, "the bound excludes nothing"


@pytest.mark.parametrize("name", PRESETS)
def test_lattice_bound_is_pymatgens_mapping(name: str) -> None:
    """The bound is sharp: it keeps a pair exactly where pymatgen finds a lattice."""
    from pymatgen.core import Lattice

    rng = np.random.default_rng(3)
    ltol, _, angle = TOLERANCES[name]
    base = [np.eye(3), np.diag([1, 1, 1.19]), [[1, 0, 0], [0.5, 0.75**0.5, 0], [0, 0, 1.6]]]
    lattices = [np.array(b) @ (np.eye(3) + rng.normal(0, s, (3, 3))) for b in base
                for s in (0, 0.05, 0.1, 0.2)]  # fmt: skip
    lattices.append(np.diag([1, 1, 9.0]))
    reduced = np.stack([Lattice(m).get_niggli_reduced_lattice().matrix for m in lattices])
    reduced /= np.cbrt(np.abs(np.linalg.det(reduced)))[:, None, None]
    for i, lattice in enumerate(reduced):
        found = possible_matches(lattice, unit_cells(reduced), ltol, angle).tolist()
        expected = []
        for j, other in enumerate(reduced):
            maps = Lattice(lattice).find_all_mappings(Lattice(other), ltol, angle, True)
            if any(round(abs(np.linalg.det(scale))) == 1 for _, _, scale in maps):
                expected.append(j)
        assert found == expected, i


def test_verdict_out_of_time_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    crystals = _crystals(1, 0, seed=0).subset([0, 0, 0])
    prepared = prepare(crystals)

    def late(*_: object) -> bool:
        end = time.process_time() + 5  # limits count processor time, so it has to work
        while time.process_time() < end:
            pass
        return True

    monkeypatch.setattr(verdicts, "fits", late)
    rows = [(0, range(1, 3)), (1, range(2, 3))]
    edges = MatchJob(rows, prepared.crystals, None, TOLERANCES["cdvae"], 0.05).run()
    assert edges.tolist() == [[0, 1, UNDECIDED], [0, 2, UNDECIDED], [1, 2, UNDECIDED]]
    groups = find_groups(prepared, TOLERANCES["cdvae"], seconds=0.05)
    assert groups.undecided.tolist() == [2, 2, 2]
    assert groups.unique.all()


def test_what_cannot_be_reduced_stands_alone_and_is_counted() -> None:
    needle = Crystal(np.array([11, 17]), np.array([[0, 0, 0], [0.5, 0.3, 0.2]]),
                     np.diag([4.0, 4.0, 10000.0]))  # fmt: skip
    cube = Crystal(np.array([11, 17]), np.array([[0, 0, 0], [0.5] * 3]), 4 * np.eye(3))
    prepared = prepare(Crystals.of([needle, cube, None, cube]))
    assert "100 times" in str(prepared.reasons[0])
    groups = find_groups(prepared, TOLERANCES["pymatgen"])
    assert groups.unique.tolist() == [True, True, False, False]
    assert groups.group.tolist() == [0, 1, -1, 1]
    assert groups.undecided.tolist() == [2, 1, 0, 1]


def test_a_chain_of_matches_is_one_group_whatever_the_order() -> None:
    numbers, frac = np.array([55, 17]), np.array([[0, 0, 0], [0.5] * 3])
    chain = [Crystal(numbers, frac, 4 * np.diag([1, 1, ratio])) for ratio in (1, 1.14, 1.3)]
    structures, matcher = _structures(Crystals.of(chain)), _matcher("lemat")
    fits = [matcher.fit(structures[i], structures[j]) for i, j in ((0, 1), (1, 2), (0, 2))]
    assert fits == [True, True, False]
    for order in ([0, 1, 2], [0, 2, 1], [2, 0, 1]):  # with the middle one last, the ends come first
        groups = find_groups(prepare(Crystals.of(chain).subset(order)), TOLERANCES["lemat"])
        assert groups.unique.tolist() == [True, False, False]


def test_only_crystals_with_a_partner_are_reduced() -> None:
    keys = [b"a", b"b", b"", b"a", b"c"]
    np.testing.assert_array_equal(shared(keys, [{b"c"}]), [True, False, False, True, True])
    crystals = _crystals(2, 0, seed=0)
    prepared: Prepared = prepare(crystals, np.array([True, False]))
    assert (prepared.crystals.num_atoms > 0).tolist() == [True, False]
    assert all(prepared.keys)


def test_a_lattice_with_too_many_points_is_left_to_pymatgen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lattice_maps, "_MAX_POINTS", 3)
    cells = unit_cells(np.stack([np.eye(3), np.eye(3)]))
    assert possible_matches(np.eye(3), cells, 0.2, 5.0).tolist() == [0, 1]
