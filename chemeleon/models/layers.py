"""Building blocks of the encoder, the decoder and the denoiser.

Shapes: ``B`` crystals, ``N`` padded atoms, ``D`` width, ``T`` tokens. Blocks take ``(B, N, D)``, or
``(T, D)`` with the padding left out, see ``chemeleon.models.packing``.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chemeleon.models.attention import ragged_attention, usable
from chemeleon.models.modulation import add_gated, add_gated_and_modulate, fused, modulate
from chemeleon.models.packing import Layout
from chemeleon.models.products import Linear


def index_embedding(index: Tensor, width: int, max_length: int = 2048) -> Tensor:
    """Embed an atom's place in its cell as sines and cosines, ``(...)`` to ``(..., width)``.

    ``[sin(i pi / max_length^(2k/width)), cos(same)]`` for k = 0 .. width/2 - 1.
    """
    k = torch.arange(width // 2, device=index.device, dtype=torch.float32)
    angles = index.unsqueeze(-1) * (math.pi / max_length ** (2 * k / width))
    return torch.cat([torch.sin(angles), torch.cos(angles)], dim=-1)


def timestep_embedding(t: Tensor, width: int = 256, period: float = 10_000.0) -> Tensor:
    """Embed times ``(B,)`` as ``[cos | sin]`` of geometric frequencies, ``(B, width)``."""
    half = width // 2
    k = torch.arange(half, device=t.device, dtype=torch.float32)
    angles = t.to(torch.float32).unsqueeze(-1) * torch.exp(-math.log(period) * k / half)
    return torch.cat([torch.cos(angles), torch.sin(angles)], dim=-1)


def zero_linear(inputs: int, outputs: int) -> Linear:
    """Return a linear layer that answers 0 until it is trained."""
    layer = Linear(inputs, outputs)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class Attention(nn.Module):
    """Multi-head self-attention with fused projections."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = Linear(width, 3 * width)
        self.out = Linear(width, width)
        nn.init.xavier_uniform_(self.qkv.weight)
        nn.init.zeros_(self.qkv.bias)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """Attend within each crystal; ``x`` is ``(B, N, D)`` or ``(T, D)``."""
        qkv = self.qkv(x)
        if layout.ragged and usable(qkv, self.heads, layout.atoms):
            flat = qkv.flatten(0, -2)
            out = ragged_attention(flat, layout.starts, layout.counts, self.heads, layout.atoms)
            return self.out(out.view(x.shape))
        qkv = layout.unpack(qkv)
        size, atoms, width = qkv.shape
        qkv = qkv.view(size, atoms, 3, self.heads, width // (3 * self.heads))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=layout.keys)
        return self.out(layout.pack(attended.transpose(1, 2).flatten(2)))


class MLP(nn.Module):
    """Two linear layers with the tanh form of GELU between them."""

    def __init__(self, width: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.up = Linear(width, hidden)
        self.dropout = nn.Dropout(dropout)
        self.down = Linear(hidden, width)
        for layer in (self.up, self.down):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Apply to ``(..., D)``."""
        return self.down(self.dropout(F.gelu(self.up(x), approximate="tanh")))


class Block(nn.Module):
    """Pre-norm transformer block."""

    worth_compiling = True  # many small operations between the products, the same in every block

    def __init__(self, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = MLP(width, hidden, dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """Apply to ``(B, N, D)`` or ``(T, D)``."""
        x = x + self.dropout(self.attn(self.norm1(x), layout))
        return x + self.dropout(self.mlp(self.norm2(x)))


class Transformer(nn.Module):
    """A stack of pre-norm blocks with a final norm."""

    def __init__(self, width: int, layers: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, heads, hidden, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """Apply to ``(B, N, D)``; padded slots come back without meaning."""
        x = layout.pack(x)
        for block in self.blocks:
            x = block(x, layout)
        return layout.unpack(self.norm(x))


class Offset(nn.Module):
    """What a block adds to a modulation that all blocks share, ``(C D,)``."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(size))

    def forward(self, x: Tensor) -> Tensor:
        """Add to ``(B, C D)``."""
        return x + self.weight


class ModulatedBlock(nn.Module):
    """DiT block with adaLN-Zero (Peebles and Xie 2023, arXiv:2212.09748).

    With ``shared`` its six modulations come from outside and get an offset of the block
    (adaLN-single of PixArt-alpha, Chen et al. 2023, arXiv:2310.00426, section 2.3).
    """

    worth_compiling = True

    def __init__(
        self, width: int, heads: int, hidden: int, dropout: float, shared: bool = False
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.mlp = MLP(width, hidden, dropout)
        self.dropout = nn.Dropout(dropout)
        self.modulation = Offset(6 * width) if shared else zero_linear(width, 6 * width)

    def forward(self, x: Tensor, condition: Tensor, layout: Layout) -> Tensor:
        """Apply to ``(B, N, D)`` or ``(T, D)``.

        ``condition`` is silu of the condition, ``(B, D)``, or of a shared modulation what the
        condition says to all blocks, ``(B, 6 D)``; of one row where all crystals share it.
        """
        modulation = self.modulation(condition)
        if fused(x) and not self.training:  # no dropout
            h = modulate(x, modulation, layout, shift=0)
            out = self.attn(h, layout)
            x, h = add_gated_and_modulate(x, out, modulation, layout, gate=2, shift=3)
            return add_gated(x, self.mlp(h), modulation, layout, gate=5)
        chunks = layout.spread(modulation).chunk(6, dim=-1)
        shift_attn, scale_attn, gate_attn, shift_mlp, scale_mlp, gate_mlp = chunks
        h = torch.addcmul(shift_attn, self.norm1(x), 1 + scale_attn)
        x = torch.addcmul(x, gate_attn, self.dropout(self.attn(h, layout)))
        h = torch.addcmul(shift_mlp, self.norm2(x), 1 + scale_mlp)
        return torch.addcmul(x, gate_mlp, self.dropout(self.mlp(h)))
