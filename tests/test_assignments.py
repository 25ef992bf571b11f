"""Assignments give a formula exactly, reach all that does, and come without replacement."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import demo_crystals
from typer.testing import CliRunner

from chemeleon import api
from chemeleon.cli.app import app
from chemeleon.config.assignment import AssignmentConfig
from chemeleon.crystals.assignments import (
    assignments_of,
    atoms_of,
    in_standard_form,
    key_of,
    letters_of,
    next_letters,
    possible_groups,
    written,
)
from chemeleon.crystals.batch import Crystals
from chemeleon.crystals.canonical import redrawn, standard
from chemeleon.crystals.orbit_sets import write_as_orbits
from chemeleon.crystals.orbits import Assignment, OrbitCrystal, crystals_of, put_together
from chemeleon.crystals.patterns import pattern_of
from chemeleon.errors import ConfigError, DataError
from chemeleon.generation.assignments import Proposer
from chemeleon.generation.letter_search import LetterSearch, _perturbed
from chemeleon.generation.prototype_index import Index
from chemeleon.generation.prototypes import OWN_SCALE, SCALE, Prototypes
from chemeleon.models.assignment import AssignmentModel

TINY = ["assign.width=32", "assign.layers=1", "assign.heads=2", "trainer.tracker=none"]
ROCK_SALT, CESIUM_CHLORIDE = (225, "ab"), (221, "ab")


def assignment(number: int, orbits: str) -> Assignment:
    """Return what is written as ``3a 26c``: atomic numbers with letters."""
    parts = [(int(word[:-1]), ord(word[-1]) - ord("a")) for word in orbits.split()]
    numbers, letters = np.array(parts).T
    return Assignment(number, numbers, letters)


def crystal(number: int, orbits: str, size: float) -> OrbitCrystal:
    """Return a crystal with orbits on general points of their letters."""
    found = assignment(number, orbits)
    cell = np.array([size, size, size, *[np.pi / 2] * 3])
    return OrbitCrystal(*found[:1], cell, *found[1:], np.full((len(found.letters), 3), 0.21))


@pytest.fixture(scope="module")
def model() -> AssignmentModel:
    torch.manual_seed(0)
    found = AssignmentModel(AssignmentConfig(width=32, layers=2, heads=2))
    for table in (found.own, found.units, found.group, found.sites.query):
        torch.nn.init.normal_(table.weight, std=0.5)  # far from uniform
    found.largest_cell.fill_(28)
    return found.eval()


@pytest.fixture(scope="module")
def orbits() -> Crystals:
    return write_as_orbits(demo_crystals("val"))


def test_all_descriptions_of_a_crystal_have_one_standard_form(orbits):
    generator = np.random.default_rng(0)
    arrays = orbits.arrays()
    for row, found in enumerate(assignments_of(arrays)):
        start = int(arrays.starts[row])
        own = slice(start, start + int(arrays.num_atoms[row]))
        number, cell = found.number, np.array([5.0, 6, 7, 1.5, 1.6, 1.7])
        given = OrbitCrystal(
            number,
            cell,
            arrays.atomic_numbers[own].astype(np.int64),
            arrays.sites[own] % 27,
            arrays.frac_coords[own],
        )
        other = redrawn(given, generator)
        again = standard(Assignment(number, other.atomic_numbers, other.letters))
        assert key_of(again) == key_of(found)


def brute_force(number: int, counts: list[int]) -> set[tuple[tuple[int, ...], ...]]:
    """Return the letters of each element in all ways, by trying all sets of letters."""
    sizes, single, _ = letters_of(number)
    ways = []
    for count in counts:
        own = []
        for n in range(1, count + 1):
            for letters in itertools.combinations_with_replacement(range(len(sizes)), n):
                if sum(sizes[x] for x in letters) == count:
                    own.append(letters)
        ways.append(own)
    found = set()
    for way in itertools.product(*ways):
        used = Counter(itertools.chain(*way))
        if all(n == 1 for letter, n in used.items() if single[letter]):
            found.add(way)
    return found


def walked(number: int, counts: list[int]) -> set[tuple[tuple[int, ...], ...]]:
    """Return the same by taking every letter that may be next; each way must come to its end."""
    sizes, single, _ = letters_of(number)
    found = set()

    def walk(place: int, left: int, own: tuple, before: tuple, used: int) -> None:
        if not left:
            if place + 1 == len(counts):
                found.add((*before, own))
            else:
                walk(place + 1, counts[place + 1], (), (*before, own), used)
            return
        last = own[-1] if own else 0
        letters = next_letters(number, (left, *counts[place + 1 :]), last, used)
        assert letters, "a dead end"
        for x in letters:
            walk(place, left - sizes[x], (*own, x), before, used | single[x] << x)

    if possible_groups(counts)[number]:
        walk(0, counts[0], (), (), 0)
    return found


@pytest.mark.parametrize("counts", [[1], [1, 1, 3], [4, 4], [2, 3], [1, 1, 1, 2]])
@pytest.mark.parametrize("number", [1, 2, 12, 47, 62, 166, 194, 221, 227])
def test_the_letters_that_may_be_next_lead_to_all_that_fits_and_nowhere_else(number, counts):
    assert walked(number, counts) == brute_force(number, counts)


def test_proposals_give_their_formulas_exactly_and_are_distinct(model):
    search, generator = LetterSearch(model), np.random.default_rng(1)
    formulas = []
    for _ in range(300):
        elements = generator.permutation(np.arange(1, 95))[: generator.integers(1, 5)]
        amounts = generator.integers(1, 6, len(elements))
        amounts //= np.gcd.reduce(amounts)
        formulas.append(dict(zip(elements.tolist(), amounts.tolist(), strict=True)))
    for formula, found in zip(formulas, search.search(formulas, 5), strict=True):
        assert len({key_of(one.assignment) for one in found}) == len(found) == 5
        for one in found:
            atoms = atoms_of(one.assignment)
            units = sum(atoms.values()) // sum(formula.values())
            assert atoms == {z: units * n for z, n in formula.items()}
            assert sum(atoms.values()) <= 28
            _, single, _ = letters_of(one.assignment.number)
            used = Counter(one.assignment.letters.tolist())
            assert all(n == 1 for letter, n in used.items() if single[letter])


def test_the_probabilities_of_all_assignments_add_up_to_one(model):
    [found] = LetterSearch(model).search([{11: 1, 17: 1}], 4000, units=[[1]])
    assert np.exp([one.log_probability for one in found]).sum() == pytest.approx(1, abs=1e-6)
    groups = possible_groups([1, 1])
    assert {one.assignment.number for one in found} == set(np.flatnonzero(groups).tolist())


def test_a_search_and_the_likelihood_of_what_it_finds_agree(model):
    search = LetterSearch(model)
    formulas = [{3: 1, 8: 4, 15: 1, 26: 1}, {8: 1}, {13: 2, 8: 3}]
    for found in search.search(formulas, 20):
        alone = [search.log_probabilities([one.assignment])[0] for one in found]
        together = search.log_probabilities([one.assignment for one in found])
        assert together == pytest.approx(alone, abs=1e-4)  # padding does not matter
        more = np.array([one.log_probability for one in found]) - together
        assert more.min() > -1e-4  # of several descriptions the sum
        assert (np.abs(more) < 1e-4).any()


def test_the_loss_is_the_likelihood_but_for_what_only_an_exact_test_rules_out(model, orbits):
    batch = in_standard_form(orbits).batch(torch.arange(40))
    with torch.no_grad():
        terms = model(batch, torch.zeros(40))
    loss = sum(terms.values()).double().numpy()
    exact = LetterSearch(model).log_probabilities(assignments_of(orbits.arrays())[:40])
    assert np.isfinite(loss).all()
    assert (exact > -loss - 1e-4).all()
    # units and groups are not masked in the loss; letters nearly as in the exact test
    letters = terms["letters"].double().numpy()
    assert (letters >= -1e-5).all()


def test_draws_follow_the_seed_and_come_without_replacement(model):
    search = LetterSearch(model)
    formulas = [{12: 1, 13: 2, 8: 4}, {11: 1, 17: 1}]
    one, same, other = (search.search(formulas, 20, seed=seed) for seed in (1, 1, 2))
    keys = [[[key_of(x.assignment) for x in own] for own in found] for found in (one, same, other)]
    assert keys[0] == keys[1] != keys[2]
    assert all(len(set(own)) == len(own) == 20 for own in keys[0])


def test_perturbed_probabilities_draw_as_often_as_they_say():
    generator, chances = np.random.default_rng(0), np.array([0.5, 0.3, 0.15, 0.05])
    draws = np.array([_perturbed(np.log(chances), 1.5, generator) for _ in range(20_000)])
    assert draws.max(1) == pytest.approx(1.5)
    shares = np.bincount(draws.argmax(1)) / len(draws)
    assert shares == pytest.approx(chances, abs=0.012)
    second = np.argsort(-draws, 1)[draws.argmax(1) == 0, 1]
    assert np.bincount(second, minlength=4)[1:] / len(second) == pytest.approx(
        chances[1:] / 0.5, abs=0.02
    )


def known() -> Prototypes:
    """Return an index of rock salts, a caesium chloride, an olivine and a spinel."""
    crystals = [
        crystal(225, "11a 17b", 5.6),
        crystal(225, "12a 8b", 4.2),
        crystal(221, "55a 17b", 4.1),
        crystal(62, "8c 8c 8d 11a 15c 25c", 7.0),
        crystal(227, "8e 12a 13d", 8.1),
    ]
    return Prototypes(put_together(crystals))


def test_prototypes_put_elements_in_the_place_of_like_ones():
    prototypes = known()
    olivine, *_ = prototypes.propose({3: 1, 8: 4, 15: 1, 26: 1}, 5)
    assert written(olivine.assignment) == (4, "Pnma (62)", "Li a, O c2 d, P c, Fe c")
    assert atoms_of(olivine.assignment) == {3: 4, 8: 16, 15: 4, 26: 4}
    spinel, *_ = prototypes.propose({30: 1, 31: 2, 8: 4}, 5)
    assert written(spinel.assignment) == (2, "Fd-3m (227)", "O e, Zn a, Ga d")
    assert prototypes.propose({3: 3, 7: 1}, 5) == []
    assert prototypes.propose({19: 1, 17: 1}, 5, units=[2]) == []


def test_places_that_only_an_origin_tells_apart_are_proposed_once():
    found = known().propose({11: 1, 35: 1}, 20)
    assert [one.assignment.number for one in found] == [225, 221]
    assert sum(one.share for one in found) == pytest.approx(1)
    assert found[0].example == 0


def test_crystals_of_prototypes_have_the_formula_and_room_for_it():
    prototypes = known()
    [small, *_] = prototypes.propose({3: 1, 9: 1}, 1)
    volumes = prototypes.index.volumes
    made = prototypes.crystal(small)
    old = prototypes.example(small.example)
    grown = np.prod(made.cell[:3]) / np.prod(old.cell[:3])
    expected = volumes[[3, 9]].sum() / volumes[old.atomic_numbers].sum()
    assert grown == pytest.approx(expected)
    whole = crystals_of(put_together([made])).crystal(0)
    assert sorted(whole.atomic_numbers.tolist()) == [3, 9]


def test_stable_training_crystals_weigh_more():
    crystals = put_together([crystal(225, "11a 17b", 5.6), crystal(221, "11a 17b", 3.4)])
    for energies, first in (([0.0, 0.3], 225), ([0.3, 0.0], 221)):
        found = Prototypes(crystals, np.array(energies)).propose({19: 1, 17: 1}, 2)
        assert found[0].assignment.number == first
        assert found[0].share > 0.9


def test_the_crystal_of_a_candidate_is_like_most_of_those_that_vote_for_it():
    spinel = crystal(227, "8e 12a 13d", 8.1)
    usual = [spinel._replace(coords=spinel.coords + 0.05 + shift) for shift in (0, 1e-4)]
    prototypes = Prototypes(put_together([spinel, *usual]))
    proposer = Proposer(prototypes)
    [found] = prototypes.propose({8: 4, 12: 1, 13: 2}, 1)
    assert found.example == 0  # the first of three that weigh the same
    assert found.votes == pytest.approx([1 / 3] * 3)
    [proposal] = proposer.propose("MgAl2O4", 1)
    assert proposal.prototype is not None
    assert proposal.prototype.example in (1, 2)
    made = prototypes.crystal(proposal.prototype)
    assert made.coords == pytest.approx(prototypes.example(proposal.prototype.example).coords)
    [letters] = Proposer(prototypes, letters_only=True).propose("MgAl2O4", 1)
    assert letters.prototype is not None
    assert written(letters.assignment) == written(proposal.assignment)
    assert letters.prototype.example == 0
    [other] = proposer.propose("ZnGa2O4", 1)  # elements are exchanged
    assert other.prototype is not None
    assert sorted(other.prototype.elements.tolist()) == [8, 30, 31]
    stable = Prototypes(prototypes.orbits, np.array([0.0, 0.5, 0.5]))
    [proposal] = Proposer(stable).propose("ZnGa2O4", 1)
    assert proposal.prototype is not None
    assert proposal.prototype.example == 0  # two that hardly weigh anything do not count


def test_energies_count_for_more_where_they_are_of_the_compound_itself():
    crystals = put_together([crystal(225, "11a 17b", 5.6), crystal(221, "11a 17b", 3.4)])
    prototypes = Prototypes(crystals, np.array([0.03, 0.0]))
    for formula, scale in (({19: 1, 17: 1}, SCALE), ({11: 1, 17: 1}, OWN_SCALE)):
        shares = {one.assignment.number: one.share for one in prototypes.propose(formula, 2)}
        assert shares[225] / shares[221] == pytest.approx(np.exp(-0.03 / scale))
    unknown = Prototypes(crystals, np.array([np.nan, 0.0])).propose({11: 1, 17: 1}, 2)
    assert unknown[1].share / unknown[0].share == pytest.approx(np.exp(-1))


def test_an_index_is_kept_and_a_damaged_one_is_made_again(orbits, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("CHEMELEON_CACHE", str(tmp_path))
    arrays = orbits.arrays()
    made = Index.kept(arrays)
    [file] = tmp_path.rglob("*.json")
    with monkeypatch.context() as patch:
        patch.setattr(Index, "of", lambda _: pytest.fail("made twice"))
        kept = Index.kept(arrays)
    for content in ("", "[1, 2]", "{}", "[[1], [], [], [], [], []]"):
        file.write_text(content)
        again = Index.kept(arrays)
        assert "made again" in caplog.text
        caplog.clear()
    for other in (Index.of(arrays), kept, again):
        assert other[:2] == made[:2]
        assert all(np.array_equal(x, y) for x, y in zip(other[2:], made[2:], strict=True))
    formula = {12: 1, 8: 1}
    first, *_ = Prototypes(arrays, index=kept).propose(formula, 1)
    same, *_ = Prototypes(arrays).propose(formula, 1)
    assert key_of(first.assignment) == key_of(same.assignment)
    assert (first.share, first.name) == (same.share, same.name)
    Index.kept(arrays.subset(np.arange(20)))
    assert len(list(tmp_path.rglob("*.json"))) == 2


def test_patterns_forget_elements_and_nothing_else():
    one, _ = pattern_of(standard(assignment(225, "11a 17b")))
    two, orders = pattern_of(standard(assignment(225, "9b 3a")))
    assert one == two
    assert set(orders) == {(3, 9), (9, 3)}
    wurtzite, orders = pattern_of(standard(assignment(186, "30b 16b")))
    assert wurtzite != one
    assert len(orders) == 2


def test_olivine_is_within_reach_of_a_model(model):
    search = LetterSearch(model)
    olivine = standard(assignment(62, "3a 8c 8c 8d 15c 26c"))
    assert np.isfinite(search.log_probabilities([olivine]))
    assert search.log_probabilities([olivine], [[1, 2]]) == -np.inf
    assert LetterSearch(model, most_atoms=20).search([{3: 7, 8: 20}], 5) == [[]]


def test_both_sources_together_hold_what_each_has(model):
    prototypes, search = known(), LetterSearch(model)
    both = Proposer(prototypes, search, 0.3).propose("LiFePO4", 10)
    assert len({key_of(one.assignment) for one in both}) == 10
    olivine = both[0]
    assert olivine.prototype is not None
    by_model = np.exp(search.log_probabilities([olivine.assignment], [range(1, 5)])[0])
    share = olivine.prototype.share
    assert olivine.probability == pytest.approx(0.7 * share + 0.3 * by_model)
    assert any(one.prototype is None for one in both)
    chances = [one.probability for one in both]
    assert chances == sorted(chances, reverse=True)
    drawn = [Proposer(prototypes, search).propose("KCl", 5, seed=seed) for seed in (3, 3)]
    first, second = ([key_of(one.assignment) for one in own] for own in drawn)
    assert first == second


def test_formulas_are_not_divided_and_bad_ones_are_refused(model):
    proposer = Proposer(None, LetterSearch(model))
    atoms = [sum(atoms_of(x.assignment).values()) for x in proposer.propose("Si8", 10)]
    assert set(atoms) <= {8, 16, 24}
    with pytest.raises(ConfigError, match=r"30 atoms.* at most 28"):
        proposer.propose("C10H20", 5)
    with pytest.raises(ConfigError, match=r"not the symbol|is not a formula"):
        proposer.propose("LiXx", 5)
    for units in ([0], [200], [-1, 15], []):
        with pytest.raises(ConfigError, match="formula units must be 1 to 14"):
            proposer.propose("NaCl", 5, units=units)
    once, twice = (proposer.propose("NaCl", 5, units=own) for own in ([2], [2, 2, 90]))
    assert [one.probability for one in once] == [one.probability for one in twice]
    with pytest.raises(ConfigError, match="k must be from 1"):
        proposer.propose("NaCl", 0)
    with pytest.raises(ConfigError, match="prototypes, a model or both"):
        Proposer()


def test_crystals_of_too_many_elements_are_refused():
    many = crystal(1, " ".join(f"{z}a" for z in range(3, 14)), 9.0)
    orbits = put_together([many]).tensors()
    with pytest.raises(DataError, match="more than 10 elements"):
        AssignmentModel(AssignmentConfig(width=8, layers=1, heads=1)).fit(orbits)


def test_a_model_is_trained_resumed_and_used(tmp_path: Path):
    words = [*TINY, "data.name=demo", "data.targets=[]", "trainer.max_minutes=null"]
    words += ["optim.schedule=constant", "trainer.val_every_steps=20"]
    run = tmp_path / "run"
    first = api.train("assign", "mp/mini", [*words, "trainer.max_steps=20"], output=run)
    again = api.train("assign", overrides=["trainer.max_steps=60"], resume=run)
    assert again.fitted.metrics["val/loss"] < 0.8 * first.fitted.metrics["val/loss"]
    shown = CliRunner().invoke(app, ["assign", "propose", "NaCl", "-k", "3", "--model", str(run)])
    assert shown.exit_code == 0, shown.output
    assert "Na" in shown.output
    assert len(AssignmentModel.from_pretrained(run).origin["trained"]) > 1
