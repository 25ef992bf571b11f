"""From settings to diffusers schedulers, and what every step of a reverse walk gives.

Clipping and thresholding are off everywhere: these are latents, not pictures.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, cast

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


class Coefficients(NamedTuple):
    """Of one reverse step (Ho et al. 2020, arXiv:2006.11239, eq. 7), elementwise in its times.

    ``beta`` is the variance that the forward step adds; the reverse mean is ``on_x0`` times clean
    plus ``on_z`` times noisy latents; ``variance`` is that of the true reverse step.
    """

    beta: Tensor
    on_x0: Tensor
    on_z: Tensor
    variance: Tensor


def posterior_coefficients(here: Tensor, below: Tensor) -> Coefficients:
    """Return the coefficients of steps from alpha products ``here`` to ``below`` (1 at the end)."""
    beta = 1 - here / below
    rest = 1 - here
    return Coefficients(
        beta=beta,
        on_x0=below.sqrt() * beta / rest,
        on_z=(1 - beta).sqrt() * (1 - below) / rest,
        variance=(1 - below) / rest * beta,
    )


def train_alphas_cumprod(config: DiffusionConfig) -> Tensor:
    """Return the products of alpha over the training steps, ``(steps,)``.

    They are float64: beta is the small difference of two of them.
    """
    if config.beta_schedule == "linear":
        betas = torch.linspace(
            config.beta_start, config.beta_end, config.steps, dtype=torch.float64
        )
    else:
        from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

        betas = DDPMScheduler(**_betas(config)).betas.double()
    return torch.cumprod(1 - betas, 0)


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
    alphas_cumprod: Tensor,
    t: int,
    previous: int,
    z: Tensor,
    x0: Tensor,
    variance: Tensor | None,
    above: int | None = None,
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
        above: the time above ``t`` in the walk. The last step has a lower bound of 0, whose
            logarithm is replaced by that of the step above it.
    """
    here = alphas_cumprod[t]
    below = alphas_cumprod[previous] if previous >= 0 else torch.ones_like(here)
    step = posterior_coefficients(here, below)
    mean = step.on_x0 * x0 + step.on_z * z
    bound = step.variance
    if previous < 0 and above is not None:
        bound = posterior_coefficients(alphas_cumprod[above], here).variance
    lower = torch.log(bound.clamp_min(1e-20))
    if variance is None:
        return mean, lower.to(z.dtype)
    share = (variance + 1) / 2
    return mean, share * torch.log(step.beta) + (1 - share) * lower


def predicted_x0(prediction: Tensor, z: Tensor, alpha_cumprod: Tensor, kind: str) -> Tensor:
    """Return the clean latents that an epsilon or v prediction implies.

    ``alpha_cumprod`` broadcasts against ``z``.
    """
    signal, noise = alpha_cumprod.sqrt(), (1 - alpha_cumprod).sqrt()
    if kind == "epsilon":
        return (z - noise * prediction) / signal
    return signal * z - noise * prediction
