"""The diffusion transformer over atoms.

Shapes: ``B`` crystals, ``N`` padded atoms, ``L`` latent channels, ``D`` width.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chemeleon.config.architecture import LDMConfig
from chemeleon.crystals.batch import LETTERS
from chemeleon.crystals.symbols import SPACE_GROUPS
from chemeleon.models.condition_encoder import ConditionEncoder
from chemeleon.models.elements import element_embedding
from chemeleon.models.layers import (
    ModulatedBlock,
    index_embedding,
    timestep_embedding,
    zero_linear,
)
from chemeleon.models.modulation import fused, modulate
from chemeleon.models.networks.base import Denoised, Known, Network
from chemeleon.models.packing import Layout
from chemeleon.models.sites import SiteEncoder
from chemeleon.models.surroundings import Looking, Surroundings

TIME_FEATURES = 256


class Denoiser(Network):
    """DiT (Peebles and Xie 2023) whose tokens are atoms, with adaLN-Zero on time and conditions."""

    def __init__(self, config: LDMConfig, latent_dim: int) -> None:
        super().__init__(config, latent_dim)
        self.learned_variance = config.diffusion.learned_variance
        width = self.config.width
        outputs = latent_dim * (2 if self.learned_variance else 1)
        self.embed = nn.Linear(latent_dim, width)
        self.types = element_embedding(width) if self.config.types else None
        grouped = self.config.space_group and not self.config.sites
        self.groups = nn.Embedding(SPACE_GROUPS + 1, width) if grouped else None
        self.sites = SiteEncoder(width) if self.config.sites else None
        again = self.config.self_conditioning
        self.estimate = nn.Linear(latent_dim, width, bias=False) if again else None
        self.looking = Looking(self.config) if self.config.neighbour_layers else None
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
        known: Known = Known(),
        estimate: Tensor | None = None,
        seen: Surroundings | None = None,
    ) -> Denoised:
        """See ``Network``."""
        slots = torch.arange(z.shape[1], device=z.device)
        last = num_atoms.unsqueeze(-1) - 1
        speaking = self.config.token_layout == "interleaved"  # padded tokens speak for atoms
        if layout is None or speaking:
            layout = Layout.from_mask(slots <= last, num_atoms)._replace(ragged=not speaking)
        # padded slots repeat the last index: their tokens count in the interleaved layout
        places = index_embedding(slots, self.config.width)[torch.minimum(slots, last)]
        x = self.embed(z) + places
        if self.types is not None:
            assert known.types is not None
            x = x + self.types(known.types)
        if self.groups is not None:
            assert known.sites is not None
            x = x + self.groups(known.sites[:, :1] // LETTERS)
        if self.sites is not None:
            assert known.sites is not None
            x = x + self.sites.embed(known.sites) + self.sites.of_group(known.sites)
        if self.estimate is not None and estimate is not None:
            x = x + self.estimate(estimate)
        x = layout.pack(x)
        condition = self.time(timestep_embedding(t, TIME_FEATURES))
        if self.looking is not None and seen is not None:
            x = x + self.looking(x + layout.spread(condition), seen, layout)
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
