"""Crystals of any size one after the other in flat arrays: what a run holds, sends and caches.

Shapes: ``C`` crystals, ``A`` atoms of all of them. No torch here: workers import this.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from chemeleon.data.parse import Crystal


class Packed(NamedTuple):
    """Flat arrays; a crystal of 0 atoms stands for one that could not be read.

    Attributes:
        numbers: ``(A,)`` uint8 atomic numbers.
        frac: ``(A, 3)`` float64 fractional coordinates as given, not wrapped.
        lattice: ``(C, 3, 3)`` float64, angstrom, rows a, b, c.
        counts: ``(C,)`` int64 numbers of atoms.
    """

    numbers: NDArray[np.uint8]
    frac: NDArray[np.float64]
    lattice: NDArray[np.float64]
    counts: NDArray[np.int64]

    @property
    def starts(self) -> NDArray[np.int64]:
        """First atom of each crystal, ``(C,)``."""
        return np.cumsum(self.counts) - self.counts

    def crystal(self, index: int, start: int | None = None) -> Crystal:
        """Return one crystal; ``start``, its first atom, saves a pass over all counts."""
        begin = int(self.counts[:index].sum()) if start is None else start
        atoms = slice(begin, begin + int(self.counts[index]))
        numbers = self.numbers[atoms].astype(np.int64)
        return Crystal(numbers, self.frac[atoms], self.lattice[index])

    def crystals(self) -> list[Crystal]:
        """Return all crystals."""
        return [self.crystal(i, start) for i, start in enumerate(self.starts.tolist())]

    def take(self, rows: Sequence[int] | NDArray[np.int64]) -> Packed:
        """Return the crystals of these rows, in this order."""
        chosen = np.asarray(rows, dtype=np.int64)
        counts, starts = self.counts[chosen], self.starts[chosen]
        inner = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        atoms = np.repeat(starts, counts) + inner
        return Packed(self.numbers[atoms], self.frac[atoms], self.lattice[chosen], counts)


def pack(crystals: Sequence[Crystal | None]) -> Packed:
    """Pack crystals; None becomes a crystal of no atoms."""
    good = [c for c in crystals if c is not None]
    nothing = np.zeros((3, 3))
    return Packed(
        np.concatenate([np.zeros(0, np.uint8), *(c.atomic_numbers.astype(np.uint8) for c in good)]),
        np.concatenate([np.zeros((0, 3)), *(np.asarray(c.frac_coords, float) for c in good)]),
        np.array([nothing if c is None else c.lattice for c in crystals]).reshape(-1, 3, 3),
        np.array([0 if c is None else len(c.atomic_numbers) for c in crystals], dtype=np.int64),
    )


def join(parts: Sequence[Packed]) -> Packed:
    """Put packs one after the other."""
    if not parts:
        return pack([])
    return Packed(*(np.concatenate(list(arrays)) for arrays in zip(*parts, strict=True)))
