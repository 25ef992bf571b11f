"""Changes that leave a crystal the same crystal, drawn for each crystal on its own.

Shapes: ``B`` crystals, ``N`` padded atoms. Keys are ``(B,)``, see ``chemeleon.crystals.random``.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from chemeleon.config.schema import AugmentConfig
from chemeleon.crystals.batch import CrystalBatch
from chemeleon.crystals.lattice import inverse
from chemeleon.crystals.random import fold, normal, uniform


def rotation_matrices(quaternions: Tensor) -> Tensor:
    """Turn quaternions ``(..., 4)`` (w, x, y, z; any length) into matrices ``(..., 3, 3)``."""
    unit = quaternions / quaternions.norm(dim=-1, keepdim=True)
    w, x, y, z = unit.unbind(-1)
    rows = [
        torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], -1),
        torch.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], -1),
        torch.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], -1),
    ]
    return torch.stack(rows, dim=-2)


def random_rotations(keys: Tensor) -> Tensor:
    """Return uniformly distributed rotation matrices, ``(B, 3, 3)``.

    A normalised Gaussian 4-vector is a uniform unit quaternion (Shoemake 1992).
    """
    return rotation_matrices(normal(keys, (4,)))


def translate(batch: CrystalBatch, shift: Tensor) -> CrystalBatch:
    """Move all atoms by ``shift`` ``(B, 3)``, a fraction of the cell, and back into [0, 1)."""
    moved = batch.frac_coords + shift.unsqueeze(1)
    moved = (moved - torch.floor(moved)).masked_fill(~batch.mask.unsqueeze(-1), 0.0)
    return batch.with_geometry(moved, batch.lattice)


def rotate(batch: CrystalBatch, rotation: Tensor) -> CrystalBatch:
    """Turn the cells by ``rotation`` ``(B, 3, 3)``, which acts on column vectors."""
    return batch.with_geometry(batch.frac_coords, batch.lattice @ rotation.mT)


def augment(batch: CrystalBatch, keys: Tensor, config: AugmentConfig) -> CrystalBatch:
    """Apply the configured changes; coordinates come back in [0, 1) where they were moved."""
    if config.translate:
        batch = translate(batch, uniform(fold(keys, "translate"), (3,)))
    if config.rotate:
        batch = rotate(batch, random_rotations(fold(keys, "rotate")))
    frac_coords, lattice, types = batch.frac_coords, batch.lattice, batch.atomic_numbers
    if config.permute:
        order = uniform(fold(keys, "permute"), (batch.width,))
        order = order.masked_fill(~batch.mask, 2.0).argsort(dim=-1)
        types = types.gather(1, order)
        frac_coords = frac_coords.gather(1, order.unsqueeze(-1).expand(-1, -1, 3))
    frac_coords = frac_coords.masked_fill(~batch.mask.unsqueeze(-1), 0.0)
    return replace(
        batch, atomic_numbers=types, frac_coords=frac_coords, lattice=lattice, check=False
    )


def jitter(batch: CrystalBatch, keys: Tensor, std_angstrom: float) -> CrystalBatch:
    """Move every atom by Gaussian noise of ``std_angstrom`` along each Cartesian axis."""
    if std_angstrom == 0:
        return batch
    noise = std_angstrom * normal(fold(keys, "jitter"), (batch.width, 3))
    frac_noise = noise @ inverse(batch.lattice)
    frac_coords = batch.frac_coords + frac_noise.masked_fill(~batch.mask.unsqueeze(-1), 0.0)
    return batch.with_geometry(frac_coords, batch.lattice)
