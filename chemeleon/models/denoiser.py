"""The whole latent diffusion model: autoencoder, denoiser, and what sampling needs to know.

Shapes: ``B`` crystals, ``N`` padded atoms, ``L`` latent channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from chemeleon.checkpoints.opened import KEPT_AS, ModelFolder
from chemeleon.config.architecture import ConditionConfig, LDMConfig, VAEConfig
from chemeleon.config.requests import MAX_ATOMS
from chemeleon.crystals.batch import LETTERS, CrystalBatch, Crystals
from chemeleon.crystals.formula import atom_histogram, formula_histogram
from chemeleon.crystals.symbols import SPACE_GROUPS
from chemeleon.errors import CheckpointError, ConfigError
from chemeleon.models.condition_encoder import ConditionEncoder
from chemeleon.models.networks.base import Denoised, Known, find_network
from chemeleon.models.packing import Layout
from chemeleon.models.pretrained import Pretrained
from chemeleon.models.surroundings import Surroundings, Unfolding
from chemeleon.models.vae import CrystalVAE
from chemeleon.storage import MODEL_CONFIG


class LatentDiffusion(Pretrained):
    """A frozen VAE, a denoiser of its standardised latents, and what sampling needs to know.

    Buffers: ``latent_mean`` and ``latent_std`` ``(L,)``; ``size_histogram`` counts training
    crystals by number of atoms; ``formula_histogram`` (of models that are told the elements of
    atoms) by atoms of the reduced formula and of the cell; ``group_histogram`` (of models that are
    conditioned on the space group, whose sizes are numbers of orbits) by group and size.
    """

    kinds = ("ldm",)
    latent_mean: Tensor
    latent_std: Tensor
    size_histogram: Tensor
    formula_histogram: Tensor
    group_histogram: Tensor

    def __init__(self, config: LDMConfig, vae: CrystalVAE, size_histogram: Tensor) -> None:
        super().__init__()
        self.config = config
        self.vae = vae.requires_grad_(False)
        latent_dim = vae.config.latent_dim
        self.denoiser = find_network(config.denoiser.network)(config, latent_dim)
        if config.denoiser.neighbour_layers and self.denoiser.looking is None:
            raise ConfigError(
                f"the network {config.denoiser.network} does not look around, and"
                " ldm.denoiser.neighbour_layers is set: set it to 0, or take the network dit"
            )
        sees = config.denoiser.neighbour_layers > 0
        self.unfolding = Unfolding(vae.config.tokens) if sees else None
        if config.conditions and self.denoiser.conditions is None:
            raise ConfigError(
                f"the network {config.denoiser.network} takes no conditions, and ldm.conditions has"
                f" {', '.join(config.conditions)}: leave them out, or take the network dit"
            )
        self.register_buffer("latent_mean", torch.zeros(latent_dim))
        self.register_buffer("latent_std", torch.ones(latent_dim))
        self.register_buffer("size_histogram", size_histogram.to(torch.float32))
        if config.denoiser.of_formulas:
            sizes = len(size_histogram)
            self.register_buffer("formula_histogram", torch.zeros(sizes, sizes))
        if config.denoiser.space_group:
            shape = SPACE_GROUPS + 1, len(size_histogram)
            self.register_buffer("group_histogram", torch.zeros(shape))

    def count(self, train: Crystals) -> None:
        """Remember how often sizes, and formulas of a csp model, occur in ``train``.

        Crystals are made in these sizes.
        """
        sizes = atom_histogram(train).to(self.size_histogram)
        if len(sizes) > MAX_ATOMS + 1:
            raise ConfigError(
                f"a training crystal has {len(sizes) - 1:,} atoms, and a model makes cells of at"
                f" most {MAX_ATOMS:,}: set data.max_atoms={MAX_ATOMS}"
            )
        self.size_histogram = sizes
        if self.unfolding is not None:
            self.unfolding.fit(train)
        if self.config.denoiser.of_formulas:
            self.formula_histogram = formula_histogram(train).to(sizes)
        if self.config.denoiser.space_group:
            assert train.sites is not None
            place = train.sites[train.starts] // LETTERS * len(sizes) + train.num_atoms
            counts = torch.bincount(place, minlength=self.group_histogram.shape[0] * len(sizes))
            self.group_histogram = counts.view(-1, len(sizes)).to(sizes)

    def known(self, batch: CrystalBatch) -> Known:
        """Return what the denoiser is conditioned on."""
        told = self.config.denoiser
        types = batch.atomic_numbers if told.types else None
        return Known(types, batch.sites if told.space_group else None)

    @classmethod
    def outline(cls, folder: ModelFolder) -> LatentDiffusion:
        """See ``Pretrained``."""
        config = folder.section("ldm", LDMConfig)
        sizes = _sizes(folder)
        if config.denoiser.of_formulas and "formula_histogram" not in folder.stored:
            # saved before formulas were counted: sizes are known, but not of which formulas
            unknown = torch.zeros(len(sizes), len(sizes)).index_fill_(0, torch.tensor([0]), 1)
            folder.stored["formula_histogram"] = unknown * sizes
        with torch.device("meta"):
            vae = CrystalVAE(folder.section("vae", VAEConfig))
            try:
                return cls(config, vae, torch.zeros(len(sizes)))
            except ConfigError as error:  # the name of a condition
                raise CheckpointError(f"{folder.path / MODEL_CONFIG}: {error}") from None

    @classmethod
    def from_folder(cls, folder: ModelFolder) -> LatentDiffusion:
        """See ``Pretrained``."""
        model = super().from_folder(folder)
        for name in ("formula_histogram", "group_histogram"):
            counts = getattr(model, name, None)
            if counts is not None and (counts < 0).any():
                raise folder.problem(f"{name} counts less than no crystal")
        if model.unfolding is not None and not model.unfolding.sound(MAX_ATOMS):
            raise folder.problem("the tables of unfolding are not those of the space groups")
        return model

    def add_conditions(self, configs: Mapping[str, ConditionConfig]) -> ConditionEncoder:
        """Give a model without conditions new ones that change nothing yet, and return them."""
        assert self.denoiser.conditions is None
        encoder = ConditionEncoder(configs, self.config.denoiser.width)
        for parameter in encoder.project[-1].parameters():
            nn.init.zeros_(parameter)
        self.denoiser.conditions = encoder.to(self.latent_mean.device)
        self.config = self.config.model_copy(update={"conditions": dict(configs)})
        return encoder

    def architecture(self) -> dict[str, Any]:
        """See ``Pretrained``."""
        return {"ldm": self.config.model_dump(mode="json"), **self.vae.architecture()}

    def train(self, mode: bool = True) -> LatentDiffusion:
        """Switch the denoiser; the VAE is frozen and stays in evaluation mode."""
        super().train(mode)
        self.vae.eval()
        return self

    def standardise(self, z: Tensor) -> Tensor:
        """Bring latents ``(..., L)`` to zero mean and unit variance."""
        return (z - self.latent_mean) / self.latent_std

    def unstandardise(self, z: Tensor) -> Tensor:
        """Undo ``standardise``."""
        return z * self.latent_std + self.latent_mean

    def forward(
        self,
        z: Tensor,
        t: Tensor,
        num_atoms: Tensor,
        features: Mapping[str, Tensor] | None = None,
        drop: Mapping[str, Tensor] | None = None,
        layout: Layout | None = None,
        known: Known = Known(),
        estimate: Tensor | None = None,
    ) -> Denoised:
        """Denoise standardised latents; see ``Network.forward``."""
        given = (z, t, num_atoms, features, drop, layout, known, estimate)
        if self.unfolding is None or estimate is None:
            return self.denoiser(*given)
        slots = None if layout is None else layout.slots
        return self.denoiser(*given, self._look_around(num_atoms, known, estimate, slots))

    def _look_around(
        self, num_atoms: Tensor, known: Known, clean: Tensor, slots: Tensor | None
    ) -> Surroundings:
        assert self.unfolding is not None
        mask = torch.arange(clean.shape[1], device=clean.device) < num_atoms.unsqueeze(-1)
        batch = CrystalBatch(
            atomic_numbers=mask.long() if known.types is None else known.types,
            frac_coords=clean.new_zeros(*clean.shape[:2], 3),
            lattice=clean.new_zeros(len(clean), 3, 3),
            num_atoms=num_atoms,
            sites=known.sites,
            tokens=slots,
            check=False,
        )
        told = (clean != 0).flatten(1).any(1)  # a trajectory begins without an estimate
        return self.unfolding(self.vae, self.unstandardise(clean), batch, told)


def _sizes(folder: ModelFolder) -> Tensor:
    """Return the histogram of sizes, from which crystals are drawn, if it is one."""
    sizes = folder.tensor("size_histogram")
    if sizes.dim() != 1 or not 1 < len(sizes) <= MAX_ATOMS + 1 or sizes.dtype not in KEPT_AS:
        raise folder.problem(
            f"size_histogram ({sizes.dtype}, shape {str(tuple(sizes.shape))[:80]}) should count"
            f" crystals of 0, 1, ... up to {MAX_ATOMS:,} atoms"
        )
    if not sizes.isfinite().all() or (sizes < 0).any() or sizes[0] or not sizes.any():
        raise folder.problem(
            "size_histogram counts less than no crystal, those without atoms, or none at all"
        )
    return sizes
