"""The steps of a reverse walk as Gaussians, many crystals and steps at once, for policy gradients.

Mean and spread of a step are linear in the latents and in what the denoiser says of them, with
coefficients that depend on the step alone. So steps of different times are one batch, and a rollout
and the training that follows compute the same numbers.

Shapes: ``S`` steps, ``B`` crystals, ``C`` pairs of a crystal and a step, ``N`` padded atoms, ``L``
latent channels.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import torch
from torch import Tensor

from chemeleon.config.schema import DiffusionConfig, SamplerConfig
from chemeleon.crystals.random import fold, normal
from chemeleon.diffusion.sampler import Predict, log_probability
from chemeleon.diffusion.schedulers import (
    Scheduler,
    make_scheduler,
    posterior_coefficients,
    train_alphas_cumprod,
)
from chemeleon.errors import ConfigError


class Trajectory(NamedTuple):
    """A walk: latents ``zs`` ``(S + 1, B, N, L)`` from noise to clean, and ``log_probs`` ``(S, B)``
    of its steps, 0 where a step is deterministic."""

    zs: Tensor
    log_probs: Tensor


class _Steps(NamedTuple):
    """Coefficients ``(S,)``: mean = on_z z + on_prediction prediction.

    For ddpm the log-variance lies between ``low`` and ``high``; others have their ``std``.
    """

    on_z: Tensor
    on_prediction: Tensor
    std: Tensor
    low: Tensor
    high: Tensor


class Transitions:
    """All steps of a sampler.

    Attributes:
        times: ``(S,)`` what the denoiser is told.
        noisy: numbers of the steps that draw noise, and so have a likelihood. The last step of a
            walk never does.

    Raises:
        ConfigError: if the scheduler has no likelihood, or no step draws noise.
        GenerationError: if the scheduler does not fit the model.
    """

    def __init__(
        self,
        diffusion: DiffusionConfig,
        sampler: SamplerConfig,
        device: torch.device | str = "cpu",
        window: Collection[int] | None = None,
    ) -> None:
        """Compute the coefficients.

        Args:
            diffusion: the model's process.
            sampler: ddim, ddpm or euler, with their steps and eta.
            device: where crystals will be.
            window: the steps that draw noise; all that can if not given.
        """
        self.diffusion, self.sampler = diffusion, sampler
        self.learned = sampler.scheduler == "ddpm" and diffusion.learned_variance
        scheduler, steps = self._compute(window)
        self.times = scheduler.timesteps.to(device)
        self.steps = _Steps(*(x.float().to(device) for x in steps))

    def move(self, window: Collection[int] | None) -> None:
        """Let other steps draw noise; tensors stay where they are, as CUDA graphs need."""
        _, steps = self._compute(window)
        for place, values in zip(self.steps, steps, strict=True):
            place.copy_(values)

    def _compute(self, window: Collection[int] | None) -> tuple[Scheduler, _Steps]:
        diffusion, sampler = self.diffusion, self.sampler
        scheduler = make_scheduler(diffusion, sampler)
        times = scheduler.timesteps
        if sampler.scheduler == "euler":
            steps = _flow_steps(scheduler.sigmas.double(), sampler.eta, window)  # pyright: ignore
        elif sampler.scheduler in ("ddim", "ddpm"):
            alphas = train_alphas_cumprod(diffusion)
            here = alphas[times]
            below = torch.cat([here[1:], here.new_ones(1)])
            if sampler.scheduler == "ddim":
                steps = _ddim_steps(here, below, sampler.eta, window, diffusion.prediction)
            else:
                steps = _ddpm_steps(here, below, diffusion.prediction)
        else:
            raise ConfigError(
                f"the steps of {sampler.scheduler} have no likelihood: use ddim, ddpm or euler"
            )
        self.noisy = torch.nonzero(steps.std > 0).flatten().tolist()
        if not self.noisy:
            raise ConfigError("no step of the walk draws noise, so none has a likelihood")
        return scheduler, steps

    def __len__(self) -> int:
        return len(self.times)

    def gaussian(
        self, index: Tensor, z: Tensor, prediction: Tensor, variance: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return mean ``(C, N, L)`` and spread (broadcasting to it) of steps.

        Args:
            index: ``(C,)`` numbers of the steps, 0 is the first.
            z: ``(C, N, L)`` latents before.
            prediction: what the denoiser says of them.
            variance: place of the log-variance between its bounds, or None.
        """
        on_z, on_prediction, std, low, high = (x[index].view(-1, 1, 1) for x in self.steps)
        mean = on_z * z + on_prediction * prediction
        if self.learned:
            assert variance is not None
            share = (variance + 1) / 2
            std = torch.exp(0.5 * (share * high + (1 - share) * low)) * (std > 0)
        return mean, std

    @torch.no_grad()
    def walk(self, predict: Predict, start: Tensor, mask: Tensor, keys: Tensor) -> Trajectory:
        """Go from standard normal ``start`` ``(B, N, L)`` to clean latents.

        The noise is that of `Sampler.walk` with the same keys ``(B,)``; padded slots stay 0.
        """
        real = mask.unsqueeze(-1)
        noises = torch.zeros(len(self), *start.shape, device=start.device)
        numbers = torch.tensor(self.noisy).to(start.device)
        # all at once: a step of a walk is short of work as it is
        folded = fold(keys.expand(len(numbers), -1), "step", numbers.unsqueeze(-1))
        drawn = normal(folded.flatten(), tuple(start.shape[1:]))
        noises[numbers] = drawn.view(len(numbers), *start.shape)
        z = start * real
        zs, log_probs = [z], []
        noisy = set(self.noisy)
        there = torch.arange(len(self), device=start.device)
        for step in range(len(self)):
            index = there[step : step + 1]
            prediction, variance = predict(z, self.times[index].expand(len(z)))
            mean, std = self.gaussian(index, z, prediction, variance)
            sample = (mean + std * noises[step]) * real
            if step in noisy:
                log_probs.append(log_probability(sample, mean, std, mask))
            else:
                log_probs.append(torch.zeros_like(z[:, 0, 0]))
            zs.append(sample)
            z = sample
        return Trajectory(torch.stack(zs), torch.stack(log_probs))


def _in_window(steps: int, window: Collection[int] | None) -> Tensor:
    """Return which steps may draw noise, ``(S,)``; the last one gives the clean latents."""
    allowed = torch.ones(steps, dtype=torch.float64)
    if window is not None:
        allowed = torch.tensor([step in window for step in range(steps)], dtype=torch.float64)
    allowed[-1] = 0
    return allowed


def _ddim_steps(
    here: Tensor, below: Tensor, eta: float, window: Collection[int] | None, kind: str
) -> _Steps:
    """Song et al. 2021 (arXiv:2010.02502), eq. 12 and 16.

    From float32 alphas, as diffusers computes them: near t = 0 spreads differ in the fifth digit
    from what float64 would give.
    """
    here, below = here.float(), below.float()
    full = ((1 - below) / (1 - here) * (1 - here / below)).clamp_min(0).sqrt()
    std = eta * full.double() * _in_window(len(here), window)
    here, below = here.double(), below.double()
    on_x0, on_noise = below.sqrt(), (1 - below - std.square()).clamp_min(0).sqrt()
    signal, noise = here.sqrt(), (1 - here).sqrt()
    if kind == "epsilon":
        on_z, on_prediction = on_x0 / signal, on_noise - on_x0 * noise / signal
    else:
        on_z = on_x0 * signal + on_noise * noise
        on_prediction = on_noise * signal - on_x0 * noise
    none = torch.zeros_like(std)
    return _Steps(on_z, on_prediction, std, none, none)


def _ddpm_steps(here: Tensor, below: Tensor, kind: str) -> _Steps:
    """Ho et al. 2020 (arXiv:2006.11239), eq. 7; variance by Nichol and Dhariwal 2021, eq. 15."""
    step = posterior_coefficients(here, below)
    signal, noise = here.sqrt(), (1 - here).sqrt()
    if kind == "epsilon":
        on_z, on_prediction = step.on_x0 / signal + step.on_z, -step.on_x0 * noise / signal
    else:
        on_z, on_prediction = step.on_x0 * signal + step.on_z, -step.on_x0 * noise
    std = step.variance.clamp_min(0).sqrt() * _in_window(len(here), None)
    low = torch.log(step.variance.clamp_min(1e-20))
    return _Steps(on_z, on_prediction, std, low, torch.log(step.beta))


def _flow_steps(sigmas: Tensor, eta: float, window: Collection[int] | None) -> _Steps:
    """Flow-GRPO (Liu et al. 2025, arXiv:2505.05470), eq. 9: Euler steps of the SDE that has the
    flow's marginals, with the noise level ``eta sqrt(t / (1 - t))``."""
    t, step = sigmas[:-1], sigmas[1:] - sigmas[:-1]
    # the level is infinite at t = 1: the next step's is taken there
    bounded = torch.where(t >= 1, sigmas[1], t)
    level = eta * (t / (1 - bounded)).sqrt() * _in_window(len(t), window)
    drift = level.square() / (2 * t)
    none = torch.zeros_like(t)
    std = level * (-step).sqrt()
    return _Steps(1 + drift * step, (1 + drift * (1 - t)) * step, std, none, none)
