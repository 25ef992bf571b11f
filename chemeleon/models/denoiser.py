"""The diffusion transformer over atoms, and the whole latent diffusion model.

Shapes: ``B`` crystals, ``N`` padded atoms, ``L`` latent channels, ``D`` width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chemeleon.checkpoints.opened import KEPT_AS, MODEL_CONFIG, ModelFolder
from chemeleon.config.requests import MAX_ATOMS
from chemeleon.config.schema import ConditionConfig, LDMConfig, VAEConfig
from chemeleon.crystals.batch import Crystals
from chemeleon.crystals.formula import atom_histogram, formula_histogram
from chemeleon.errors import CheckpointError, ConfigError
from chemeleon.models.condition_encoder import ConditionEncoder
from chemeleon.models.elements import element_embedding
from chemeleon.models.layers import (
    ModulatedBlock,
    index_embedding,
    timestep_embedding,
    zero_linear,
)
from chemeleon.models.modulation import fused, modulate
from chemeleon.models.packing import Layout
from chemeleon.models.pretrained import Pretrained
from chemeleon.models.vae import CrystalVAE

TIME_FEATURES = 256


class Denoised(NamedTuple):
    """What the denoiser says of each slot, ``(B, N, L)`` each.

    ``prediction`` is the noise, the velocity or the flow, as the model was trained; ``variance`` is
    the place of the reverse log-variance between its bounds (-1 lower, 1 upper), or None.
    """

    prediction: Tensor
    variance: Tensor | None


class Denoiser(nn.Module):
    """DiT (Peebles and Xie 2023) whose tokens are atoms, with adaLN-Zero on time and conditions."""

    conditions: ConditionEncoder | None

    def __init__(self, config: LDMConfig, latent_dim: int) -> None:
        super().__init__()
        self.config = config.denoiser
        self.latent_dim = latent_dim
        self.learned_variance = config.diffusion.learned_variance
        width = self.config.width
        outputs = latent_dim * (2 if self.learned_variance else 1)
        self.embed = nn.Linear(latent_dim, width)
        self.types = element_embedding(width) if self.config.types else None
        again = self.config.self_conditioning
        self.estimate = nn.Linear(latent_dim, width, bias=False) if again else None
        self.time = nn.Sequential(
            nn.Linear(TIME_FEATURES, width), nn.SiLU(), nn.Linear(width, width)
        )
        # registered even if there are none: added later they have the same place among parameters
        encoder = ConditionEncoder(config.conditions, width) if config.conditions else None
        self.register_module("conditions", encoder)
        shared = self.config.modulation == "shared"
        self.shared = zero_linear(width, 6 * width) if shared else None
        hidden = width * self.config.mlp_ratio
        self.blocks = nn.ModuleList(
            ModulatedBlock(width, self.config.heads, hidden, self.config.dropout, shared)
            for _ in range(self.config.layers)
        )
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        # adaLN-Zero: every block starts as the identity, the head at zero
        self.modulation = zero_linear(width, 2 * width)
        self.head = zero_linear(width, outputs)
        for layer in self.time:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.02)

    def forward(
        self,
        z: Tensor,
        t: Tensor,
        num_atoms: Tensor,
        features: Mapping[str, Tensor] | None = None,
        drop: Mapping[str, Tensor] | None = None,
        layout: Layout | None = None,
        types: Tensor | None = None,
        estimate: Tensor | None = None,
    ) -> Denoised:
        """Predict the noise (or velocity, or flow) in ``z``.

        Args:
            z: ``(B, N, L)`` noisy latents, 0 on padded slots.
            t: ``(B,)`` times, 0 .. 999 (flow: 1000 times the time); ``(1,)`` where all crystals
                share it, which saves their modulations if they share the conditions, too.
            num_atoms: ``(B,)``.
            features: condition name to ``(B, F)``, or ``(1, F)`` where all crystals share it, for a
                conditional model.
            drop: condition name to ``(B,)`` or ``(1,)`` bool, True where the condition is hidden.
            layout: how the batch is packed, if it is.
            types: ``(B, N)`` atomic numbers, for a model that is told them; 0 on padded slots.
            estimate: ``(B, N, L)`` the clean latents that were predicted at the time before, for a
                model with self-conditioning; without them it is told nothing.
        """
        slots = torch.arange(z.shape[1], device=z.device)
        last = num_atoms.unsqueeze(-1) - 1
        speaking = self.config.token_layout == "interleaved"  # padded tokens speak for atoms
        if layout is None or speaking:
            layout = Layout.from_mask(slots <= last, num_atoms)._replace(ragged=not speaking)
        # padded slots repeat the last index: their tokens count in the interleaved layout
        places = index_embedding(slots, self.config.width)[torch.minimum(slots, last)]
        x = self.embed(z) + places
        if self.types is not None:
            assert types is not None
            x = x + self.types(types)
        if self.estimate is not None and estimate is not None:
            x = x + self.estimate(estimate)
        x = layout.pack(x)
        condition = self.time(timestep_embedding(t, TIME_FEATURES))
        if self.conditions is not None:
            assert features is not None
            assert drop is not None
            condition = condition + self.conditions(features, drop)
        condition = F.silu(condition)
        steering = condition if self.shared is None else self.shared(condition)
        for block in self.blocks:
            x = block(x, steering, layout)
        modulation = self.modulation(condition)
        if fused(x) and not self.training:
            h = modulate(x, modulation, layout, shift=0)
        else:
            shift, scale = layout.spread(modulation).chunk(2, dim=-1)
            h = torch.addcmul(shift, self.norm(x), 1 + scale)
        return self._split(layout.unpack(self.head(h)))

    def _split(self, out: Tensor) -> Denoised:
        if not self.learned_variance:
            return Denoised(out, None)
        if self.config.token_layout == "per_atom":
            prediction, variance = out.chunk(2, dim=-1)
        else:
            size, atoms, _ = out.shape
            prediction, variance = out.reshape(size, 2 * atoms, self.latent_dim).chunk(2, dim=1)
        return Denoised(prediction, variance)


class LatentDiffusion(Pretrained):
    """A frozen VAE, a denoiser of its standardised latents, and what sampling needs to know.

    Buffers: ``latent_mean`` and ``latent_std`` ``(L,)``; ``size_histogram`` counts training
    crystals by number of atoms; ``formula_histogram`` (of models that are told the elements) by
    atoms of the reduced formula and of the cell.
    """

    kinds = ("ldm",)
    latent_mean: Tensor
    latent_std: Tensor
    size_histogram: Tensor
    formula_histogram: Tensor

    def __init__(self, config: LDMConfig, vae: CrystalVAE, size_histogram: Tensor) -> None:
        super().__init__()
        self.config = config
        self.vae = vae.requires_grad_(False)
        latent_dim = vae.config.latent_dim
        self.denoiser = Denoiser(config, latent_dim)
        self.register_buffer("latent_mean", torch.zeros(latent_dim))
        self.register_buffer("latent_std", torch.ones(latent_dim))
        self.register_buffer("size_histogram", size_histogram.to(torch.float32))
        if config.denoiser.types:
            sizes = len(size_histogram)
            self.register_buffer("formula_histogram", torch.zeros(sizes, sizes))

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
        if self.config.denoiser.types:
            self.formula_histogram = formula_histogram(train).to(sizes)

    @classmethod
    def outline(cls, folder: ModelFolder) -> LatentDiffusion:
        """See ``Pretrained``."""
        config = folder.section("ldm", LDMConfig)
        sizes = _sizes(folder)
        if config.denoiser.types and "formula_histogram" not in folder.stored:
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
        if model.config.denoiser.types and (model.formula_histogram < 0).any():
            raise folder.problem("formula_histogram counts less than no crystal")
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
        types: Tensor | None = None,
        estimate: Tensor | None = None,
    ) -> Denoised:
        """Denoise standardised latents; see ``Denoiser.forward``."""
        return self.denoiser(z, t, num_atoms, features, drop, layout, types, estimate)


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
