"""Time the same models put together from PyTorch's own parts, beside which ours are to be seen.

    python benchmarks/plain_step.py [--rounds 3]

Batch 64 of 5 atoms on a CPU, published sizes: ``nn.TransformerEncoder``, ``nn.MultiheadAttention``,
AdamW and averages with their defaults; no data, no augmentation, no logging. After each one ours is
measured through the training command, as the speed of such a machine drifts.
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BATCH, ATOMS = 64, 5


def encoder() -> nn.TransformerEncoder:
    """Return 8 pre-norm layers of width 512."""
    gelu = nn.GELU(approximate="tanh")
    layer = nn.TransformerEncoderLayer(512, 8, 2048, 0.0, gelu, batch_first=True, norm_first=True)
    return nn.TransformerEncoder(layer, 8, nn.LayerNorm(512), enable_nested_tensor=False)


class Block(nn.Module):
    """A DiT block with adaLN-Zero, width 768."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(768, elementwise_affine=False, eps=1e-6)
        self.attn = nn.MultiheadAttention(768, 12, batch_first=True)
        self.norm2 = nn.LayerNorm(768, elementwise_affine=False, eps=1e-6)
        gelu = nn.GELU(approximate="tanh")
        self.mlp = nn.Sequential(nn.Linear(768, 3072), gelu, nn.Linear(3072, 768))
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(768, 6 * 768))

    def forward(self, x: Tensor, condition: Tensor, padding: Tensor) -> Tensor:
        """Apply to ``(B, N, 768)``."""
        a, b, c, d, e, f = self.modulation(condition).unsqueeze(1).chunk(6, -1)
        h = self.norm1(x) * (1 + b) + a
        x = x + c * self.attn(h, h, h, key_padding_mask=padding, need_weights=False)[0]
        return x + f * self.mlp(self.norm2(x) * (1 + e) + d)


def vae_step() -> Callable[[], None]:
    """Return one training step of a VAE."""
    down, up = encoder(), encoder()
    moments, back = nn.Linear(512, 16, bias=False), nn.Linear(8, 512, bias=False)
    heads = nn.Linear(512, 109)
    parameters = [p for m in (down, up, moments, back, heads) for p in m.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4)
    x = torch.randn(BATCH, ATOMS, 512)
    padding = torch.zeros(BATCH, ATOMS, dtype=torch.bool)
    types = torch.randint(1, 90, (BATCH * ATOMS,))

    def step() -> None:
        optimizer.zero_grad()
        mean, logvar = moments(down(x, src_key_padding_mask=padding)).chunk(2, -1)
        z = mean + torch.exp(0.5 * logvar) * torch.randn_like(mean)
        out = heads(up(back(z), src_key_padding_mask=padding))
        kl = (mean.square() + logvar.exp() - 1 - logvar).sum(-1).mean()
        loss = F.cross_entropy(out[..., :100].flatten(0, 1), types) + out[..., 100:].square().mean()
        (loss + 1e-5 * kl).backward()
        nn.utils.clip_grad_norm_(parameters, 10.0)
        optimizer.step()

    return step


def ldm_step() -> Callable[[], None]:
    """Return one training step of a DiT-B on a frozen encoder's latents, with averages."""
    frozen, moments = encoder().requires_grad_(False), nn.Linear(512, 16, bias=False)
    blocks = nn.ModuleList(Block() for _ in range(12))
    first, head = nn.Linear(8, 768), nn.Linear(768, 16)
    parameters = [p for m in (blocks, first, head) for p in m.parameters()]
    averages = [p.detach().clone() for p in parameters]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4)
    x, condition = torch.randn(BATCH, ATOMS, 512), torch.randn(BATCH, 768)
    padding = torch.zeros(BATCH, ATOMS, dtype=torch.bool)

    def step() -> None:
        optimizer.zero_grad()
        with torch.no_grad():
            z = moments(frozen(x, src_key_padding_mask=padding))[..., :8]
        h = first(z + torch.randn_like(z))
        for block in blocks:
            h = block(h, condition, padding)
        head(h).square().mean().backward()
        nn.utils.clip_grad_norm_(parameters, 10.0)
        optimizer.step()
        with torch.no_grad():
            for average, parameter in zip(averages, parameters, strict=True):
                average.mul_(0.9999).add_(parameter, alpha=1e-4)

    return step


def main() -> None:
    """Alternate plain and ours; print both and the ratio."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--plain", choices=["vae", "ldm"])
    arguments = parser.parse_args()
    if arguments.plain:
        step = {"vae": vae_step, "ldm": ldm_step}[arguments.plain]()
        times = []
        for _ in range(arguments.steps):
            start = time.perf_counter()
            step()
            times.append(time.perf_counter() - start)
        print(statistics.median(times[2:] or times))
        return
    for stage in ("vae", "ldm"):
        pairs = []
        for _ in range(arguments.rounds):
            here = [sys.executable, __file__, "--plain", stage, "--steps", str(arguments.steps)]
            plain = float(subprocess.check_output(here, text=True))
            command = [sys.executable, __file__.replace("plain_step", "train_step")]
            words = ["--only", stage, "--steps", str(arguments.steps)]
            said = subprocess.check_output([*command, *words], text=True)
            found = re.search(rf"{stage} .* step ([\d.]+) ms", said)
            assert found is not None, said
            pairs.append((plain, float(found[1]) / 1000))
        ratio = statistics.median(plain / ours for plain, ours in pairs)
        told = ", ".join(f"{plain:.3f} / {ours:.3f} s" for plain, ours in pairs)
        print(f"{stage}: plain / ours {told}; {ratio:.2f} times as fast", flush=True)


if __name__ == "__main__":
    main()
