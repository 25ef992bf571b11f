"""Properties of crystals from the features that a VAE's encoder gives their atoms.

Shapes: ``B`` crystals, ``N`` padded atoms, ``M`` crystals of a set, ``P`` properties.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from chemeleon.checkpoints.opened import ModelFolder
from chemeleon.config.architecture import VAEConfig
from chemeleon.config.predictor import PredictorConfig
from chemeleon.crystals.batch import CrystalBatch, Crystals
from chemeleon.models.heads import GraphHead, PooledHead
from chemeleon.models.pretrained import Pretrained
from chemeleon.models.vae import CrystalVAE

STD_OFFSET = 1e-5  # added to a target's standard deviation, as the published predictors do
HEADS: dict[str, type[GraphHead] | type[PooledHead]] = {"graph": GraphHead, "pooled": PooledHead}
PAIRS_AT_ONCE = {"cpu": 2**15, "cuda": 2**19}  # pairs of atoms in a batch of ``predict_all``


class Predictor(Pretrained):
    """A head on the features ``[posterior mean, encoder output]`` of a VAE's encoder.

    The encoder is the frozen one of a VAE, or trained with the head; then the decoder is gone.

    Buffers: ``target_mean`` and ``target_std`` ``(P,)`` of the training set, in the targets' units.
    """

    kinds = ("predictor",)
    target_mean: Tensor
    target_std: Tensor

    def __init__(self, config: PredictorConfig, vae: CrystalVAE) -> None:
        super().__init__()
        self.config = config
        self.frozen = config.encoder == "frozen"
        self.vae = vae
        if self.frozen:
            vae.requires_grad_(False)
        else:
            vae.drop_decoder()
        inputs = vae.config.latent_dim + (vae.config.width if config.encoder_features else 0)
        self.head = HEADS[config.head](config, inputs)
        self.register_buffer("target_mean", torch.zeros(len(config.targets)))
        self.register_buffer("target_std", torch.ones(len(config.targets)))

    @classmethod
    def outline(cls, folder: ModelFolder) -> Predictor:
        """See ``Pretrained``."""
        config = folder.section("predictor", PredictorConfig)
        with torch.device("meta"):
            return cls(config, CrystalVAE(folder.section("vae", VAEConfig)))

    def architecture(self) -> dict[str, Any]:
        """See ``Pretrained``."""
        return {"predictor": self.config.model_dump(mode="json"), **self.vae.architecture()}

    def train(self, mode: bool = True) -> Predictor:
        """Switch head and encoder; a frozen encoder stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.vae.eval()
        return self

    def forward(self, batch: CrystalBatch) -> Tensor:
        """Predict the standardised targets, ``(B, P)``."""
        with torch.no_grad() if self.frozen else nullcontext():
            posterior, encoded = self.vae.encode_features(batch)
        parts = [posterior.mean, encoded] if self.config.encoder_features else [posterior.mean]
        return self.head(torch.cat(parts, dim=-1), batch).float()

    @torch.no_grad()
    def fit(self, targets: dict[str, Tensor]) -> None:
        """Take the targets' statistics from training columns ``(M,)``; NaN is left out."""
        for i, name in enumerate(self.config.targets):
            known = targets[name][torch.isfinite(targets[name])].double()
            self.target_mean[i] = known.mean()
            self.target_std[i] = known.std(correction=0)

    def standardised(self, batch: CrystalBatch) -> Tensor:
        """Return the batch's targets with zero mean and unit variance, ``(B, P)``."""
        targets = torch.stack([batch.targets[name] for name in self.config.targets], dim=-1)
        return (targets - self.target_mean) / self.scale

    @property
    def scale(self) -> Tensor:
        """What a standardised prediction is multiplied with, ``(P,)`` in the targets' units."""
        return self.target_std + STD_OFFSET

    def unstandardise(self, standardised: Tensor) -> Tensor:
        """Bring ``(..., P)`` to the targets' units."""
        return standardised * self.scale + self.target_mean

    @torch.no_grad()
    def predict(self, batch: CrystalBatch) -> dict[str, Tensor]:
        """Predict the properties of crystals, which the encoder needs `arranged`.

        Returns:
            Name to ``(B,)``, in the units of the training column.
        """
        values = self.unstandardise(self(batch))
        return {name: values[:, i] for i, name in enumerate(self.config.targets)}

    def predict_all(
        self, crystals: Crystals, progress: Callable[[int], None] | None = None
    ) -> dict[str, Tensor]:
        """Predict the properties of a whole set, in batches of crystals of like size.

        Args:
            crystals: ``M`` crystals of any size, on the CPU.
            progress: called with the number of crystals of each finished batch.

        Returns:
            Name to ``(M,)`` on the CPU, in the units of the training column.
        """
        device = self.target_mean.device
        limit = PAIRS_AT_ONCE.get(device.type, PAIRS_AT_ONCE["cpu"])
        crystals = self.vae.arranged(crystals)
        order = torch.argsort(crystals.num_atoms, descending=True, stable=True)
        found = torch.zeros(len(crystals), len(self.config.targets))
        start = 0
        while start < len(order):
            largest = int(crystals.num_atoms[order[start]])
            chosen = order[start : start + max(1, limit // largest**2)]
            values = self.predict(crystals.batch(chosen).to(device))
            found[chosen] = torch.stack(list(values.values()), dim=-1).cpu()
            start += len(chosen)
            if progress is not None:
                progress(len(chosen))
        return {name: found[:, i] for i, name in enumerate(self.config.targets)}
