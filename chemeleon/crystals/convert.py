"""Crystals as tensors <-> pymatgen structures.

Coordinates and cells are passed on as they are: reduction to the Niggli cell belongs to `data`.
pymatgen is imported by the functions that need it.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from chemeleon.crystals.batch import MAX_ATOMIC_NUMBER, CrystalBatch, Crystals
from chemeleon.crystals.lattice import wrap
from chemeleon.errors import DataError

if TYPE_CHECKING:
    from pymatgen.core import Structure


def from_structures(
    structures: Sequence[Structure],
    ids: Sequence[str] | None = None,
    targets: Mapping[str, Sequence[float] | Tensor] | None = None,
) -> Crystals:
    """Turn pymatgen structures into flat tensors; order of atoms and orientation are kept.

    Args:
        structures: ordered structures of elements 1 to 99.
        ids: a name for each; numbers from 0 if not given.
        targets: property to one number per structure.

    Returns:
        Crystals with coordinates wrapped into [0, 1).

    Raises:
        DataError: for a disordered site, an element out of range or no atoms; names the crystal
            and the site.
    """
    names = [str(i) for i in range(len(structures))] if ids is None else list(ids)
    numbers = [_numbers(s, n) for s, n in zip(structures, names, strict=True)]
    coords = [np.asarray(s.frac_coords, dtype=np.float64).reshape(-1, 3) for s in structures]
    frac = np.concatenate([np.zeros((0, 3)), *coords])
    cells = np.array([s.lattice.matrix for s in structures], dtype=np.float64).reshape(-1, 3, 3)
    return Crystals(
        atomic_numbers=torch.tensor([z for row in numbers for z in row], dtype=torch.int64),
        frac_coords=wrap(wrap(torch.from_numpy(frac)).to(torch.float32)),
        lattice=torch.from_numpy(cells).to(torch.float32),
        num_atoms=torch.tensor([len(row) for row in numbers], dtype=torch.int64),
        targets={
            name: torch.as_tensor(values, dtype=torch.float32)
            for name, values in (targets or {}).items()
        },
        ids=names,
    )


def to_structures(crystals: Crystals | CrystalBatch) -> list[Structure]:
    """Return pymatgen structures, each with its id (if any) and targets in ``properties``.

    Nothing is checked: a broken crystal (not finite, zero volume) gives a broken structure.
    """
    from pymatgen.core import Composition, Element, Lattice, PeriodicSite, Structure

    # Structure's own ways check every site, from_sites makes each one twice, and a site's
    # constructor takes most of its time to set attributes: sites are copies of one per element
    models: dict[int, dict[str, Any]] = {}
    structures = []
    flat = crystals if isinstance(crystals, Crystals) else crystals.flatten([])
    targets = {name: values.tolist() for name, values in flat.targets.items()}
    with _no_collection():
        for i, (elements, frac, cell) in enumerate(flat):
            numbers, lattice = elements.tolist(), Lattice(cell)
            properties: dict[str, Any] = {"material_id": flat.ids[i]} if flat.ids else {}
            properties |= {name: values[i] for name, values in targets.items()}
            for z in set(numbers) - models.keys():
                element = Composition({Element.from_Z(z): 1})
                models[z] = vars(PeriodicSite(element, frac[0], lattice, skip_checks=True))
            sites = []
            for z, at in zip(numbers, frac, strict=True):
                site = PeriodicSite.__new__(PeriodicSite)
                own = {"_lattice": lattice, "_frac_coords": at, "properties": {}}
                vars(site).update(models[z], **own)
                sites.append(site)
            structure = Structure(lattice, [], [], properties=properties)
            structure.sites = sites
            structures.append(structure)
    return structures


@contextmanager
def _no_collection() -> Iterator[None]:
    """Pause the search for garbage, which would look at all new objects again and again."""
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()


def _numbers(structure: Structure, name: str) -> list[int]:
    if len(structure) == 0:
        raise DataError(f"crystal {name} has no atoms")
    numbers = []
    for index, site in enumerate(structure, start=1):
        if not site.is_ordered:
            raise DataError(
                f"crystal {name} is disordered: site {index} holds {site.species_string};"
                " only fully occupied sites can be used"
            )
        number = int(getattr(site.specie, "Z", 0))
        if not 1 <= number <= MAX_ATOMIC_NUMBER:
            raise DataError(
                f"crystal {name}, site {index}: {site.species_string} has atomic number {number},"
                f" outside 1 to {MAX_ATOMIC_NUMBER}"
            )
        numbers.append(number)
    return numbers
