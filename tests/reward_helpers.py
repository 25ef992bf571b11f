"""What tests of rewards share: a mix by its words, its scores, broken crystals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from chemeleon.config.architecture import VAEConfig
from chemeleon.config.rl import RewardConfig
from chemeleon.crystals.batch import Crystals
from chemeleon.models.vae import CrystalVAE
from chemeleon.reinforcement.rewards.mix import Mix, Scores

CPU = torch.device("cpu")
TINY = VAEConfig(width=16, encoder_layers=1, decoder_layers=1, heads=2, feedforward=16)
DOCS = Path(__file__).parents[1] / "docs" / "rewards.md"


def mix(train: Crystals | None, vae: CrystalVAE | None = None, **rewards: Any) -> Mix:
    configs = {
        name: RewardConfig(**({"reward": given} if isinstance(given, str) else given))
        for name, given in rewards.items()
    }
    return Mix(configs, reference=train, device=CPU, jobs=1, vae=vae)


def score(made: Mix, crystals: Crystals) -> Scores:
    return made.score(crystals, torch.zeros(len(crystals), dtype=torch.int64))


def broken(crystals: Crystals) -> Crystals:
    """The same with a NaN in the second crystal, and two atoms of the third in one place."""
    frac = crystals.frac_coords.clone()
    frac[crystals.starts[1]] = torch.nan
    frac[crystals.starts[2] + 1] = frac[crystals.starts[2]]
    return replace(crystals, frac_coords=frac)
