"""From settings to diffusers schedulers, and the posterior of the forward process.

Clipping and thresholding are off everywhere: these are latents, not pictures.
"""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple, Protocol, cast

import torch
from torch import Tensor

from chemeleon.config.schema import DiffusionConfig, SamplerConfig
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
    scheduler = _library().DDPMScheduler(**_betas(diffusion))
    return torch.cumprod(1 - scheduler.betas.double(), 0)


def _library() -> Any:
    """Return diffusers' schedulers; importing them takes two seconds."""
    return importlib.import_module("diffusers.schedulers")


def _betas(diffusion: DiffusionConfig) -> dict[str, Any]:
    return {
        "num_train_timesteps": diffusion.steps,
        "beta_start": diffusion.beta_start,
        "beta_end": diffusion.beta_end,
        "beta_schedule": diffusion.beta_schedule,
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
    library = _library()
    if sampler.scheduler == "euler":
        return cast("Scheduler", library.FlowMatchEulerDiscreteScheduler(diffusion.steps))
    kinds: dict[str, tuple[Any, dict[str, Any]]] = {
        "ddim": (library.DDIMScheduler, {"clip_sample": False, "timestep_spacing": "leading"}),
        "ddpm": (library.DDPMScheduler, {"clip_sample": False, "timestep_spacing": "linspace"}),
        "unipc": (library.UniPCMultistepScheduler, {"final_sigmas_type": "zero"}),
        "dpm++": (library.DPMSolverMultistepScheduler, {"final_sigmas_type": "zero"}),
    }
    kind, more = kinds[sampler.scheduler]
    if sampler.scheduler == "dpm++":
        more["algorithm_type"] = "sde-dpmsolver++" if sampler.eta > 0 else "dpmsolver++"
    names = {"epsilon": "epsilon", "v": "v_prediction"}
    common = {**_betas(diffusion), "prediction_type": names[diffusion.prediction]}
    return cast("Scheduler", kind(**common, **more))


def predicted_x0(prediction: Tensor, z: Tensor, alpha_cumprod: Tensor, kind: str) -> Tensor:
    """Return the clean latents that an epsilon or v prediction implies.

    ``alpha_cumprod`` broadcasts against ``z``.
    """
    signal, noise = alpha_cumprod.sqrt(), (1 - alpha_cumprod).sqrt()
    if kind == "epsilon":
        return (z - noise * prediction) / signal
    return signal * z - noise * prediction
