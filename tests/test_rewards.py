"""Rewards: the contract of every one, and their meaning."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reward_helpers import TINY, broken, mix, score

from chemeleon.config.predictor import PredictorConfig
from chemeleon.crystals.convert import from_structures
from chemeleon.energy.hull import Hull
from chemeleon.errors import ConfigError, TrainingError
from chemeleon.evaluation import describe
from chemeleon.models.predictor import Predictor
from chemeleon.models.vae import CrystalVAE
from chemeleon.reinforcement.rewards._diversity import leave_one_out, polynomial_mmd
from chemeleon.reinforcement.rewards._loading import built_in, find_reward
from chemeleon.reinforcement.rewards._vae import features_of, mean_latent
from chemeleon.workers import NO_ANSWER

pytest_plugins = ["reward_fixtures"]


# --- every reward of the folder


@pytest.mark.parametrize("name", built_in())
def test_every_reward_keeps_the_contract(name, train, crystals, vae, needed):
    made = mix(train, vae, it={"reward": name, "options": needed.get(name, {})})
    before = [t.clone() for t in (crystals.frac_coords, crystals.lattice, crystals.atomic_numbers)]
    scores = score(made, crystals)
    assert scores.raw["it"].shape == scores.total.shape == (8,)
    assert scores.total.dtype == torch.float32
    assert torch.isfinite(scores.raw["it"]).all()
    assert scores.failed == {"it": 0}
    after = (crystals.frac_coords, crystals.lattice, crystals.atomic_numbers)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert torch.equal(score(made, crystals).total, scores.total)  # nothing is remembered
    shifted = replace(crystals, frac_coords=(crystals.frac_coords + torch.tensor([2.0, -1, 3])))
    assert torch.allclose(score(made, shifted).total, scores.total, atol=1e-3)  # whole cells

    kind = find_reward(name)
    assert (kind.__doc__ or "").strip()
    assert all(field.description for field in kind.Options.model_fields.values())
    assert kind.busy in ("cpu", "gpu")


@pytest.mark.parametrize("name", built_in())
def test_broken_crystals_get_the_floor_and_change_nothing_else(
    name, train, crystals, vae, needed, caplog
):
    made = mix(train, vae, it={"reward": name, "options": needed.get(name, {})})
    scores = score(made, broken(crystals))
    assert torch.isfinite(scores.total).all()
    assert scores.facts["valid"].tolist() == [True, False, False, *[True] * 5]
    if name not in ("validity", "elements"):  # which have an opinion on broken ones too
        assert scores.failed == {"it": 2}
        floor = made.rewards["it"].floor
        sound = scores.raw["it"][scores.facts["valid"]]
        assert scores.raw["it"][1] == scores.raw["it"][2]
        assert scores.raw["it"][1] == pytest.approx(float(sound.min()) if floor is None else floor)
    assert score(made, crystals.subset(torch.tensor([0]))).total.shape == (1,)  # a group of one


# --- what they mean


def test_creativity_is_1_for_new_crystals_and_a_distance_for_half_new_ones(train, crystals):
    noisy = crystals.frac_coords.clone()
    noisy[crystals.starts[5]] += 0.004  # no exact copy any more
    scores = score(mix(train, creativity="creativity"), replace(crystals, frac_coords=noisy))
    unique, novel = scores.facts["unique"].tolist(), scores.facts["novel"].tolist()
    assert unique == [True, True, True, True, True, False, False, True]
    assert novel[-1] is False
    value = scores.raw["creativity"]
    for i, (one, two) in enumerate(zip(unique, novel, strict=True)):
        if one and two:
            assert value[i] == 1
    assert novel[5]
    assert 0 < value[5] < 0.1
    assert value[6] == 0  # an exact copy
    assert value[7] == 0  # of the training set


def test_swaps_of_like_elements_may_earn_nothing(train):
    from pymatgen.core import Lattice, Structure

    # layers one atom thick, and two: two crystals, one alloy
    cell = Lattice.tetragonal(3.6, 7.2)
    sites = [[0, 0, 0], [0.5, 0.5, 0.25], [0, 0, 0.5], [0.5, 0.5, 0.75]]
    known = Structure(cell, ["Co", "Ni", "Co", "Ni"], sites)
    swapped = Structure(cell, ["Co", "Co", "Ni", "Ni"], sites)
    reference = from_structures([known])
    for disordered, value in ((False, 1.0), (True, 0.0)):
        options = {"disordered": disordered}
        made = mix(reference, it={"reward": "creativity", "options": options})
        scores = score(made, from_structures([swapped]))
        assert scores.facts["novel"].tolist() == [not disordered]
        assert (scores.raw["it"] == 1).tolist() == [value == 1]


def test_uniqueness_can_be_judged_in_each_group_alone(train, crystals):
    twice = crystals.subset(torch.tensor([0, 5, 6]))
    group = torch.tensor([3, 7, 7])
    options = {"unique_within": "group"}
    made = mix(train, it={"reward": "creativity", "options": options})
    assert made.score(twice, group).facts["unique"].tolist() == [True, True, False]
    made = mix(train, it="creativity")
    assert made.score(twice, group).facts["unique"].tolist() == [True, False, False]


def test_energy_is_minus_the_clamped_energy_above_hull(train, crystals, needed):
    from chemeleon.energy.hull_crystals import compositions_of
    from chemeleon.energy.potentials import load_potential

    options = {**needed["energy"], "lowest": -0.5, "highest": 2.0}
    scores = score(mix(train, energy={"reward": "energy", "options": options}), crystals)
    hull = Hull.load(options["hull"])
    formulas = [dict(parts) for parts in compositions_of(crystals)]
    total = load_potential(options["potential"], "cpu").energies(crystals).per_atom_ev
    above = hull.above(formulas, hull.formation_energies(formulas, total)).e_above_hull_ev
    assert torch.allclose(scores.facts["e_hull"], torch.from_numpy(above).float())
    wanted = -torch.from_numpy(above).clamp(-0.5, 2.0).float()
    assert torch.allclose(scores.raw["energy"], wanted)


def test_a_large_force_counts_as_energy(train, crystals, needed):
    from chemeleon.energy.potentials import load_potential

    moved = crystals.frac_coords.clone()
    moved[crystals.starts] += 0.01
    crystals = replace(crystals, frac_coords=moved)
    options = {**needed["energy"], "highest": 100.0, "lowest": -100.0, "force_weight": 0.5}
    scores = score(mix(train, it={"reward": "energy", "options": options}), crystals)
    found = load_potential(options["potential"], "cpu").energies(crystals, forces=True)
    largest = [np.linalg.norm(forces, axis=1).max() for forces in found.forces or []]
    assert max(largest) > 0.01
    assert scores.facts["largest_force"].tolist() == pytest.approx(largest, rel=1e-5)
    wanted = -(scores.facts["e_hull"] + 0.5 * scores.facts["largest_force"])
    assert torch.allclose(scores.raw["it"], wanted, atol=1e-4)
    with pytest.raises(ConfigError, match="as decoded"):
        mix(train, it={"reward": "energy", "options": {**options, "relax_steps": 3}})


def test_relaxation_lowers_energies(train, crystals, needed):
    before, after = (
        score(
            mix(train, it={"reward": "energy", "options": {**needed["energy"], "relax_steps": n}}),
            crystals,
        ).facts["e_hull"]
        for n in (0, 8)
    )
    assert (after <= before + 1e-6).all()
    assert (after < before - 1e-3).any()


def test_a_hull_is_made_of_the_training_set_once(train, crystals, tmp_path, monkeypatch, needed):
    monkeypatch.setenv("CHEMELEON_CACHE", str(tmp_path))
    few = train.subset(torch.arange(0, 60, 20))
    options = {"potential": needed["energy"]["potential"]}
    made = mix(few, energy={"reward": "energy", "options": options})
    (kept,) = (tmp_path / "hulls").iterdir()
    stamp = kept.stat().st_mtime_ns
    again = mix(few, energy={"reward": "energy", "options": options})
    assert kept.stat().st_mtime_ns == stamp
    whole = kept.read_bytes()
    kept.write_bytes(whole[:50])  # as a process leaves it that was killed
    mix(few, energy={"reward": "energy", "options": options})
    assert kept.read_bytes() == whole
    own = score(made, few)
    assert torch.equal(own.total, score(again, few).total)
    assert (own.facts["e_hull"] >= -1e-6).all()  # its own phases are not below it
    unknown = score(made, crystals)  # other elements: no answer, so the worst
    assert unknown.failed["energy"] > 0
    assert float(unknown.raw["energy"].min()) == -1


def test_a_hull_of_another_potential_is_refused(train, tmp_path, needed):
    Hull([(("Na", 1.0),)], [0.0], {"Na": -1.0}, {"potential": "chgnet 0.3.0"}).save(
        tmp_path / "h.json"
    )
    options = {**needed["energy"], "hull": str(tmp_path / "h.json")}
    with pytest.raises(ConfigError, match=r"h\.json holds energies of chgnet 0\.3\.0"):
        mix(train, energy={"reward": "energy", "options": options})


def test_leaving_one_out_is_the_difference_of_two_discrepancies():
    generator = torch.Generator().manual_seed(3)
    sample, reference = (
        torch.randn(n, 5, generator=generator, dtype=torch.float64) for n in (9, 30)
    )
    whole = polynomial_mmd(sample, reference)
    for i, value in enumerate(leave_one_out(sample, reference)):
        others = sample[torch.arange(9) != i]
        assert float(value) == pytest.approx(float(polynomial_mmd(others, reference) - whole))
    for few in (0, 1, 2):
        assert leave_one_out(sample[:few], reference).tolist() == [0.0] * few


@pytest.mark.parametrize("order", ["number", "canonical"])
def test_a_csp_encoder_sees_atoms_in_its_order(order, crystals):
    torch.manual_seed(0)
    vae = CrystalVAE(TINY.model_copy(update={"kind": "csp", "atom_order": order})).eval()
    config = PredictorConfig(targets=["density"], head="pooled", encoder="frozen")
    model = Predictor(config, vae).eval()
    last = crystals.atomic_numbers.argsort(descending=True, stable=True)
    owner = torch.repeat_interleave(crystals.num_atoms)
    last = last[owner[last].argsort(stable=True)]
    turned = replace(
        crystals,
        atomic_numbers=crystals.atomic_numbers[last],
        frac_coords=crystals.frac_coords[last],
    )
    assert not torch.equal(turned.atomic_numbers, crystals.atomic_numbers)
    found, again = (features_of(vae, given, mean_latent) for given in (crystals, turned))
    torch.testing.assert_close(found, again)
    found, again = (model.predict_all(given)["density"] for given in (crystals, turned))
    torch.testing.assert_close(found, again)


@pytest.mark.parametrize("name", ["structure_diversity", "composition_diversity"])
def test_diversity_features_do_not_depend_on_batches(name, train, vae):
    reward: Any = mix(train, vae, it=name).rewards["it"]
    some = train.subset(torch.tensor([5, 300, 40]))
    alone = [reward.features(some.subset(torch.tensor([i]))) for i in range(3)]
    assert torch.allclose(reward.features(some), torch.cat(alone), atol=1e-5)
    assert len(reward.reference) == len(train)


def test_predictor_maximises_minimises_and_aims(train, crystals, needed):
    made = mix(
        None,
        most={"reward": "predictor", "options": needed["predictor"]},
        least={"reward": "predictor", "options": {**needed["predictor"], "goal": "minimise"}},
        near={
            "reward": "predictor",
            "options": {**needed["predictor"], "goal": "target", "target": 1.0, "clip": [0, 0.5]},
        },
    )
    scores = score(made, crystals)
    predicted = scores.facts["density"]
    assert torch.allclose(scores.raw["most"], predicted)
    assert torch.allclose(scores.raw["least"], -predicted)
    assert torch.allclose(scores.raw["near"], -(predicted.clamp(0, 0.5) - 1).square())


def test_a_predictor_asks_for_a_range_and_counts_hits(crystals, needed):
    given = needed["predictor"]
    predicted = score(mix(None, it={"reward": "predictor", "options": given}), crystals)
    low, high = sorted(predicted.facts["density"].tolist())[2:5:2]
    options = {**given, "goal": "range", "range": [low, high]}
    scores = score(mix(None, it={"reward": "predictor", "options": options}), crystals)
    hits = scores.facts["hit_density"].tolist()
    assert hits == [low <= value <= high for value in predicted.facts["density"].tolist()]
    assert 3 <= sum(hits) < len(hits)
    assert (scores.raw["it"] == 0).tolist() == hits
    assert scores.raw["it"].min() < 0
    for wrong in ({"goal": "range"}, {"goal": "range", "range": [2, 1]}, {"range": [1, 2]}):
        with pytest.raises(ConfigError, match="range"):
            mix(None, it={"reward": "predictor", "options": {**given, **wrong}})


def test_symmetry_and_contacts_are_those_of_an_evaluation():
    from pymatgen.core import Lattice, Structure

    rocksalt = Structure.from_spacegroup(
        "Fm-3m", Lattice.cubic(5.6), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]
    )
    moved = rocksalt.frac_coords + np.random.default_rng(0).normal(0, 0.03, (8, 3))
    bent = Structure(rocksalt.lattice, rocksalt.species, moved)
    near = Structure(Lattice.cubic(5.6), ["Na", "Cl"], [[0] * 3, [0.2, 0, 0]])
    scores = score(mix(None, s="symmetry", c="contacts"), from_structures([rocksalt, bent, near]))
    assert scores.raw["s"].tolist() == [1, 0, 1]
    assert scores.raw["c"][0] == 1
    radii = 1.66 + 1.02  # Cordero et al. 2008, of Na and Cl
    assert float(scores.raw["c"][2]) == pytest.approx(0.2 * 5.6 / radii / 0.75, rel=1e-4)


def test_elements_too_frequent_cost_what_they_add_to_the_divergence(train):
    from chemeleon.reinforcement.rewards.element_distribution import shares

    made = mix(train, it={"reward": "element_distribution", "options": {"smoothing": 0.01}})
    same = score(made, train)
    assert same.raw["it"].abs().max() < 1e-6  # as the training set is, nothing is too frequent
    few = train.subset(torch.tensor([0, 1, 2, 3]))
    scores = score(made, few)
    ours, wanted = shares(few) + 0.01, shares(train) + 0.01
    divergence = (shares(few) * (ours / wanted).log()).sum()
    assert float(scores.raw["it"].mean()) == pytest.approx(-float(divergence), rel=1e-4)
    assert float(scores.raw["it"].mean()) < 0


def test_elements_allow_and_forbid():
    from pymatgen.core import Lattice, Structure

    structures = [
        Structure(Lattice.cubic(4), symbols, [[0] * 3, [0.5] * 3])
        for symbols in (["Na", "Cl"], ["Cs", "Cl"], ["Fe", "O"])
    ]
    made = mix(
        None,
        only={"reward": "elements", "options": {"allow": ["Na", "Cl"]}},
        not_iron={"reward": "elements", "options": {"forbid": ["Fe"], "share": True}},
    )
    scores = score(made, from_structures(structures))
    assert scores.raw["only"].tolist() == [1, 0, 0]
    assert scores.raw["not_iron"].tolist() == [1, 1, 0.5]


def test_validity_asks_for_structure_and_composition(crystals):
    from pymatgen.core import Lattice, Structure

    def pair(symbols: list[str], edge: float) -> Structure:
        return Structure(Lattice.cubic(edge), symbols, [[0] * 3, [0.5] * 3])

    made = mix(
        None,
        both="validity",
        structure={"reward": "validity", "options": {"composition": False}},
    )
    flat = from_structures(
        [pair(["Na", "Cl"], 3.5), pair(["Ba", "Cl"], 4.0), pair(["Na", "Cl"], 0.5)]
    )
    scores = score(made, flat)
    assert scores.raw["both"].tolist() == [1, 0, 0]
    assert scores.raw["structure"].tolist() == [1, 1, 0]


def test_a_broken_smact_ends_the_run_and_does_not_make_every_crystal_invalid(
    crystals, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "smact").mkdir()
    (tmp_path / "smact" / "__init__.py").write_text("raise ImportError('smact is broken')")
    monkeypatch.syspath_prepend(str(tmp_path))  # workers look there first
    monkeypatch.setattr("chemeleon.workers._idle", [])
    monkeypatch.setitem(sys.modules, "smact.screening", None)  # imported here by other tests
    describe._smact.cache_clear()
    made = mix(None, it="validity")
    with pytest.raises(TrainingError, match=r"'it' failed .* SMACT gives no .* smact is broken"):
        score(made, crystals)
    assert not made.rewards["it"].seen
    assert math.isnan(describe.Smact([]).lost(NO_ANSWER))  # one that takes too long is no fault
