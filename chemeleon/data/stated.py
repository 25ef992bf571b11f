"""What a CIF says of its own content, held against the atoms that were read from it.

A file that contradicts itself is refused with both values: hydrogens without a place, a cell that
lost its symmetry operations, an atom too many.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping

from chemeleon.crystals.notation import NotationError, amounts_of
from chemeleon.data.cif_items import Items, read_numbers, units
from chemeleon.data.crystal import Array, BadCrystalError
from chemeleon.data.elements import elements
from chemeleon.data.niggli import determinant

_TOLERANCE = 0.01  # of a volume, and of an amount that is no whole number
_CHARGE = re.compile(r"(?<=[\s)\]])(?:\d*[+-]|[+-]\d*)(?=\s|$)")

Amounts = Mapping[str, float]


def stated_formula(items: Items) -> list[Amounts]:
    """Return the meanings of the formula sum, usually one; none where there is no formula.

    Amounts are by element; isotopes of hydrogen count as hydrogen.
    """
    text = items.value("_chemical_formula_sum")
    if text is None:
        return []
    text = _CHARGE.sub(" ", f" {' '.join(text.split())} ").strip()
    spellings = [text]
    if text == text.upper():  # CL may stand for Cl
        spellings.append(re.sub(r"[A-Z]{2}", lambda m: _capital(m[0]), text))
    # CaSO4.2H2O: a point before a number and an element may be no decimal point
    if "." in text:
        spellings += [re.sub(r"\.(?=\d+[A-Z])", "~", s) for s in spellings]
    found = [amounts for amounts in map(formula_amounts, spellings) if amounts]
    return [a for i, a in enumerate(found) if a not in found[:i]]


def _capital(letters: str) -> str:
    return letters.capitalize() if letters.capitalize() in elements() else letters


def formula_amounts(text: str) -> Amounts | None:
    """Return the amounts of a formula such as ``CaSO4`` by element, None for what is none."""
    total: Counter[str] = Counter()
    for part in re.split(r"[~*]|(?<!\d)\.|\.(?!\d)", text):
        match = re.match(r"\s*(\d+\.?\d*)?(.*)", part, re.DOTALL)
        assert match is not None
        written = re.sub(r"[\s,]", "", match[2])
        try:
            found = amounts_of(written) if written else {}
        except NotationError:
            return None
        for symbol, amount in found.items():
            total[symbol] += amount * float(match[1] or 1)  # type: ignore[assignment]
    return dict(total) if total and all(math.isfinite(x) for x in total.values()) else None


def check_stated(
    items: Items, formulas: list[Amounts], symbols: Iterable[str], cell: Array
) -> None:
    """Refuse atoms that are not those of the formula, and a cell that has not the volume.

    Args:
        items: the block.
        formulas: of `stated_formula`.
        symbols: the element of each atom of the cell.
        cell: (3, 3) angstrom.

    Raises:
        BadCrystalError: with what the file says and what was found.
    """
    _check_hydrogens(items)
    _check_volume(items, cell)
    if not formulas:
        return
    found = Counter(symbols)
    number = _units(items)
    if not any(_agree(found, formula, number) for formula in formulas):
        formula = formulas[0]
        said = _words(formula) + (f" (Z = {number:g})" if number else "")
        if formula.get("H") and not found["H"]:
            raise BadCrystalError(
                f"the formula {said} has hydrogen, but no site is one: hydrogens are missing"
            )
        raise BadCrystalError(f"the cell holds {_words(found)}, but the formula is {said}")


def _units(items: Items) -> float | None:
    value = items.value("_cell_formula_units_z")
    if value is None:
        return None
    (found,) = read_numbers([value], "_cell_formula_units_Z")
    return found if found > 0 else None


def _agree(found: Mapping[str, int], formula: Amounts, units: float | None) -> bool:
    if set(found) != {symbol for symbol, amount in formula.items() if amount}:
        return False
    whole = all(x == round(x) for x in (*formula.values(), units or 1))
    tolerance = 1e-6 if whole else _TOLERANCE + 1e-6
    if units is None:
        scales = [sum(found.values()) / sum(formula.values())]
    else:
        scales = [units]
        if _is_of_cell(formula.values(), units):
            scales.append(1.0)
    return any(
        all(abs(n - s * formula[symbol]) <= tolerance * n for symbol, n in found.items())
        for s in scales
    )


def _is_of_cell(amounts: Collection[float], units: float) -> bool:
    """Tell whether a formula sum may be that of the whole cell, as pymatgen writes it.

    Its ``Z`` is then the common divisor, or half of it where the smallest formula is one like O2.
    """
    if any(x != round(x) for x in (*amounts, units)):
        return False
    return math.gcd(*(int(x) for x in amounts)) in (units, 2 * units)


def _check_volume(items: Items, cell: Array) -> None:
    value = items.value("_cell_volume", "_cell_volume_")
    if value is None:
        return
    (stated,) = read_numbers([value], "_cell_volume")
    volume = abs(determinant(cell))
    if abs(volume - stated) > max(_TOLERANCE * volume, *units([value])):
        raise BadCrystalError(f"the cell has {volume:.6g} A^3, but _cell_volume is {stated:g}")


def _check_hydrogens(items: Items) -> None:
    for at, value in enumerate(items.column("_atom_site_attached_hydrogens") or ()):
        if value and value.strip("0.") != "":
            raise BadCrystalError(f"site {at + 1} has {value[:10]} hydrogens without a place")


def _words(amounts: Mapping[str, float]) -> str:
    return " ".join(f"{s}{amounts[s]:g}" for s in sorted(amounts))[:80]
