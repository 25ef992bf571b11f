"""Symmetry operations: from ``x,y,z`` to integers, and whether a list of them is a group.

Shapes: ``K`` operations.
"""

from __future__ import annotations

import functools
import math
import re
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from chemeleon.crystals.symmetry import PARTS, gemmi_operations
from chemeleon.data.crystal import Array, BadCrystalError

_TERM = re.compile(
    r"([+-]?)(?:(\d)\*?)?([xyz])|([+-]?)(\d{1,4}/\d{1,4}|\d{0,2}\.\d{1,9}|\d{1,2}\.?)", re.ASCII
)
_MAX_DENOMINATOR = 10_000
_METRIC_TOLERANCE = 0.02  # 1 % of a length, 1 degree of an angle


class Operations(NamedTuple):
    """A group of operations on fractional coordinates, ``x -> rotations @ x + translations``.

    Attributes:
        rotations: ``(K, 3, 3)`` int64.
        translations: ``(K, 3)`` int64 in units of ``1 / denominator``, in [0, 1).
        denominator: of the translations.
    """

    rotations: NDArray[np.int64]
    translations: NDArray[np.int64]
    denominator: int

    @property
    def size(self) -> int:
        """Number of operations; ``len`` is that of the tuple."""
        return len(self.rotations)

    @property
    def shifts(self) -> Array:
        """Translations as numbers, ``(K, 3)``."""
        return self.translations / self.denominator

    def composed(self, rotation: NDArray[np.int64], translation: NDArray[np.int64]) -> Operations:
        """Return all operations after the given one."""
        moved = (self.rotations @ translation + self.translations) % self.denominator
        return self._replace(rotations=self.rotations @ rotation, translations=moved)

    def keys(self) -> list[bytes]:
        """Return a key for each operation, equal for equal ones."""
        rows = np.concatenate([self.rotations.reshape(-1, 9), self.translations], axis=1)
        return [row.tobytes() for row in rows]

    def distinct(self) -> Operations:
        """Return equal operations once, in the order of the first of each."""
        rows = sorted({key: i for i, key in reversed(list(enumerate(self.keys())))}.values())
        return self._replace(rotations=self.rotations[rows], translations=self.translations[rows])


@functools.lru_cache(maxsize=2000)
def _triplet(text: str) -> tuple[tuple[tuple[int, ...], ...], tuple[Fraction, ...]]:
    parts = re.sub(r"[\s'\"]", "", text).lower().split(",")
    if len(parts) != 3:
        raise BadCrystalError(f"operation {text[:40]!r} has not three parts")
    rows, shifts = [], []
    for part in parts:
        row, shift, end = [0, 0, 0], Fraction(0), 0
        for match in _TERM.finditer(part):
            sign, factor, axis, shift_sign, number = match.groups()
            if match.start() != end or (end and part[end] not in "+-"):
                break
            end = match.end()
            if axis:
                row["xyz".index(axis)] += (-1 if sign == "-" else 1) * int(factor or 1)
            else:
                shift += (-1 if shift_sign == "-" else 1) * _fraction(number, text)
        if end != len(part) or not part:
            raise BadCrystalError(f"operation {text[:40]!r} cannot be read")
        rows.append(tuple(row))
        shifts.append(shift)
    if abs(round(float(np.linalg.det(np.array(rows, dtype=float))))) != 1:
        raise BadCrystalError(f"operation {text[:40]!r} is no symmetry operation: it is singular")
    return tuple(rows), tuple(shifts)


def _fraction(word: str, text: str) -> Fraction:
    if "." not in word:
        top, _, bottom = word.partition("/")
        if bottom and int(bottom) == 0:
            raise BadCrystalError(f"operation {text[:40]!r} divides by zero")
        return Fraction(int(top), int(bottom or 1))
    value = float(word)
    found = Fraction(round(value * PARTS), PARTS)  # 0.33 and 0.333 mean 1/3
    unit = 10.0 ** -len(word.partition(".")[2])
    if abs(float(found) - value) > min(0.7 * unit, 0.0051):
        raise BadCrystalError(f"operation {text[:40]!r}: {word} is no multiple of 1/{PARTS}")
    return found


def from_triplets(triplets: list[str]) -> Operations:
    """Read operations such as ``-x, y+1/2, 0.5-z``; equal ones count once.

    Raises:
        BadCrystalError: for one that is none.
    """
    read = list(dict.fromkeys(_triplet(text) for text in triplets))
    denominator = math.lcm(*(t.denominator for _, shifts in read for t in shifts))
    if denominator > _MAX_DENOMINATOR:
        raise BadCrystalError("the translations of the operations have no common denominator")
    found = Operations(
        np.array([rows for rows, _ in read], dtype=np.int64),
        np.array(
            [[int(t * denominator) % denominator for t in s] for _, s in read], dtype=np.int64
        ),
        denominator,
    )
    return found.distinct()


def same(first: list[str], second: list[str]) -> bool:
    """Tell whether two lists hold the same operations, in any order and spelling."""
    one, other = (
        {(rows, tuple(s % 1 for s in shifts)) for rows, shifts in map(_triplet, words)}
        for words in (first, second)
    )
    return one == other


@functools.cache
def identity() -> Operations:
    """Return the group of no symmetry."""
    return from_triplets(["x,y,z"])


def check_closed(operations: Operations) -> None:
    """Refuse a list that is no group: an operation is missing, or one is wrong.

    Raises:
        BadCrystalError: with what is missing.
    """
    present = set(operations.keys())
    known = set(identity().keys())
    if not known <= present:
        raise BadCrystalError("x,y,z is not among the symmetry operations")
    generators: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
    for at, key in enumerate(operations.keys()):
        if key in known:
            continue
        generators.append((operations.rotations[at], operations.translations[at]))
        for generator in generators:  # the list times each generator must be the list
            if not set(operations.composed(*generator).keys()) <= present:
                raise BadCrystalError(
                    f"the {operations.size} symmetry operations are no group: some are missing"
                )
        known = _generated(operations, generators)


def _generated(
    operations: Operations, generators: list[tuple[NDArray[np.int64], NDArray[np.int64]]]
) -> set[bytes]:
    """Return the keys of all products of some of the operations, which all are among them."""
    newest = identity()._replace(denominator=operations.denominator)
    found: set[bytes] = set(newest.keys())
    while newest.size:
        products = [newest.composed(*generator) for generator in generators]
        rotations = np.concatenate([p.rotations for p in products])
        translations = np.concatenate([p.translations for p in products])
        newest = newest._replace(rotations=rotations, translations=translations)
        fresh = {key: i for i, key in enumerate(newest.keys()) if key not in found}
        found |= fresh.keys()
        rows = list(fresh.values())
        newest = newest._replace(rotations=rotations[rows], translations=translations[rows])
    return found


def fits(operations: Operations, lattice: Array) -> bool:
    """Tell whether the operations keep the lengths and angles of the cell (1 %, 1 degree)."""
    metric = lattice @ lattice.T
    scale = np.sqrt(np.outer(np.diag(metric), np.diag(metric)))
    turned = np.swapaxes(operations.rotations, 1, 2) @ metric @ operations.rotations
    return bool((np.abs(turned - metric) <= _METRIC_TOLERANCE * scale).all())


def group_number(operations: Operations, lattice: Array) -> int | None:
    """Return the number of the space group of the operations, or None if it cannot be told."""
    if PARTS % operations.denominator == 0:
        import gemmi

        group = gemmi.GroupOps(gemmi_operations(operations.rotations, operations.shifts))
        found = gemmi.find_spacegroup_by_ops(group)
        if found is not None:
            return found.number
    import spglib

    rotations = operations.rotations.astype(np.intc)
    try:
        kind = spglib.get_spacegroup_type_from_symmetry(rotations, operations.shifts, lattice)
    except Exception:
        return None
    return None if kind is None else int(kind.number)
