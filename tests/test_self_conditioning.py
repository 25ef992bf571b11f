"""A denoiser that sees its own last estimate of the clean latents."""

from __future__ import annotations

import pytest
import torch
from conftest import TINY_LDM

from chemeleon import api
from chemeleon.config.architecture import DiffusionConfig
from chemeleon.config.schedulers import SamplerConfig
from chemeleon.crystals.random import make_keys, normal
from chemeleon.diffusion.losses import NoiseProcess
from chemeleon.errors import ConfigError
from chemeleon.generation.conditioning import Conditioning
from chemeleon.generation.denoising import GuidedDenoiser, StepwiseDenoiser
from chemeleon.generation.pipeline import Pipeline
from chemeleon.models.networks.dit import Denoiser
from chemeleon.models.packing import Layout

WORDS = [
    *TINY_LDM,
    "ldm.diffusion.prediction=v",
    "ldm.diffusion.learned_variance=false",
    "ldm.denoiser.self_conditioning=true",
]


@pytest.fixture(scope="module")
def run(tiny_vae, tmp_path_factory):
    folder = tmp_path_factory.mktemp("estimates") / "run"
    words = [*WORDS, f"ldm.vae_ckpt_path={tiny_vae}", "trainer.max_steps=40"]
    api.ldm_train("demo/null", words, output=folder)
    return folder


@pytest.mark.parametrize(
    "config",
    [
        {"prediction": "epsilon"},
        {"prediction": "v", "beta_schedule": "squaredcos_cap_v2"},
        {"process": "flow", "prediction": "flow", "learned_variance": False},
    ],
)
def test_the_right_prediction_gives_back_the_clean_latents(config):
    process = NoiseProcess(DiffusionConfig(**config))
    keys = make_keys(3, torch.arange(6))
    x0 = normal(keys, (4, 8))
    noised = process.at(x0, torch.ones(6, 4, dtype=torch.bool), keys, torch.full((6,), 400))
    for t in (noised.t, noised.t[:1]):
        found = process.clean(process.target(x0, noised), noised.z, t)
        torch.testing.assert_close(found, x0, rtol=1e-4, atol=1e-4)


def test_training_shows_half_of_the_crystals_an_estimate(tiny_vae, tmp_path, monkeypatch):
    calls = []
    inner = Denoiser.forward

    def spy(self, z, t, *rest):
        out = inner(self, z, t, *rest)
        told = rest[5] if len(rest) > 5 else None
        calls.append((z, t, told, out.prediction, torch.is_grad_enabled()))
        return out

    monkeypatch.setattr(Denoiser, "forward", spy)
    words = [*WORDS, f"ldm.vae_ckpt_path={tiny_vae}", "trainer.max_steps=3"]
    api.ldm_train("demo/null", [*words, "trainer.val_every_steps=1000"], output=tmp_path / "run")
    process = NoiseProcess(DiffusionConfig(prediction="v", learned_variance=False))
    trained = [i for i, call in enumerate(calls) if call[4]]
    assert len(trained) == 3
    for i in trained:
        z, t, told, _, _ = calls[i]
        first = calls[i - 1]
        assert first[2] is None
        assert not first[4]
        assert torch.equal(first[0], z)
        shown = told.abs().amax((1, 2)) > 0
        assert 0 < shown.sum() < len(shown)
        estimate = process.clean(first[3], z, t)
        torch.testing.assert_close(told[shown], estimate[shown], rtol=1e-5, atol=1e-5)


def test_guidance_has_an_estimate_for_each_of_its_denoisers(run):
    pipeline = Pipeline.from_pretrained(run, "cpu")
    sizes = torch.tensor([4, 4])
    layout = Layout.from_mask(torch.ones(2, 4, dtype=torch.bool), sizes, full=True)
    conditioning = Conditioning(None, 0.0, (0.0, 1.0), None)
    denoiser = GuidedDenoiser(pipeline.model, sizes, layout, None, conditioning, pipeline.estimator)
    z = normal(make_keys(0, torch.arange(2)), (4, pipeline.model.vae.config.latent_dim))
    t = torch.tensor([500, 500])
    with torch.no_grad():
        one, other = StepwiseDenoiser(denoiser, 2), StepwiseDenoiser(denoiser, 2)
        first, second = one(z, t)[0], one(z, t)[0]
        assert torch.equal(other(z, t)[0], first)  # it has seen nothing of the first one's steps
    assert (second - first).abs().max() > 0


def test_a_walk_hands_each_estimate_to_the_next_evaluation(run, monkeypatch):
    pipeline = Pipeline.from_pretrained(run, "cpu")
    told, said = [], []
    inner = pipeline.model.denoiser.forward

    def spy(z, t, *rest):
        out = inner(z, t, *rest)
        told.append(rest[5].clone())
        said.append(pipeline.process.clean(out.prediction, z, t))
        return out

    monkeypatch.setattr(pipeline.model.denoiser, "forward", spy)
    settings = SamplerConfig(steps=6)
    crystals = pipeline.generate(5, seed=1, sampler=settings)
    assert len(told) == 6
    assert told[0].abs().max() == 0
    for before, now in zip(said, told[1:], strict=False):
        assert torch.equal(before, now)
    parts = pipeline.generate(5, seed=1, sampler=settings, batch_size=2)  # no walk remembers others
    assert torch.equal(parts.atomic_numbers, crystals.atomic_numbers)
    torch.testing.assert_close(parts.lattice, crystals.lattice, rtol=1e-3, atol=1e-3)


def test_an_estimate_changes_the_prediction(run):
    model = Pipeline.from_pretrained(run, "cpu").model
    sizes = torch.tensor([3, 4])
    z = normal(make_keys(0, torch.arange(2)), (4, model.vae.config.latent_dim))
    z[0, 3] = 0
    t = torch.tensor([500])
    with torch.no_grad():
        nothing = model(z, t, sizes).prediction
        none = model(z, t, sizes, estimate=torch.zeros_like(z)).prediction
        some = model(z, t, sizes, estimate=torch.ones_like(z)).prediction
    assert torch.equal(nothing, none)
    assert (some - nothing).abs().max() > 1e-4


def test_where_it_does_not_go(tiny_vae, tmp_path):
    words = [f"ldm.vae_ckpt_path={tiny_vae}", "trainer.max_steps=1"]
    epsilon = ["ldm.diffusion.prediction=epsilon", *words]
    with pytest.raises(ConfigError, match=r"needs diffusion\.prediction=v or flow"):
        api.ldm_train("demo/null", [*WORDS, *epsilon], output=tmp_path / "ldm")
