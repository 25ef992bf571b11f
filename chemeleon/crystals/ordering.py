"""The order in which a model sees the atoms of a crystal.

Models embed an atom's place in its cell, and files have their order from whatever wrote them. One
that follows from the crystal puts like crystals side by side. Whoever asks for a formula has no
other order to give than one that follows from the formula, so training must use the same.

Shapes: ``M`` crystals of a set, ``A`` atoms of a set, ``N`` padded atoms.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Literal

import torch
from torch import Tensor

from chemeleon.crystals.batch import MAX_ATOMIC_NUMBER, Crystals
from chemeleon.crystals.lattice import wrap
from chemeleon.errors import ConfigError

Order = Literal["file", "number", "canonical"]
BINS = 24  # of a cell edge: special positions, mostly twenty-fourths, are far from their borders
CHUNK = 1 << 16  # crystals at a time


def arrange_atoms(atoms: Sequence[int], order: Order) -> list[int]:
    """Return the atoms of a formula as ``arrange`` would put those of its crystals.

    Raises:
        ConfigError: if they have no order that follows from the formula.
    """
    if order == "file":
        raise ConfigError(
            "the atoms of a formula have no order: train with vae.atom_order=canonical"
        )
    if order == "number":
        return sorted(atoms)
    counts, places = Counter(atoms), mendeleev_numbers().tolist()
    return sorted(atoms, key=lambda z: (counts[z], places[z]))


def arrange(crystals: Crystals, order: Order) -> Crystals:
    """Return the crystals with their atoms in this order.

    ``file``: as they are. The others give an order of elements that follows from the formula.
    ``number``: by atomic number; atoms of one element keep their order. ``canonical``: elements
    with fewest atoms first, then by Mendeleev number; one atom of the first element is the origin,
    and atoms of one element go by their coordinates. Crystals of one structure type then have like
    coordinates in like places, whatever the elements, origins and files (docs/csp.md has how many).
    No Python per crystal.
    """
    if order == "file" or len(crystals) == 0:
        return crystals
    put = _by_number if order == "number" else _canonical
    parts = [put(part) for part in crystals.cut(CHUNK)]
    numbers, coordinates = zip(*parts, strict=True)
    return replace(crystals, atomic_numbers=torch.cat(numbers), frac_coords=torch.cat(coordinates))


def _sorted(crystals: Crystals, ranks: Tensor) -> Tensor:
    """Return ``(A,)`` atoms by crystal, then rank, then place."""
    return torch.argsort(crystals.owners * (int(ranks.max()) + 1) + ranks, stable=True)


def _by_number(crystals: Crystals) -> tuple[Tensor, Tensor]:
    order = _sorted(crystals, crystals.atomic_numbers)
    return crystals.atomic_numbers[order], crystals.frac_coords[order]


def _canonical(crystals: Crystals) -> tuple[Tensor, Tensor]:
    """Return elements and coordinates in canonical order."""
    size, classes = len(crystals), MAX_ATOMIC_NUMBER + 1
    kind = crystals.owners * classes + crystals.atomic_numbers
    counts = torch.bincount(kind, minlength=size * classes)
    ranks = counts[kind] * 1000 + mendeleev_numbers()[crystals.atomic_numbers]
    order = _sorted(crystals, ranks)
    atoms, places = crystals.atomic_numbers[order], crystals.frac_coords[order]
    ordered = replace(crystals, atomic_numbers=atoms, frac_coords=places)
    batch = ordered.batch(torch.arange(size))
    types, mask, coords = batch.atomic_numbers, batch.mask, batch.frac_coords
    changes = torch.zeros_like(types, dtype=torch.int32)
    changes[:, 1:] = types[:, 1:] != types[:, :-1]
    element = changes.cumsum(1, dtype=torch.int32)  # 0 for the first one
    origin = torch.zeros_like(batch.num_atoms)
    candidates = ((element == 0) & mask).sum(1)
    best, _ = _keys(coords - coords[:, :1], element, mask).sort(1)
    for atom in range(1, int(candidates.max())):
        rows = torch.nonzero(candidates > atom).squeeze(1)
        here, before = coords[rows], best[rows]
        keys, _ = _keys(here - here[:, atom : atom + 1], element[rows], mask[rows]).sort(1)
        at = (keys != before).int().argmax(1, keepdim=True)
        smaller = (keys.gather(1, at) < before.gather(1, at)).squeeze(1)
        best[rows[smaller]] = keys[smaller]
        origin[rows[smaller]] = atom
    moved = coords - coords.gather(1, origin.view(-1, 1, 1).expand(-1, 1, 3))
    order = _keys(moved, element, mask).argsort(dim=1, stable=True)
    return (
        types.gather(1, order)[mask],
        wrap(moved).gather(1, order.unsqueeze(-1).expand(-1, -1, 3))[mask],
    )


def _keys(frac_coords: Tensor, element: Tensor, mask: Tensor) -> Tensor:
    """Return what atoms are sorted by, ``(M, N)`` int32: element, then binned coordinates."""
    bins = torch.round(frac_coords * BINS)
    x, y, z = (bins - BINS * torch.floor(bins / BINS)).int().unbind(-1)
    keys = ((element * BINS + x) * BINS + y) * BINS + z
    return keys.masked_fill(~mask, torch.iinfo(keys.dtype).max)


@cache
def mendeleev_numbers() -> Tensor:
    """Return every element's place in Pettifor's order, ``(100,)``: like elements side by side."""
    from pymatgen.core import Element

    places = [Element.from_Z(z).mendeleev_no for z in range(1, MAX_ATOMIC_NUMBER + 1)]
    return torch.tensor([0, *(round(place) for place in places)])
