"""What turns the features of atoms into properties of crystals.

Shapes: ``B`` crystals, ``N`` padded atoms, ``F`` features of an atom, ``D`` width, ``H`` attention
heads, ``K`` radial functions, ``P`` properties.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chemeleon.config.predictor import PredictorConfig
from chemeleon.crystals.batch import MAX_ATOMIC_NUMBER, CrystalBatch
from chemeleon.models.neighbours import PairFeatures
from chemeleon.models.packing import Layout

NEIGHBOURS = 8.0  # sums over neighbours are divided by this, so that they start near 1


class PooledHead(nn.Sequential):
    """The published head: features are pooled over atoms, then go through a small network."""

    def __init__(self, config: PredictorConfig, inputs: int) -> None:
        first, second = inputs // 4, inputs // 2
        super().__init__(
            *_layer(inputs, first, config.dropout),
            *_layer(first, second, config.dropout),
            nn.Linear(second, len(config.targets)),
        )
        self.reduce = config.reduce

    def forward(self, features: Tensor, batch: CrystalBatch) -> Tensor:  # pyright: ignore
        """Turn ``(B, N, F)`` into ``(B, P)``."""
        pooled = (features * batch.mask.unsqueeze(-1)).sum(1)
        if self.reduce == "mean":
            pooled = pooled / batch.num_atoms.unsqueeze(-1)
        return super().forward(pooled)


class GraphHead(nn.Module):
    """A transformer over atoms that knows their elements and how far apart they are.

    The features of the VAE are one of three inputs: each atom starts as features plus an embedding
    of its element, and each block mixes atoms by attention and by distance.
    """

    def __init__(self, config: PredictorConfig, inputs: int) -> None:
        super().__init__()
        width = config.width
        self.reduce = config.reduce
        self.types = nn.Embedding(MAX_ATOMIC_NUMBER + 1, width)
        self.norm_in = nn.LayerNorm(inputs)
        self.embed = nn.Linear(inputs, width)
        self.pairs = PairFeatures(config.cutoff_angstrom, config.radial)
        self.blocks = nn.ModuleList(
            GraphBlock(width, config.heads, config.radial, config.dropout)
            for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(width)
        self.out = nn.Sequential(
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Dropout(config.dropout),
            nn.Linear(width, len(config.targets)),
        )

    def forward(self, features: Tensor, batch: CrystalBatch) -> Tensor:
        """Turn ``(B, N, F)`` into ``(B, P)``: each atom's share, then their mean or sum."""
        layout = Layout.of(batch)
        x = layout.pack(self.types(batch.atomic_numbers) + self.embed(self.norm_in(features)))
        pairs = self.pairs(batch)
        for block in self.blocks:
            x = block(x, pairs, layout)
        shares = (layout.unpack(self.out(self.norm(x))) * batch.mask.unsqueeze(-1)).sum(1)
        return shares / batch.num_atoms.unsqueeze(-1) if self.reduce == "mean" else shares


class GraphBlock(nn.Module):
    """Pre-norm block: biased attention, a sum over neighbours, an MLP.

    The sum is a continuous-filter convolution (Schuett et al. 2017, arXiv:1706.08566) whose filters
    are linear in the pair features. Unlike attention it counts neighbours.
    """

    worth_compiling = True

    def __init__(self, width: int, heads: int, functions: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.bias = nn.Linear(functions, heads, bias=False)
        self.attended = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.value = nn.Linear(width, width)
        filters = torch.empty(functions, width)
        if not filters.is_meta:  # to draw them there, PyTorch would import its compiler
            filters = torch.randn(functions, width) / functions**0.5
        self.filters = nn.Parameter(filters)
        self.summed = nn.Linear(width, width)
        self.norm3 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, pairs: Tensor, layout: Layout) -> Tensor:
        """Mix atoms.

        Args:
            x: ``(B, N, D)`` or ``(T, D)``.
            pairs: ``(B, N, N, K)``, 0 for padding.
            layout: how tokens belong to crystals.
        """
        x = x + self.dropout(self._attend(self.norm1(x), pairs, layout))
        x = x + self.dropout(self._sum(self.norm2(x), pairs, layout))
        return x + self.dropout(self.mlp(self.norm3(x)))

    def _attend(self, x: Tensor, pairs: Tensor, layout: Layout) -> Tensor:
        qkv = layout.unpack(self.qkv(x))
        size, atoms, width = qkv.shape
        qkv = qkv.view(size, atoms, 3, self.heads, width // (3 * self.heads))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        bias = self.bias(pairs).permute(0, 3, 1, 2).to(q.dtype)
        if layout.keys is not None:
            bias = bias.masked_fill(~layout.keys, -torch.inf)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self.attended(layout.pack(mixed.transpose(1, 2).flatten(2)))

    def _sum(self, x: Tensor, pairs: Tensor, layout: Layout) -> Tensor:
        value = layout.unpack(self.value(x))
        size, atoms, width = value.shape
        # (B, N K, N) @ (B, N, D): what surrounds an atom, by distance; then the filters
        by_distance = pairs.transpose(2, 3).reshape(size, -1, atoms) @ value
        around = by_distance.view(size, atoms, -1, width) * self.filters
        return self.summed(F.silu(layout.pack(around.sum(2)) / NEIGHBOURS))


def _layer(inputs: int, outputs: int, dropout: float) -> list[nn.Module]:
    return [nn.Linear(inputs, outputs), nn.LayerNorm(outputs), nn.SiLU(), nn.Dropout(dropout)]
