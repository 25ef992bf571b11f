"""Crystals of any form as the potentials take them: tensors in double precision, bad ones named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from chemeleon.crystals.batch import Crystal, CrystalBatch, Crystals
from chemeleon.data.parse import BadCrystalError, from_structure

if TYPE_CHECKING:
    from pymatgen.core import Structure

    AnyCrystals = Sequence[Structure] | Crystals | CrystalBatch

MIN_VOLUME_PER_ATOM = 0.1  # cubic angstrom; nothing real comes near
_MAX_ELEMENT = 118


def to_tensors(crystals: AnyCrystals) -> tuple[Crystals, list[str | None]]:
    """Turn crystals of any form into tensors in float64.

    Args:
        crystals: pymatgen structures, or the project's own forms (tensors stay on their device).

    Returns:
        All crystals, and for each a reason why it cannot be used, or None. What could not be read
        at all has no atoms.
    """
    if isinstance(crystals, CrystalBatch):
        crystals = crystals.flatten()
    if isinstance(crystals, Crystals):
        # without names and targets, which every step of a relaxation would take along
        found = replace(crystals, targets={}, ids=[], check=False).tensors()
        return found, check(found, [None] * len(found))
    read = [_arrays(structure) for structure in crystals]
    found = Crystals.of([None if isinstance(one, str) else one for one in read]).tensors()
    return found, check(found, [one if isinstance(one, str) else None for one in read])


def check(crystals: Crystals, reasons: Sequence[str | None]) -> list[str | None]:
    """Return the given reasons, with one for each crystal that is not finite, flat or empty."""
    owners, lattice = crystals.owners, crystals.lattice
    bad_coords = torch.zeros(len(crystals), dtype=torch.bool, device=owners.device)
    bad_coords[owners[(~torch.isfinite(crystals.frac_coords)).any(1)]] = True
    bad_lattice = (~torch.isfinite(lattice)).flatten(1).any(1)
    finite = torch.nan_to_num(lattice, nan=0.0, posinf=0.0, neginf=0.0)
    volume = torch.where(bad_lattice, torch.nan, torch.linalg.det(finite).abs())
    flat = volume < MIN_VOLUME_PER_ATOM * crystals.num_atoms
    flags = torch.stack([crystals.num_atoms == 0, bad_lattice, bad_coords, flat], 1).tolist()
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


def _arrays(structure: Structure | None) -> Crystal | str:
    if structure is None:
        return "there is no crystal"
    try:
        crystal = from_structure(structure)
    except BadCrystalError as error:
        return str(error)
    for z, site in zip(crystal.atomic_numbers.tolist(), structure, strict=True):
        if not 1 <= z <= _MAX_ELEMENT:  # a dummy species
            return f"a site holds {site.species_string}, which is no element"
    return crystal
