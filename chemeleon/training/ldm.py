"""What one batch means when the latent diffusion model is trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn

from chemeleon.checkpoints.card import trained_on
from chemeleon.config.schema import LDMTrainConfig
from chemeleon.crystals.augment import augment
from chemeleon.crystals.batch import Crystals
from chemeleon.crystals.formula import atom_histogram
from chemeleon.crystals.orbit_sets import with_all_atoms
from chemeleon.crystals.orbits import orbit_crystal
from chemeleon.crystals.random import fold, normal, uniform
from chemeleon.data.loader import Draw, EvalLoader, Loader, TrainBatch
from chemeleon.diffusion.losses import NoiseProcess
from chemeleon.errors import ConfigError
from chemeleon.generation.pipeline import Pipeline
from chemeleon.generation.settings import Options, Precision
from chemeleon.models.denoiser import LatentDiffusion
from chemeleon.models.networks.base import find_network
from chemeleon.models.packing import Layout
from chemeleon.models.vae import CrystalVAE
from chemeleon.training.adapted import Adapted, WritesLDM
from chemeleon.training.stage import DataStage, Place, RunContext, check_form, check_same, load_vae
from chemeleon.training.vae import add_shares, match_shares

STATISTICS_CRYSTALS = 2048  # mean and spread of each channel to 2 % of the spread; 8,192 give 1 %


class LDMStage(WritesLDM, DataStage):
    """Denoising of the frozen VAE's latents; of a csp model, validation also samples structures."""

    def __init__(
        self,
        config: LDMTrainConfig,
        train: Crystals,
        val: Crystals,
        *,
        vae: CrystalVAE | None = None,
        start: LatentDiffusion | None = None,
        refit_sizes: bool = False,
        place: Place,
    ) -> None:
        self.config, self.autocast, device = config, place.autocast, place.device
        self.precision: Precision = "bf16" if place.precision == "bf16" else "fp32"
        self.ema_decay = config.ldm.ema_decay
        torch.manual_seed(config.seed)
        known = vae if start is None else start.vae
        assert known is not None
        train, val = known.arranged(train, keep=True), known.arranged(val, keep=True)
        self.loader = Loader.from_config(config, train, *place[:3])
        self.val = EvalLoader(val, config.data.batch_size, device=device)
        # the loss of a csp model grows for a long time while its structures still get better
        self.match = config.trainer.val_match_samples if config.ldm.denoiser.types else 0
        self.wanted = val
        self.criterion = "-val/match_rate" if self.match else "val/loss"
        self.process = NoiseProcess(config.ldm.diffusion, device)
        if start is not None:
            if refit_sizes:  # fine-tuned on other crystals: sample sizes like theirs
                start.count(train)
            if config.ldm.conditions and start.denoiser.conditions is None:
                start.add_conditions(config.ldm.conditions).fit(train.targets)
            self.model = start.to(device)
        else:
            assert vae is not None
            self.model = LatentDiffusion(config.ldm, vae, atom_histogram(train))
            self.model = self.model.to(device)
            self.model.count(train)
            self._fit_statistics(train, device)
        if self.model.denoiser.conditions is not None:
            for part in (train, val):  # also of a model whose conditions are fitted already
                self.model.denoiser.conditions.check(part.targets)
        self.adapted = None
        if config.ldm.lora is not None:
            self.adapted = Adapted(self.model, config.ldm.lora, config.ldm.init_ckpt_path)
        self.facts = self._facts(train.targets)

    @classmethod
    def start(cls, config: LDMTrainConfig, context: RunContext) -> Self:
        """See ``Stage``."""
        vae, start = _start(config, context)
        # of conditions: a crystal without the value is one of which nothing is said
        data = context.load(config.data, "any" if config.ldm.conditions else False)
        more = {"vae": vae, "start": start, "refit_sizes": not context.resume}
        stage = cls(config, *data, **more, place=context.place)
        if stage.adapted is not None:
            context.console.print(stage.adapted.summary())
        return stage

    @torch.no_grad()
    def _fit_statistics(self, train: Crystals, device: torch.device) -> None:
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
            hidden = conditions.missing(crystals)
            if len(hidden) > 1:  # guidance needs crystals of which nothing is said
                nothing = uniform(fold(batch.keys, "drop all")) < drop
                hidden = {name: flags | nothing for name, flags in hidden.items()}
            hidden = {
                name: flags | (uniform(fold(batch.keys, f"drop {name}")) < drop)
                for name, flags in hidden.items()
            }
        asked = (noised.z, noised.t, crystals.num_atoms, features, hidden, Layout.of(crystals))
        asked = (*asked, self.model.known(crystals))
        estimate = None
        if self.config.ldm.denoiser.self_conditioning:
            with torch.no_grad():
                first = model(*asked).prediction.float()
            estimate = self.process.estimate(
                first, noised, batch.keys, self.model.config.denoiser.told
            )
        prediction, variance = model(*asked, estimate)
        per_crystal = self.process.losses(prediction, variance, x0, noised, mask)
        terms = {name: value.sum() / batch.size for name, value in per_crystal.items()}
        return {"loss": torch.stack(list(terms.values())).sum(), **terms}

    def evaluate(self, model: nn.Module, rank: int, world: int) -> dict[str, tuple[float, float]]:
        """Return the loss terms on the validation set; times and noise are the same each time."""
        totals: dict[str, tuple[float, float]] = {}
        for batch in self.val.shard(rank, world):
            terms = self._terms(model, batch, drop=0.0)
            add_shares(totals, terms, batch.members / float(batch.size))
        return totals | self._predict(rank, world)

    def _predict(self, rank: int, world: int) -> dict[str, tuple[float, float]]:
        """Make one structure for the atoms or orbits of each of some crystals, and match them."""
        chosen = torch.linspace(0, len(self.wanted) - 1, self.match).long().unique()[rank::world]
        if len(chosen) == 0:
            return {}
        wanted = self.wanted.subset(chosen)
        atoms = assignments = None
        if self.config.ldm.denoiser.sites:
            arrays = wanted.arrays()
            orbits = [orbit_crystal(arrays, row) for row in range(len(arrays))]
            assignments = [crystal.assignment for crystal in orbits]
        else:
            numbers = wanted.atomic_numbers.split(wanted.num_atoms.tolist())
            atoms = [part.tolist() for part in numbers]
        pipeline = Pipeline(self.model, self.val.device)
        # a model that has not learned much would be asked again for nearly all of them
        sampler = self.model.config.sampler.model_copy(update={"redraw": 0})
        how = Options(precision=self.precision, sampler=sampler)
        how |= {"atoms": atoms} if assignments is None else {"assignments": assignments}
        # blocks that are compiled for training would be compiled again for each batch's shape
        with torch.compiler.set_stance("force_eager"):
            made = pipeline.generate(len(wanted), **how)
        return match_shares(list(zip(made, with_all_atoms(wanted), strict=True)), world)

    def _facts(self, targets: Mapping[str, Tensor]) -> dict[str, dict[str, object]]:
        """Return what sampling tells users of each condition: unit, range or classes."""
        conditions = self.model.denoiser.conditions
        if conditions is None:
            return {}
        facts = conditions.describe(targets)
        for name, found in facts.items():
            unit = self.config.data.units.get(self.model.config.conditions[name].column or "")
            found |= {"unit": unit} if unit else {}
        return facts

    def _content(self) -> dict[str, Any]:
        data = self.config.data.facts(trained_on(self.model.origin))
        rewarded = self.model.origin.get("rewarded_by")  # before it was tuned further
        return {
            "vae": self.model.vae.config.model_dump(mode="json"),
            "ldm": self.model.config.model_dump(mode="json"),
            "data": {**data, "conditions": self.facts} if self.facts else data,
            **({"rewarded_by": rewarded} if rewarded else {}),
        }


def _start(
    config: LDMTrainConfig, context: RunContext
) -> tuple[CrystalVAE | None, LatentDiffusion | None]:
    """Return the VAE of a new model, or the model that is gone on with."""
    ldm = config.ldm
    if ldm.lora is not None and ldm.init_ckpt_path is None:
        raise ConfigError(
            "ldm.lora adapts a trained model: name it with ldm.init_ckpt_path=runs/my_ldm, or set"
            " ldm.lora=null to train the whole denoiser"
        )
    source = context.initial if context.resume else ldm.init_ckpt_path
    if source is not None:
        start = LatentDiffusion.from_pretrained(source)
        names = ["denoiser", "diffusion", "latent_scale"]
        if context.resume or start.config.conditions:  # an unconditional model can be given some
            names.append("conditions")
        check_same("ldm", names, start.config, ldm, source)
        check_form(start.vae, source, config)
        start.config = start.config.model_copy(update={"sampler": ldm.sampler})
        return None, start
    find_network(ldm.denoiser.network)  # before anything is read
    vae = load_vae("ldm", ldm.vae_ckpt_path, config)
    if ldm.denoiser.types != (vae.config.kind == "csp"):
        kind = "csp" if ldm.denoiser.types else "dng"
        raise ConfigError(
            f"{ldm.vae_ckpt_path} is a VAE of kind {vae.config.kind}, but"
            f" ldm.denoiser.types={str(ldm.denoiser.types).lower()} goes with kind {kind}: train"
            f" the VAE with a {kind} preset (vae train --preset .../{kind}), or the LDM with"
            f" {'.../csp' if vae.config.kind == 'csp' else '.../null'}"
        )
    if ldm.denoiser.space_group != (vae.config.tokens == "orbits"):
        raise ConfigError(
            f"{ldm.vae_ckpt_path} is a VAE of tokens={vae.config.tokens}, but"
            f" ldm.denoiser.space_group={str(ldm.denoiser.space_group).lower()}: a model on orbits"
            " is conditioned on the space group, and no other is"
        )
    if ldm.denoiser.of_formulas and vae.config.atom_order == "file":
        raise ConfigError(
            f"{ldm.vae_ckpt_path} was trained on atoms in the order of files, which no formula"
            " tells: train a VAE with vae.atom_order=canonical (the csp presets)"
        )
    return vae, None
