"""Trajectories as Gaussian steps, and the policy loss, without any network."""

from __future__ import annotations

import math

import pytest
import torch

from chemeleon.config.architecture import DiffusionConfig
from chemeleon.config.schedulers import SamplerConfig
from chemeleon.crystals.random import make_keys, normal
from chemeleon.diffusion.reverse import ReverseDiffusion
from chemeleon.diffusion.schedulers import alphas_cumprod
from chemeleon.errors import ConfigError
from chemeleon.reinforcement.objectives import advantages, grpo_terms

EPSILON = DiffusionConfig()
VELOCITY = DiffusionConfig(prediction="v", beta_schedule="squaredcos_cap_v2")
FLOW = DiffusionConfig(process="flow", prediction="flow", learned_variance=False)


def some_denoiser(z: torch.Tensor, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    time = t.view(-1, 1, 1) / 1000
    return torch.tanh(z * (1 + time)) * 0.7 + 0.1, torch.sin(z)


@pytest.mark.parametrize(
    ("diffusion", "sampler"),
    [
        (EPSILON, SamplerConfig(scheduler="ddim", steps=50)),
        (EPSILON, SamplerConfig(scheduler="ddim", steps=7, eta=0.3)),
        (VELOCITY, SamplerConfig(scheduler="ddim", steps=20)),
        (EPSILON, SamplerConfig(scheduler="ddpm", steps=30)),
        (VELOCITY, SamplerConfig(scheduler="ddpm", steps=30)),
        (DiffusionConfig(learned_variance=False), SamplerConfig(scheduler="ddpm", steps=30)),
    ],
    ids=["ddim", "ddim 0.3", "ddim v", "ddpm", "ddpm v", "ddpm fixed variance"],
)
def test_a_trajectory_is_the_one_that_sampling_takes(diffusion, sampler):
    keys = make_keys(3, torch.arange(4))
    mask = torch.arange(5) < torch.tensor([5, 2, 1, 4]).unsqueeze(1)
    start = normal(keys, (5, 8))

    def predict(z, t):
        prediction, variance = some_denoiser(z, t)
        return prediction, variance if diffusion.learned_variance else None

    reverse = ReverseDiffusion(diffusion, sampler)
    zs, log_probs = reverse.trajectory(predict, start, mask, keys)
    assert reverse.noisy == list(range(sampler.steps - 1))  # the last step has no noise
    assert torch.equal(zs[-1], reverse.sample(predict, start, mask, keys))
    index = torch.arange(sampler.steps).repeat_interleave(4)
    z, times = zs[:-1].flatten(0, 1), reverse.times[index]
    mean, _ = reverse.gaussian(index, z, *predict(z, times))
    last = slice(-4, None)  # all steps at once, as training takes them
    size = float(zs[-1].abs().max())
    real = mask.unsqueeze(-1)
    torch.testing.assert_close(mean[last] * real, zs[-1], rtol=0, atol=1e-5 * size)
    assert torch.isfinite(log_probs).all()
    assert (log_probs[-1] == 0).all()


@pytest.mark.parametrize(
    ("diffusion", "sampler"),
    [
        (EPSILON, SamplerConfig(scheduler="ddim", steps=500)),
        (EPSILON, SamplerConfig(scheduler="ddim", steps=250, eta=0.5)),
        (FLOW, SamplerConfig(scheduler="euler", steps=200, eta=0.7)),
        (FLOW, SamplerConfig(scheduler="euler", steps=200, eta=0.2)),
    ],
    ids=["ddim", "ddim 0.5", "flow 0.7", "flow 0.2"],
)
def test_the_exact_denoiser_of_a_gaussian_gives_the_gaussian(diffusion, sampler):
    mean, std = 1.5, 0.6
    alphas = alphas_cumprod(diffusion)

    def predict(z, t):
        if diffusion.process == "flow":
            share = (t / 1000).view(-1, 1, 1)
            spread = (1 - share) ** 2 * std**2 + share**2
            score = (z - (1 - share) * mean) / spread
            clean = mean + (1 - share) * std**2 * score
            return share * score - clean, None  # noise minus clean
        alpha = alphas[t.long()].float().view(-1, 1, 1)
        return (1 - alpha).sqrt() * (z - alpha.sqrt() * mean) / (alpha * std**2 + 1 - alpha), None

    keys = make_keys(1, torch.arange(400))
    mask = torch.ones(400, 4, dtype=torch.bool)
    zs, _ = ReverseDiffusion(diffusion, sampler).trajectory(
        predict, normal(keys, (4, 8)), mask, keys
    )
    found = zs[-1]
    assert float(found.mean()) == pytest.approx(mean, abs=0.03)
    assert float(found.std()) == pytest.approx(std, abs=0.03)


def test_steps_of_many_times_are_one_batch():
    sampler = SamplerConfig(scheduler="ddpm", steps=20)
    reverse = ReverseDiffusion(EPSILON, sampler)
    keys = make_keys(0, torch.arange(3))
    mask = torch.ones(3, 4, dtype=torch.bool)
    zs, log_probs = reverse.trajectory(some_denoiser, normal(keys, (4, 8)), mask, keys)
    index = torch.tensor([0, 7, 18]).repeat_interleave(3)
    member = torch.arange(3).repeat(3)
    z, sample = zs[index, member], zs[index + 1, member]
    mean, std = reverse.gaussian(index, z, *some_denoiser(z, reverse.times[index]))
    density = torch.distributions.Normal(mean, std).log_prob(sample).mean((1, 2))
    torch.testing.assert_close(density, log_probs[index, member], rtol=1e-5, atol=1e-5)


def test_only_the_window_draws_noise_and_it_moves_without_new_tensors():
    sampler = SamplerConfig(scheduler="ddim", steps=10)
    reverse = ReverseDiffusion(EPSILON, sampler, window=range(2, 5))
    assert reverse.noisy == [2, 3, 4]
    places = [x.data_ptr() for x in reverse.coefficients]
    keys, other = make_keys(0, torch.arange(2)), make_keys(9, torch.arange(2))
    mask = torch.ones(2, 3, dtype=torch.bool)
    start = normal(keys, (3, 8))
    one, likely = reverse.trajectory(some_denoiser, start, mask, keys)
    two, _ = reverse.trajectory(some_denoiser, start, mask, other)
    assert torch.equal(one[:3], two[:3])  # latents before step 2 and its input
    assert not torch.equal(one[3], two[3])
    assert (likely[[0, 1, *range(5, 10)]] == 0).all()
    assert (likely[2:5] != 0).all()
    reverse.move(range(6, 9))
    assert reverse.noisy == [6, 7, 8]
    assert [x.data_ptr() for x in reverse.coefficients] == places
    assert torch.nonzero(reverse.coefficients.std).flatten().tolist() == [6, 7, 8]


def test_noise_is_the_same_however_many_steps_are_drawn_at_once(monkeypatch):
    keys, mask = make_keys(0, torch.arange(2)), torch.ones(2, 3, dtype=torch.bool)
    start = normal(keys, (3, 8))
    found = []
    for at_once in (1, 4 * start.numel(), 2**24):
        monkeypatch.setattr("chemeleon.diffusion.reverse.DRAWN_AT_ONCE", at_once)
        reverse = ReverseDiffusion(EPSILON, SamplerConfig(steps=10), window={1, 3, 7})
        found.append(reverse.sample(some_denoiser, start, mask, keys))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_steps_without_likelihood_are_refused():
    with pytest.raises(ConfigError, match="noise"):
        ReverseDiffusion(EPSILON, SamplerConfig(scheduler="ddim", eta=0.0)).require_likelihood()
    with pytest.raises(ConfigError, match="unipc"):
        ReverseDiffusion(EPSILON, SamplerConfig(scheduler="unipc")).require_likelihood()


def test_advantages_of_a_group_sum_to_0_and_flat_groups_have_none():
    rewards = torch.tensor([1.0, 2.0, 4.0, 3.0, 3.0, 3.0, -5.0, 0.0, 9.0])
    found, flat = advantages(rewards, 3)
    torch.testing.assert_close(found.view(3, 3).sum(1), torch.zeros(3), rtol=0, atol=1e-6)
    assert flat.tolist() == [False] * 3 + [True] * 3 + [False] * 3
    assert (found[3:6] == 0).all()
    expected = (rewards[:3] - rewards[:3].mean()) / (rewards[:3].std() + 1e-4)
    torch.testing.assert_close(found[:3], expected)
    assert found[6:].argmax() == 2
    assert found[6] < found[7] < found[8]


def test_clipping_stops_the_gain_but_not_the_way_back():
    advantage = torch.tensor([1.0, 1.0, -1.0, -1.0])
    log_ratio = torch.tensor([0.01, -0.01, 0.01, -0.01], requires_grad=True)
    options = {"clip_ratio": 1e-3, "kl_weight": 0.0, "entropy_weight": 0.0}
    options["kl_ratio"] = "new_over_old"
    terms = grpo_terms(log_ratio, torch.zeros(4), advantage, **options)
    terms.loss.sum().backward()
    assert terms.clipped.tolist() == [1, 0, 0, 1]
    assert log_ratio.grad is not None
    assert [bool(g) for g in log_ratio.grad] == [False, True, True, False]
    assert log_ratio.grad[1] < 0 < log_ratio.grad[2]  # more of the good, less of the bad


# new probabilities of 1, 2 and 1/2 times the old ones: r - 1 - log r, by hand
@pytest.mark.parametrize(
    ("kl_ratio", "expected", "slopes"),
    [
        ("new_over_old", [0.0, 1 - math.log(2), math.log(2) - 0.5], [0.0, 1.0, -0.5]),
        ("old_over_new", [0.0, math.log(2) - 0.5, 1 - math.log(2)], [0.0, 0.5, -1.0]),
    ],
)
def test_the_kl_of_both_ratios_is_that_by_hand(kl_ratio, expected, slopes):
    new = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64).log().requires_grad_(True)
    options = {"clip_ratio": 1e-3, "kl_weight": 3.0, "entropy_weight": 0.0, "kl_ratio": kl_ratio}
    terms = grpo_terms(new, torch.zeros(3, dtype=torch.float64), torch.zeros(3), **options)
    assert terms.kl.tolist() == pytest.approx(expected, abs=1e-12)
    terms.loss.sum().backward()
    assert new.grad is not None
    assert (new.grad / 3).tolist() == pytest.approx(slopes, abs=1e-12)


@pytest.mark.parametrize("learned", [True, False])
def test_the_last_step_of_ddpm_has_a_likelihood_if_wanted(learned):
    """The published code: no noise, and the density of a spread that is not used."""
    diffusion = DiffusionConfig(learned_variance=learned)
    sampler = SamplerConfig(scheduler="ddpm", steps=4)
    mask, keys = torch.ones(2, 3, dtype=torch.bool), make_keys(1, torch.arange(2))
    start = torch.ones(2, 3, 1)
    found = {}

    def predict(z, t):
        return 0.1 * z, -torch.ones_like(z) if learned else None  # the smallest variance

    for last in (False, True):
        reverse = ReverseDiffusion(diffusion, sampler, ddpm_last_step=last)
        assert reverse.noisy == [0, 1, 2]
        assert reverse.likely == [0, 1, 2] + [3] * last
        found[last] = reverse.trajectory(predict, start, mask, keys)
    torch.testing.assert_close(found[True].zs, found[False].zs, rtol=0, atol=0)
    torch.testing.assert_close(found[True].log_probs[:3], found[False].log_probs[:3])
    assert found[False].log_probs[3].tolist() == [0, 0]
    # the bound of the last step's log-variance is that of the step before it
    low = ReverseDiffusion(diffusion, sampler).coefficients.low[2]
    expected = -0.5 * (float(low) + math.log(2 * math.pi))
    assert found[True].log_probs[3].tolist() == pytest.approx([expected] * 2, rel=1e-5)
