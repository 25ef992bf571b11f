"""Compositions as vectors over the elements."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from chemeleon.errors import DataError

if TYPE_CHECKING:
    from pymatgen.core import Composition

    Formula = str | Mapping[str, float] | Composition

_SIMPLE = re.compile(r"(?:[A-Z][a-z]?(?:\d+(?:\.\d+)?)?)+")
_PART = re.compile(r"([A-Z][a-z]?)(\d+(?:\.\d+)?)?")

Fractions = tuple[tuple[str, float], ...]


def fractions(formula: Formula) -> Fractions:
    """Return (symbol, atomic fraction) pairs, ordered by symbol; the same for equal compositions.

    Args:
        formula: a formula, amounts by symbol, or a pymatgen composition.

    Raises:
        DataError: if it is none, names something that is no element, or is empty.
    """
    if isinstance(formula, str):
        return _parse(formula)
    amounts: dict[str, float] = {}
    for key, value in formula.items():
        symbol = str(getattr(key, "symbol", key))
        amounts[symbol] = amounts.get(symbol, 0.0) + float(value)
    return _normalise(amounts, str(formula))


def formula_of(parts: Fractions) -> str:
    """Return the reduced formula in the order of symbols, such as ``FeLiO4P``."""
    least = min(share for _, share in parts)
    amounts = [share for _, share in parts]
    for factor in range(1, 201):
        multiples = [share / least * factor for _, share in parts]
        if all(abs(m - round(m)) < 2e-8 * factor for m in multiples):
            amounts = [float(round(m)) for m in multiples]
            break
    words = ((s, f"{a:.12g}") for (s, _), a in zip(parts, amounts, strict=True))
    return "".join(symbol + ("" if amount == "1" else amount) for symbol, amount in words)


@functools.lru_cache(maxsize=200_000)
def _parse(text: str) -> Fractions:
    if not _SIMPLE.fullmatch(text):  # brackets, spaces, charges
        from pymatgen.core import Composition

        try:
            return fractions(Composition(text))
        except (ValueError, KeyError) as error:
            raise DataError(f"'{text}' is no chemical formula: {error}") from error
    amounts: dict[str, float] = {}
    for symbol, number in _PART.findall(text):
        amounts[symbol] = amounts.get(symbol, 0.0) + float(number or 1)
    return _normalise(amounts, text)


def _normalise(amounts: dict[str, float], text: str) -> Fractions:
    unknown = [symbol for symbol in amounts if symbol not in _symbols()]
    total = sum(amounts.values())
    if unknown or not 0 < total < float("inf") or min(amounts.values()) < 0:
        what = f": {unknown[0]} is no element" if unknown else ""
        raise DataError(f"'{text}' is no chemical formula{what}")
    return tuple((s, round(a / total, 12)) for s, a in sorted(amounts.items()) if a > 0)


@functools.cache
def _symbols() -> frozenset[str]:
    from ase.data import chemical_symbols

    return frozenset(chemical_symbols[1:])
