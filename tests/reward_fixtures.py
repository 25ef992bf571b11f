"""Crystals, models and options that tests of rewards share."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import demo_crystals
from reward_helpers import TINY

from chemeleon.config.predictor import PredictorConfig
from chemeleon.crystals.batch import Crystals
from chemeleon.energy.hull import Hull
from chemeleon.models.predictor import Predictor
from chemeleon.models.vae import CrystalVAE


@pytest.fixture(scope="module")
def train() -> Crystals:
    return demo_crystals("train")


@pytest.fixture(scope="module")
def crystals(train) -> Crystals:
    """Eight sound crystals: five new ones, two copies of one of these, one of the training set."""
    new = demo_crystals("val").subset(torch.tensor([215, 89, 98, 255, 371, 215, 215]))
    return Crystals.join([new, train.subset(torch.tensor([4]))])


@pytest.fixture(scope="module")
def vae() -> CrystalVAE:
    torch.manual_seed(0)
    return CrystalVAE(TINY).eval()


@pytest.fixture(scope="module")
def needed(vae, tmp_path_factory) -> dict[str, dict[str, Any]]:
    """Options of the rewards that have to be told something."""
    folder = tmp_path_factory.mktemp("rewards")
    torch.manual_seed(1)
    config = PredictorConfig(targets=["density"], head="pooled", encoder="frozen")
    Predictor(config, vae).save_pretrained(folder / "predictor")
    references: dict[str, float | None] = {}
    from ase.data import chemical_symbols

    references.update(dict.fromkeys(chemical_symbols[1:], -0.1))
    Hull(
        [(("Na", 0.5), ("Cl", 0.5))],
        [-1.0],
        references,
        {"potential": "energy_helpers:lennard_jones unknown"},
    ).save(folder / "hull.json")
    lennard_jones = {"potential": "energy_helpers:lennard_jones"}
    return {
        "predictor": {"model": str(folder / "predictor")},
        "elements": {"forbid": ["O"]},
        "energy": {**lennard_jones, "hull": str(folder / "hull.json")},
    }
