"""Packed crystals as pymatgen structures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, overload

from chemeleon.data.crystal import structure_of
from chemeleon.evaluation.packed import Packed

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from chemeleon.data.parse import Crystal


class PackedStructures(Sequence["Structure | None"]):
    """A list of pymatgen structures that are made when they are asked for.

    200,000 Structures would take more memory than all the rest of an evaluation.
    """

    def __init__(self, crystals: Packed) -> None:
        self._crystals = crystals
        self._starts = crystals.starts

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, index: int) -> Structure | None: ...
    @overload
    def __getitem__(self, index: slice) -> list[Structure | None]: ...
    def __getitem__(self, index: int | slice) -> Structure | list[Structure | None] | None:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        crystal = self.crystal(range(len(self))[index])
        return None if crystal is None else structure_of(crystal)

    def crystal(self, row: int) -> Crystal | None:
        """Return one as arrays, without the cost of a Structure."""
        if self._crystals.counts[row] == 0:
            return None
        return self._crystals.crystal(row, int(self._starts[row]))

    def __iter__(self) -> Iterator[Structure | None]:
        return (self[i] for i in range(len(self)))
