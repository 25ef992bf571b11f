"""The per-crystal table as compact columns, for the table of a report (table.js)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import pandas

ABOVE = "e_above_hull_ev"  # of several hulls the highest; then each has a column ABOVE_HULL
_LONGEST = 160  # characters of any text in the table


class Column(NamedTuple):
    """One column: `kind` is text, number or flag; digits are decimals."""

    key: str
    label: str
    unit: str = ""
    kind: str = "number"
    digits: int = 0
    shown: bool = False  # from the start; the others can be switched on


_PLAIN = (
    Column("id", "Id", kind="text", shown=True),
    Column("formula", "Formula", kind="text", shown=True),
    Column("space_group_symbol", "Space group", kind="text", shown=True),
    Column("space_group", "Space group no."),
    Column("crystal_system", "Crystal system", kind="text"),
    Column("num_atoms", "Atoms", shown=True),
    Column("num_elements", "Elements"),
    Column("density_g_cm3", "Density", "g/cm³", digits=2, shown=True),
    Column("volume_per_atom_a3", "Volume per atom", "Å³", digits=2),
    Column("e_above_hull_ev", "E above hull", "eV/atom", digits=3, shown=True),
    Column("energy_ev_per_atom", "Energy", "eV/atom", digits=3),
    Column("hull_state", "Hull", kind="text"),
    Column("shortest_distance_a", "Shortest distance", "Å", digits=2),
    *(Column(name, name, "Å", digits=3) for name in ("a", "b", "c")),
    *(Column(n, s, "°", digits=2) for n, s in (("alpha", "α"), ("beta", "β"), ("gamma", "γ"))),
    Column("valid_structure", "Valid structure", kind="flag", shown=True),
    Column("valid_composition", "Valid composition", kind="flag", shown=True),
    Column("unique", "Unique", kind="flag", shown=True),
    Column("group", "Group"),
    Column("timed_out_pairs", "Pairs timed out"),
    Column("status", "Status", kind="text"),
    Column("reason", "Reason", kind="text"),
    Column("source", "Source", kind="text"),
)
_RELAXATION = (
    Column("relax_steps", "Relaxation steps"),
    Column("relax_converged", "Relaxation converged", kind="flag"),
    Column("relax_taken_back", "Relaxation taken back", kind="flag"),
    Column("relax_rmsd_a", "RMSD raw to relaxed", "Å", digits=3, shown=True),
    Column("idealised", "Idealised", kind="flag"),
    Column("idealise_symprec_a", "Tolerance of idealising", "Å", digits=3),
    Column("idealise_moved_a", "Longest way in idealising", "Å", digits=3),
    Column("idealise_refused", "Higher symmetry refused", kind="text"),
)


def column_table(
    crystals: pandas.DataFrame, rows: Sequence[int], more: Sequence[Column] = ()
) -> dict[str, Any]:
    """Return ``{"columns": [...], "values": {key: [...]}, "rows": [...]}``; missing is None.

    Args:
        crystals: the per-crystal table of a report.
        rows: which of its rows, by position; they are numbered from 1 in ``rows``.
        more: columns that there may be.
    """
    columns = _known(list(map(str, crystals.columns)), more)
    part = crystals.iloc[list(rows)]
    return {
        "columns": [column._asdict() for column in columns],
        "values": {column.key: _values(part[column.key], column) for column in columns},
        "rows": [position + 1 for position in rows],
    }


def _known(names: list[str], more: Sequence[Column]) -> list[Column]:
    """Return the columns that there are; relaxed ones follow those of the raw crystal."""
    at = [column.key for column in _PLAIN].index("group")
    hulls = [
        Column(f"{ABOVE}_{hull}", f"E above hull {hull}", "eV/atom", digits=3)
        for hull in hulls_of(names)
    ]
    plain = [*_PLAIN[:at], *_novel(names), *hulls, *_PLAIN[at:]]
    place = [column.key for column in plain].index("status")
    plain = [*plain[:place], *more, *plain[place:]]
    states = [
        column._replace(
            key=f"{state}_{column.key}",
            label=f"{column.label}, {state}",
            shown=column.key == "e_above_hull_ev",
        )
        for state in ("relaxed", "idealised")
        for column in plain
    ]
    there = set(names)
    return [column for column in (*plain, *_RELAXATION, *states) if column.key in there]


def hulls_of(columns: Sequence[str], prefix: str = "") -> list[str]:
    """Return the hulls that have columns of their own, as these name them."""
    begin = f"{prefix}{ABOVE}_"
    return [name.removeprefix(begin) for name in columns if name.startswith(begin)]


def _novel(names: list[str]) -> Iterator[Column]:
    for name in names:
        if name.startswith("novel"):
            disordered, of = name.startswith("novel_disordered"), name.removeprefix("novel_")
            label = f"Novel: {of}" if name != of else "Novel"
            yield Column(name, label, kind="flag", shown=not disordered)


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
