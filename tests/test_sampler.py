"""The sampler, given the exact answer for Gaussian data, must give the Gaussian back."""

from __future__ import annotations

import pytest
import torch

from chemeleon import api
from chemeleon.config.architecture import DiffusionConfig
from chemeleon.config.schedulers import SCHEDULERS, SamplerConfig, SchedulerKind
from chemeleon.crystals.random import fold, make_keys, normal
from chemeleon.diffusion.reverse import ReverseDiffusion, log_probability
from chemeleon.diffusion.schedulers import alphas_cumprod, make_scheduler
from chemeleon.errors import ConfigError, GenerationError

MEAN, STD = 0.7, 0.4


def exact_denoiser(config: DiffusionConfig):
    """Return the Bayes-optimal prediction for x0 ~ N(MEAN, STD^2)."""
    alphas = alphas_cumprod(config)

    def predict(z, t):
        if config.process == "flow":
            share = (t / config.steps).view(-1, 1, 1)
            signal, noise = 1 - share, share
        else:
            alpha = alphas[t.long()].view(-1, 1, 1)
            signal, noise = alpha.sqrt(), (1 - alpha).sqrt()
        total = signal**2 * STD**2 + noise**2
        x0 = MEAN + signal * STD**2 / total * (z - signal * MEAN)
        epsilon = (z - signal * x0) / noise.clamp_min(1e-6)
        answers = {"epsilon": epsilon, "v": signal * epsilon - noise * x0, "flow": epsilon - x0}
        variance = torch.full_like(z, -1.0) if config.learned_variance else None
        return answers[config.prediction], variance

    return predict


CASES = [
    ("ddim", 500, 1.0, "epsilon"),
    ("ddim", 333, 0.0, "epsilon"),
    ("ddim", 500, 1.0, "v"),
    ("ddim", 333, 0.5, "epsilon"),
    ("ddpm", 1000, 1.0, "epsilon"),
    ("ddpm", 500, 1.0, "v"),
    ("dpm++", 100, 0.0, "epsilon"),
    ("dpm++", 100, 1.0, "epsilon"),
    ("dpm++", 100, 0.0, "v"),
    ("unipc", 100, 0.0, "epsilon"),
    ("unipc", 100, 0.0, "v"),
    ("euler", 200, 0.0, "flow"),
]


@pytest.mark.parametrize(("name", "steps", "eta", "prediction"), CASES)
def test_exact_score_gives_the_gaussian_back(name, steps, eta, prediction):
    flow = prediction == "flow"
    diffusion = DiffusionConfig(
        process="flow" if flow else "ddpm", prediction=prediction, learned_variance=not flow
    )
    sampler = ReverseDiffusion(diffusion, SamplerConfig(scheduler=name, steps=steps, eta=eta))
    keys = make_keys(0, torch.arange(1000))
    z = normal(fold(keys, "start"), (4, 4))
    mask = torch.ones(1000, 4, dtype=torch.bool)
    out = sampler.sample(exact_denoiser(diffusion), z, mask, keys)
    assert out.mean().item() == pytest.approx(MEAN, abs=0.02)
    assert out.std().item() == pytest.approx(STD, abs=0.02)


@pytest.mark.parametrize(
    ("name", "eta", "prediction"),
    [
        ("ddim", 1.0, "v"),
        ("ddim", 0.0, "epsilon"),
        ("ddpm", 1.0, "v"),
        ("dpm++", 1.0, "v"),
        ("unipc", 0.0, "v"),
        ("euler", 0.0, "flow"),
    ],
)
def test_temperature_scales_the_spread_and_leaves_the_mean(name, eta, prediction):
    # with the exact score of a Gaussian all noise of the walk ends in the sample in proportion
    flow = prediction == "flow"
    diffusion = DiffusionConfig(
        process="flow" if flow else "ddpm", prediction=prediction, learned_variance=False
    )
    config = SamplerConfig(scheduler=name, steps=200, eta=eta, temperature=0.6)
    keys = make_keys(0, torch.arange(1000))
    mask = torch.ones(1000, 4, dtype=torch.bool)
    start = normal(fold(keys, "start"), (4, 4))
    out = ReverseDiffusion(diffusion, config).sample(exact_denoiser(diffusion), start, mask, keys)
    assert out.mean().item() == pytest.approx(MEAN, abs=0.02)
    assert out.std().item() == pytest.approx(0.6 * STD, abs=0.02)


def test_padding_stays_zero_and_batch_does_not_matter():
    diffusion = DiffusionConfig()
    sampler = ReverseDiffusion(diffusion, SamplerConfig(steps=20))
    keys = make_keys(3, torch.arange(6))
    mask = torch.arange(5) < torch.tensor([[1], [2], [3], [4], [5], [5]])
    predict = exact_denoiser(diffusion)
    z = normal(fold(keys, "start"), (5, 2))
    together = sampler.sample(predict, z, mask, keys)
    assert (together[~mask] == 0).all()
    alone = sampler.sample(predict, z[2:3, :3], mask[2:3, :3], keys[2:3])
    torch.testing.assert_close(alone, together[2:3, :3])


@pytest.mark.parametrize(("name", "eta"), [("ddim", 1.0), ("ddim", 0.3), ("ddpm", 1.0)])
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_steps_are_drawn_from_the_gaussian_they_report(name, eta, temperature):
    diffusion = DiffusionConfig()
    config = SamplerConfig(scheduler=name, steps=10, eta=eta, temperature=temperature)
    sampler = ReverseDiffusion(diffusion, config)
    keys = make_keys(0, torch.arange(2000))
    mask = torch.ones(2000, 2, dtype=torch.bool)
    steps = list(sampler.steps(exact_denoiser(diffusion), normal(keys, (2, 3)), mask, keys))
    assert len(steps) == 10
    for step in steps[:-1]:
        scaled = (step.sample - step.mean) / step.std
        assert scaled.mean().abs() < 0.04
        assert scaled.std().item() == pytest.approx(1.0, abs=0.03)
        expected = torch.distributions.Normal(step.mean, step.std.expand_as(step.mean))
        torch.testing.assert_close(
            log_probability(step.sample, step.mean, step.std, mask),
            expected.log_prob(step.sample).mean((1, 2)),
        )
    assert float(steps[-1].std.max()) == 0.0
    torch.testing.assert_close(steps[-1].sample, steps[-1].mean)


VELOCITY = DiffusionConfig(prediction="v", beta_schedule="squaredcos_cap_v2")
FLOW = DiffusionConfig(process="flow", prediction="flow", learned_variance=False)
FIXED = DiffusionConfig(learned_variance=False)


@pytest.mark.parametrize("index", [0, 20, 48, 49])
@pytest.mark.parametrize(
    ("diffusion", "name", "eta"),
    [
        (DiffusionConfig(), "ddim", 1.0),
        (DiffusionConfig(), "ddim", 0.3),
        (VELOCITY, "ddim", 0.0),
        (DiffusionConfig(), "ddpm", 1.0),
        (FIXED, "ddpm", 1.0),
        (VELOCITY, "ddpm", 1.0),
        (FLOW, "euler", 0.0),
    ],
)
def test_a_step_is_that_of_diffusers(diffusion, name, eta, index):
    config = SamplerConfig(scheduler=name, steps=50, eta=eta)
    scheduler = make_scheduler(diffusion, config)
    learned = name == "ddpm" and diffusion.learned_variance
    if learned:
        scheduler = type(scheduler).from_config(scheduler.config, variance_type="learned_range")
        scheduler.set_timesteps(50)
    z, prediction, v, _ = torch.randn(4, 2, 3, 4, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(5))
    output, more = prediction, {"generator": torch.Generator().manual_seed(5)}
    if name == "ddim":
        more = {"eta": eta, "variance_noise": noise}
    elif name == "euler":
        more = {}
    elif learned:
        output = torch.cat([prediction, v], dim=1)  # diffusers splits along dimension 1
    theirs = scheduler.step(output, scheduler.timesteps[index], z, **more).prev_sample
    reverse = ReverseDiffusion(diffusion, config)
    assert torch.equal(reverse.times, scheduler.timesteps)
    mean, std = reverse.gaussian(index, z, prediction, v if learned else None)
    size = float(theirs.abs().max())
    torch.testing.assert_close(mean + std * noise, theirs, rtol=0, atol=2e-5 * size)
    many = torch.tensor([index, index])
    both, spread = reverse.gaussian(many, z, prediction, v if learned else None)
    torch.testing.assert_close(both, mean)
    torch.testing.assert_close(spread.expand_as(z), std.expand_as(z))


def test_unfit_scheduler_is_refused():
    with pytest.raises(GenerationError, match="use ddim, ddpm"):
        make_scheduler(DiffusionConfig(), SamplerConfig(scheduler="euler"))
    flow = DiffusionConfig(process="flow", prediction="flow", learned_variance=False)
    with pytest.raises(GenerationError, match="use euler"):
        make_scheduler(flow, SamplerConfig(scheduler="ddim"))
    with pytest.raises(GenerationError, match="1000"):
        make_scheduler(DiffusionConfig(), SamplerConfig(steps=1001))


def test_a_scheduler_is_one_entry(tiny_ldm, monkeypatch):
    with pytest.raises(
        ConfigError, match=r"scheduler deis: must be ddim, ddpm, dpm\+\+, unipc or euler"
    ):
        api.sample(tiny_ldm, 2, scheduler="deis")
    entry = SchedulerKind("DEISMultistepScheduler", etas=(1,), of_eta="it draws no noise")
    monkeypatch.setitem(SCHEDULERS, "deis", entry)
    made = api.sample(tiny_ldm, 2, scheduler="deis", steps=5, num_atoms=[4], seed=1)
    assert len(made.structures) == 2
    reverse = ReverseDiffusion(VELOCITY, SamplerConfig(scheduler="deis", steps=5))
    assert torch.equal(reverse.times, make_scheduler(VELOCITY, reverse.sampler).timesteps)
    with pytest.raises(ConfigError, match="no likelihood"):
        reverse.require_likelihood()
    with pytest.raises(ConfigError, match=r"eta=0\.5 would change nothing: it draws no noise"):
        api.sample(tiny_ldm, 2, scheduler="deis", eta=0.5)
