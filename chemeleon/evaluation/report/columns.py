"""The per-crystal table as compact columns, for the table of a report (table.js)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from chemeleon.evaluation.metrics import METRICS
from chemeleon.evaluation.metrics.base import STATES, Column, Metric
from chemeleon.evaluation.metrics.stability import ABOVE

if TYPE_CHECKING:
    import pandas

_TOLD = ("key", "label", "unit", "kind", "digits", "shown")  # what the page is told of columns
_LONGEST = 160  # characters of any text in the table
_FIRST = (Column("id", "Id", kind="text", shown=True),)
_LAST = (
    Column("status", "Status", kind="text"),
    Column("reason", "Reason", kind="text"),
    Column("source", "Source", kind="text"),
)


def column_table(
    crystals: pandas.DataFrame, rows: Sequence[int], metrics: Iterable[Metric] = METRICS
) -> dict[str, Any]:
    """Return ``{"columns": [...], "values": {key: [...]}, "rows": [...]}``; missing is None.

    Args:
        crystals: the per-crystal table of a report.
        rows: which of its rows, by position; they are numbered from 1 in ``rows``.
        metrics: whose columns are shown, where they are there.
    """
    columns = _known(list(map(str, crystals.columns)), metrics)
    part = crystals.iloc[list(rows)]
    return {
        "columns": [{key: getattr(column, key) for key in _TOLD} for column in columns],
        "values": {column.key: _values(part[column.key], column) for column in columns},
        "rows": [position + 1 for position in rows],
    }


def _known(names: list[str], metrics: Iterable[Metric]) -> list[Column]:
    """Return the columns that there are; relaxed ones follow those of the raw crystal."""
    raw = [*_FIRST, *(column for metric in metrics for column in metric.known(names)), *_LAST]
    states = [
        column._replace(
            key=prefix + column.key,
            label=f"{column.label}, {prefix.rstrip('_')}",
            shown=column.key == ABOVE,
        )
        for prefix in filter(None, STATES)
        for column in raw
    ]
    there = set(names)
    return [column for column in (*raw, *states) if column.key in there]


def _values(series: pandas.Series, column: Column) -> list[Any]:
    values = [None if gone else v for v, gone in zip(series, series.isna(), strict=True)]
    if column.kind == "text":
        return [None if value is None else _short(value) for value in values]
    if column.kind == "flag":
        return [None if value is None else int(bool(value)) for value in values]
    numbers = np.array([np.nan if value is None else value for value in values], float)
    rounded = np.round(numbers, column.digits + 1 if column.digits else 0)
    kind = float if column.digits else int
    return [kind(value) if np.isfinite(value) else None for value in rounded]


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
