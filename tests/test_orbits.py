"""A crystal as orbits is the same crystal, and is written in one way only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from conftest import demo_crystals

from chemeleon.crystals import canonical
from chemeleon.crystals.batch import Crystal
from chemeleon.crystals.canonical import orbits_of, redrawn
from chemeleon.crystals.lattice import cells_of
from chemeleon.crystals.orbits import (
    OrbitCrystal,
    basis_of,
    crystals_of,
    orbit_crystal,
    put_together,
)
from chemeleon.crystals.symmetry import TIGHT, dataset, operations
from chemeleon.crystals.wyckoff import group
from chemeleon.evaluation.matching.pairs import MatchPairs

# one of each kind: origin choices, centrings, polar axes, enantiomorphs, many settings
KINDS = [
    *(1, 2, 5, 7, 8, 9, 12, 14, 15, 19, 29, 33, 43, 47, 62, 64, 70, 88, 96, 99, 122, 129, 141, 146),
    *(152, 160, 161, 166, 167, 180, 186, 194, 198, 205, 214, 216, 220, 225, 227, 230),
]
EXACT = 1e-4
MATCHER = MatchPairs([], (0.1, 0.1, 3.0), seconds=20.0)


def one(found: OrbitCrystal | None) -> Crystal:
    """Return the primitive cell of orbits."""
    assert found is not None
    return crystals_of(put_together([found])).crystal(0)


def made(number: int, generator: np.random.Generator) -> Crystal:
    """Return a crystal of a group: three general orbits and one on each of two other letters."""
    table = group(number)
    general = len(table.places) - 1
    special = generator.permutation(general)[:2]
    letters = np.array([general] * 3 + [*special])
    places = [table.places[letter] for letter in letters]
    coords = [place.generic + place.follow @ generator.random(3) for place in places]
    numbers = np.array([8, 13, 8, 21, 34])[: len(letters)]
    size = 5 * len(table.operations.shifts) ** (1 / 3) * len(table.centring) ** (1 / 3)
    cell = np.array([*generator.uniform(size, 1.5 * size, 3), *generator.uniform(1.2, 1.8, 3)])
    return one(OrbitCrystal(number, cell, numbers, letters, np.array(coords)))


def otherwise(crystal: Crystal, generator: np.random.Generator) -> Crystal:
    """Return the same crystal in another cell, origin, orientation and order of atoms."""
    numbers, coords, lattice = crystal
    change = np.zeros((3, 3))
    while abs(round(np.linalg.det(change))) != 1:
        change = generator.integers(-1, 2, (3, 3))
    turn, _ = np.linalg.qr(generator.normal(size=(3, 3)))
    turn *= np.sign(np.linalg.det(turn))
    coords = (coords @ np.linalg.inv(change) + generator.random(3)) % 1.0
    order = generator.permutation(len(numbers))
    return Crystal(numbers[order], coords[order], change @ lattice @ turn)


def doubled(crystal: Crystal) -> Crystal:
    """Return two cells of a crystal as one."""
    numbers, coords, lattice = crystal
    coords = np.concatenate([coords, coords + np.array([0, 0, 1])]) * [1, 1, 0.5]
    return Crystal(np.tile(numbers, 2), coords, lattice * [[1.0], [1], [2]])


def mirrored(crystal: Crystal) -> Crystal:
    """Return the mirror image of a crystal."""
    return crystal._replace(lattice=crystal.lattice * [1, 1, -1])


def assert_same(first: OrbitCrystal | None, second: OrbitCrystal | None) -> None:
    """Two descriptions are one."""
    assert first is not None
    assert second is not None
    assert first.number == second.number
    np.testing.assert_array_equal(first.atomic_numbers, second.atomic_numbers)
    np.testing.assert_array_equal(first.letters, second.letters)
    np.testing.assert_allclose(first.cell, second.cell, atol=EXACT)
    np.testing.assert_allclose(first.coords, second.coords, atol=EXACT)


def assert_returns(crystal: Crystal, symprec: float = 0.1) -> OrbitCrystal:
    """A crystal returns from its orbits, with its space group and its orbits."""
    found = orbits_of(crystal, symprec)
    assert found is not None
    back = one(found)
    before, after = dataset(*crystal, symprec), dataset(*back, symprec)
    assert before is not None
    assert after is not None
    assert before.number == after.number
    answer = MATCHER.answer((crystal, back))
    assert answer.rmse is not None, answer
    return found


def placed(number: int, cell: Sequence[float], *atoms: tuple[int, Sequence[float]]) -> Crystal:
    """Return a crystal from one atom of each orbit, by the operations of its group alone."""
    rotations, shifts = operations(number, primitive=False)
    numbers, coords = [], []
    for element, position in atoms:
        images = (rotations @ np.array(position) + shifts) % 1.0
        ways = images[:, None] - images[None]
        first = (np.abs(ways - np.round(ways)) < 1e-3).all(-1).argmax(1)
        coords.append(images[first == np.arange(len(images))])
        numbers += [element] * len(coords[-1])
    parameters = np.array([*cell[:3], *np.radians(cell[3:])])
    return Crystal(np.array(numbers), np.concatenate(coords), basis_of(1, parameters))


def test_crystals_of_the_demo_set_return() -> None:
    crystals = demo_crystals("val").arrays()
    rows = range(0, len(crystals), max(1, len(crystals) // 40))
    found = [assert_returns(crystals.crystal(row)) for row in rows]
    assert len({crystal.number for crystal in found}) > 10


@pytest.mark.parametrize("number", KINDS)
def test_one_crystal_is_written_in_one_way(number: int) -> None:
    generator = np.random.default_rng(number)
    crystal = made(number, generator)
    found = assert_returns(crystal, 0.01)
    assert found.number == number
    for _ in range(3):
        assert_same(found, orbits_of(otherwise(crystal, generator), 0.01))
    assert_same(found, orbits_of(doubled(crystal), 0.01))
    assert_same(found, orbits_of(one(found), 0.01))
    for _ in range(3):
        assert_same(found, orbits_of(one(redrawn(found, generator)), 0.01))


@pytest.mark.slow
def test_every_group_has_its_letters_and_its_crystals() -> None:
    # the International Tables list 1,731 Wyckoff positions
    assert sum(len(group(number).places) for number in range(1, 231)) == 1731
    for number in range(1, 231):
        generator = np.random.default_rng(number)
        crystal = made(number, generator)
        found = assert_returns(crystal, 0.01)
        assert found.number == number
        assert_same(found, orbits_of(otherwise(crystal, generator), 0.01))


@pytest.mark.parametrize("number", [12, 62, 146, 166, 216, 227])
def test_orbits_of_a_table_are_orbits_of_its_operations(number: int) -> None:
    table = group(number)
    rotations, shifts = operations(number, primitive=True)
    inverse = np.linalg.inv(table.primitive)
    for place, count in zip(table.places, table.multiplicities, strict=True):
        atoms = place.images(place.generic) @ inverse
        assert len(atoms) == count
        images = np.einsum("gij,nj->gni", rotations, atoms) + shifts[:, None]
        ways = images[:, :, None] - atoms
        there = (np.abs(ways - np.round(ways)) < 1e-9).all(-1)
        assert (there.sum(-1) == 1).all()  # each operation permutes the atoms
        assert there.any(0).any(0).all()


def test_redrawn_crystals_differ() -> None:
    generator = np.random.default_rng(0)
    found = orbits_of(made(62, generator), 0.01)
    assert found is not None
    drawn = [redrawn(found, generator) for _ in range(20)]
    assert len({tuple(np.round(crystal.coords, 6).ravel()) for crystal in drawn}) > 10
    polar = orbits_of(made(99, generator), 0.01)
    assert polar is not None
    heights = {round(float(redrawn(polar, generator).coords[0, 2]), 6) for _ in range(10)}
    assert len(heights) == 10


def test_rock_salt_has_its_lighter_element_at_a_wherever_the_origin_is() -> None:
    cell = [5.64, 5.64, 5.64, 90, 90, 90]
    for sodium, chlorine in (((0, 0, 0), (0.5, 0.5, 0.5)), ((0.5, 0, 0), (0, 0, 0))):
        found = assert_returns(placed(225, cell, (11, sodium), (17, chlorine)))
        assert (found.number, found.letters.tolist()) == (225, [0, 1])
        assert found.atomic_numbers.tolist() == [11, 17]


def test_a_prototype_has_the_same_letters_with_other_elements() -> None:
    cell = [3.9, 3.9, 3.9, 90, 90, 90]
    letters = set()
    for a, b, x in ((38, 22, 8), (3, 56, 9), (55, 3, 17)):  # at a corner, amid x, on the faces
        shuffled = placed(221, cell, (b, (0, 0, 0)), (a, (0.5, 0.5, 0.5)), (x, (0.5, 0, 0)))
        found = assert_returns(shuffled)
        letters.add(
            tuple(
                sorted(
                    zip(
                        [{a: "a", b: "b", x: "x"}[z] for z in found.atomic_numbers],
                        found.letters.tolist(),
                        strict=True,
                    )
                )
            )
        )
    assert letters == {(("a", 0), ("b", 1), ("x", 2))}


@pytest.mark.parametrize(
    ("number", "cell", "atoms", "letters"),
    [
        (227, [3.57] * 3 + [90] * 3, [(6, (1 / 8, 1 / 8, 1 / 8))], "a"),  # diamond
        (227, [8.08] * 3 + [90] * 3,
         [(12, (1 / 8, 1 / 8, 1 / 8)), (13, (0.5, 0.5, 0.5)), (8, (0.262, 0.262, 0.262))], "eda"),
        (129, [3.97, 3.97, 5.5, 90, 90, 90],
         [(26, (0.75, 0.25, 0)), (34, (0.25, 0.25, 0.27))], "ac"),  # PbO type
        (167, [4.99, 4.99, 17.06, 90, 90, 120],
         [(20, (0, 0, 0)), (6, (0, 0, 0.25)), (8, (0.257, 0, 0.25))], "aeb"),  # calcite
        (166, [4.55, 4.55, 11.86, 90, 90, 120], [(83, (0, 0, 0.234))], "c"),
        (186, [3.25, 3.25, 5.2, 90, 90, 120],
         [(30, (1 / 3, 2 / 3, 0.1)), (8, (1 / 3, 2 / 3, 0.482))], "bb"),  # wurtzite
        (99, [3.99, 3.99, 4.03, 90, 90, 90],
         [(56, (0, 0, 0.3)), (22, (0.5, 0.5, 0.82)), (8, (0.5, 0.5, 0.28)), (8, (0.5, 0, 0.79))],
         "abca"),
    ],
)  # fmt: skip
def test_known_structures(number: int, cell: list, atoms: list, letters: str) -> None:
    found = assert_returns(placed(number, cell, *atoms))
    assert found.number == number
    assert sorted(chr(97 + letter) for letter in found.letters) == sorted(letters)


def test_polar_crystals_have_an_atom_at_zero() -> None:
    generator = np.random.default_rng(5)
    for number in (1, 8, 33, 99, 160):
        found = orbits_of(made(number, generator), 0.01)
        assert found is not None
        polar = group(number).polar
        assert polar.any()
        assert (np.abs(found.coords[:, polar]) < EXACT).all(1).any()


@pytest.mark.parametrize(("number", "other"), [(152, 154), (76, 78), (19, 19)])
def test_mirror_images_are_told_apart(number: int, other: int) -> None:
    crystal = made(number, np.random.default_rng(1))
    first, second = orbits_of(crystal, 0.01), orbits_of(mirrored(crystal), 0.01)
    assert first is not None
    assert second is not None
    assert (first.number, second.number) == (number, other)
    assert not np.allclose(first.coords, second.coords, atol=0.01)


def test_other_settings_of_a_monoclinic_group_are_one() -> None:
    crystal = made(14, np.random.default_rng(3))
    lattice = crystal.lattice
    # P2_1/n: c becomes a + c; and a cell far from reduced
    for change in ([[1, 0, 0], [0, 1, 0], [1, 0, 1]], [[1, 0, 3], [0, 1, 0], [2, 0, 7]]):
        coords = crystal.frac_coords @ np.linalg.inv(change)
        turned = Crystal(crystal.atomic_numbers, coords, np.array(change) @ lattice)
        assert_same(orbits_of(crystal, 0.01), orbits_of(turned, 0.01))


def test_an_atom_near_a_special_position_is_moved_there_within_the_tolerance_only() -> None:
    cell = [4.0, 4.0, 4.0, 90, 90, 90]
    crystal = placed(221, cell, (38, (0, 0, 0)), (22, (0.5, 0.5, 0.5)), (8, (0.5, 0.5, 0)))
    coords = crystal.frac_coords.copy()
    coords[0] += [0.0, 0.0, 0.05 / 4]
    bent = crystal._replace(frac_coords=coords)
    loose, strict = orbits_of(bent, 0.1), orbits_of(bent, 0.01)
    assert loose is not None
    assert strict is not None
    assert (loose.number, strict.number) == (221, 99)
    assert_returns(bent, 0.1)
    assert_returns(bent, 0.01)


def test_what_is_off_its_place_is_moved_there() -> None:
    found = orbits_of(made(194, np.random.default_rng(2)), 0.01)
    assert found is not None
    exact = one(found)
    noise = np.random.default_rng(4)
    off = found._replace(
        coords=found.coords + noise.normal(0, 0.01, found.coords.shape),
        cell=found.cell + noise.normal(0, 0.05, 6),
    )
    ideal = one(off)
    assert len(ideal.atomic_numbers) == len(exact.atomic_numbers)
    again = dataset(*ideal, 1e-4)
    assert again is not None
    assert again.number == 194
    cell = cells_of(ideal.lattice)
    assert cell[0] == pytest.approx(cell[1], abs=1e-9)
    assert np.degrees(cell[3:]) == pytest.approx([90, 90, 120], abs=1e-9)


def test_p1_keeps_every_atom() -> None:
    generator = np.random.default_rng(7)
    numbers = np.array([3, 8, 8, 15, 26])
    lattice = basis_of(1, np.array([5.0, 6, 7, 1.4, 1.5, 1.7]))
    crystal = Crystal(numbers, generator.random((5, 3)), lattice)
    found = assert_returns(crystal)
    assert (found.number, len(found.letters)) == (1, 5)
    assert found.atomic_numbers.tolist() == numbers.tolist()


def test_translations_that_hold_only_roughly_are_not_taken() -> None:
    cell = [4.2, 4.2, 8.4, 90, 90, 90]
    crystal = placed(99, cell, (27, (0, 0, 0)), (27, (0, 0, 0.508)), (8, (0.5, 0.5, 0.25)),
                     (8, (0.5, 0.5, 0.755)))  # fmt: skip
    rough = dataset(*crystal, 0.1)
    assert rough is not None
    assert len(rough.prim_std_cell.numbers) < 4
    assert len(one(orbits_of(crystal, 0.1)).atomic_numbers) == 4


def test_many_crystals_at_once_are_those_one_by_one() -> None:
    generator = np.random.default_rng(0)
    kinds = [orbits_of(made(number, generator), 0.01) for number in (225, 14, 225, 1, 166, 14)]
    whole = put_together([kinds[0], None, *kinds[1:]])
    assert len(whole) == 7
    crystals = crystals_of(whole)
    assert crystals.num_atoms[1] == 0
    for row, found in zip((0, 2, 3, 4, 5, 6), kinds, strict=True):
        ours, alone = crystals.crystal(row), one(found)
        np.testing.assert_array_equal(ours.atomic_numbers, alone.atomic_numbers)
        np.testing.assert_allclose(ours.frac_coords, alone.frac_coords)
        np.testing.assert_allclose(ours.lattice, alone.lattice)
    for row, found in zip((0, 2, 3, 4, 5, 6), kinds, strict=True):
        assert_same(orbit_crystal(whole, row), found)


def test_a_cell_that_cannot_be_is_a_crystal_without_atoms() -> None:
    good = orbits_of(made(2, np.random.default_rng(0)), 0.01)
    assert good is not None
    flat = good._replace(cell=np.array([5, 5, 5, 2.0, 2.2, 2.5]))
    crystals = crystals_of(put_together([flat, good]))
    assert crystals.num_atoms.tolist() == [0, len(one(good).atomic_numbers)]


def test_where_no_symmetry_is_looked_for_every_atom_is_an_orbit() -> None:
    lattice = np.array([[1.7, 0, 0], [-0.85, 1.4722, 0], [0, 0, 3.6]])  # boron, planes too close
    thin = Crystal(np.array([5, 7]), np.array([[0.1, 0.2, 0.3], [0.4, 0.6, 0.8]]), lattice)
    assert dataset(*thin, 0.1) is None
    found = orbits_of(thin)
    assert found is not None
    assert (found.number, found.atomic_numbers.tolist()) == (1, [5, 7])
    assert MATCHER.answer((thin, one(found))).rmse == pytest.approx(0, abs=1e-6)
    generator = np.random.default_rng(0)
    for _ in range(5):
        assert_same(found, orbits_of(otherwise(thin, generator)))


def test_what_is_no_crystal_has_no_orbits() -> None:
    place = np.zeros((1, 3))
    assert orbits_of(Crystal(np.array([6]), place, np.diag([3.0, 3.0, 0]))) is None
    assert orbits_of(Crystal(np.array([6]), place * np.nan, 3 * np.eye(3))) is None
    assert orbits_of(Crystal(np.array([6]), place, np.full((3, 3), np.inf))) is None


def test_exact_translations_are_searched_once_for_all_tolerances(monkeypatch) -> None:
    frac = np.array([[0, 0, 0], [0.503, 0, 0]])  # half a cell apart, but for 0.02 angstrom
    crystal = Crystal(np.array([29, 29]), frac, np.diag([7.2, 3.6, 3.6]))
    asked: list[float] = []

    def counted(*words: Any) -> Any:
        asked.append(words[3])
        return dataset(*words)

    monkeypatch.setattr(canonical, "dataset", counted)
    assert len(one(orbits_of(crystal)).atomic_numbers) == 2
    assert asked.count(TIGHT) == 1
    assert len(set(asked)) > 4
