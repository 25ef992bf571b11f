"""What is said of a rollout: means, shares, elements."""

from __future__ import annotations

import pytest
import torch
from conftest import demo_crystals
from rl_helpers import Scores

from chemeleon.config.rl import RewardConfig
from chemeleon.reinforcement.notes import Notes, drift


def test_a_fact_does_not_hide_the_reward_of_its_name(tmp_path):
    crystals = demo_crystals("val").subset(torch.arange(2))
    raw, fact = {"gap": torch.tensor([-4.0, -2.0])}, {"gap": torch.tensor([1.0, 3.0])}
    notes = Notes({"gap": RewardConfig(reward="predictor")}, tmp_path, resume=False)
    scores = Scores(raw["gap"], raw, {"gap": 0}, fact, {"gap": 0.0})
    notes.take(crystals, scores, symmetry=False)
    found = notes.summary()
    assert (found["rollout/gap"], found["fact/gap"]) == (-3, 2)
    assert found["rollout/gap_std"] == pytest.approx(2**0.5)


def test_msun_are_the_new_and_nearly_stable_ones(tmp_path):
    crystals = demo_crystals("val").subset(torch.arange(5))
    score = {"energy": torch.zeros(5)}
    facts = {
        "unique": torch.tensor([True, True, True, True, False]),
        "novel": torch.tensor([1.0, 0.0, 1.0, 1.0, 1.0]),  # an own reward may give numbers
        "e_hull": torch.tensor([0.1, 0.0, 0.2, float("nan"), 0.0]),
        "hit_gap": torch.tensor([True, False, True, True, True]),
    }
    notes = Notes({"energy": RewardConfig(reward="energy")}, tmp_path, resume=False)
    scores = Scores(score["energy"], score, {"energy": 0}, facts, {"energy": 0.0})
    notes.take(crystals, scores, symmetry=False)
    found = notes.summary()
    assert found["fact/msun"] == pytest.approx(0.2)
    assert found["fact/metastable"] == pytest.approx(0.6)
    assert found["fact/hit_gap"] == pytest.approx(0.8)
    assert found["fact/metastable_hit_gap"] == pytest.approx(0.4)
    assert (found["fact/stable"], found["fact/sun"]) == (pytest.approx(0.4), 0)


def test_drift_is_the_part_of_atoms_that_became_others():
    assert drift({"O": 6, "S": 2}, {"O": 3, "S": 1}) == 0
    assert drift({"O": 6, "S": 2}, {"O": 1, "S": 1}) == pytest.approx(0.25)
    assert drift({"O": 1}, {"S": 1}) == 1


def test_a_curve_of_one_update_is_seen() -> None:
    from chemeleon.reinforcement.report import curve

    one = curve("reward", [(1.0, 0.5)], {1.0: 0.2}, [(1.0, 0.7)])
    assert "fill: var(--ours)" in one  # a point: a line has no fill
    assert "fill: var(--control)" in one
    assert "<h3>reward: 0.5</h3>" in one
    assert one.count("<title>update 1\n0.5</title>") == 1
    many = curve("reward", [(float(i), 0.1 * i) for i in range(1, 101)])
    assert "fill: var(--ours)" not in many
    assert many.count("<title>update ") == 100
    assert curve("reward", []) == ""
