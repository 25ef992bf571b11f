"""Likeness of the batch to the training set by the mean latents of the atoms."""

from __future__ import annotations

from torch import Tensor

from chemeleon.crystals.batch import Crystals
from chemeleon.reinforcement.rewards._diversity import Diversity
from chemeleon.reinforcement.rewards._vae import features_of, mean_latent


class StructureDiversity(Diversity):
    """Growth of the MMD to the training set (of mean latents) without the crystal."""

    def features(self, crystals: Crystals) -> Tensor:
        """See `Diversity`."""
        return features_of(self.vae, crystals, mean_latent)
