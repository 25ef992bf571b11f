"""Neighbours in many periodic crystals at once, as tensors on any device.

`find_bonds` lists all within a cutoff, each once: (i, j, image) and (j, i, -image) are the same
bond, so images run over one half of the lattice points, and the image of the cell itself over
i < j. `nearest_images` finds the nearest image of each pair, however far.

Shapes: ``M`` crystals, ``A`` atoms, ``U`` bonds; ``B`` padded crystals, ``P`` pairs of their atoms.
Lengths in angstrom.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from chemeleon.crystals.batch import CrystalBatch, Crystals
from chemeleon.crystals.ragged import ranges

_REDUCTION_STEPS = 200


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
    heights = cells.volume.unsqueeze(1) / torch.linalg.vector_norm(cross, dim=2)
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


class Near(NamedTuple):
    """Squared distances to the nearest images: ``B`` cells, ``P`` pairs ``first < second``."""

    own: Tensor  # (B,) of an atom and its own image
    between: Tensor  # (B, P); infinite where a pair is padding
    first: Tensor  # (P,)
    second: Tensor  # (P,)
    usable: Tensor  # (B,) bool: finite, with volume and atoms


def nearest_images(batch: CrystalBatch) -> Near:
    """Look for the nearest image of each atom among 27 in a Minkowski-reduced cell.

    The 27 are enough: with fractional differences in [-1/2, 1/2], the lattice vector nearest to
    a difference has coordinates of at most 1 in a Minkowski-reduced basis of three vectors
    (Nguyen and Stehle, ACM Trans. Algorithms 5, 46 (2009)).
    """
    lattice = batch.lattice.double()
    usable = finite(batch) & (cell_volume(lattice) > 1e-9) & (batch.num_atoms > 0)
    # unusable rows run along with a unit cell and are blanked at the end
    identity = torch.eye(3, dtype=torch.float64, device=lattice.device)
    lattice = torch.where(usable[:, None, None], lattice, identity)
    reduced = minkowski_reduced(lattice)
    cart = torch.nan_to_num(batch.frac_coords.double(), posinf=0.0, neginf=0.0) % 1.0 @ lattice
    frac = cart @ torch.linalg.inv(reduced)
    steps = torch.arange(-1, 2, device=lattice.device, dtype=torch.float64)
    images = torch.cartesian_prod(steps, steps, steps)
    shifts = images @ reduced  # (B, 27, 3)

    own = shifts.square().sum(-1)
    own[:, 13] = torch.inf  # the atom itself
    i, j = torch.triu_indices(batch.width, batch.width, 1, device=lattice.device)
    delta = frac[:, i] - frac[:, j]
    vectors = (delta - delta.round()) @ reduced  # (B, P, 3)
    # |v + t|^2 = |v|^2 + (|t|^2 + 2 v.t), the least over the images t
    lengths = shifts.square().sum(-1).unsqueeze(-2)
    excess = torch.baddbmm(lengths, vectors, shifts.transpose(-1, -2), alpha=2.0)
    between = vectors.square().sum(-1) + excess.amin(-1)
    real = batch.mask[:, i] & batch.mask[:, j]
    return Near(own.amin(-1), between.masked_fill(~real, torch.inf), i, j, usable)


def minkowski_reduced(lattice: Tensor) -> Tensor:
    """Reduce cells ``(B, 3, 3)`` to three shortest vectors that still make a basis.

    Pairs are shortened first, which takes few steps however skewed the cell; Selling's algorithm
    then gives an obtuse superbase, whose seven partial sums contain the three vectors (Conway and
    Sloane, Proc. R. Soc. A 436, 55 (1992)). A sum of the two shortest is not independent of
    them; bit masks of the sums tell it apart.
    """
    basis = _shorten_pairs(lattice)
    a, b, c = basis.unbind(-2)
    base = torch.stack([a, b, c, -(a + b + c)], dim=-2)
    i, j = torch.triu_indices(4, 4, 1, device=lattice.device)
    scale = base.square().sum((-1, -2))
    for _ in range(_REDUCTION_STEPS):
        products = (base[:, i] * base[:, j]).sum(-1)
        worst, pair = products.max(-1)
        rows = (worst > 1e-12 * scale).nonzero().squeeze(-1)
        if rows.numel() == 0:
            break
        here = i[pair[rows]]
        pivot = base[rows, here]
        moved = base[rows] + pivot.unsqueeze(-2)
        local = torch.arange(len(rows), device=rows.device)
        moved[local, here] = -pivot
        moved[local, j[pair[rows]]] = base[rows, j[pair[rows]]]
        base[rows] = moved
    masks = torch.arange(1, 8, device=lattice.device)
    bits = torch.stack([masks & 1, masks >> 1 & 1, masks >> 2 & 1], -1).to(lattice.dtype)
    sums = bits @ base[:, :3]  # (B, 7, 3)
    order = sums.square().sum(-1).argsort(-1)
    one, two, three, four = masks[order[:, :4]].unbind(-1)
    last = torch.where(three == (one ^ two), four, three)
    chosen = torch.stack([one, two, last], -1) - 1
    return torch.take_along_dim(sums, chosen.unsqueeze(-1), dim=1)


def _shorten_pairs(lattice: Tensor) -> Tensor:
    """Subtract whole multiples of one vector from another while that shortens it."""
    rows = list(lattice.unbind(-2))
    for _ in range(_REDUCTION_STEPS):
        changed = False
        for k, m in ((0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)):
            length = rows[m].square().sum(-1).clamp_min(1e-300)
            # half a multiple would swap back and forth; slightly more shortens for certain
            times = (rows[k] * rows[m]).sum(-1) / length
            times = torch.where(times.abs() > 0.5 + 1e-9, times.round(), torch.zeros_like(times))
            changed |= bool((times != 0).any())
            rows[k] = rows[k] - times.unsqueeze(-1) * rows[m]
        if not changed:
            break
    return torch.stack(rows, dim=-2)


def cell_volume(lattice: Tensor) -> Tensor:
    """Return ``(B,)`` volumes of lattices ``(B, 3, 3)``, whatever is in them."""
    # the triple product, since LU-based determinants refuse non-finite input on some devices
    a, b, c = lattice.unbind(-2)
    return (a * torch.linalg.cross(b, c)).sum(-1).abs()


def finite(batch: CrystalBatch) -> Tensor:
    """Return which crystals have finite coordinates and cells, ``(B,)`` bool."""
    coords = torch.isfinite(batch.frac_coords).all(-1) | ~batch.mask
    return coords.all(-1) & torch.isfinite(batch.lattice).flatten(1).all(-1)
