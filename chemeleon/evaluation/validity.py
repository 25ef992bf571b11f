"""Whether crystals are structurally sound: finite, with volume, atoms apart, a cell one can use.

Shapes: ``B`` crystals, ``N`` atoms of the padded cell, ``P`` pairs of atoms. Lengths in angstrom.

Thresholds on volume and distance are CDVAE's (Xie et al., arXiv:2110.06197, section 5.2). Cells
with vectors or angles beyond the limits below are refused as well: pymatgen's reduction and
matching take minutes on them, or its CIF reader does not take back what its writer wrote.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from chemeleon.crystals.batch import MAX_ATOMIC_NUMBER, CrystalBatch, Crystals

MIN_DISTANCE = 0.5
MIN_VOLUME = 0.1
MAX_VECTOR_RATIO = 100.0
MIN_ANGLE_DEGREE = 1.0
_CHUNK_ELEMENTS = 4_000_000  # (pairs x images) held at a time, 8 bytes each
_REDUCTION_STEPS = 200


class Closest(NamedTuple):
    """The two atoms of each crystal that are closest, counting periodic images."""

    distance: Tensor  # (B,) float64; NaN where the crystal has no usable geometry
    first: Tensor  # (B,) int64, index of an atom
    second: Tensor  # (B,) int64; equal to `first` for an atom and its own image


def structural_problems(crystals: CrystalBatch | Crystals) -> list[str | None]:
    """Say what is wrong with each crystal; None for sound ones.

    Args:
        crystals: padded or flat crystals. Atoms in messages are numbered from 0.
    """
    problems: list[str | None] = []
    for batch in _chunks(crystals):
        closest = _closest_pairs(batch)
        lattice = batch.lattice.double()
        lengths, volume = torch.linalg.vector_norm(lattice, dim=-1), _volume(lattice)
        ratio = lengths.amax(-1) / lengths.amin(-1).clamp_min(1e-12)
        angle = _degrees_from_straight(lattice)
        rows = zip(
            batch.num_atoms.tolist(),
            batch.atomic_numbers.amax(-1).tolist(),
            _finite(batch).tolist(),
            volume.tolist(),
            ratio.tolist(),
            angle.tolist(),
            *(column.tolist() for column in closest),
            strict=True,
        )
        problems += [_problem(*row) for row in rows]
    return problems


def shortest_distances(crystals: CrystalBatch | Crystals) -> Tensor:
    """Return the shortest periodic distance in each crystal, ``(B,)`` float64 in angstrom.

    An atom's own images count. The value is exact however skewed the cell is. NaN where
    coordinates or cell are not finite, the cell has no volume, or there is no atom.
    """
    found = [_closest_pairs(batch).distance for batch in _chunks(crystals)]
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.float64)


def _problem(
    atoms: int,
    element: int,
    finite: bool,
    volume: float,
    ratio: float,
    angle: float,
    distance: float,
    first: int,
    second: int,
) -> str | None:
    if atoms == 0:
        return "no atoms"
    if not finite:
        return "not finite"
    if element > MAX_ATOMIC_NUMBER:
        return f"atomic number {element}"
    if not volume > MIN_VOLUME:
        return f"volume {volume:.2g} A^3"
    if ratio > MAX_VECTOR_RATIO:
        return f"longest cell vector is {ratio:.0f} times the shortest"
    if angle < MIN_ANGLE_DEGREE:
        return f"two cell vectors are {angle:.2g} degrees from parallel"
    if not distance > MIN_DISTANCE:
        if first == second:
            return f"atom {first} is {distance:.2f} A from its own image"
        return f"atoms {first} and {second} are {distance:.2f} A apart"
    return None


def _chunks(crystals: CrystalBatch | Crystals) -> Iterator[CrystalBatch]:
    """Cut into batches of bounded memory, in order, each padded to its own size."""
    total = len(crystals)
    if total == 0:
        return
    width = max(int(crystals.num_atoms.max()), 1)
    size = max(1, _CHUNK_ELEMENTS // (27 * (width * (width - 1) // 2 + 1)))
    for start in range(0, total, size):
        rows = slice(start, min(start + size, total))
        if isinstance(crystals, Crystals):
            indices = torch.arange(rows.start, rows.stop, device=crystals.num_atoms.device)
            yield crystals.batch(indices, pad_to=max(int(crystals.num_atoms[rows].max()), 1))
        else:
            used = max(int(crystals.num_atoms[rows].max()), 1)
            yield CrystalBatch(
                crystals.atomic_numbers[rows, :used],
                crystals.frac_coords[rows, :used],
                crystals.lattice[rows],
                crystals.num_atoms[rows],
                check=False,
            )


def _finite(batch: CrystalBatch) -> Tensor:
    coords = torch.isfinite(batch.frac_coords).all(-1) | ~batch.mask
    return coords.all(-1) & torch.isfinite(batch.lattice).flatten(1).all(-1)


def _volume(lattice: Tensor) -> Tensor:
    # the triple product, since LU-based determinants refuse non-finite input on some devices
    a, b, c = lattice.unbind(-2)
    return (a * torch.linalg.cross(b, c)).sum(-1).abs()


def _degrees_from_straight(lattice: Tensor) -> Tensor:
    """Smallest angle between the lines of two cell vectors, ``(B,)`` in degrees, 0 to 90."""
    unit = torch.nn.functional.normalize(lattice, dim=-1)
    a, b, c = unit.unbind(-2)
    sines = [torch.linalg.vector_norm(torch.linalg.cross(x, y), dim=-1) for x, y in
             ((b, c), (a, c), (a, b))]  # fmt: skip
    return torch.rad2deg(torch.arcsin(torch.stack(sines, -1).amin(-1).clamp(max=1.0)))


class _Near(NamedTuple):
    """Squared distances to the nearest images: ``B`` cells, ``P`` pairs ``first < second``."""

    own: Tensor  # (B,) of an atom and its own image
    between: Tensor  # (B, P); infinite where a pair is padding
    first: Tensor  # (P,)
    second: Tensor  # (P,)
    usable: Tensor  # (B,) bool: finite, with volume and atoms


def _nearest_images(batch: CrystalBatch) -> _Near:
    """Look for the nearest image of each atom among 27 in a Minkowski-reduced cell.

    The 27 are enough: with fractional differences in [-1/2, 1/2], the lattice vector nearest to
    a difference has coordinates of at most 1 in a Minkowski-reduced basis of three vectors
    (Nguyen and Stehle, ACM Trans. Algorithms 5, 46 (2009)).
    """
    lattice = batch.lattice.double()
    usable = _finite(batch) & (_volume(lattice) > 1e-9) & (batch.num_atoms > 0)
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
    return _Near(own.amin(-1), between.masked_fill(~real, torch.inf), i, j, usable)


def _closest_pairs(batch: CrystalBatch) -> Closest:
    near = _nearest_images(batch)
    squared, first = near.own, torch.zeros_like(batch.num_atoms)
    second = first
    if batch.width > 1:
        nearest, pair = near.between.min(-1)
        closer = nearest < squared
        squared = torch.where(closer, nearest, squared)
        first = torch.where(closer, near.first[pair], first)
        second = torch.where(closer, near.second[pair], second)
    distance = squared.clamp_min(0).sqrt().masked_fill(~near.usable, torch.nan)
    return Closest(distance, first, second)


def closest_contacts(crystals: CrystalBatch | Crystals) -> Tensor:
    """Return the smallest distance over the sum of two covalent radii, ``(B,)`` float64.

    An atom's own images count. NaN as with `shortest_distances`, and for elements without a radius.
    Radii are those of ``ase.data.covalent_radii`` (Cordero et al., Dalton Trans. 2832 (2008)).
    """
    from ase.data import covalent_radii, missing

    known = torch.from_numpy(covalent_radii)
    known = torch.where(known == missing, torch.nan, known)
    found = []
    for batch in _chunks(crystals):
        near = _nearest_images(batch)
        numbers = batch.atomic_numbers.clamp(0, len(known) - 1).cpu()
        radii = known[numbers].to(near.own.device).masked_fill(~batch.mask, 0.0)
        least = near.own.sqrt() / (2 * radii.amax(-1))
        if batch.width > 1:
            sums = radii[:, near.first] + radii[:, near.second]
            between = near.between.clamp_min(0).sqrt() / sums.clamp_min(1e-9)
            least = torch.minimum(least, between.amin(-1))
        found.append(least.masked_fill(~near.usable, torch.nan))
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.float64)


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


def writable(crystals: CrystalBatch | Crystals) -> Tensor:
    """Return which crystals can be written to a file at all, ``(B,)`` bool: finite, with a cell."""
    parts = [_finite(batch) & (_volume(batch.lattice) > 1e-3) for batch in _chunks(crystals)]
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.bool)
