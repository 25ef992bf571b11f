"""The sections of a report that metrics have of their own: tables and bars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class Table(NamedTuple):
    """A table of a report.

    Attributes:
        title: above it, if any.
        header: above its columns.
        rows: their cells: text, numbers, shares as JSON (`statistics.share`), or None.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[Any]]


class Bars(NamedTuple):
    """A bar for each name: its percentage among the crystals, and among others.

    Attributes:
        title: above them.
        names: in order.
        ours: percent by name; what it lacks has none.
        theirs: the same of others; empty without any.
        others: what those are called.
    """

    title: str
    names: Sequence[str]
    ours: Mapping[str, float]
    theirs: Mapping[str, float]
    others: str = "reference"


class Shown(NamedTuple):
    """A section of a report.

    Attributes:
        title: above it.
        parts: side by side.
        lead: said below the title.
        rests_on: groups of figures, whose basis is said before that.
    """

    title: str
    parts: Sequence[Table | Bars]
    lead: str = ""
    rests_on: Sequence[str] = ()
