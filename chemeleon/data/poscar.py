"""POSCAR and CONTCAR by hand, as VASP reads them; coordinates as in its manual's page POSCAR.

What VASP itself would take from another file (the elements of an old POSCAR stand in POTCAR) is
refused, and nothing is allocated for what is not there.
"""

from __future__ import annotations

import re
from contextlib import suppress

import numpy as np

from chemeleon.data.crystal import BadCrystalError, Crystal
from chemeleon.data.limits import Limits
from chemeleon.data.niggli import determinant
from chemeleon.data.plain import Lines, fractional, number, short, symbol_numbers

_NAME = re.compile(r"([A-Z][a-z]?)(?:[_/].*)?")  # Mg, Mg_pv, Mg/474b2a, Mg_pv/474b2a
_COUNT = re.compile(r"\d{1,18}")
_VELOCITIES = re.compile(r"\s*$|\s*(?:cart|dir|frac|lattice vel|[ckdf]\s*$)(?!.*config)", re.I)


def read_poscar(text: str, limits: Limits) -> Crystal:
    """Return the crystal of a POSCAR; velocities and what follows are not looked at.

    Raises:
        BadCrystalError: with the reason.
    """
    lines = Lines(text)
    comment = lines.readline()
    scale = _leading_numbers(lines.readline())
    if len(scale) not in (1, 3) or not all(np.isfinite(scale)) or 0 in scale:
        raise BadCrystalError("line 2 is no scale: one number, or three, none of them 0")
    lattice = np.array([_vector(lines.readline(), f"line {i}") for i in (3, 4, 5)])
    stretch = _stretch(scale, lattice)
    elements, line = _element_line(lines.readline(), lines)
    counts = [int(word) for word in _leading_counts(line)]
    if not counts:
        raise BadCrystalError(f"'{short(line)}' holds no numbers of atoms")
    if sum(counts) > limits.atoms:
        raise BadCrystalError(limits.over("atoms", sum(counts)))
    if elements is not None and len(elements) != len(counts):
        raise BadCrystalError(f"{len(elements)} elements, but {len(counts)} numbers of atoms")
    mode = lines.readline()
    selective = mode.strip()[:1] in ("s", "S")
    if selective:
        mode = lines.readline()
    letter = mode.strip()[:1].lower()
    if letter not in ("c", "k", "d", "f"):
        raise BadCrystalError(f"'{short(mode)}' is neither Direct nor Cartesian")
    rows = []
    for index in range(1, sum(counts) + 1):
        rows.append(lines.readline())
        if not rows[-1].strip():
            raise BadCrystalError(f"has {index - 1} of {sum(counts)} lines of coordinates")
    after = lines.readline()
    if not _VELOCITIES.match(after):
        more = (
            "a crystal or step more" if after.strip()[:1].isalpha() else "more lines of coordinates"
        )
        raise BadCrystalError(f"{more} than its {sum(counts)} atoms: '{short(after)}'")
    coords = np.array([_vector(row, f"atom {i}") for i, row in enumerate(rows, start=1)])
    named = [] if selective else [_NAME.fullmatch((row.split() + [""] * 4)[3]) for row in rows]
    beside = [match[1] if match and match[1] in symbol_numbers() else "" for match in named]
    symbols = _symbols(elements, counts, comment, beside)
    coords = coords.reshape(-1, 3)
    lattice = lattice * stretch
    if letter in ("c", "k"):
        coords = fractional(coords * stretch, lattice)
    return Crystal(np.array([symbol_numbers()[s] for s in symbols], np.int64), coords, lattice)


def elements_from_comment(text: str) -> str | None:
    """Return what to say if the elements of an old POSCAR come from its first line."""
    head = text.split("\n", 6)[:6]
    counts = []
    with suppress(BadCrystalError):  # reading it will say what is wrong
        counts = _leading_counts(head[5]) if len(head) == 6 else []
    found = _from_comment(head[0], len(counts)) if counts else None
    if found is None:
        return None
    return f"no line of elements: {' '.join(found)} was taken from its first line"


def _leading_numbers(line: str) -> list[float]:
    found = []
    for word in line.split():
        try:
            found.append(number(word))
        except ValueError:
            break
    return found


def _leading_counts(line: str) -> list[str]:
    words = line.split()
    end = next((i for i, w in enumerate(words) if not _COUNT.fullmatch(w)), len(words))
    if end < len(words) and re.match(r"[-+.\d]", words[end]):
        raise BadCrystalError(f"'{words[end][:20]}' is no number of atoms")
    return words[:end]


def _vector(line: str, where: str) -> list[float]:
    found = _leading_numbers(line)
    if len(found) < 3:
        raise BadCrystalError(f"{where} has no three numbers: '{short(line)}'")
    return found[:3]


def _stretch(scale: list[float], lattice: np.ndarray) -> np.ndarray | float:
    """Return the factor of all Cartesian numbers; a negative scale is the volume of the cell."""
    if len(scale) == 3:
        if min(scale) < 0:
            raise BadCrystalError("one of its three scales is negative")
        return np.array(scale)
    if scale[0] > 0:
        return scale[0]
    volume = abs(determinant(lattice))
    if not volume > 0:
        raise BadCrystalError("zero volume: the cell cannot be scaled to a volume")
    return float((-scale[0] / volume) ** (1 / 3))


def _element_line(line: str, lines: Lines) -> tuple[list[str] | None, str]:
    """Return the elements, None for an old file, and the line with the numbers of atoms."""
    words = re.split(r"[!#]", line, maxsplit=1)[0].split()
    if not words:
        raise BadCrystalError("line 6 is empty: elements, such as 'Mg O', are missing")
    if re.match(r"[-+.\d]", words[0]):
        return None, line
    matches = [_NAME.fullmatch(word) for word in words]
    found = [match[1] if match else "" for match in matches]
    for word, symbol in zip(words, found, strict=True):
        if symbol not in symbol_numbers():
            raise BadCrystalError(f"'{word[:20]}' is no element")
    return found, lines.readline()


def _from_comment(comment: str, count: int) -> list[str] | None:
    words = comment.split()
    known = len(words) == count and all(word in symbol_numbers() for word in words)
    return words if known else None


def _symbols(
    elements: list[str] | None, counts: list[int], comment: str, beside: list[str]
) -> list[str]:
    """Return the symbol of each atom: by the line of elements, the coordinates, or the comment."""
    if elements is None:
        if beside and all(beside):
            return beside
        elements = _from_comment(comment, len(counts))
    if elements is None:
        numbers = " ".join(map(str, counts[:8]))
        raise BadCrystalError(
            f"no line of elements: write them, such as 'Mg O', above the numbers of atoms {numbers}"
        )
    symbols = [s for s, n in zip(elements, counts, strict=True) for _ in range(n)]
    for index, (symbol, other) in enumerate(zip(symbols, beside, strict=False), start=1):
        if other and symbol_numbers()[other] != symbol_numbers()[symbol]:
            raise BadCrystalError(f"atom {index} is {symbol} by the counts and {other} on its line")
    return symbols
