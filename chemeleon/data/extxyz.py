"""Extended XYZ by hand: frames are found one by one, so a bad one costs the others nothing.

A frame is a line with its number of atoms, a line of ``key=value`` and a line per atom. Read are
``Lattice`` (rows a, b, c), ``pbc`` and ``Properties``; positions are Cartesian, angstrom.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from chemeleon.data.crystal import BadCrystalError, Crystal
from chemeleon.data.limits import Limits
from chemeleon.data.plain import Lines, fractional, numbers, short, symbol_numbers

_LONGEST = 1 << 17  # letters of a line
_COUNT = re.compile(r"\s*\+?(\d{1,18})\s*")
_QUOTED = r'"(?:[^"\\]|\\.)*"|' + r"'(?:[^'\\]|\\.)*'"
_PAIR = re.compile(
    rf"({_QUOTED}|[^\s=]+)(?:\s*=\s*({_QUOTED}|\{{[^}}]*\}}|\[[^\]]*\]+(?:\s*,\s*\[[^\]]*\]+)*|\S*))?"
)
_FORM = {"lattice", "properties", "pbc"}
_MARKS = re.compile(r"[\[\]{},]")  # of lists
_DEFAULT_PROPERTIES = "species:S:1:pos:R:3"
_SPECIES, _NUMBERS = ("species", "symbols", "element", "elements"), ("z", "numbers")
_POSITIONS = ("pos", "positions", "position")
_TRUE, _FALSE = {"t", "true", "1", ".true."}, {"f", "false", "0", ".false."}


class Frame(NamedTuple):
    """One frame as found: its text, or what is wrong with it."""

    text: str
    problem: str | None


def frames(text: str, limits: Limits) -> Iterator[Frame]:
    """Yield the frames of a file; after one that does not end where it says, the next is sought."""
    lines = Lines(text)
    ahead: list[str] = []

    def take() -> str:
        return ahead.pop() if ahead else lines.readline()

    while line := take():
        if not line.strip():
            continue
        match = _COUNT.fullmatch(line.rstrip("\r\n"))
        if match is None:
            problem: str | None = f"'{short(line)}' is no number of atoms"
            _skip(take, ahead)
            yield Frame("", problem)
            continue
        count, comment, atoms = int(match[1]), take(), []
        problem = limits.over("atoms", count) if count > limits.atoms else None
        while problem is None and len(atoms) < count:
            atom = take()
            after = take()
            ahead.append(after)
            if not atom or _starts(atom, after):
                ahead.append(atom)
                problem = f"is cut short: {len(atoms)} of {count} atoms are there"
            else:
                atoms.append(atom)
        if problem is None:
            after = take()
            ahead.append(after)
            if after.strip() and _COUNT.fullmatch(after.rstrip("\r\n")) is None:
                problem = f"after its {count} atoms stands '{short(after)}', no number of atoms"
        if problem is not None:
            _skip(take, ahead)
        yield Frame("".join([comment.rstrip("\r\n") + "\n", *atoms]), problem)


def _starts(line: str, after: str) -> bool:
    """Tell whether a frame starts here: a number alone, before a line with a cell."""
    return _COUNT.fullmatch(line.rstrip("\r\n")) is not None and "lattice=" in after.lower()


def _skip(take: Any, ahead: list[str]) -> None:
    """Go to the line that the next frame starts with."""
    line = take()
    while line:
        after = take()
        if _starts(line, after):
            ahead += [after, line]
            return
        line = after


def pairs(comment: str) -> dict[str, str]:
    """Return the keys and values of a frame's second line; a key alone is true."""
    if len(comment) > _LONGEST:
        raise BadCrystalError(f"its second line has {len(comment):,} letters, over {_LONGEST:,}")
    found: dict[str, str] = {}
    for match in _PAIR.finditer(comment):
        key, value = (_bare(word) for word in (match[1], match[2] or ""))
        if match[2] and match[2][0] == '"' and (len(match[2]) == 1 or match[2][-1] != '"'):
            raise BadCrystalError(f"the quotes of '{key[:40]}' are not closed")
        if key in found:
            raise BadCrystalError(f"'{key[:40]}' stands twice in its second line")
        found[key] = value if match[2] is not None else "T"
    return found


def _bare(word: str) -> str:
    if len(word) > 1 and word[0] in "\"'" and word[-1] == word[0]:
        return re.sub(r"\\(.)", r"\1", word[1:-1])
    return word


def values(comment: str) -> dict[str, str]:
    """Return what a frame says of its crystal: all keys but those of its form."""
    found = pairs(comment).items()
    return {k: v for k, v in found if k.lower() not in _FORM and v[:1] not in "[{"}


def read_frame(text: str, limits: Limits) -> Crystal:
    """Return the crystal of one frame (second line and atoms, as `frames` gives them).

    Raises:
        BadCrystalError: with the reason.
    """
    comment, _, rest = text.partition("\n")
    given: dict[str, str] = {}
    for key, value in pairs(comment).items():
        if key.lower() in _FORM & given.keys():
            raise BadCrystalError(f"'{key}' stands twice in its second line")
        given[key.lower()] = value
    if "lattice" not in given:
        raise BadCrystalError("no Lattice in its second line: a crystal needs a cell")
    lattice = numbers(_MARKS.sub(" ", given["lattice"]).split(), "Lattice")
    if lattice.shape != (9,):
        raise BadCrystalError(f"Lattice has {lattice.size} numbers, not 9")
    lattice = lattice.reshape(3, 3)
    _check_periodic(given.get("pbc", "T T T"))
    rows = [line.split() for line in rest.splitlines()]
    if len(rows) > limits.atoms:
        raise BadCrystalError(limits.over("atoms", len(rows)))
    places, width = _places(given.get("properties", _DEFAULT_PROPERTIES))
    for index, row in enumerate(rows, start=1):
        if len(row) < width or (len(row) > width and "properties" in given):
            raise BadCrystalError(f"atom {index} has {len(row)} columns; Properties names {width}")
    elements = _atomic_numbers(rows, places)
    at = _place(places, _POSITIONS, 3)
    if at is None:
        raise BadCrystalError("Properties names no positions (pos:R:3)")
    positions = numbers([w for row in rows for w in row[at : at + 3]], "a position")
    return Crystal(elements, fractional(positions.reshape(-1, 3), lattice), lattice)


def _check_periodic(pbc: str) -> None:
    words = _MARKS.sub(" ", pbc).lower().split()
    if len(words) not in (1, 3) or not set(words) <= _TRUE | _FALSE:
        raise BadCrystalError(f"pbc '{pbc[:40]}' is not three of T and F")
    if not set(words) <= _TRUE:
        raise BadCrystalError("not periodic in three directions")


def _places(properties: str) -> tuple[dict[str, tuple[int, int]], int]:
    """Return name to first column and number of columns, and the number of all columns."""
    words = properties.split(":")
    places: dict[str, tuple[int, int]] = {}
    width = 0
    if len(words) % 3:
        raise BadCrystalError(f"Properties '{properties[:40]}' are not name:type:columns")
    for name, _, columns in zip(words[::3], words[1::3], words[2::3], strict=True):
        if not re.fullmatch(r"[1-9]\d{0,17}", columns):
            raise BadCrystalError(f"Properties: '{columns[:40]}' is no number of columns")
        if name.lower() in places:
            raise BadCrystalError(f"Properties name '{name[:40]}' twice")
        places[name.lower()] = width, int(columns)
        width += int(columns)
    return places, width


def _place(places: dict[str, tuple[int, int]], names: tuple[str, ...], columns: int) -> int | None:
    for name in names:
        if name in places:
            first, count = places[name]
            if count != columns:
                raise BadCrystalError(f"Properties: {name} has {count} columns, not {columns}")
            return first
    return None


def _atomic_numbers(rows: list[list[str]], places: dict[str, tuple[int, int]]) -> Any:
    found: list[list[int]] = []
    for names in (_SPECIES, _NUMBERS):
        at = _place(places, names, 1)
        if at is not None:
            found.append([_element(row[at], i) for i, row in enumerate(rows, start=1)])
    if not found:
        raise BadCrystalError("Properties name no elements (species:S:1)")
    for index, pair in enumerate(zip(*found, strict=True), start=1):
        if len(set(pair)) > 1:
            raise BadCrystalError(f"atom {index}: its symbol and its atomic number do not agree")
    return np.array(found[0], dtype=np.int64)


def _element(word: str, index: int) -> int:
    number = int(word) if word.isascii() and word.isdigit() and len(word) < 4 else None
    if number is None:
        number = symbol_numbers().get(word.capitalize())
    if not number:
        raise BadCrystalError(f"atom {index}: '{word[:20]}' is no element")
    return number
