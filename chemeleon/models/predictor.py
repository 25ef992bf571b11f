"""Properties of crystals from the latents of a frozen VAE.

Shapes: ``B`` crystals, ``N`` padded atoms, ``F`` features of an atom, ``P`` properties.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from chemeleon.checkpoints.store import ModelFolder
from chemeleon.config.schema import PredictorConfig, VAEConfig
from chemeleon.crystals.batch import CrystalBatch
from chemeleon.models.pretrained import Pretrained
from chemeleon.models.vae import CrystalVAE

STD_OFFSET = 1e-5  # added to a target's standard deviation, as the published predictors do


class Predictor(Pretrained):
    """A small network on pooled features ``[posterior mean, encoder output]`` of a frozen VAE.

    Buffers: ``target_mean`` and ``target_std`` ``(P,)`` of the training set, in the targets' units.
    """

    kinds = ("predictor",)
    target_mean: Tensor
    target_std: Tensor

    def __init__(self, config: PredictorConfig, vae: CrystalVAE) -> None:
        super().__init__()
        self.config = config
        self.vae = vae.requires_grad_(False)
        inputs = vae.config.latent_dim + (vae.config.width if config.encoder_features else 0)
        first, second = inputs // 4, inputs // 2
        self.head = nn.Sequential(
            *_layer(inputs, first, config.dropout),
            *_layer(first, second, config.dropout),
            nn.Linear(second, len(config.targets)),
        )
        self.register_buffer("target_mean", torch.zeros(len(config.targets)))
        self.register_buffer("target_std", torch.ones(len(config.targets)))

    @classmethod
    def from_folder(cls, folder: ModelFolder) -> Predictor:
        """Build from a folder that has been read."""
        config = folder.section("predictor", PredictorConfig)
        with torch.device("meta"):
            predictor = cls(config, CrystalVAE(folder.section("vae", VAEConfig)))
        folder.load_into(predictor)
        return predictor.eval()

    def architecture(self) -> dict[str, Any]:
        """See ``Pretrained``."""
        return {"predictor": self.config.model_dump(mode="json"), **self.vae.architecture()}

    def train(self, mode: bool = True) -> Predictor:
        """Switch the head; the VAE is frozen and stays in evaluation mode."""
        super().train(mode)
        self.vae.eval()
        return self

    def forward(self, batch: CrystalBatch) -> Tensor:
        """Predict the standardised targets, ``(B, P)``."""
        with torch.no_grad():
            posterior, encoded = self.vae.encode_features(batch)
            parts = [posterior.mean, encoded] if self.config.encoder_features else [posterior.mean]
            atoms = torch.cat(parts, dim=-1) * batch.mask.unsqueeze(-1)
            pooled = atoms.sum(1)
            if self.config.reduce == "mean":
                pooled = pooled / batch.num_atoms.unsqueeze(-1)
        return self.head(pooled)

    def losses(self, standardised: Tensor, batch: CrystalBatch) -> dict[str, Tensor]:
        """Return mean squared errors: ``loss`` of all, ``loss_NAME``, and in units of the target.

        Args:
            standardised: ``(B, P)``, what ``forward`` gave.
            batch: crystals with every target.
        """
        targets = torch.stack([batch.targets[name] for name in self.config.targets], dim=-1)
        wanted = (targets - self.target_mean) / (self.target_std + STD_OFFSET)
        errors = (standardised - wanted).square().mean(0)
        in_units = (self.unstandardise(standardised) - targets).square().mean(0)
        terms = {"loss": errors.mean()}
        for i, name in enumerate(self.config.targets):
            terms[f"loss_{name}"] = errors[i]
            terms[f"loss_in_units_{name}"] = in_units[i]
        return terms

    def unstandardise(self, standardised: Tensor) -> Tensor:
        """Bring ``(..., P)`` to the targets' units."""
        return standardised * (self.target_std + STD_OFFSET) + self.target_mean

    @torch.no_grad()
    def predict(self, batch: CrystalBatch) -> dict[str, Tensor]:
        """Predict the properties of crystals.

        Returns:
            Name to ``(B,)``, in the units of the training column.
        """
        values = self.unstandardise(self(batch))
        return {name: values[:, i] for i, name in enumerate(self.config.targets)}


def _layer(inputs: int, outputs: int, dropout: float) -> list[nn.Module]:
    return [nn.Linear(inputs, outputs), nn.LayerNorm(outputs), nn.SiLU(), nn.Dropout(dropout)]
