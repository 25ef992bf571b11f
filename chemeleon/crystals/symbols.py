"""What users write for elements, formulas and space groups, as numbers.

Errors are ConfigErrors: these words come from a command line, a config or a call.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from fractions import Fraction
from functools import cache

from chemeleon.config.requests import MAX_ATOMS, check_atoms, whole_number
from chemeleon.crystals.notation import MAX_ATOMIC_NUMBER, NotationError, amounts, shown
from chemeleon.errors import ConfigError, nearest

SPACE_GROUPS = 230
_OLD_SYMBOLS = {"Abm2": 39, "Aba2": 41, "Cmca": 64, "Cmma": 67, "Ccca": 68}  # without the e glide
_FINEST = 24  # parts of an atom that a formula with fractions may have, as in Li0.125CoO2


def symbol(number: int) -> str:
    """Return the symbol of an element."""
    from ase.data import chemical_symbols

    return chemical_symbols[number]


def element_numbers(symbols: Iterable[str]) -> list[int]:
    """Return the atomic numbers of element symbols, in their order.

    Raises:
        ConfigError: if one is no element, or is beyond einsteinium, the last one that models know.
    """
    from ase.data import chemical_symbols

    known = chemical_symbols[1 : MAX_ATOMIC_NUMBER + 1]
    numbers = []
    for symbol in symbols:
        if symbol not in known:
            raise ConfigError(
                f"'{symbol}' is not the symbol of an element up to {known[-1]}"
                f"{nearest(symbol.capitalize(), known)}"
            )
        numbers.append(known.index(symbol) + 1)
    return numbers


def formula_amounts(formula: str) -> dict[int, float]:
    """Return atomic number to amount of a formula such as ``LiFePO4`` or ``Li0.5CoO2``.

    Deuterium and tritium count as hydrogen. See `chemeleon.crystals.notation` for what is read.

    Raises:
        ConfigError: if it cannot be read, has an element that models do not know, or too many
            atoms for a cell.
    """
    refused = f"{shown(formula)} is not a formula such as LiFePO4, Ca(OH)2 or Si8"
    try:
        found = amounts(formula)
        numbers = element_numbers(found)
    except (NotationError, ConfigError) as error:
        raise ConfigError(f"{refused}: {error}") from None
    check_atoms(f"formula {shown(formula)}", sum(found.values()))
    return dict(zip(numbers, found.values(), strict=True))


def atoms_per_unit(amounts: Iterable[float]) -> int | None:
    """Return the atoms of one reduced formula unit, or None if amounts have no simple ratio.

    No ratio is simple that needs more atoms than a cell may have.
    """
    parts = [Fraction(value).limit_denominator(_FINEST) for value in amounts]
    if any(abs(float(p) - v) > 1e-3 * v for p, v in zip(parts, amounts, strict=True)):
        return None
    scale = math.lcm(*(part.denominator for part in parts))
    counts = [int(part * scale) for part in parts]
    atoms = sum(counts) // math.gcd(*counts)
    return atoms if atoms <= MAX_ATOMS else None


def space_group_number(text: str) -> int:
    """Return the number of a space group, given as number or as Hermann-Mauguin symbol.

    Raises:
        ConfigError: if there is none of that name or number.
    """
    number = whole_number(text)
    if number is not None:
        if 1 <= number <= SPACE_GROUPS:
            return number
        raise ConfigError(f"there is no space group {text}: numbers go from 1 to {SPACE_GROUPS}")
    symbol, known = text.replace("_", "").replace(" ", ""), _space_group_symbols()
    if symbol in known:
        return known[symbol]
    from pymatgen.symmetry.groups import SpaceGroup

    try:  # choices of origin or axes, such as R-3m:H
        return int(SpaceGroup(text).int_number)
    except ValueError:
        raise ConfigError(
            f"'{text}' is neither the number of a space group nor its Hermann-Mauguin symbol, such"
            f" as Fm-3m{nearest(symbol, known)}"
        ) from None


@cache
def _space_group_symbols() -> dict[str, int]:
    """Return the numbers of all settings by symbol, without underscores and spaces."""
    import spglib

    found = dict(_OLD_SYMBOLS)
    for hall in range(1, 531):
        setting = spglib.get_spacegroup_type(hall)
        assert setting is not None
        names = [setting.international_short, setting.international_full]
        for name in (*names, *setting.international.split("=")):
            parts = name.split()
            found[name.replace("_", "").replace(" ", "")] = setting.number
            if len(parts) == 4 and parts.count("1") == 2:  # P 1 2_1/n 1, called P21/n
                short = "".join(part for part in parts if part != "1").replace("_", "")
                found.setdefault(short, setting.number)
    return found
