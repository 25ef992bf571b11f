"""Formulas as lists of atoms, and how many formula units crystals hold.

Shapes: ``M`` crystals of a set.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from chemeleon.crystals.batch import MAX_ATOMIC_NUMBER, Crystals
from chemeleon.crystals.symbols import formula_amounts, symbol
from chemeleon.errors import ConfigError

CHUNK = 1 << 16  # crystals at a time: their table of elements is larger than they are
PSEUDO_CRYSTALS = 5.0  # weight of what is true of all formulas, see `likely_units`


def parse_formula(text: str) -> list[int]:
    """Return the atoms of one formula as it is written, as sorted atomic numbers.

    Raises:
        ConfigError: if it is no formula, has fractions of atoms, or an element beyond 99.
    """
    atoms: list[int] = []
    for number, amount in formula_amounts(text).items():
        if amount != round(amount):
            raise ConfigError(
                f"formula '{text}' has {amount:g} atoms of {symbol(number)}: whole"
                " numbers are needed, so name the formula of a whole cell"
            )
        atoms += [number] * round(amount)
    return sorted(atoms)


def reduced(atoms: Mapping[int, int]) -> tuple[dict[int, int], int]:
    """Return the reduced formula of atoms, lightest first, and how many units of it they are.

    Args:
        atoms: atomic number to how many.
    """
    units = math.gcd(*atoms.values())
    return {element: count // units for element, count in sorted(atoms.items())}, units


def formula_units(crystals: Crystals) -> Tensor:
    """Return how many units of its reduced formula each crystal has, ``(M,)`` int64."""
    return torch.cat([_units(part) for part in crystals.cut(CHUNK)])


def _units(crystals: Crystals) -> Tensor:
    place = crystals.owners * (MAX_ATOMIC_NUMBER + 1) + crystals.atomic_numbers
    shape = (len(crystals), MAX_ATOMIC_NUMBER + 1)
    counts = torch.bincount(place, minlength=math.prod(shape)).view(shape)
    units = counts[:, 0]
    for element in range(1, MAX_ATOMIC_NUMBER + 1):
        units = torch.gcd(units, counts[:, element])
    return units


def atom_histogram(crystals: Crystals) -> Tensor:
    """Return how many crystals have 0, 1, 2, ... atoms, ``(largest + 1,)`` int64."""
    return torch.bincount(crystals.num_atoms)


def formula_histogram(crystals: Crystals) -> Tensor:
    """Count crystals by atoms of the reduced formula and of the cell, ``(largest + 1,) * 2``."""
    largest = int(crystals.num_atoms.max())
    reduced = crystals.num_atoms // formula_units(crystals)
    place = reduced * (largest + 1) + crystals.num_atoms
    return torch.bincount(place, minlength=(largest + 1) ** 2).view(largest + 1, largest + 1)


def likely_units(atoms: Sequence[int], histogram: Tensor) -> dict[int, float]:
    """Return the shares of the numbers of units of a formula that training crystals suggest.

    Cells of formulas with as many atoms count fully; a few pseudo-crystals spread like cells of
    whatever formula stand beside them, for formulas like none in the training set.

    Args:
        atoms: of one formula unit.
        histogram: see ``formula_histogram``.
    """
    table = histogram.double().cpu()
    length, largest = len(atoms), len(table) - 1
    reduced = length // math.gcd(*Counter(atoms).values())
    if length > largest:
        return {}
    sizes = torch.arange(length, largest + 1, length)
    everything = table.sum(0)[sizes]
    weights = everything / everything.sum().clamp_min(1) * PSEUDO_CRYSTALS
    if reduced <= largest:
        weights = weights + table[reduced][sizes]
    shares = (weights / weights.sum().clamp_min(1e-12)).tolist()
    units = (sizes // length).tolist()
    return {u: share for u, share in zip(units, shares, strict=True) if share > 0}
