"""The reverse walk from noise to latents, with mean, spread and likelihood of every step.

Shapes: ``B`` crystals, ``N`` padded atoms, ``L`` latent channels. The denoiser is any callable
``(z, t) -> (prediction, variance or None)``, so the sampler knows nothing of models; random numbers
come from per-crystal keys, so a crystal is the same in every batch.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Container, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from chemeleon.config.schema import DiffusionConfig, SamplerConfig
from chemeleon.crystals.random import fold, normal
from chemeleon.diffusion.schedulers import (
    Scheduler,
    ddpm_step,
    make_scheduler,
    predicted_x0,
    train_alphas_cumprod,
)

Predict = Callable[[Tensor, Tensor], tuple[Tensor, Tensor | None]]


class ReverseStep(NamedTuple):
    """One step: time ``t``, ``z`` before, ``sample`` after, and the Gaussian it was drawn from.

    ``std`` broadcasts to ``(B, N, L)``; it is 0 for deterministic steps and solvers.
    """

    t: int
    z: Tensor
    sample: Tensor
    mean: Tensor
    std: Tensor


class Sampler:
    """A scheduler bound to the model's process, ready to walk."""

    def __init__(self, diffusion: DiffusionConfig, config: SamplerConfig) -> None:
        self.diffusion, self.config = diffusion, config
        self.alphas_cumprod = train_alphas_cumprod(diffusion)

    def walk(
        self,
        predict: Predict,
        z: Tensor,
        mask: Tensor,
        keys: Tensor,
        noise: Callable[[int], Tensor] | None = None,
    ) -> Iterator[ReverseStep]:
        """Yield every step from noise ``z`` ``(B, N, L)`` down to clean latents.

        Args:
            predict: the denoiser; its ``t`` is ``(B,)``.
            z: standard normal start.
            mask: ``(B, N)`` real atoms; padded slots are kept at 0.
            keys: ``(B,)`` random keys.
            noise: standard normal numbers ``(B, N, L)`` of every step, instead of those drawn by
                ``keys``.
        """
        scheduler = make_scheduler(self.diffusion, self.config)
        times = scheduler.timesteps
        real = mask.unsqueeze(-1)
        temperature = self.config.temperature
        z = z * (real * temperature)
        there = times.to(z.device)  # at once: a copy for each step would wait for the device
        for index, t in enumerate(times):
            prediction, variance = predict(z, there[index].expand(len(z)))
            draw = (
                normal(fold(keys, "step", index), tuple(z.shape[1:]))
                if noise is None
                else noise(index)
            )
            mean, std, sample = self.step(
                scheduler, index, z, prediction, variance, draw * temperature
            )
            sample = sample * real
            yield ReverseStep(int(t), z, sample, mean * real, std * temperature)
            z = sample

    def step(
        self,
        scheduler: Scheduler,
        index: int,
        z: Tensor,
        prediction: Tensor,
        variance: Tensor | None,
        noise: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Take one step from ``z`` and return mean, spread and sample.

        Args:
            scheduler: made for this walk; solvers remember earlier steps in it.
            index: number of the step, 0 is the first.
            z: ``(B, N, L)`` noisy latents.
            prediction: what the denoiser said of them.
            variance: the place of the log-variance, or None.
            noise: ``(B, N, L)`` standard normal numbers.
        """
        times = scheduler.timesteps
        t = times[index]
        following = int(times[index + 1]) if index + 1 < len(times) else -1
        name, eta = self.config.scheduler, self.config.eta
        if name == "ddpm":
            x0 = predicted_x0(prediction, z, self.alphas_cumprod[int(t)], self.diffusion.prediction)
            above = int(times[index - 1]) if index else None
            mean, log_variance = ddpm_step(
                self.alphas_cumprod, int(t), following, z, x0, variance, above
            )
            std = torch.exp(0.5 * log_variance) if following >= 0 else torch.zeros(())
            std = std.to(z.device)
            return mean, std, mean + std * noise
        if name == "ddim":
            mean = scheduler.step(
                prediction, int(t), z, eta=eta, variance_noise=torch.zeros_like(z)
            ).prev_sample
            std = (eta * self._ddim_std(int(t), following)).to(z.device)
            return mean, std, mean + std * noise
        extra = {"variance_noise": noise} if name == "dpm++" and eta > 0 else {}
        sample = scheduler.step(prediction, t, z, **extra).prev_sample
        return sample, torch.zeros((), device=z.device), sample

    def _ddim_std(self, t: int, following: int) -> Tensor:
        """Return the spread of an eta = 1 step (Song et al. 2021, arXiv:2010.02502, eq. 16).

        In float32, as diffusers computes the mean that goes with it: near t = 0 they differ in the
        fifth digit from what float64 would give.
        """
        alphas = self.alphas_cumprod.float()
        here = alphas[t]
        below = alphas[following] if following >= 0 else torch.ones_like(here)
        return torch.sqrt(((1 - below) / (1 - here) * (1 - here / below)).clamp_min(0))

    def sample(self, predict: Predict, z: Tensor, mask: Tensor, keys: Tensor) -> Tensor:
        """Walk to the end and return the clean latents, ``(B, N, L)``."""
        for step in self.walk(predict, z, mask, keys):
            z = step.sample
        return z


def guided(
    conditional: Predict, unconditional: Predict, scale: float, steps: Container[int] | None = None
) -> Predict:
    """Return a denoiser that is steered by a condition (Ho and Salimans 2022, arXiv:2207.12598).

    ``unconditional + scale * (conditional - unconditional)``, for the prediction and the place of
    the variance alike, as the published models do; 0 is unconditional, 1 conditional, more pushes
    harder.

    Args:
        conditional: the denoiser that is told the condition.
        unconditional: the one that is not.
        scale: how hard to push.
        steps: evaluations of the walk, counted from 0, that are guided; the others are conditional.
            All are if not given. The count is that of calls, so make a denoiser for each walk.
    """
    calls = itertools.count()

    def predict(z: Tensor, t: Tensor) -> tuple[Tensor, Tensor | None]:
        with_it, variance_with = conditional(z, t)
        if steps is not None and next(calls) not in steps:
            return with_it, variance_with
        without, variance_without = unconditional(z, t)
        prediction = without + scale * (with_it - without)
        if variance_with is None or variance_without is None:
            return prediction, None
        return prediction, variance_without + scale * (variance_with - variance_without)

    return predict


def log_probability(sample: Tensor, mean: Tensor, std: Tensor, mask: Tensor) -> Tensor:
    """Mean Gaussian log-density over a crystal's real atoms and channels, ``(B,)``.

    ``sample`` and ``mean`` are ``(B, N, L)``; ``std`` broadcasts and must be positive.
    """
    density = -0.5 * ((sample - mean) / std).square() - torch.log(std) - 0.5 * math.log(2 * math.pi)
    weights = mask.unsqueeze(-1).to(density.dtype)
    return (density * weights).sum((1, 2)) / (mask.sum(1) * sample.shape[-1])
