"""Features of crystals from the encoder of a VAE, for whole sets.

Shapes: ``M`` crystals, ``F`` features.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from chemeleon.crystals.batch import CrystalBatch, Crystals
from chemeleon.models.vae import CrystalVAE

_PAIRS = {"cpu": 2**15, "cuda": 2**21}  # pairs of atoms in a batch


def mean_latent(vae: CrystalVAE, batch: CrystalBatch) -> Tensor:
    """Return the mean over atoms of the posterior's mean, ``(B, L)``."""
    return _mean(vae.encode(batch).mean, vae.atoms(batch))


def mean_element(vae: CrystalVAE, batch: CrystalBatch) -> Tensor:
    """Return the mean over atoms of the elements' embeddings, ``(B, D)``."""
    return _mean(vae.type_embedding(batch.atomic_numbers), vae.atoms(batch))


def _mean(values: Tensor, atoms: Tensor) -> Tensor:
    """Return the mean of ``(B, N, F)`` numbers, of which each stands for ``(B, N)`` atoms."""
    real = values.double().masked_fill(~(atoms > 0).unsqueeze(-1), 0.0)
    weights = atoms.double().unsqueeze(-1)
    return (real * weights).sum(1) / weights.sum(1)


@torch.no_grad()
def features_of(
    vae: CrystalVAE, crystals: Crystals, kind: Callable[[CrystalVAE, CrystalBatch], Tensor]
) -> Tensor:
    """Return features of a set in batches of like size, ``(M, F)`` float64 on the VAE's device.

    Args:
        vae: the autoencoder, on the device to be used.
        crystals: ``M`` crystals on the CPU.
        kind: `mean_latent` or `mean_element`.
    """
    device = vae.type_embedding.weight.device
    limit = _PAIRS.get(device.type, _PAIRS["cpu"])
    crystals = vae.arranged(crystals)
    order = torch.argsort(crystals.num_atoms, descending=True, stable=True)
    parts, start = [], 0
    while start < len(order):
        largest = int(crystals.num_atoms[order[start]])
        chosen = order[start : start + max(1, limit // largest**2)]
        parts.append(kind(vae, crystals.batch(chosen).to(device)))
        start += len(chosen)
    back = torch.argsort(order).to(device)
    return torch.cat(parts)[back]
