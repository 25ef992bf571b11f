"""Crystals as the potentials take them: flat tensors in double precision, bad ones named.

Shapes: ``M`` crystals, ``A`` atoms of all crystals in a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from chemeleon.crystals.batch import CrystalBatch, FlatCrystals

if TYPE_CHECKING:
    from pymatgen.core import Structure

    Crystals = Sequence[Structure] | FlatCrystals | CrystalBatch

MIN_VOLUME_PER_ATOM = 0.1  # cubic angstrom; nothing real comes near


class Cells(NamedTuple):
    """Crystals, atoms one after the other.

    Attributes:
        numbers: ``(A,)`` int64 atomic numbers.
        frac_coords: ``(A, 3)`` float64.
        lattice: ``(M, 3, 3)`` float64, angstrom, rows a, b, c.
        num_atoms: ``(M,)`` int64.
    """

    numbers: Tensor
    frac_coords: Tensor
    lattice: Tensor
    num_atoms: Tensor

    @property
    def owners(self) -> Tensor:
        """``(A,)`` int64, the crystal of each atom."""
        index = torch.arange(len(self.num_atoms), device=self.num_atoms.device)
        return torch.repeat_interleave(index, self.num_atoms, output_size=len(self.numbers))

    @property
    def cart_coords(self) -> Tensor:
        """``(A, 3)`` Cartesian coordinates in angstrom."""
        return torch.einsum("ai,aij->aj", self.frac_coords, self.lattice[self.owners])

    @property
    def volumes(self) -> Tensor:
        """``(M,)`` cubic angstrom."""
        return torch.linalg.det(self.lattice).abs()

    def subset(self, chosen: Tensor) -> Cells:
        """Return some crystals; ``chosen`` is ``(K,)`` int64, or ``(M,)`` bool."""
        if chosen.dtype == torch.bool:
            chosen = torch.nonzero(chosen).flatten()
        counts = self.num_atoms[chosen]
        starts = (torch.cumsum(self.num_atoms, 0) - self.num_atoms)[chosen]
        atoms = ranges(starts, counts)
        return Cells(self.numbers[atoms], self.frac_coords[atoms], self.lattice[chosen], counts)

    def to(self, device: torch.device | str) -> Cells:
        """Return the crystals on another device."""
        return Cells(*(part.to(device) for part in self))


def ranges(starts: Tensor, counts: Tensor) -> Tensor:
    """Concatenate ``arange(start, start + count)`` of every row."""
    ends = torch.cumsum(counts, 0)
    total = int(ends[-1]) if len(ends) else 0
    shift = torch.repeat_interleave(starts - (ends - counts), counts, output_size=total)
    return shift + torch.arange(total, device=counts.device)


def to_cells(crystals: Crystals) -> tuple[Cells, list[str | None]]:
    """Turn crystals of any form into tensors.

    Args:
        crystals: pymatgen structures, or the project's own tensors (which stay on their device).

    Returns:
        All crystals, and for each a reason why it cannot be used, or None. What could not be read
        at all has no atoms.
    """
    if isinstance(crystals, CrystalBatch):
        crystals = crystals.flatten()
    if isinstance(crystals, FlatCrystals):
        cells = Cells(
            crystals.atomic_numbers,
            crystals.frac_coords.double(),
            crystals.lattice.double(),
            crystals.num_atoms,
        )
        return cells, check(cells, [None] * len(crystals))
    numbers: list[list[int]] = []
    coords, lattices = [], []
    reasons: list[str | None] = []
    for structure in crystals:
        row, reason = _numbers(structure)
        numbers.append(row)
        reasons.append(reason)
        lattices.append(np.eye(3) if reason else structure.lattice.matrix)
        coords.append(np.zeros((0, 3)) if reason else structure.frac_coords)
    flat = np.concatenate([np.zeros((0, 3)), *coords])
    cells = Cells(
        torch.tensor([z for row in numbers for z in row], dtype=torch.int64),
        torch.from_numpy(flat),
        torch.from_numpy(np.array(lattices, dtype=np.float64).reshape(-1, 3, 3)),
        torch.tensor([len(row) for row in numbers], dtype=torch.int64),
    )
    return cells, check(cells, reasons)


def check(cells: Cells, reasons: Sequence[str | None]) -> list[str | None]:
    """Return the given reasons, with one for each crystal that is not finite, flat or empty."""
    owners, count = cells.owners, len(cells.num_atoms)
    bad_atoms = (~torch.isfinite(cells.frac_coords)).any(1)
    bad_coords = torch.zeros(count, dtype=torch.bool, device=owners.device)
    bad_coords[owners[bad_atoms]] = True
    bad_lattice = (~torch.isfinite(cells.lattice)).flatten(1).any(1)
    volume = torch.where(bad_lattice, torch.nan, torch.linalg.det(_finite(cells.lattice)).abs())
    flat = volume < MIN_VOLUME_PER_ATOM * cells.num_atoms
    flags = torch.stack([cells.num_atoms == 0, bad_lattice, bad_coords, flat], 1).tolist()
    words = (
        "the crystal has no atoms",
        "the lattice is not finite",
        "a coordinate is not finite",
        f"the cell holds less than {MIN_VOLUME_PER_ATOM} A^3 per atom",
    )
    found: list[str | None] = []
    for reason, row in zip(reasons, flags, strict=True):
        said = next((text for text, bad in zip(words, row, strict=True) if bad), None)
        found.append(reason or said)
    return found


def _finite(values: Tensor) -> Tensor:
    return torch.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)


def _numbers(structure: Structure | None) -> tuple[list[int], str | None]:
    if structure is None:
        return [], "there is no crystal"
    try:
        numbers = [site.specie.Z for site in structure]
    except AttributeError:
        return [], "the crystal is disordered; only fully occupied sites have an energy"
    for z, site in zip(numbers, structure, strict=True):
        if not 1 <= z <= 118:  # a dummy species
            return [], f"a site holds {site.species_string}, which is no element"
    return numbers, None
