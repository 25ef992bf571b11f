"""From settings to diffusers schedulers, and what every step of a reverse walk gives.

Clipping and thresholding are off everywhere: these are latents, not pictures.
"""

from __future__ import annotations

from typing import Any, Protocol, cast

import torch
from torch import Tensor

from chemeleon.config.schema import DiffusionConfig, SamplerConfig
from chemeleon.errors import GenerationError


class Scheduler(Protocol):
    """The part of a diffusers scheduler that is used here."""

    timesteps: Tensor
    config: Any

    def set_timesteps(self, num_inference_steps: int) -> None:
        """Choose the times of the walk."""

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, **kwargs: Any) -> Any:
        """Go one step down."""


def train_alphas_cumprod(config: DiffusionConfig) -> Tensor:
    """Return the products of alpha over the training steps, ``(steps,)`` float32."""
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    return DDPMScheduler(**_betas(config)).alphas_cumprod


def _betas(config: DiffusionConfig) -> dict[str, Any]:
    return {
        "num_train_timesteps": config.steps,
        "beta_start": config.beta_start,
        "beta_end": config.beta_end,
        "beta_schedule": config.beta_schedule,
    }


def make_scheduler(diffusion: DiffusionConfig, sampler: SamplerConfig) -> Scheduler:
    """Build the named scheduler with its times set.

    ``ddim`` takes times 0, T/S, 2T/S, ... (leading) and ``ddpm`` rounded evenly spaced times from 0
    to T - 1 (linspace), as the published models do; ``dpm++`` (Lu et al. 2022, arXiv:2211.01095)
    is stochastic for eta > 0; ``unipc`` is Zhao et al. 2023 (arXiv:2302.04867).

    Raises:
        GenerationError: if the scheduler does not fit the model, or has too many steps.
    """
    name, steps = sampler.scheduler, sampler.steps
    flow = diffusion.process == "flow"
    if flow != (name == "euler"):
        fitting = "euler" if flow else "ddim, ddpm, dpm++ or unipc"
        raise GenerationError(
            f"scheduler '{name}' does not fit a model trained with process={diffusion.process}:"
            f" use {fitting}"
        )
    if steps > diffusion.steps:
        raise GenerationError(
            f"{steps} steps are more than the {diffusion.steps} that the model was trained with"
        )
    scheduler = _build(diffusion, sampler)
    scheduler.set_timesteps(steps)
    return scheduler


def _build(diffusion: DiffusionConfig, sampler: SamplerConfig) -> Scheduler:
    common = _betas(diffusion)
    common["prediction_type"] = {"epsilon": "epsilon", "v": "v_prediction"}.get(
        diffusion.prediction
    )
    if sampler.scheduler == "euler":
        from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
            FlowMatchEulerDiscreteScheduler,
        )

        return cast("Scheduler", FlowMatchEulerDiscreteScheduler(diffusion.steps))
    if sampler.scheduler == "ddim":
        from diffusers.schedulers.scheduling_ddim import DDIMScheduler

        return cast(
            "Scheduler",
            DDIMScheduler(
                **common, clip_sample=False, set_alpha_to_one=True, timestep_spacing="leading"
            ),
        )
    if sampler.scheduler == "ddpm":
        from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

        return cast(
            "Scheduler",
            DDPMScheduler(**common, clip_sample=False, timestep_spacing="linspace"),
        )
    if sampler.scheduler == "dpm++":
        from diffusers.schedulers.scheduling_dpmsolver_multistep import (
            DPMSolverMultistepScheduler,
        )

        algorithm = "sde-dpmsolver++" if sampler.eta > 0 else "dpmsolver++"
        return cast(
            "Scheduler",
            DPMSolverMultistepScheduler(
                **common, algorithm_type=algorithm, final_sigmas_type="zero"
            ),
        )
    from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler

    return cast("Scheduler", UniPCMultistepScheduler(**common, final_sigmas_type="zero"))


def ddpm_step(
    alphas_cumprod: Tensor, t: int, previous: int, z: Tensor, x0: Tensor, variance: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return mean and log-variance of one ancestral step (Ho et al. 2020, eq. 7).

    Args:
        alphas_cumprod: ``(T,)`` of the training process.
        t: time of ``z``.
        previous: the time below it, -1 at the end.
        z: ``(B, N, L)`` noisy latents.
        x0: ``(B, N, L)`` predicted clean latents.
        variance: place of the log-variance between its bounds (Nichol and Dhariwal 2021, eq. 15),
            or None for the lower bound.
    """
    here = alphas_cumprod[t]
    below = alphas_cumprod[previous] if previous >= 0 else torch.ones_like(here)
    beta = 1 - here / below
    mean = below.sqrt() * beta / (1 - here) * x0 + (1 - beta).sqrt() * (1 - below) / (1 - here) * z
    lower = torch.log(((1 - below) / (1 - here) * beta).clamp_min(1e-20))
    if variance is None:
        return mean, lower
    share = (variance + 1) / 2
    return mean, share * torch.log(beta) + (1 - share) * lower


def predicted_x0(prediction: Tensor, z: Tensor, alpha_cumprod: Tensor, kind: str) -> Tensor:
    """Return the clean latents that an epsilon or v prediction implies.

    ``alpha_cumprod`` broadcasts against ``z``.
    """
    signal, noise = alpha_cumprod.sqrt(), (1 - alpha_cumprod).sqrt()
    if kind == "epsilon":
        return (z - noise * prediction) / signal
    return signal * z - noise * prediction
