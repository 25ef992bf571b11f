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
        closest = _closest_pairs(batch)
        lattice = batch.lattice.double()
        lengths, volume = torch.linalg.vector_norm(lattice, dim=-1), cell_volume(lattice)
        ratio = lengths.amax(-1) / lengths.amin(-1).clamp_min(1e-12)
        angle = _degrees_from_straight(lattice)
        rows = zip(
            batch.num_atoms.tolist(),
            batch.atomic_numbers.amax(-1).tolist(),
            finite(batch).tolist(),
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
