"""Reverse diffusion: every step as a Gaussian, for sampling and for its likelihoods alike.

Mean and spread of a step of ddim, ddpm and euler are linear in the latents and in the prediction of
the denoiser, with coefficients that depend on the step alone and are made of what the diffusers
scheduler holds. So steps of different times are one batch, and a trajectory and the training that
learns from it compute the same numbers. Solvers (dpm++, unipc) remember earlier steps; diffusers
takes their steps, which have no likelihood.

Shapes: ``S`` steps, ``B`` crystals, ``C`` pairs of a crystal and a step, ``N`` padded atoms, ``L``
latent channels. The denoiser is any callable ``(z, t) -> (prediction, variance or None)``; random
numbers come from per-crystal keys, so a crystal is the same in every batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from chemeleon.config.architecture import DiffusionConfig
from chemeleon.config.schedulers import SCHEDULERS, SamplerConfig
from chemeleon.crystals.random import fold, normal
from chemeleon.diffusion.schedulers import (
    Scheduler,
    alphas_cumprod,
    make_scheduler,
    posterior_coefficients,
)
from chemeleon.errors import ConfigError

Predict = Callable[[Tensor, Tensor], tuple[Tensor, Tensor | None]]
DRAWN_AT_ONCE = 2**24  # random numbers: a single step of few crystals keeps no GPU busy


class Trajectory(NamedTuple):
    """Latents ``zs`` ``(S + 1, B, N, L)`` from noise to clean, and ``log_probs`` ``(S, B)`` of the
    steps, 0 where a step is deterministic."""

    zs: Tensor
    log_probs: Tensor


class ReverseStep(NamedTuple):
    """One step: ``z`` before, ``sample`` after, and the Gaussian of its likelihood.

    ``std`` broadcasts to ``(B, N, L)``; it is 0 for steps without one and for solvers.
    """

    z: Tensor
    sample: Tensor
    mean: Tensor
    std: Tensor


class Coefficients(NamedTuple):
    """Of steps, ``(S,)``: mean = on_z z + on_prediction prediction.

    For ddpm the log-variance lies between ``low`` and ``high``; others have their ``std``, which is
    0 for steps without a likelihood.
    """

    on_z: Tensor
    on_prediction: Tensor
    std: Tensor
    low: Tensor
    high: Tensor


class ReverseDiffusion:
    """A sampler bound to the model's process.

    Attributes:
        times: ``(S,)`` what the denoiser is given.
        noisy: numbers of the steps that draw noise. The last step never does.
        likely: of those that have a likelihood: the noisy ones and, if wanted, the last of ddpm.
    """

    def __init__(
        self,
        diffusion: DiffusionConfig,
        sampler: SamplerConfig,
        device: torch.device | str = "cpu",
        window: Collection[int] | None = None,
        *,
        ddpm_last_step: bool = False,
    ) -> None:
        """Compute the coefficients.

        Args:
            diffusion: the model's process.
            sampler: scheduler, steps, eta and temperature.
            device: where crystals will be.
            window: the steps that draw noise; all that can if not given.
            ddpm_last_step: that of ddpm has a likelihood, too, with the spread that it would draw
                noise of.

        Raises:
            GenerationError: if the scheduler does not fit the model.
        """
        self.diffusion, self.sampler = diffusion, sampler
        self.kind = SCHEDULERS[sampler.scheduler]
        self.learned = sampler.scheduler == "ddpm" and diffusion.learned_variance
        self.last_step = sampler.scheduler == "ddpm" and ddpm_last_step
        scheduler, coefficients = self._compute(window)
        self.times = scheduler.timesteps.to(device)
        self.coefficients = Coefficients(*(x.float().to(device) for x in coefficients))

    def move(self, window: Collection[int] | None) -> None:
        """Let other steps draw noise; tensors stay where they are, as CUDA graphs need."""
        _, coefficients = self._compute(window)
        for place, values in zip(self.coefficients, coefficients, strict=True):
            place.copy_(values)

    def require_likelihood(self) -> None:
        """Refuse steps that policy gradients cannot learn from.

        Raises:
            ConfigError: if the scheduler has no likelihood, or no step draws noise.
        """
        if not self.kind.gaussian:
            raise ConfigError(
                f"the steps of {self.sampler.scheduler} have no likelihood: use ddim, ddpm or euler"
            )
        if not self.noisy:
            raise ConfigError("no step of the sampler draws noise, so none has a likelihood")

    def _compute(self, window: Collection[int] | None) -> tuple[Scheduler, Coefficients]:
        scheduler = make_scheduler(self.diffusion, self.sampler)
        name, prediction = self.sampler.scheduler, self.diffusion.prediction
        steps = len(scheduler.timesteps)
        draws = torch.ones(steps, dtype=torch.float64)
        if window is not None:
            draws = torch.tensor([step in window for step in range(steps)], dtype=torch.float64)
        draws[-1] = 0  # the last step gives the clean latents
        if not self.kind.gaussian:
            found = Coefficients(*torch.zeros(5, steps))
        elif name == "euler":
            found = _euler(scheduler, self.sampler.eta * draws)
        elif name == "ddim":
            found = _ddim(scheduler, self.sampler.eta * draws, prediction)
        else:
            found = _ddpm(scheduler, alphas_cumprod(self.diffusion), draws, prediction)
        self.noisy = torch.nonzero(found.std > 0).flatten().tolist()
        if self.last_step:
            found.std[-1] = torch.exp(0.5 * found.low[-1])
        self.likely = torch.nonzero(found.std > 0).flatten().tolist()
        return scheduler, found

    def __len__(self) -> int:
        return len(self.times)

    def gaussian(
        self, index: Tensor | int, z: Tensor, prediction: Tensor, variance: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return mean ``(C, N, L)`` and spread (broadcasting to it) of steps.

        Args:
            index: ``(C,)`` numbers of the steps, or one for all; 0 is the first.
            z: ``(C, N, L)`` latents before.
            prediction: what the denoiser says of them.
            variance: place of the log-variance between its bounds (Nichol and Dhariwal 2021,
                arXiv:2102.09672, eq. 15), or None.
        """
        rows = [x[index] for x in self.coefficients]
        if not isinstance(index, int):
            rows = [row.view(-1, 1, 1) for row in rows]
        on_z, on_prediction, std, low, high = rows
        mean = on_z * z + on_prediction * prediction
        if self.learned:
            assert variance is not None
            share = (variance + 1) / 2
            std = torch.exp(0.5 * (share * high + (1 - share) * low)) * (std > 0)
        return mean, std * self.sampler.temperature

    def steps(
        self,
        predict: Predict,
        start: Tensor,
        mask: Tensor,
        keys: Tensor,
        noise: Callable[[int], Tensor] | None = None,
    ) -> Iterator[ReverseStep]:
        """Yield every step from ``start`` ``(B, N, L)`` down to clean latents.

        Args:
            predict: the denoiser; its ``t`` is ``(B,)``.
            start: standard normal numbers.
            mask: ``(B, N)`` real atoms; padded slots are kept at 0.
            keys: ``(B,)`` random keys.
            noise: standard normal numbers ``(B, N, L)`` of every step, instead of those drawn by
                ``keys``.
        """
        real, temperature = mask.unsqueeze(-1), self.sampler.temperature
        solver = None
        if not self.kind.gaussian:  # new for every trajectory: it remembers its steps
            solver = make_scheduler(self.diffusion, self.sampler)
        drawn = noise or self._noise(start, keys)
        z = start * (real * temperature)
        for index in range(len(self)):
            prediction, variance = predict(z, self.times[index].expand(len(z)))
            if solver is not None:
                extra = {}
                if self.kind.noisy and self.sampler.eta > 0:
                    extra["variance_noise"] = drawn(index) * temperature
                t = solver.timesteps[index]
                mean = sample = solver.step(prediction, t, z, **extra).prev_sample * real
                std = self.coefficients.std[index]
            else:
                mean, std = self.gaussian(index, z, prediction, variance)
                mean = mean * real
                sample = mean + std * drawn(index) * real if index in self.noisy else mean
            yield ReverseStep(z, sample, mean, std)
            z = sample

    def _noise(self, start: Tensor, keys: Tensor) -> Callable[[int], Tensor]:
        """Return the noise of every step, drawn by the keys, several steps at once."""
        block = max(1, DRAWN_AT_ONCE // max(1, start.numel()))
        held: dict[int, Tensor] = {}

        def drawn(index: int) -> Tensor:
            if index not in held:
                last = min(index + block, len(self))
                numbers = torch.arange(index, last, device=start.device)
                folded = fold(keys.expand(len(numbers), -1), "step", numbers.unsqueeze(-1))
                values = normal(folded.flatten(), tuple(start.shape[1:]))
                held.clear()
                held.update(zip(range(index, last), values.view(-1, *start.shape), strict=True))
            return held[index]

        return drawn

    def sample(self, predict: Predict, start: Tensor, mask: Tensor, keys: Tensor) -> Tensor:
        """Return the clean latents ``(B, N, L)``; arguments as of `steps`."""
        z = start
        for step in self.steps(predict, start, mask, keys):
            z = step.sample
        return z

    def trajectory(self, predict: Predict, start: Tensor, mask: Tensor, keys: Tensor) -> Trajectory:
        """Return all latents and the likelihoods of the steps; arguments as of `steps`."""
        zs, log_probs = [start * mask.unsqueeze(-1) * self.sampler.temperature], []
        none, likely = torch.zeros(len(start), device=start.device), set(self.likely)
        for index, step in enumerate(self.steps(predict, start, mask, keys)):
            zs.append(step.sample)
            known = index in likely
            found = log_probability(step.sample, step.mean, step.std, mask) if known else none
            log_probs.append(found)
        return Trajectory(torch.stack(zs), torch.stack(log_probs))


def log_probability(sample: Tensor, mean: Tensor, std: Tensor, mask: Tensor) -> Tensor:
    """Mean Gaussian log-density over a crystal's real atoms and channels, ``(B,)``.

    ``sample`` and ``mean`` are ``(B, N, L)``; ``std`` broadcasts and must be positive.
    """
    density = -0.5 * ((sample - mean) / std).square() - torch.log(std) - 0.5 * math.log(2 * math.pi)
    weights = mask.unsqueeze(-1).to(density.dtype)
    return (density * weights).sum((1, 2)) / (mask.sum(1) * sample.shape[-1])


def _here_and_below(alphas: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
    """Return the alpha products of the steps, before and after; 1 after the last one."""
    here = alphas[times]
    return here, torch.cat([here[1:], here.new_ones(1)])


def _ddim(scheduler: Scheduler, eta: Tensor, kind: str) -> Coefficients:
    """Song et al. 2021 (arXiv:2010.02502), eq. 12 and 16.

    Of the scheduler's float32 alphas: near t = 0 spreads differ in the fifth digit from what
    float64 would give.
    """
    here, below = _here_and_below(scheduler.alphas_cumprod, scheduler.timesteps)
    full = ((1 - below) / (1 - here) * (1 - here / below)).clamp_min(0).sqrt()
    std = eta * full.double()
    here, below = here.double(), below.double()
    on_x0, on_noise = below.sqrt(), (1 - below - std.square()).clamp_min(0).sqrt()
    signal, noise = here.sqrt(), (1 - here).sqrt()
    if kind == "epsilon":
        on_z, on_prediction = on_x0 / signal, on_noise - on_x0 * noise / signal
    else:
        on_z = on_x0 * signal + on_noise * noise
        on_prediction = on_noise * signal - on_x0 * noise
    none = torch.zeros_like(std)
    return Coefficients(on_z, on_prediction, std, none, none)


def _ddpm(scheduler: Scheduler, alphas: Tensor, draws: Tensor, kind: str) -> Coefficients:
    """Ho et al. 2020 (arXiv:2006.11239), eq. 7; variance by Nichol and Dhariwal 2021, eq. 15."""
    here, below = _here_and_below(alphas, scheduler.timesteps)
    step = posterior_coefficients(here, below)
    signal, noise = here.sqrt(), (1 - here).sqrt()
    if kind == "epsilon":
        on_z, on_prediction = step.on_x0 / signal + step.on_z, -step.on_x0 * noise / signal
    else:
        on_z, on_prediction = step.on_x0 * signal + step.on_z, -step.on_x0 * noise
    std = step.variance.clamp_min(0).sqrt() * draws
    low = torch.log(step.variance.clamp_min(1e-20))
    # the last step's bound would be the logarithm of 0: it takes that of the step above
    low[-1:] = low[-2:-1] if len(low) > 1 else low
    return Coefficients(on_z, on_prediction, std, low, torch.log(step.beta))


def _euler(scheduler: Scheduler, eta: Tensor) -> Coefficients:
    """Flow-GRPO (Liu et al. 2025, arXiv:2505.05470), eq. 9: Euler steps of the SDE that has the
    flow's marginals, with the noise level ``eta sqrt(t / (1 - t))``; without noise those of the
    ODE."""
    sigmas = scheduler.sigmas.double()
    t, step = sigmas[:-1], sigmas[1:] - sigmas[:-1]
    # the level is infinite at t = 1: the next step's is taken there
    bounded = torch.where(t >= 1, sigmas[1], t)
    level = eta * (t / (1 - bounded)).sqrt()
    drift = level.square() / (2 * t)
    none = torch.zeros_like(t)
    std = level * (-step).sqrt()
    return Coefficients(1 + drift * step, (1 + drift * (1 - t)) * step, std, none, none)
