"""A network of one's own: one file in the room of networks is all that it takes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from chemeleon import api
from chemeleon.errors import CheckpointError, ConfigError
from chemeleon.generation.pipeline import Pipeline
from chemeleon.models import networks
from chemeleon.models.denoiser import LatentDiffusion
from chemeleon.models.networks.base import find_network, known_networks

MLP = '''
"""A network that sees no other atom: what it can learn is little, and quick."""

import torch
from torch import nn

from chemeleon.models.layers import timestep_embedding
from chemeleon.models.networks.base import Denoised, Network


class Denoiser(Network):
    """Linear layers on each atom's latents and the time."""

    def __init__(self, config, latent_dim):
        super().__init__(config, latent_dim)
        width = self.config.width
        self.conditions = None
        self.first = nn.Linear(latent_dim + 16, width)
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(self.config.layers))
        self.head = nn.Linear(width, latent_dim)

    def forward(self, z, t, num_atoms, features=None, drop=None, layout=None, types=None,
                estimate=None):
        """See ``Network``."""
        time = timestep_embedding(t, 16)[:, None].expand(len(z), z.shape[1], 16)
        x = self.first(torch.cat([z, time], -1))
        for block in self.blocks:
            x = x + block(x).relu()
        return Denoised(self.head(x), None)
'''
SIZES = ["denoiser.network=mlp", "denoiser.width=32", "denoiser.layers=2", "denoiser.heads=2"]
QUICK = [
    "trainer.max_steps=30",
    "trainer.log_every=10",
    "trainer.tracker=none",
    "data.batch_size=64",
    "data.download=null",
]


@pytest.fixture
def mlp(tmp_path, monkeypatch):
    (tmp_path / "mlp.py").write_text(MLP)
    monkeypatch.setattr(networks, "__path__", [*networks.__path__, str(tmp_path)])
    yield
    sys.modules.pop("chemeleon.models.networks.mlp", None)


def words(vae: Path) -> list[str]:
    return [
        f"ldm.vae_ckpt_path={vae}",
        "ldm.diffusion.learned_variance=false",
        *(f"ldm.{word}" for word in SIZES),
        *QUICK,
    ]


def test_one_file_is_trained_saved_loaded_and_sampled(mlp, tiny_vae, tmp_path):
    result = api.ldm_train("demo/null", words(tiny_vae), output=tmp_path / "run")
    losses = result.history()["train/loss"].dropna()
    assert losses.iloc[-1] < losses.iloc[0]
    model = LatentDiffusion.from_pretrained(tmp_path / "run")
    assert type(model.denoiser).__module__.endswith("networks.mlp")
    crystals = Pipeline(model, "cpu").generate(3, seed=1)
    assert len(crystals) == 3
    assert torch.isfinite(crystals.frac_coords).all()


def test_a_network_without_conditions_refuses_them(mlp, tiny_vae, tmp_path):
    more = ["ldm.conditions={density: {kind: number, column: density}}", "data.targets=[density]"]
    with pytest.raises(ConfigError, match=r"mlp takes no conditions, and ldm\.conditions has dens"):
        api.ldm_train("demo/null", [*words(tiny_vae), *more], output=tmp_path / "run")


def test_an_unknown_network_is_refused_before_anything_is_read(tmp_path):
    assert "dit" in known_networks()
    assert "base" not in known_networks()
    with pytest.raises(ConfigError, match="no network 'dti'; did you mean 'dit'"):
        find_network("dti")
    with pytest.raises(ConfigError, match="no network 'mlp'"):
        api.ldm_train("demo/null", words(tmp_path / "nothing"), output=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_saved_model_of_a_network_that_is_not_there_says_so(mlp, tiny_vae, tmp_path, monkeypatch):
    api.ldm_train("demo/null", words(tiny_vae), output=tmp_path / "run")
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="no network 'mlp'"):
        LatentDiffusion.from_pretrained(tmp_path / "run")


def test_a_network_that_does_not_look_around_says_so(mlp, tiny_vae):
    sees = ["ldm.denoiser.neighbour_layers=1", "ldm.denoiser.self_conditioning=true"]
    sees.append("ldm.diffusion.prediction=v")
    with pytest.raises(ConfigError, match="mlp does not look around"):
        api.ldm_train("demo/null", [*words(tiny_vae), *sees])
