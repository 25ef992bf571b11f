"""Compositions as vectors over the elements."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING

from chemeleon.crystals.notation import NotationError, amounts, element_symbols, shown
from chemeleon.errors import DataError

if TYPE_CHECKING:
    from pymatgen.core import Composition

    Formula = str | Mapping[str, float] | Composition

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
    found: dict[str, float] = {}
    for key, value in formula.items():
        symbol = str(getattr(key, "symbol", key))
        found[symbol] = found.get(symbol, 0.0) + float(value)
    return _normalise(found, str(formula))


def formula_of(parts: Fractions) -> str:
    """Return the reduced formula in the order of symbols, such as ``FeLiO4P``."""
    least = min(share for _, share in parts)
    counts = [share for _, share in parts]
    for factor in range(1, 201):
        multiples = [share / least * factor for _, share in parts]
        if all(abs(m - round(m)) < 2e-8 * factor for m in multiples):
            counts = [float(round(m)) for m in multiples]
            break
    words = ((s, f"{a:.12g}") for (s, _), a in zip(parts, counts, strict=True))
    return "".join(symbol + ("" if amount == "1" else amount) for symbol, amount in words)


@functools.lru_cache(maxsize=200_000)
def _parse(text: str) -> Fractions:
    try:
        return _normalise(amounts(text), text)
    except NotationError as error:
        raise DataError(f"{shown(text)} is no chemical formula: {error}") from None


def _normalise(found: dict[str, float], text: str) -> Fractions:
    unknown = [symbol for symbol in found if symbol not in element_symbols()]
    total = sum(found.values())
    if unknown or not 0 < total < float("inf") or min(found.values()) < 0:
        what = f": {unknown[0]} is no element" if unknown else ""
        raise DataError(f"'{text}' is no chemical formula{what}")
    shares = [(s, round(a / total, 12)) for s, a in sorted(found.items())]
    return tuple((s, share) for s, share in shares if share > 0)  # less is rounding
