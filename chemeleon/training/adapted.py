"""Adapters on a model that is trained on, and what a run writes of such a model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from chemeleon.checkpoints.adapters import base_hash, own
from chemeleon.config.architecture import LoRAConfig
from chemeleon.config.hubname import is_name
from chemeleon.models.adapters import add_adapters, count, split
from chemeleon.models.denoiser import LatentDiffusion
from chemeleon.storage import at_home
from chemeleon.training.stage import Export


class Adapted:
    """A latent diffusion model of which adapters, and conditions, are trained."""

    def __init__(self, model: LatentDiffusion, config: LoRAConfig, base: str | None) -> None:
        """Add adapters to a model, and freeze the rest of it.

        Args:
            model: whole, with the weights of its base.
            config: the adapters.
            base: where the base is, as users named it.

        Raises:
            ConfigError: if the blocks have no such layer, or peft is not installed.
        """
        self.model, self.config, self.base = model, config, base
        self.base_weights = base_hash(model.state_dict())
        add_adapters(model.denoiser, config)

    def summary(self) -> str:
        """Return in words how much of the model is trained."""
        trained, total = count(self.model.denoiser)
        return f"adapters and conditions: {trained:,} of {total:,} weights, {trained / total:.2%}"

    def export(self, content: dict[str, Any]) -> Export:
        """Return what the model does not share with its base.

        Args:
            content: ``config.yaml`` of the whole model.
        """
        content["ldm"]["lora"] = self.config.model_dump(mode="json")
        content["adapter"] = {
            "base": lasting(self.base),
            "base_weights": self.base_weights,
            "rank": self.config.rank,
            "alpha": self.config.alpha,
        }
        adapters, plain = split(self.model.state_dict())
        return Export("ldm", content, {**own(plain), **adapters})


class WritesLDM(ABC):
    """The part of a ``Stage`` that puts a latent diffusion model on disk, whole or as adapters."""

    model: LatentDiffusion
    adapted: Adapted | None

    @abstractmethod
    def _content(self) -> dict[str, Any]:
        """Return ``config.yaml`` of the whole model."""

    def initial(self) -> Export:
        """See ``Stage``; adapters have not acted yet."""
        _, tensors = split(self.model.state_dict())
        return Export("ldm", self._content(), tensors)

    def export(self) -> Export:
        """See ``Stage``; of a model with adapters only what its base does not have."""
        if self.adapted is not None:
            return self.adapted.export(self._content())
        return Export("ldm", self._content(), self.model.state_dict())


def lasting(reference: str | None) -> str | None:
    """Return a model's name that is good in every folder."""
    if reference is None or is_name(reference):
        return reference
    return str(at_home(reference).absolute())
