"""Crystals in arrays as pymatgen structures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, overload

from chemeleon.crystals.batch import Array, Crystal, Crystals
from chemeleon.data.crystal import structure_of

if TYPE_CHECKING:
    from pymatgen.core import Structure


class Structures(Sequence["Structure | None"]):
    """A list of pymatgen structures that are made when they are asked for.

    200,000 Structures would take more memory than all the rest of an evaluation.
    """

    def __init__(self, crystals: Crystals[Array]) -> None:
        self._crystals = crystals

    def __len__(self) -> int:
        return len(self._crystals)

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
        if self._crystals.num_atoms[row] == 0:
            return None
        return self._crystals.crystal(row)
