"""What one batch means when the latent diffusion model is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from chemeleon.config.schema import LDMTrainConfig
from chemeleon.crystals.augment import augment
from chemeleon.crystals.batch import FlatCrystals
from chemeleon.crystals.random import fold, normal, uniform
from chemeleon.data.dataset import atom_histogram
from chemeleon.data.loader import Draw, EvalLoader, Loader, TrainBatch
from chemeleon.diffusion.losses import NoiseProcess
from chemeleon.models.denoiser import LatentDiffusion
from chemeleon.models.packing import Layout
from chemeleon.models.vae import CrystalVAE
from chemeleon.training.run import Export
from chemeleon.training.vae import add_shares

STATISTICS_CRYSTALS = 8192  # enough for latent statistics to three digits


class LDMStage:
    """Denoising of the frozen VAE's latents."""

    criterion = "val/loss"
    whole_epochs = False

    def __init__(
        self,
        config: LDMTrainConfig,
        train: FlatCrystals,
        val: FlatCrystals,
        *,
        vae: CrystalVAE | None = None,
        start: LatentDiffusion | None = None,
        refit_sizes: bool = False,
        device: torch.device,
        rank: int = 0,
        world: int = 1,
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self.config, self.autocast = config, autocast
        self.ema_decay = config.ldm.ema_decay
        torch.manual_seed(config.seed)
        self.loader = Loader.from_config(config, train, device, rank, world)
        self.val = EvalLoader(val, config.data.batch_size, device=device)
        self.process = NoiseProcess(config.ldm.diffusion, device)
        if start is not None:
            if refit_sizes:  # fine-tuned on other crystals: sample sizes like theirs
                start.size_histogram = atom_histogram(train).to(torch.float32)
            self.model = start.to(device)
        else:
            assert vae is not None
            self.model = LatentDiffusion(config.ldm, vae, atom_histogram(train)).to(device)
            self._fit_statistics(train, device)

    @torch.no_grad()
    def _fit_statistics(self, train: FlatCrystals, device: torch.device) -> None:
        """Measure the latents' mean and spread, and those of numeric conditions."""
        chosen = torch.linspace(0, len(train) - 1, min(len(train), STATISTICS_CRYSTALS)).long()
        latents = []
        for batch in EvalLoader(train.subset(chosen), self.config.data.batch_size, device=device):
            latents.append(self._encode(batch)[batch.crystals.mask])
        z = torch.cat(latents)
        if self.config.ldm.latent_scale == "channel":
            self.model.latent_mean.copy_(z.mean(0))
            self.model.latent_std.copy_(z.std(0).clamp_min(1e-6))
        else:
            self.model.latent_std.fill_(z.std())
        if self.model.denoiser.conditions is not None:
            self.model.denoiser.conditions.fit(train.targets)

    def _encode(self, batch: TrainBatch) -> Tensor:
        with torch.no_grad(), self.autocast():
            posterior = self.model.vae.encode(batch.crystals)
        if not self.config.ldm.sample_posterior:
            return posterior.mean
        noise = normal(fold(batch.keys, "posterior"), tuple(posterior.mean.shape[1:]))
        return posterior.sample(noise)

    def steps_per_epoch(self) -> int:
        """See ``Stage``."""
        return len(self.loader)

    def batches(self, epoch: int, first_step: int) -> Iterator[list[Draw]]:
        """See ``Stage``."""
        return self.loader.epoch(epoch, first_step)

    def loss(self, model: nn.Module, draw: Draw) -> dict[str, Tensor]:
        """Augment, encode, noise, denoise."""
        batch = draw.gather()
        crystals = augment(batch.crystals, batch.keys, self.config.data.augment)
        batch = batch._replace(crystals=crystals)
        return self._terms(model, batch, drop=self.config.ldm.condition_drop)

    def _terms(self, model: nn.Module, batch: TrainBatch, drop: float) -> dict[str, Tensor]:
        crystals = batch.crystals
        mask = crystals.mask
        x0 = self.model.standardise(self._encode(batch)) * mask.unsqueeze(-1)
        noised = self.process.draw(x0, mask, batch.keys)
        features = hidden = None
        conditions = self.model.denoiser.conditions
        if conditions is not None:
            features = conditions.featurise(crystals)
            hidden = {name: uniform(fold(batch.keys, f"drop {name}")) < drop for name in features}
        prediction, variance = model(
            noised.z, noised.t, crystals.num_atoms, features, hidden, Layout.of(crystals)
        )
        per_crystal = self.process.losses(prediction, variance, x0, noised, mask)
        terms = {name: value.sum() / batch.size for name, value in per_crystal.items()}
        return {"loss": torch.stack(list(terms.values())).sum(), **terms}

    def evaluate(self, model: nn.Module, rank: int, world: int) -> dict[str, tuple[float, float]]:
        """Return the loss terms on the validation set; times and noise are the same each time."""
        totals: dict[str, tuple[float, float]] = {}
        for batch in self.val.shard(rank, world):
            terms = self._terms(model, batch, drop=0.0)
            add_shares(totals, terms, batch.members / float(batch.size))
        return totals

    def notes(self) -> dict[str, Any]:
        """See ``Stage``."""
        return {}

    def export(self) -> Export:
        """See ``Stage``."""
        config = {
            "vae": self.model.vae.config.model_dump(mode="json"),
            "ldm": self.model.config.model_dump(mode="json"),
            "data": {"name": self.config.data.name, "niggli": self.config.data.niggli},
        }
        return Export("ldm", config, self.model.state_dict())
