"""The order in which a model that is told the elements sees the atoms of a crystal.

Shapes: ``M`` crystals of a set, ``A`` atoms of a set.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from chemeleon.crystals.batch import FlatCrystals


def by_element(crystals: FlatCrystals) -> FlatCrystals:
    """Return the crystals with atoms in order of atomic number, otherwise in the order they had.

    Models embed an atom's place in its cell. Whoever asks for a formula has no other order to give
    than one that follows from the formula, so training must use the same; files have theirs from
    whatever wrote them. Atoms of one element keep their order: it goes by symmetry in most files,
    and so says something. All ``A`` atoms at once, on the device of the set.
    """
    owner = torch.repeat_interleave(crystals.num_atoms)
    first = torch.argsort(crystals.atomic_numbers, stable=True)
    order = first[torch.argsort(owner[first], stable=True)]
    return replace(
        crystals,
        atomic_numbers=crystals.atomic_numbers[order],
        frac_coords=crystals.frac_coords[order],
    )
