"""From settings to diffusers schedulers, and the posterior of the forward process."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, cast

import torch
from torch import Tensor

from chemeleon.config.architecture import DiffusionConfig
from chemeleon.config.schedulers import SCHEDULERS, SamplerConfig, fitting
from chemeleon.diffusion.library import schedulers
from chemeleon.errors import GenerationError


class Scheduler(Protocol):
    """The part of a diffusers scheduler that is used here."""

    timesteps: Tensor
    alphas_cumprod: Tensor
    sigmas: Tensor

    def set_timesteps(self, num_inference_steps: int) -> None:
        """Choose the times of the walk."""

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, **kwargs: Any) -> Any:
        """Go one step down."""


class Posterior(NamedTuple):
    """Of one reverse step (Ho et al. 2020, arXiv:2006.11239, eq. 7), elementwise in its times.

    ``beta`` is the variance that the forward step adds; the reverse mean is ``on_x0`` times clean
    plus ``on_z`` times noisy latents; ``variance`` is that of the true reverse step.
    """

    beta: Tensor
    on_x0: Tensor
    on_z: Tensor
    variance: Tensor


def posterior_coefficients(here: Tensor, below: Tensor) -> Posterior:
    """Return the coefficients of steps from alpha products ``here`` to ``below`` (1 at the end)."""
    beta = 1 - here / below
    rest = 1 - here
    return Posterior(
        beta=beta,
        on_x0=below.sqrt() * beta / rest,
        on_z=(1 - beta).sqrt() * (1 - below) / rest,
        variance=(1 - below) / rest * beta,
    )


def alphas_cumprod(diffusion: DiffusionConfig) -> Tensor:
    """Return the products of alpha over the training steps, ``(T,)``.

    They are float64: beta is the small difference of two of them.
    """
    scheduler = schedulers().DDPMScheduler(**_betas(diffusion))
    return torch.cumprod(1 - scheduler.betas.double(), 0)


def _betas(diffusion: DiffusionConfig) -> dict[str, Any]:
    return {
        "num_train_timesteps": diffusion.steps,
        "beta_start": diffusion.beta_start,
        "beta_end": diffusion.beta_end,
        "beta_schedule": diffusion.beta_schedule,
    }


def make_scheduler(diffusion: DiffusionConfig, sampler: SamplerConfig) -> Scheduler:
    """Build the named scheduler of `config.schedulers` with its times set.

    Raises:
        GenerationError: if the scheduler does not fit the model, or has too many steps.
    """
    name, steps = sampler.scheduler, sampler.steps
    kind = SCHEDULERS[name]
    if kind.process != diffusion.process:
        raise GenerationError(
            f"scheduler '{name}' does not fit a model trained with process={diffusion.process}:"
            f" use {fitting(diffusion.process)}"
        )
    if steps > diffusion.steps:
        raise GenerationError(
            f"{steps} steps are more than the {diffusion.steps} that the model was trained with"
        )
    made = getattr(schedulers(), kind.library)
    options = {**kind.options, **(kind.noisy if sampler.eta > 0 else kind.quiet)}
    if kind.process == "flow":
        scheduler = made(diffusion.steps, **options)
    else:
        names = {"epsilon": "epsilon", "v": "v_prediction"}
        scheduler = made(
            **_betas(diffusion), prediction_type=names[diffusion.prediction], **options
        )
    scheduler.set_timesteps(steps)
    return cast("Scheduler", scheduler)


def predicted_x0(prediction: Tensor, z: Tensor, alpha_cumprod: Tensor, kind: str) -> Tensor:
    """Return the clean latents that an epsilon or v prediction implies.

    ``alpha_cumprod`` broadcasts against ``z``.
    """
    signal, noise = alpha_cumprod.sqrt(), (1 - alpha_cumprod).sqrt()
    if kind == "epsilon":
        return (z - noise * prediction) / signal
    return signal * z - noise * prediction
