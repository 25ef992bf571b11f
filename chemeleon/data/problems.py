"""Records of rows that cannot be used, and how they are reported."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from chemeleon.errors import DataError

_SHOWN = 20


class Problem(NamedTuple):
    """One unusable row.

    Attributes:
        file: name of the file.
        row: number of the crystal in the file; the first after the header is 1.
        id: name of the crystal, empty if it has none.
        reason: what is wrong, with the value.
    """

    file: str
    row: int
    id: str
    reason: str

    def __str__(self) -> str:
        return f"{self.file}, row {self.row}, {self.id or 'no id'}: {self.reason}"


def problems_error(problems: Sequence[Problem], total: int, remedy: str) -> DataError:
    """Return the error that lists the first problems and counts the rest.

    Args:
        problems: at least one.
        total: rows read.
        remedy: what the user can type instead.
    """
    lines = [f"{len(problems)} of {total} rows cannot be used:"]
    lines += [f"  {problem}" for problem in problems[:_SHOWN]]
    if len(problems) > _SHOWN:
        lines.append(f"  ... and {len(problems) - _SHOWN} more")
    return DataError("\n".join([*lines, remedy]))
