"""Neighbours of many periodic crystals at once, as tensors on any device.

Each pair of atoms is listed once: (i, j, image) and (j, i, -image) are the same bond. So images run
over one half of the lattice points, and the image of the cell itself over i < j.

Shapes: ``M`` crystals, ``A`` atoms, ``U`` bonds.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from chemeleon.crystals.batch import Crystals, ranges


class Bonds(NamedTuple):
    """Bonds within a cutoff, ordered by crystal.

    Attributes:
        first, second: ``(U,)`` int64, atoms i and j.
        vectors: ``(U, 3)`` float64, from i to the image of j, angstrom.
        counts: ``(M,)`` int64, bonds of each crystal.
    """

    first: Tensor
    second: Tensor
    vectors: Tensor
    counts: Tensor


def image_reach(cells: Crystals, cutoff_angstrom: float) -> Tensor:
    """Return ``(M, 3)`` int64: images to look at on either side, for atoms inside the cell."""
    cross = torch.cross(cells.lattice.roll(-1, 1), cells.lattice.roll(-2, 1), dim=2)
    heights = cells.volumes.unsqueeze(1) / torch.linalg.vector_norm(cross, dim=2)
    reach = torch.ceil(cutoff_angstrom / heights)
    return torch.nan_to_num(reach, nan=1e6, posinf=1e6).clamp(max=1e6).long()


def candidate_counts(cells: Crystals, cutoff_angstrom: float) -> Tensor:
    """Return ``(M,)`` float64: pairs whose distance is computed, the work and memory to expect."""
    points = (2 * image_reach(cells, cutoff_angstrom).double() + 1).prod(1)
    return (points + 1) / 2 * cells.num_atoms.double() ** 2


def find_bonds(cells: Crystals, cutoff_angstrom: float) -> Bonds:
    """List the bonds up to a cutoff.

    Memory is about 80 bytes for each of `candidate_counts`.

    Args:
        cells: finite crystals with a volume, see `usable.check`.
        cutoff_angstrom: longest bond.
    """
    device, owners = cells.device, cells.owners
    frac = cells.frac_coords - torch.floor(cells.frac_coords)
    cart = torch.einsum("ai,aij->aj", frac, cells.lattice[owners])
    # lattice points of one half of space: those after the origin in the order of counting
    reach = image_reach(cells, cutoff_angstrom)
    width = 2 * reach + 1
    half = (width.prod(1) + 1) // 2
    crystal = torch.repeat_interleave(torch.arange(len(half), device=device), half)
    rank = ranges(half - 1, half)
    width, low = width[crystal], reach[crystal]
    image = torch.stack(
        [
            rank // (width[:, 1] * width[:, 2]),
            rank // width[:, 2] % width[:, 1],
            rank % width[:, 2],
        ],
        1,
    )
    shifts = torch.einsum("ki,kij->kj", (image - low).double(), cells.lattice[crystal])

    # all pairs of atoms of a crystal, then all pairs with all images
    n = cells.num_atoms
    first = torch.repeat_interleave(torch.arange(len(owners), device=device), n[owners])
    second = ranges(cells.starts[owners], n[owners])
    per_pair = half[owners[first]]
    pair = torch.repeat_interleave(torch.arange(len(first), device=device), per_pair)
    first_shift = (torch.cumsum(half, 0) - half)[owners[first]]
    shift = ranges(first_shift, per_pair)
    vectors = (cart[second] - cart[first])[pair] + shifts[shift]
    near = (vectors * vectors).sum(1) <= cutoff_angstrom**2
    kept = torch.nonzero(near).flatten()
    vectors, pair, shift = vectors[kept], pair[kept], shift[kept]
    first, second = first[pair], second[pair]
    own_cell = shift == (torch.cumsum(half, 0) - half)[owners[first]]
    kept = torch.nonzero(~own_cell | (first < second)).flatten()
    first, second, vectors = first[kept], second[kept], vectors[kept]
    counts = torch.bincount(owners[first], minlength=len(n))
    return Bonds(first, second, vectors, counts)
