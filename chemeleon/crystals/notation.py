"""Chemical formulas as people and files write them, in plain Python: no torch, no pymatgen.

Read are brackets, fractions of atoms, subscripts (``Fe₂O₃``, ``Fe_2O_3``), adducts behind a middle
dot (``CaSO4·2H2O``, also ``*``; a full stop where what follows is water) and elements with spaces
between (``Li4 Fe4 P4 O16``). Refused are charges and what may be two formulas.
"""

from __future__ import annotations

import functools
import math
import re

MAX_ATOMIC_NUMBER = 99  # einsteinium, the last element that models know
LONGEST = 1000  # letters of a formula; none that is written by hand is near it
_SHOWN = 60
_DOTS = re.compile(r"\s*[·⋅∙•‧*]\s*(?:([\d./]+)\s+)?")
# Without water behind it a full stop is a decimal point; Li0.5H2O has 0.5 Li all the same
_WATER_DOT = re.compile(r"(?<![^\d]0)(?<!^0)\.(\d+(?:\.\d+)?)?(?=\(?[HD]2O(?![a-z]))")
_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_MARKUP = re.compile(r"_\{?(\d+(?:\.\d+)?)\}?")
_CHARGE = re.compile(r"[+⁺⁻⁰¹²³⁴⁵⁶⁷⁸⁹₊₋^]|\d?[-−](?=$|[\s\])}·])")
_AMOUNT = r"(\d+(?:\.\d+)?|\.\d+)"
_TOKEN = re.compile(rf"([A-Z][a-z]?){_AMOUNT}?|([(\[{{])|([)\]}}]){_AMOUNT}?")
_COEFFICIENT = re.compile(r"(?:(\d+)/(\d+)|(\d+(?:\.\d+)?))(?=[A-Z(\[{])")
_ELEMENT_WORD = re.compile(rf"[A-Z][a-z]?{_AMOUNT}?|[(\[{{].*[)\]}}]{_AMOUNT}?")
_PAIRS = {")": "(", "]": "[", "}": "{"}
ISOTOPES = {"D": "H", "T": "H"}


class NotationError(ValueError):
    """The text is no formula; the message is the reason."""


def plain(text: str) -> str:
    """Return a formula without spaces, subscripts and dots: ``CaSO4·2H2O`` is ``CaSO4(H2O)2``.

    Raises:
        NotationError: for what may be several formulas, and for charges.
    """
    if len(text) > LONGEST:
        raise NotationError(f"it has {len(text):,} letters, more than {LONGEST:,}")
    written = _MARKUP.sub(r"\1", text.translate(_SUBSCRIPTS).replace("$", ""))
    written = _DOTS.sub(r"·\1", _WATER_DOT.sub(r"·\1", written.strip()))
    if not written:
        raise NotationError("it has no atoms")
    if found := _CHARGE.search(written):
        raise NotationError(
            f"'{found[0]}' looks like a charge, and crystals are neutral: leave it out"
        )
    words = [word for word in re.split(r"\s*[,;]\s*|\s+", written) if word]
    listed = re.search(r"[,;]", written) is not None
    if len(words) > 1 and (listed or not all(map(_ELEMENT_WORD.fullmatch, words))):
        shown = " and ".join(words[:2]) if len(words) == 2 else f"{words[0]}, {words[1]}, ..."
        raise NotationError(
            f"it looks like {len(words)} formulas ({shown}): give them one by one"
            " (--formula may be repeated)"
        )
    parts = "".join(words).split("·")
    return "".join(_bracketed(part) for part in parts)


def _bracketed(part: str) -> str:
    """Return a part between dots with its number behind a bracket: ``2H2O`` is ``(H2O)2``."""
    found = _COEFFICIENT.match(part)
    if found is None:
        if not part:
            raise NotationError("there is nothing beside its dot")
        return part
    over, under, number = found.groups()
    if number is None:
        if int(under) == 0:
            raise NotationError(f"{over}/{under} is no number")
        number = f"{int(over) / int(under):.6g}"
    return f"({part[found.end() :]}){number}"


def amounts(text: str) -> dict[str, float]:
    """Return symbol to amount, all above 0, in the order of the formula.

    Deuterium and tritium count as hydrogen.

    Raises:
        NotationError: with the reason.
    """
    return amounts_of(plain(text))


def amounts_of(written: str) -> dict[str, float]:
    """Return `amounts` of a formula that is `plain`."""
    levels: list[tuple[str, dict[str, float]]] = [("", {})]
    place = 0
    while place < len(written):
        found = _TOKEN.match(written, place)
        if found is None:
            raise NotationError(_unexpected(written, place))
        element, amount, opening, closing, times = found.groups()
        if opening:
            levels.append((opening, {}))
        elif closing:
            bracket, inner = levels.pop()
            if bracket != _PAIRS[closing]:
                raise NotationError(f"'{closing}' closes nothing")
            for name, value in inner.items():
                _add(levels[-1][1], name, value * float(times or 1))
        else:
            if amount and amount.startswith("."):
                raise NotationError(f"write {element}0{amount} for an amount, or '·' for a dot")
            name = ISOTOPES.get(element, element)
            if name not in element_symbols():
                raise NotationError(f"'{element}' is the symbol of no element")
            _add(levels[-1][1], name, float(amount or 1))
        place = found.end()
    if len(levels) > 1:
        raise NotationError(f"'{levels[-1][0]}' is not closed")
    result = {name: value for name, value in levels[0][1].items() if value > 0}
    if not result:
        raise NotationError("it has no atoms")
    if not math.isfinite(sum(result.values())):
        raise NotationError("an amount is not a finite number")
    return result


def _add(table: dict[str, float], name: str, value: float) -> None:
    table[name] = table.get(name, 0.0) + value


def _unexpected(written: str, place: int) -> str:
    letter = written[place]
    if letter == ".":
        return "a dot before a part that is not water is written '·' or '*'"
    before = f" after '{written[:place][-_SHOWN:]}'" if place else " at the beginning"
    return f"'{letter}' is not expected{before}"


def shown(text: str) -> str:
    """Return a text as an error names it, cut if it is long."""
    return f"'{text}'" if len(text) <= _SHOWN else f"'{text[: _SHOWN - 3]}...'"


@functools.cache
def element_symbols() -> frozenset[str]:
    """Return the symbols of all elements."""
    from ase.data import chemical_symbols

    return frozenset(chemical_symbols[1:])
