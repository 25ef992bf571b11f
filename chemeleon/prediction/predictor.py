"""What one batch means when a predictor is trained.

Shapes: ``B`` crystals, ``P`` properties.
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn

from chemeleon.config.architecture import VAEConfig
from chemeleon.config.predictor import PredictorConfig
from chemeleon.config.schema import PredictTrainConfig
from chemeleon.crystals.augment import augment, jitter
from chemeleon.crystals.batch import Crystals
from chemeleon.data.loader import Draw, EvalLoader, Loader, TrainBatch
from chemeleon.errors import ConfigError, DataError
from chemeleon.models.predictor import Predictor
from chemeleon.models.vae import CrystalVAE
from chemeleon.prediction.scoring import score, with_targets
from chemeleon.training.stage import DataStage, Export, Place, RunContext, check_same, load_vae


class PredictStage(DataStage):
    """Regression of columns, any of which may be missing for some crystals."""

    def __init__(
        self,
        config: PredictTrainConfig,
        train: Crystals,
        val: Crystals,
        *,
        vae: CrystalVAE | None = None,
        start: Predictor | None = None,
        place: Place,
    ) -> None:
        self.config, device = config, place.device
        self.ema_decay = config.predict.ema_decay
        torch.manual_seed(config.seed)
        names = config.predict.targets
        known = _known(names, train, "training")
        # shares of the whole set, so that a step need not count and processes need not talk
        self.shares = (known / len(train)).to(device)
        self.val_known = _known(names, val, "validation").to(device)
        if start is None:
            vae = new_encoder(config.predict) if vae is None else vae
            start = Predictor(_with_units(config), vae)
            start.fit(train.targets)
        train, val = start.vae.arranged(train, keep=True), start.vae.arranged(val, keep=True)
        self.loader = Loader.from_config(config, train, *place[:3])
        self.val = EvalLoader(val, config.data.batch_size, device=device)
        self.model = start.to(device)

    @classmethod
    def start(cls, config: PredictTrainConfig, context: RunContext) -> Self:
        """See ``Stage``."""
        vae, start = _start(config, context)
        train, val = context.load(with_targets(config), partial=True)
        return cls(config, train, val, vae=vae, start=start, place=context.place)

    def loss(self, model: nn.Module, draw: Draw) -> dict[str, Tensor]:
        """Augment, predict, compare; each property counts the same, however often it is known."""
        batch = draw.gather()
        settings = self.config.data.augment
        crystals = augment(batch.crystals, batch.keys, settings)
        crystals = jitter(crystals, batch.keys, settings.noise_angstrom)
        error = self._error(model(crystals), batch)
        each = self._cost(error).sum(0) / (self.shares * batch.size)
        names = self.config.predict.targets
        return {"loss": each.mean(), **dict(zip(names, each, strict=True))}

    def _error(self, found: Tensor, batch: TrainBatch) -> Tensor:
        """Return the error of standardised predictions ``(B, P)``, 0 where nothing is known."""
        wanted = self.model.standardised(batch.crystals)
        return (found - wanted.nan_to_num()) * torch.isfinite(wanted)

    def _cost(self, error: Tensor) -> Tensor:
        return error.abs() if self.config.predict.loss == "mae" else error.square()

    def evaluate(self, model: nn.Module, rank: int, world: int) -> dict[str, tuple[float, float]]:
        """Return the loss on the validation set, and each property's mean error in its unit."""
        names = self.config.predict.targets
        loss = torch.zeros((), device=self.shares.device)
        errors = torch.zeros_like(self.shares)
        known = torch.zeros_like(self.shares)
        seen = 0.0
        for batch in self.val.shard(rank, world):
            error = self._error(model(batch.crystals), batch)
            loss += (self._cost(error).sum(0) / self.val_known).mean()
            errors += error.abs().sum(0) * self.model.scale
            known += torch.isfinite(self.model.standardised(batch.crystals)).sum(0)
            seen += batch.members / float(batch.size)
        totals = {"val/loss": (float(loss), seen)}
        for name, error, count in zip(names, errors.tolist(), known.tolist(), strict=True):
            totals[f"val/mae_{name}"] = error, count
        return totals

    def initial(self) -> Export:
        """See ``Stage``: of one on a VAE's encoder, resuming needs no other folder."""
        return self.export()

    def finish(self, context: RunContext, *, interrupted: bool) -> None:
        """See ``Stage``: writes the scores."""
        if not interrupted:
            device = context.accelerator.device
            score(self.config, context.draft.folder, device, context.console)

    def export(self) -> Export:
        """See ``Stage``."""
        data = self.config.data.facts()
        config = {**self.model.architecture(), "data": data}
        return Export("predictor", config, self.model.state_dict())


def new_encoder(config: PredictorConfig) -> CrystalVAE:
    """Return a VAE with random weights, of whose encoder the settings speak."""
    sizes = VAEConfig(
        width=config.width,
        heads=config.heads,
        feedforward=4 * config.width,
        encoder_layers=config.encoder_layers,
        decoder_layers=1,
        dropout=config.dropout,
        coordinate_input="fourier",
    )
    return CrystalVAE(sizes)


def _known(names: list[str], crystals: Crystals, what: str) -> Tensor:
    """Count the values of each target, ``(P,)``."""
    counts = torch.stack([torch.isfinite(crystals.targets[name]).sum() for name in names])
    for name, count in zip(names, counts.tolist(), strict=True):
        if not count:
            raise DataError(f"no crystal of the {what} split has a number in column '{name}'")
    return counts.to(torch.float32)


def _with_units(config: PredictTrainConfig) -> PredictorConfig:
    given = {**config.data.units, **config.predict.units}
    units = {name: given[name] for name in config.predict.targets if name in given}
    return config.predict.model_copy(update={"units": units})


def _start(
    config: PredictTrainConfig, context: RunContext
) -> tuple[CrystalVAE | None, Predictor | None]:
    """Return the VAE of a new predictor (None: from scratch), or the one that is gone on with."""
    predict = config.predict
    if context.resume:
        start = Predictor.from_pretrained(context.initial)
        free = {"vae_ckpt_path", "units", "dropout", "loss", "ema_decay"}
        names = [name for name in PredictorConfig.model_fields if name not in free]
        check_same("predict", names, start.config, predict, context.initial)
        return None, start
    if predict.encoder == "scratch":
        return None, None
    vae = load_vae("predict", predict.vae_ckpt_path, config)
    if vae.config.tokens == "orbits" and predict.head == "graph":
        raise ConfigError(
            "predict.head=graph looks at distances of atoms, and a VAE of tokens=orbits has one"
            " atom of each orbit: set predict.head=pooled"
        )
    return vae, None
