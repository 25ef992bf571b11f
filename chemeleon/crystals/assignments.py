"""Assignments: the Wyckoff letters of a formula's elements, and which of them a formula allows.

Letters that only differ by a change of axes and origin describe the same crystals, so assignments
are in `canonical.standard` form.

Shapes: ``n`` orbits, ``M`` crystals. No torch here.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from chemeleon.crystals.batch import LETTERS, Array, Crystals
from chemeleon.crystals.canonical import standard
from chemeleon.crystals.orbits import Assignment
from chemeleon.crystals.symbols import symbol
from chemeleon.crystals.wyckoff import group

GROUPS = 230
_KINDS = 32  # more than a group has letters
Counts = tuple[int, ...]  # atoms of each element in the primitive cell
_Supply = tuple[tuple[int, int], ...]  # multiplicity, and how many letters have it


class Letters(NamedTuple):
    """The Wyckoff letters of one group.

    Attributes:
        multiplicities: of each letter, atoms in the primitive cell.
        single: of each letter, whether it is one point that nothing can move, for one orbit only.
        free: the distinct multiplicities of letters for any number of orbits.
    """

    multiplicities: tuple[int, ...]
    single: tuple[bool, ...]
    free: Counts


@functools.cache
def letters_of(number: int) -> Letters:
    """Return the letters of a space group, 1 to 230."""
    table = group(number)
    sizes = tuple(table.multiplicities.tolist())
    single = tuple(not place.free.any() for place in table.places)
    free = {size for size, fixed in zip(sizes, single, strict=True) if not fixed}
    return Letters(sizes, single, tuple(sorted(free)))


def atoms_of(assignment: Assignment) -> dict[int, int]:
    """Return the atoms of the primitive cell: atomic number to how many, lightest first."""
    sizes = np.array(letters_of(assignment.number).multiplicities)[assignment.letters]
    counts = np.bincount(assignment.atomic_numbers, sizes).astype(np.int64)
    return {int(element): int(counts[element]) for element in np.flatnonzero(counts)}


def written(assignment: Assignment) -> tuple[int, str, str]:
    """Return formula units of the primitive cell, space group, and letters of each element.

    Letters have the number of their orbits behind them: ``Li a, P c, O c2 d``.
    """
    import gemmi

    units = math.gcd(*atoms_of(assignment).values())
    # gemmi has H for rhombohedral groups on hexagonal axes
    group_symbol = gemmi.SpaceGroup(assignment.number).short_name().replace("H", "R")
    places, parts = group(assignment.number).places, []
    for element in np.unique(assignment.atomic_numbers).tolist():
        own = assignment.letters[assignment.atomic_numbers == element]
        counts = zip(*np.unique(own, return_counts=True), strict=True)
        named = [places[letter].letter + (str(n) if n > 1 else "") for letter, n in counts]
        parts.append(f"{symbol(element)} {' '.join(named)}")
    return units, f"{group_symbol} ({assignment.number})", ", ".join(parts)


def assignments_of(orbits: Crystals[Array]) -> list[Assignment]:
    """Return the assignment of each of ``M`` crystals with sites, in `canonical.standard` form."""
    assert orbits.sites is not None
    groups, letters = np.divmod(orbits.sites, LETTERS)
    numbers = orbits.atomic_numbers.astype(np.int64)
    found = []
    for start, count in zip(orbits.starts.tolist(), orbits.num_atoms.tolist(), strict=True):
        own = slice(start, start + count)
        found.append(standard(Assignment(int(groups[start]), numbers[own], letters[own])))
    return found


def in_standard_form(orbits: Crystals) -> Crystals:
    """Return crystals with sites in `canonical.standard` form; coordinates are zeros.

    Args:
        orbits: ``M`` crystals as tensors, on the CPU.
    """
    found = assignments_of(orbits.arrays())
    numbers = np.concatenate([np.zeros(0, np.int64), *(one.atomic_numbers for one in found)])
    sites = [one.number * LETTERS + one.letters for one in found]
    whole = np.concatenate([np.zeros(0, np.int64), *sites])
    return replace(
        orbits,
        atomic_numbers=orbits.atomic_numbers.new_tensor(numbers),
        frac_coords=orbits.frac_coords.new_zeros(orbits.frac_coords.shape),
        sites=orbits.num_atoms.new_tensor(whole),
    )


def key_of(assignment: Assignment) -> tuple[int, bytes]:
    """Return what tells a standard assignment from all others."""
    kinds = assignment.atomic_numbers * _KINDS + assignment.letters
    return assignment.number, kinds.tobytes()


def possible_groups(counts: Sequence[int]) -> Array:
    """Return in which space groups a cell can have these atoms, ``(231,)`` bool by number.

    Args:
        counts: atoms of each element in the primitive cell.
    """
    return _possible_groups(tuple(sorted(counts, reverse=True)))


@functools.lru_cache(1 << 14)
def _possible_groups(counts: Counts) -> Array:
    found = np.zeros(GROUPS + 1, bool)
    for number in range(1, GROUPS + 1):
        own = letters_of(number)
        fixed = _supply(number, 0)
        found[number] = _feasible(counts[0], fixed, own.free, counts[1:], (), own.free)
    return found


@functools.lru_cache(1 << 18)
def next_letters(number: int, left: Counts, last: int, used: int) -> Counts:
    """Return the letters that the next orbit may have so that a formula can still be met exactly.

    Orbits come element by element, and those of an element in the order of their letters.

    Args:
        number: of the space group.
        left: atoms that are still to be placed, of the present element and of those after it.
        last: letter of the present element's last orbit; 0 if it has none yet.
        used: letters that one orbit may have and has, as bits.
    """
    own = letters_of(number)
    now, later = left[0], left[1:]
    found = []
    for letter in range(last, len(own.single)):
        size, single = own.multiplicities[letter], own.single[letter]
        if size > now or (single and used >> letter & 1):
            continue
        taken = used | single << letter
        rest, low = (now - size, letter) if size < now else (0, 0)
        if rest:
            allowed = _supply(number, taken, low)
            held = _supply(number, taken, 0, low)
            free = {own.multiplicities[i] for i in range(low, len(own.single)) if not own.single[i]}
            good = _feasible(rest, allowed, tuple(sorted(free)), _sorted(later), held, own.free)
        else:
            good = not later or _feasible(
                later[0], _supply(number, taken), own.free, _sorted(later[1:]), (), own.free
            )
        if good:
            found.append(letter)
    return tuple(found)


def _sorted(counts: Counts) -> Counts:
    return tuple(sorted(counts, reverse=True))


def _supply(number: int, used: int, low: int = 0, high: int = LETTERS) -> _Supply:
    """Return the letters for one orbit that are left from ``low`` to below ``high``."""
    own = letters_of(number)
    sizes = [
        own.multiplicities[letter]
        for letter in range(low, min(high, len(own.single)))
        if own.single[letter] and not used >> letter & 1
    ]
    return tuple((size, sizes.count(size)) for size in sorted(set(sizes)))


@functools.lru_cache(1 << 20)
def _feasible(
    now: int, supply: _Supply, free_now: Counts, later: Counts, held: _Supply, free: Counts
) -> bool:
    """Tell whether atoms of elements can be placed.

    Args:
        now: atoms of the present element.
        supply: letters for one orbit that it may take.
        free_now: multiplicities of the other letters that it may take.
        later: atoms of the other elements.
        held: letters for one orbit that only the others may take.
        free: multiplicities of the other letters that those may take.
    """
    for taken in itertools.product(*(range(count + 1) for _, count in supply)):
        rest = now - sum(size * n for (size, _), n in zip(supply, taken, strict=True))
        if rest < 0 or not _is_sum(rest, free_now):
            continue
        if not later:
            return True
        left = dict(held)
        for (size, count), n in zip(supply, taken, strict=True):
            left[size] = left.get(size, 0) + count - n
        kept = tuple(sorted((size, n) for size, n in left.items() if n))
        if _feasible(later[0], kept, free, later[1:], (), free):
            return True
    return False


@functools.lru_cache(1 << 14)
def _is_sum(total: int, sizes: Counts) -> bool:
    """Tell whether a number is a sum of others, each taken any number of times."""
    if total == 0:
        return True
    return any(size <= total and _is_sum(total - size, sizes) for size in sizes)
