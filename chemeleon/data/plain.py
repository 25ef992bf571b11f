"""Words that texts of crystals share: symbols, numbers, vectors. No torch: workers import it."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence

import numpy as np

from chemeleon.crystals.notation import ISOTOPES
from chemeleon.data.crystal import Array, BadCrystalError
from chemeleon.data.elements import elements

_NUMBER = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))(?:[eEdD]([+-]?\d+))?", re.ASCII)


@functools.cache
def symbol_numbers() -> dict[str, int]:
    """Return symbol to atomic number; deuterium and tritium are hydrogen."""
    found = {symbol: number for symbol, (number, _) in elements().items()}
    return found | {isotope: found[symbol] for isotope, symbol in ISOTOPES.items()}


def number(word: str) -> float:
    """Return a number as programs write it, ``1.0D-3`` of Fortran too.

    Raises:
        ValueError: if it is none; the message is the word.
    """
    plain = _NUMBER.fullmatch(word)
    if plain is None:
        raise ValueError(repr(word[:40]))
    return float(f"{plain[1]}e{plain[2] or 0}")


def plain_value(word: str) -> float | str:
    """Return a number where a word is one, else the word."""
    try:
        return number(word)
    except ValueError:
        return word


def numbers(words: Sequence[str], what: str) -> Array:
    """Return numbers, ``(len(words),)``.

    Raises:
        BadCrystalError: if one is none; the message begins with ``what``.
    """
    try:
        return np.array([number(word) for word in words], dtype=np.float64)
    except ValueError as error:
        raise BadCrystalError(f"{what} is no number: {error}") from None


def fractional(positions: Array, lattice: Array) -> Array:
    """Return Cartesian positions ``(N, 3)`` as fractional coordinates.

    Raises:
        BadCrystalError: if the cell has no volume.
    """
    with np.errstate(all="ignore"):
        try:
            return positions @ np.linalg.inv(lattice)
        except np.linalg.LinAlgError:
            raise BadCrystalError("zero volume: the vectors of the cell lie in a plane") from None


def short(line: str) -> str:
    """Return the start of a line, for a message."""
    return " ".join(line[:400].split())[:40]


class Lines:
    """Lines of a text one after the other; io.StringIO would take four bytes for each letter."""

    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0

    def readline(self) -> str:
        """Return the next line with its end, or an empty text."""
        end = self.text.find("\n", self.at) + 1 or len(self.text)
        line, self.at = self.text[self.at : end], end
        return line
