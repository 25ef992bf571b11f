"""Numbers that stand in a table beside the files of crystals, joined by name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from chemeleon.data.columns import columns_of
from chemeleon.data.dataset import LoadReport
from chemeleon.data.files import readable
from chemeleon.data.names import stem
from chemeleon.data.tables import Table, column_place, open_table
from chemeleon.errors import DataError

_ID_COLUMNS = ("material_id", "id", "name", "file", "filename")


def join_properties(found: LoadReport, path: Path, id_column: str | None = None) -> LoadReport:
    """Return the report with the columns of a table; rows are found by the names of the crystals.

    A name may carry the suffix of the crystal's file. Crystals without a row have NaN; how many
    they are, and which rows have no crystal, is added to the notes.

    Args:
        found: crystals, with the columns that they have already.
        path: CSV, plain or gz.
        id_column: its column of names; by default the first of material_id, id, name, file and
            filename that is there.

    Raises:
        DataError: if the table cannot be read, names no crystal, names one twice, or has a column
            that the crystals have already.
    """
    with readable(path), path.open("rb") as file:
        rows, notes = _rows(open_table(file, path.name, id_column), path.name, id_column)
    ids = found.crystals.ids
    known, unfit = set(ids), {problem.id for problem in found.problems}
    by_id: dict[str, tuple[int, dict[str, Any]]] = {}
    strangers = []
    for number, name, values in rows:
        key = name if name in known or name in unfit else stem(name)
        if key in by_id:
            raise DataError(
                f"{path.name}: rows {by_id[key][0]} and {number} are both of '{key}'; keep one"
            )
        by_id[key] = number, values
        if key not in known and key not in unfit:
            strangers.append(name)
    if not known & by_id.keys():
        first = f", such as '{rows[0][1]}'," if rows else ""
        raise DataError(
            f"no name in {path.name}{first} is that of a crystal, such as '{ids[0]}'; name the"
            " right column with --id-column"
        )
    given = [by_id.get(name, (0, {}))[1] for name in ids]
    places = [f"{path.name}, row {by_id.get(name, (0,))[0]}" for name in ids]
    made = columns_of(given, places)
    if twice := made.numbers.keys() & found.columns.keys():
        raise DataError(f"column '{min(twice)}' is in {path.name} and with the crystals: rename it")
    notes += made.notes
    if strangers:
        notes.append(f"{path.name}: {_counted(strangers, 'row')} without a crystal")
    if bare := [name for name in ids if name not in by_id]:
        notes.append(f"{path.name}: {_counted(bare, 'crystal')} without a row")
    return replace(found, columns=found.columns | made.numbers, notes=[*found.notes, *notes])


def _rows(
    table: Table, name: str, id_column: str | None
) -> tuple[list[tuple[int, str, dict[str, Any]]], list[str]]:
    """Return number, crystal and values of each row, and what is to be said of bad rows."""
    asked = _ID_COLUMNS if id_column is None else (id_column,)
    at = column_place(table, asked, "--id-column (of the crystals' names)", name)
    rows, notes = [], []
    for row in table.rows:
        if row.problem is not None:
            notes.append(f"{name}, row {row.number} {row.problem}")
            continue
        values = dict(zip(table.header, row.cells, strict=True))
        rows.append((row.number, row.cells[at].strip(), values))
        del values[table.header[at]]
        values.pop("", None)
    if len(notes) > 1:
        notes = [f"{notes[0]}; {len(notes) - 1:,} more rows like it"]
    return rows, notes


def _counted(names: list[str], what: str) -> str:
    shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    return f"{len(names):,} {what}{'s' if len(names) > 1 else ''} ({shown})"
