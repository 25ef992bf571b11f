"""The schedulers that crystals can be sampled with: which class of diffusers each is, what it does
with noise, and the settings of reverse diffusion.

A scheduler is one entry here. Those whose steps are Gaussians, of which a policy can learn, have
their coefficients in `diffusion.reverse` too; diffusers takes the steps of all others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field

from chemeleon.config.bounds import Fraction, NonNegative, Redraws, Section, TimeSteps, checked
from chemeleon.config.requests import check_word, either


@dataclass(frozen=True)
class SchedulerKind:
    """What is known of a scheduler.

    Attributes:
        library: its class in ``diffusers.schedulers``.
        process: of the models that it fits, see `architecture.DiffusionConfig`.
        options: of the class, beside those that follow from the model. Clipping and thresholding
            are off: these are latents, not pictures.
        quiet, noisy: further ones for eta = 0 and eta > 0; the ``step`` of a class with ``noisy``
            is given the noise, as ``variance_noise``.
        etas: those that it takes; None for all from 0 to 1.
        of_eta: what it makes of others, in words.
        gaussian: its steps have a likelihood.
    """

    library: str
    process: Literal["ddpm", "flow"] = "ddpm"
    options: Mapping[str, Any] = field(default_factory=dict)
    quiet: Mapping[str, Any] = field(default_factory=dict)
    noisy: Mapping[str, Any] = field(default_factory=dict)
    etas: tuple[float, ...] | None = None
    of_eta: str = ""
    gaussian: bool = False


# ddim takes times 0, T/S, 2T/S, ... (leading) and ddpm rounded evenly spaced times from 0 to T - 1
# (linspace), as the published models do; dpm++ is Lu et al. 2022 (arXiv:2211.01095), unipc Zhao et
# al. 2023 (arXiv:2302.04867)
SCHEDULERS: dict[str, SchedulerKind] = {
    "ddim": SchedulerKind(
        "DDIMScheduler",
        options={"clip_sample": False, "timestep_spacing": "leading"},
        gaussian=True,
    ),
    "ddpm": SchedulerKind(
        "DDPMScheduler",
        options={"clip_sample": False, "timestep_spacing": "linspace"},
        etas=(1,),
        of_eta="ddpm always draws full noise; leave eta out, or use ddim",
        gaussian=True,
    ),
    "dpm++": SchedulerKind(
        "DPMSolverMultistepScheduler",
        options={"final_sigmas_type": "zero"},
        quiet={"algorithm_type": "dpmsolver++"},
        noisy={"algorithm_type": "sde-dpmsolver++"},
        etas=(0, 1),
        of_eta="dpm++ draws full noise, or none with eta=0; use one of these, or ddim",
    ),
    "unipc": SchedulerKind(
        "UniPCMultistepScheduler",
        options={"final_sigmas_type": "zero"},
        etas=(1,),
        of_eta="unipc draws no noise; leave eta out, or use ddim",
    ),
    "euler": SchedulerKind(
        "FlowMatchEulerDiscreteScheduler",
        process="flow",
        etas=(1,),
        of_eta="euler draws no noise in samples; leave eta out",
        gaussian=True,
    ),
}


def fitting(process: str) -> str:
    """Return the names of the schedulers for models of a process, in words."""
    return either(name for name, kind in SCHEDULERS.items() if kind.process == process)


def _check(name: str) -> None:
    check_word("scheduler", name, SCHEDULERS)


class SamplerConfig(Section):
    """Reverse diffusion, as `sample` does it unless its options say otherwise."""

    scheduler: Annotated[str, checked(_check)] = Field(
        default="ddim",
        description="ddim, ddpm, dpm++ or unipc; euler for flow models.",
    )
    steps: TimeSteps = Field(default=50, description="Number of denoising steps.")
    eta: Fraction = Field(
        default=1.0, description="Stochasticity (DDIM eta): 0 is deterministic, 1 as in DDPM."
    )
    temperature: float = Field(
        default=1.0,
        gt=0,
        le=2,
        description="Scale of all noise in sampling; below 1 for likelier, less varied crystals.",
    )
    composition_penalty: NonNegative = Field(
        default=0.0,
        description="Composition penalty on the number of elements: log-probability, summed over"
        " its atoms, that another element has to add to a crystal's; 0 decodes every atom alone.",
    )
    redraw: Redraws = Field(
        default=0,
        description="How often a crystal that is invalid, or has atoms closer than 0.75 of the sum"
        " of their covalent radii, is drawn again from other noise; 0 keeps every first one.",
    )

    def unread_eta(self, *more: str) -> str | None:
        """Return why ``eta`` would not be read, or None where it is or is 1.

        Args:
            more: schedulers that take any, beside those that always do.
        """
        kind = SCHEDULERS[self.scheduler]
        if kind.etas is None or self.eta in (1, *kind.etas) or self.scheduler in more:
            return None
        return f"eta={self.eta:g} would change nothing: {kind.of_eta}"
