"""Records of rows that cannot be used, and how they are reported."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

from chemeleon.errors import DataError

OnError = Literal["few", "skip", "fail"]
_SHOWN = 20
_FEW = 0.01  # of the rows
_KINDS = 3  # of reasons that are named
_OWN = re.compile(r"'[^']*'|\"[^\"]*\"|[-+]?\d[\d.]*(?:[eE][-+]?\d+)?")  # of one row


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


def check_reasons(
    reasons: Sequence[str], total: int, on_error: OnError, source: str, remedy: str
) -> None:
    """Refuse a source of which more rows are bad than ``on_error`` allows: none, 1 %, or all.

    Args:
        reasons: what is wrong, of each bad row.
        total: rows read.
        on_error: ``fail``, ``few`` or ``skip``.
        source: named in the error.
        remedy: what the user can do.

    Raises:
        DataError: with the count and the commonest reasons.
    """
    allowed = {"fail": 0.0, "few": _FEW * total, "skip": float("inf")}[on_error]
    if len(reasons) <= allowed:
        return
    kinds: dict[str, list[str]] = {}
    for reason in reasons:
        kinds.setdefault(_OWN.sub("#", reason), []).append(reason)
    common = sorted(kinds.values(), key=len, reverse=True)
    said = [f"{len(kind):,} x {kind[0]}" for kind in common[:_KINDS]]
    rest = len(reasons) - sum(map(len, common[:_KINDS]))
    more = f"; {rest:,} for other reasons" if rest else ""
    limit = f", more than {_FEW:.0%}" if on_error == "few" else ""
    raise DataError(
        f"{source}: {len(reasons):,} of {total:,} rows cannot be used{limit}:"
        f" {'; '.join(said)}{more}; {remedy}"
    )
