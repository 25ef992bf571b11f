"""The reverse walk from noise to latents, with mean, spread and likelihood of every step.

Shapes: ``B`` crystals, ``N`` padded atoms, ``L`` latent channels. The denoiser is any callable
``(z, t) -> (prediction, variance or None)``, so the sampler knows nothing of models; random numbers
come from per-crystal keys, so a crystal is the same in every batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
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
        self, predict: Predict, z: Tensor, mask: Tensor, keys: Tensor
    ) -> Iterator[ReverseStep]:
        """Yield every step from noise ``z`` ``(B, N, L)`` down to clean latents.

        Args:
            predict: the denoiser; its ``t`` is ``(B,)``.
            z: standard normal start.
            mask: ``(B, N)`` real atoms; padded slots are kept at 0.
            keys: ``(B,)`` random keys.
        """
        scheduler = make_scheduler(self.diffusion, self.config)
        times = scheduler.timesteps
        real = mask.unsqueeze(-1)
        z = z * real
        for index, t in enumerate(times):
            batch_t = t.to(z.device).expand(len(z))
            prediction, variance = predict(z, batch_t)
            following = int(times[index + 1]) if index + 1 < len(times) else -1
            noise = normal(fold(keys, "step", index), tuple(z.shape[1:]))
            mean, std, sample = self._step(scheduler, t, following, z, prediction, variance, noise)
            sample = sample * real
            yield ReverseStep(int(t), z, sample, mean * real, std)
            z = sample

    def _step(
        self,
        scheduler: Scheduler,
        t: Tensor,
        following: int,
        z: Tensor,
        prediction: Tensor,
        variance: Tensor | None,
        noise: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        name, eta = self.config.scheduler, self.config.eta
        if name == "ddpm":
            x0 = predicted_x0(prediction, z, self.alphas_cumprod[int(t)], self.diffusion.prediction)
            mean, log_variance = ddpm_step(self.alphas_cumprod, int(t), following, z, x0, variance)
            std = torch.exp(0.5 * log_variance) if following >= 0 else torch.zeros(())
            std = std.to(z.device)
            return mean, std, mean + std * noise
        if name == "ddim":
            mean = scheduler.step(
                prediction, int(t), z, eta=eta, variance_noise=torch.zeros_like(z)
            ).prev_sample
            std = torch.as_tensor(eta * self._ddim_std(int(t), following), device=z.device)
            return mean, std, mean + std * noise
        extra = {"variance_noise": noise} if name == "dpm++" and eta > 0 else {}
        sample = scheduler.step(prediction, t, z, **extra).prev_sample
        return sample, torch.zeros((), device=z.device), sample

    def _ddim_std(self, t: int, following: int) -> float:
        """Return the spread of an eta = 1 step (Song et al. 2021, arXiv:2010.02502, eq. 16)."""
        here = float(self.alphas_cumprod[t])
        below = float(self.alphas_cumprod[following]) if following >= 0 else 1.0
        return math.sqrt(max((1 - below) / (1 - here) * (1 - here / below), 0.0))

    def sample(self, predict: Predict, z: Tensor, mask: Tensor, keys: Tensor) -> Tensor:
        """Walk to the end and return the clean latents, ``(B, N, L)``."""
        for step in self.walk(predict, z, mask, keys):
            z = step.sample
        return z


def log_probability(sample: Tensor, mean: Tensor, std: Tensor, mask: Tensor) -> Tensor:
    """Mean Gaussian log-density over a crystal's real atoms and channels, ``(B,)``.

    ``sample`` and ``mean`` are ``(B, N, L)``; ``std`` broadcasts and must be positive.
    """
    density = -0.5 * ((sample - mean) / std).square() - torch.log(std) - 0.5 * math.log(2 * math.pi)
    weights = mask.unsqueeze(-1).to(density.dtype)
    return (density * weights).sum((1, 2)) / (mask.sum(1) * sample.shape[-1])
