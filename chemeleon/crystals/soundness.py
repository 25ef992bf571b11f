"""Whether crystals are structurally sound: finite, with volume, atoms apart, a cell one can use.

Shapes: ``B`` crystals, ``N`` atoms of the padded cell, ``P`` pairs of atoms. Lengths in angstrom.

Thresholds on volume and distance are CDVAE's (Xie et al., arXiv:2110.06197, section 5.2). Cells
with vectors or angles beyond the limits below are refused as well: pymatgen's reduction and
matching take minutes on them, or its CIF reader does not take back what its writer wrote.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chemeleon.crystals.batch import MAX_ATOMIC_NUMBER, Array, CrystalBatch, Crystals
from chemeleon.crystals.neighbours import cell_volume, finite, nearest_images

MIN_DISTANCE = 0.5
MIN_CONTACT = 0.75  # of distance and covalent radii; 0.7 % of 4,500 of MP-20 have a shorter one
MIN_VOLUME = 0.1
MAX_VECTOR_RATIO = 100.0
MIN_ANGLE_DEGREE = 1.0
_LIKE_SIZE = 512  # crystals of like size taken together
_CHUNK_ELEMENTS = 4_000_000  # (pairs x images) held at a time, 8 bytes each


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
        checks = _checks(batch)
        failed = torch.stack([failed for failed, _ in checks], -1)
        first = failed.int().argmax(-1).tolist()
        found = zip(failed.any(-1).tolist(), first, strict=True)
        problems += [checks[at][1](row) if bad else None for row, (bad, at) in enumerate(found)]
    return problems


def unsound(crystals: CrystalBatch | Crystals) -> Tensor:
    """Return which crystals have a problem of `structural_problems`, ``(B,)`` bool."""
    found = [
        torch.stack([failed for failed, _ in _checks(batch)]).any(0) for batch in _chunks(crystals)
    ]
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.bool)


def shortest_distances(crystals: CrystalBatch | Crystals) -> Tensor:
    """Return the shortest periodic distance in each crystal, ``(B,)`` float64 in angstrom.

    An atom's own images count. The value is exact however skewed the cell is. NaN where
    coordinates or cell are not finite, the cell has no volume, or there is no atom.
    """
    found = [_closest_pairs(batch).distance for batch in _chunks(crystals)]
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.float64)


def _checks(batch: CrystalBatch) -> list[tuple[Tensor, Callable[[int], str]]]:
    """Return what can be wrong, the worst first: ``(B,)`` bool, and what to say of a crystal."""
    closest, lattice = _closest_pairs(batch), batch.lattice.double()
    lengths, volume = torch.linalg.vector_norm(lattice, dim=-1), cell_volume(lattice)
    ratio = lengths.amax(-1) / lengths.amin(-1).clamp_min(1e-12)
    angle, element = _degrees_from_straight(lattice), batch.atomic_numbers.amax(-1)

    def too_close(row: int) -> str:
        distance, first, second = (column[row] for column in closest)
        if first == second:
            return f"atom {first} is {distance:.2f} A from its own image"
        return f"atoms {first} and {second} are {distance:.2f} A apart"

    return [
        (batch.num_atoms == 0, lambda row: "no atoms"),
        (~finite(batch), lambda row: "not finite"),
        (element > MAX_ATOMIC_NUMBER, lambda row: f"atomic number {element[row]}"),
        (~(volume > MIN_VOLUME), lambda row: f"volume {volume[row]:.2g} A^3"),
        (
            ratio > MAX_VECTOR_RATIO,
            lambda row: f"longest cell vector is {ratio[row]:.0f} times the shortest",
        ),
        (
            angle < MIN_ANGLE_DEGREE,
            lambda row: f"two cell vectors are {angle[row]:.2g} degrees from parallel",
        ),
        (~(closest.distance > MIN_DISTANCE), too_close),
    ]


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


def _degrees_from_straight(lattice: Tensor) -> Tensor:
    """Smallest angle between the lines of two cell vectors, ``(B,)`` in degrees, 0 to 90."""
    unit = torch.nn.functional.normalize(lattice, dim=-1)
    a, b, c = unit.unbind(-2)
    sines = [torch.linalg.vector_norm(torch.linalg.cross(x, y), dim=-1) for x, y in
             ((b, c), (a, c), (a, b))]  # fmt: skip
    return torch.rad2deg(torch.arcsin(torch.stack(sines, -1).amin(-1).clamp(max=1.0)))


def _closest_pairs(batch: CrystalBatch) -> Closest:
    near = nearest_images(batch)
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
        near = nearest_images(batch)
        numbers = batch.atomic_numbers.clamp(0, len(known) - 1).cpu()
        radii = known[numbers].to(near.own.device).masked_fill(~batch.mask, 0.0)
        least = near.own.sqrt() / (2 * radii.amax(-1))
        if batch.width > 1:
            sums = radii[:, near.first] + radii[:, near.second]
            between = near.between.clamp_min(0).sqrt() / sums.clamp_min(1e-9)
            least = torch.minimum(least, between.amin(-1))
        found.append(least.masked_fill(~near.usable, torch.nan))
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.float64)


def close_contacts(crystals: CrystalBatch | Crystals) -> Tensor:
    """Return which crystals have atoms nearer than `MIN_CONTACT` of their radii, ``(B,)`` bool."""
    return closest_contacts(crystals) < MIN_CONTACT


def writable(crystals: CrystalBatch | Crystals) -> Tensor:
    """Return which crystals can be written to a file at all, ``(B,)`` bool: finite, with a cell."""
    parts = [finite(batch) & (cell_volume(batch.lattice) > 1e-3) for batch in _chunks(crystals)]
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.bool)


def by_size(crystals: Crystals[Array]) -> Iterator[tuple[NDArray[np.int64], Crystals]]:
    """Yield rows and tensors of those that have atoms, like sizes together: little padding."""
    rows = np.flatnonzero(crystals.num_atoms)
    rows = rows[np.argsort(crystals.num_atoms[rows], kind="stable")]
    for begin in range(0, len(rows), _LIKE_SIZE):
        part = rows[begin : begin + _LIKE_SIZE]
        yield part, crystals.subset(part).tensors()


def of_each(
    function: Callable[[Crystals], Tensor], crystals: Crystals[Array]
) -> NDArray[np.float64]:
    """Return what a function of crystals says of each, ``(C,)``; NaN for those without atoms."""
    found = np.full(len(crystals), np.nan)
    for part, flat in by_size(crystals):
        found[part] = function(flat).numpy()
    return found
