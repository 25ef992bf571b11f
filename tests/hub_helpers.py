"""What the tests of the hub share, apart from fixtures."""

from __future__ import annotations

import torch

from chemeleon.config.architecture import VAEConfig
from chemeleon.models.vae import CrystalVAE

REPO, LIGHTNING = "me/my-vae", "them/checkpoints"


def tiny_vae() -> CrystalVAE:
    torch.manual_seed(0)
    config = VAEConfig(width=32, encoder_layers=1, decoder_layers=1, heads=2, feedforward=64)
    vae = CrystalVAE(config).eval()
    metrics = {"match_rate": 0.875, "loss": 1.25}
    vae.origin = {
        "data": {"name": "mp_20", "niggli": True},
        "trained": {"steps": 700, "epochs": 7, "metrics": metrics},
    }
    return vae


def equal(model: torch.nn.Module, other: torch.nn.Module) -> bool:
    one, two = model.state_dict(), other.state_dict()
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
