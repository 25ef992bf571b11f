"""Cell geometry: parameters, matrices, volumes, planes.

Lattice matrices hold the cell vectors a, b, c as rows, in angstrom; angles are alpha, beta, gamma
in radian. Functions of arrays come first: worker processes use them, so torch is imported by what
needs tensors. For one cell at a time, `data.niggli` has the same without numpy, which is quicker.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor


def cells_of(bases: NDArray[Any]) -> NDArray[np.float64]:
    """Return lengths (angstrom) and angles (radian), ``(..., 6)``, of ``(..., 3, 3)`` cells."""
    lengths = np.linalg.norm(bases, axis=-1)
    unit = bases / lengths[..., None]
    cosines = (unit[..., [1, 2, 0], :] * unit[..., [2, 0, 1], :]).sum(-1)
    return np.concatenate([lengths, np.arccos(np.clip(cosines, -1, 1))], -1)


def plane_spacings(lattice: NDArray[Any]) -> NDArray[np.float64]:
    """Return the distances ``(3,)`` of the planes that bound a cell ``(3, 3)``, in its unit."""
    return 1 / np.linalg.norm(np.linalg.inv(lattice), axis=0)


def whole_steps(*most: int) -> NDArray[np.int64]:
    """Return all vectors of whole numbers up to ``most`` in size, ``(P, len(most))``, in order."""
    axes = [np.arange(-m, m + 1) for m in most]
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(most))


def lattice_from_parameters(lengths: Tensor, angles: Tensor) -> Tensor:
    """Build cell matrices with c along z and a in the xz plane (pymatgen's convention).

    Args:
        lengths: ``(..., 3)`` a, b, c in angstrom.
        angles: ``(..., 3)`` alpha, beta, gamma in radian.

    Returns:
        ``(..., 3, 3)`` matrices, rows a, b, c. Impossible angles (no real cell) give a flat cell.
    """
    import torch

    a, b, c = lengths.unbind(-1)
    cos_alpha, cos_beta, cos_gamma = torch.cos(angles).unbind(-1)
    sin_alpha, sin_beta, _ = torch.sin(angles).unbind(-1)
    cos_gamma_star = ((cos_alpha * cos_beta - cos_gamma) / (sin_alpha * sin_beta)).clamp(-1, 1)
    sin_gamma_star = torch.sqrt((1 - cos_gamma_star.square()).clamp_min(0))
    zero = torch.zeros_like(a)
    vector_a = torch.stack([a * sin_beta, zero, a * cos_beta], dim=-1)
    vector_b = torch.stack(
        [-b * sin_alpha * cos_gamma_star, b * sin_alpha * sin_gamma_star, b * cos_alpha], dim=-1
    )
    vector_c = torch.stack([zero, zero, c], dim=-1)
    return torch.stack([vector_a, vector_b, vector_c], dim=-2)


def lattice_lengths(lattice: Tensor) -> Tensor:
    """Return a, b, c in angstrom, ``(..., 3)``."""
    from torch.linalg import vector_norm

    return vector_norm(lattice, dim=-1)


def lattice_angles(lattice: Tensor) -> Tensor:
    """Return alpha, beta, gamma in radian, ``(..., 3)``."""
    import torch

    unit = lattice / lattice_lengths(lattice).unsqueeze(-1).clamp_min(1e-12)
    a, b, c = unit.unbind(-2)
    cosines = torch.stack([(b * c).sum(-1), (a * c).sum(-1), (a * b).sum(-1)], dim=-1)
    return torch.arccos(cosines.clamp(-1, 1))


def lattice_volume(lattice: Tensor) -> Tensor:
    """Return the unsigned cell volume in cubic angstrom, ``(...)``."""
    return lattice.det().abs()


def wrap(frac_coords: Tensor) -> Tensor:
    """Bring fractional coordinates into [0, 1); tiny negative numbers do not round up to 1."""
    wrapped = frac_coords - frac_coords.floor()
    return wrapped.masked_fill(wrapped >= 1, 0)


def inverse(lattice: Tensor) -> Tensor:
    """Return the inverse matrices of ``(..., 3, 3)``, in 1/angstrom; rows of coordinates times them
    are fractional.

    Written out, because the general routine waits for the device to see whether it failed.
    """
    from torch import cross, stack

    a, b, c = lattice.unbind(-2)
    normals = stack([cross(b, c, dim=-1), cross(c, a, dim=-1), cross(a, b, dim=-1)], -1)
    return normals / (a * normals[..., 0]).sum(-1)[..., None, None]
