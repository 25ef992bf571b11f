"""What one batch means when the VAE is trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor, nn

from chemeleon.config.schema import VAETrainConfig
from chemeleon.crystals.augment import augment, jitter
from chemeleon.crystals.batch import Crystal, Crystals
from chemeleon.crystals.orbit_sets import with_all_atoms
from chemeleon.crystals.random import fold, normal
from chemeleon.data.loader import Draw, EvalLoader, Loader
from chemeleon.evaluation.matching.pairs import Pair, match_pairs
from chemeleon.models.vae import CrystalVAE
from chemeleon.models.vae_losses import vae_losses
from chemeleon.training.stage import DataStage, Export, Place, RunContext
from chemeleon.workers import worker_count


class VAEStage(DataStage):
    """Reconstruction of augmented crystals; validation also matches structures."""

    ema_decay = 0.0

    def __init__(
        self,
        config: VAETrainConfig,
        train: Crystals,
        val: Crystals,
        place: Place,
    ) -> None:
        self.config = config
        torch.manual_seed(config.seed)
        self.model = CrystalVAE(config.vae)
        train, val = self.model.arranged(train, keep=True), self.model.arranged(val, keep=True)
        self.loader = Loader.from_config(config, train, *place[:3])
        self.val = EvalLoader(val, config.data.batch_size, device=place.device)

    @classmethod
    def start(cls, config: VAETrainConfig, context: RunContext) -> Self:
        """See ``Stage``."""
        return cls(config, *context.load(config.data), context.place)

    def loss(self, model: nn.Module, draw: Draw) -> dict[str, Tensor]:
        """Augment, reconstruct, compare."""
        batch = draw.gather()
        settings = self.config.data.augment
        crystals = augment(batch.crystals, batch.keys, settings)
        seen = jitter(crystals, batch.keys, settings.noise_angstrom)
        output = model(seen, self._posterior_noise(batch.keys, crystals.width))
        return vae_losses(output, crystals, self.config.vae.loss, batch.atoms, batch.size)

    def _posterior_noise(self, keys: Tensor, width: int) -> Tensor:
        return normal(fold(keys, "posterior"), (width, self.config.vae.latent_dim))

    def evaluate(self, model: nn.Module, rank: int, world: int) -> dict[str, tuple[float, float]]:
        """Return loss terms on the validation set, and match rate and RMSE on part of it."""
        totals: dict[str, tuple[float, float]] = {}
        found: list[Crystal] = []
        wanted: list[Crystal] = []
        for batch in self.val.shard(rank, world):
            noise = self._posterior_noise(batch.keys, batch.crystals.width)
            output = model(batch.crystals, noise)
            terms = vae_losses(
                output, batch.crystals, self.config.vae.loss, batch.atoms, batch.size
            )
            add_shares(totals, terms, batch.members / float(batch.size))
            found += self.model.to_crystals(output.decoded, batch.crystals)
            wanted += with_all_atoms(batch.crystals.flatten())
        limit = self.config.trainer.val_match_samples // world
        if limit == 0:
            return totals
        stride = max(1, -(-len(found) // limit))  # an evenly spread part
        return totals | match_shares(list(zip(found, wanted, strict=True))[::stride], world)

    def export(self) -> Export:
        """See ``Stage``."""
        config = {
            "vae": self.config.vae.model_dump(mode="json"),
            "data": self.config.data.facts(),
        }
        return Export("vae", config, self.model.state_dict())


def add_shares(
    totals: dict[str, tuple[float, float]], terms: Mapping[str, Tensor], weight: float
) -> None:
    """Add a batch's shares of the validation set's means; the weights of a whole set sum to 1."""
    for name, term in terms.items():
        before = totals.get(f"val/{name}", (0.0, 0.0))
        totals[f"val/{name}"] = before[0] + float(term), before[1] + weight


def match_shares(pairs: list[Pair], world: int) -> dict[str, tuple[float, float]]:
    """Match (made, wanted) pairs with this process's part of the cores."""
    result = match_pairs(pairs, jobs=max(1, worker_count() // world))
    hits = torch.as_tensor(result.matched)
    matched, compared = float(hits.sum()), float(len(hits))
    rmse = float(torch.as_tensor(result.rmse)[hits].sum())
    return {"val/match_rate": (matched, compared), "val/rmse": (rmse, matched)}
