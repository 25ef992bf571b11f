"""Which rows of a file an expression wants, found before their crystals are read and again after.

Columns rule out most rows at once, so that only what may be wanted is parsed and described; what
an expression says of compositions is known only then.

Shapes: ``C`` rows of the file, ``K`` rows that may be wanted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from chemeleon.crystals.batch import Array, Crystals
from chemeleon.data.columns import columns_of
from chemeleon.data.crystal import Record
from chemeleon.data.where import Rows, judge
from chemeleon.errors import DataError


@dataclass(frozen=True)
class Wanted:
    """An expression and what the columns of a file say of it.

    Attributes:
        where: the expression.
        source: named in errors.
        known: columns of the ``K`` rows, without compositions.
        possible: ``(C,)`` whether a row may be wanted.
    """

    where: str
    source: str
    known: Rows
    possible: NDArray[np.bool_]

    @classmethod
    def of(cls, records: Iterable[Record], where: str, path: Path, id_column: str | None) -> Wanted:
        """Ask the columns.

        Raises:
            ConfigError: if the expression cannot be read, or does not fit the columns.
            DataError: if it names no column.
        """
        kept = [(record.id, record.values) for record in records]
        columns, labels, _ = columns_of([values for _, values in kept])
        nothing = np.zeros(0, np.uint8), np.zeros(len(kept), np.int64)
        rows = Rows(
            {name: column.numpy() for name, column in columns.items()},
            labels,
            [],
            *nothing,
            [name for name, _ in kept],
            id_column or "material_id",
        )
        possible = ~judge(where, rows, str(path)).no
        at = np.flatnonzero(possible)
        few = Rows(
            {name: column[at] for name, column in rows.numbers.items()},
            {name: column.take(at) for name, column in labels.items()},
            [],
            nothing[0],
            nothing[1][at],
            [rows.ids[i] for i in at.tolist()],
            rows.id_column,
        )
        return cls(where, str(path), few, possible)

    @property
    def total(self) -> int:
        """Rows of the file."""
        return len(self.possible)

    def rows(self, crystals: Crystals[Array], reasons: Sequence[str | None]) -> NDArray[np.int64]:
        """Return which of the ``K`` rows are wanted; those that cannot be read stay.

        Raises:
            DataError: if no crystal is left.
        """
        numbers, counts = crystals.atomic_numbers, crystals.num_atoms
        known = replace(self.known, atomic_numbers=numbers, num_atoms=counts)
        yes, no = judge(self.where, known, self.source)
        good = np.array([reason is None for reason in reasons], dtype=bool)
        if not (good & yes).any():
            raise DataError(
                f"{self.source}: none of the {self.total:,} crystals is left where {self.where}"
            )
        return np.flatnonzero(np.where(good, yes, ~no))
