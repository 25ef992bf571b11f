"""CSV files, read row by row: a bad row costs the others nothing, and no row fills memory.

Spreadsheets take cells that begin with ``=`` and the like for formulas, which can start programs.
So what is written here has an apostrophe before such text (`cell`), and what is read has not.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from chemeleon.data.files import TooLargeError, unpacked
from chemeleon.errors import DataError, nearest

if TYPE_CHECKING:
    import pandas

_LONGEST_ROW, _LONGEST_HEADER, _PIECE = 1 << 24, 1 << 20, 1 << 18
_ACTING = re.compile(r"'*[=+\-@\t\r\n＝＋－＠]")  # wide letters do in some languages
_KEPT = re.compile(r"'" + _ACTING.pattern)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}


def cell(text: str) -> str:
    """Return a text as a cell that is text in a spreadsheet, too; numbers stay numbers."""
    return f"'{text}" if _ACTING.match(text) and not _NUMBER.fullmatch(text) else text


def _uncell(text: str) -> str:
    """Undo `cell`."""
    return text[1:] if _KEPT.match(text) else text


def write_rows(file: IO[str], rows: Iterable[Sequence[str]]) -> None:
    """Write rows of a CSV that `open_table` gives back and a spreadsheet only shows."""
    csv.writer(file).writerows([cell(text) for text in row] for row in rows)


def safe_cells(frame: pandas.DataFrame) -> pandas.DataFrame:
    """Return a table whose text can be written as `write_rows` would."""
    texts = [name for name in frame if frame[name].dtype.kind not in "biufc"]
    written = {
        name: frame[name].map(lambda value: cell(value) if isinstance(value, str) else value)
        for name in texts
    }
    return frame.assign(**written)  # pyright: ignore[reportArgumentType]


class Row(NamedTuple):
    """One row: its cells, or what is wrong with it."""

    number: int
    cells: list[str]
    problem: str | None = None


class Table(NamedTuple):
    """A table being read.

    Attributes:
        header: names of the columns.
        rows: the rows after it, numbered from 1.
    """

    header: list[str]
    rows: Iterator[Row]


def open_table(stream: IO[bytes], name: str, wanted: str | None) -> Table:
    """Begin to read a table (gz or not; UTF-8 or UTF-16), separated by commas or what it has.

    Args:
        stream: the file; it is closed after the last row.
        name: of the file, for messages.
        wanted: column by which the separator is told; the one that parts the header most if None.

    Raises:
        DataError: if there is no header, or one that names a column twice.
    """
    plain: Any = unpacked(stream)
    start = plain.peek(2)[:2] if hasattr(plain, "peek") else plain.read(2)
    if not hasattr(plain, "peek"):
        plain.seek(0)
    encoding = "utf-16" if start in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    text = io.TextIOWrapper(plain, encoding=encoding, errors="replace")
    lines = _lines(text)
    csv.field_size_limit(_LONGEST_ROW)
    first = next((line for line in lines if line.strip()), "")
    if not first:
        raise DataError(f"{name} is empty; a header such as material_id,cif was expected")
    if len(first) > _LONGEST_HEADER:
        raise DataError(f"{name} has a header of over {_LONGEST_HEADER:,} letters")
    separator = _separator(first, wanted)
    header = _header(first, separator)
    twice = [column for column in header if column and header.count(column) > 1]
    if twice:
        raise DataError(f"{name} has two columns called '{twice[0]}'; rename one of them")
    return Table(header, _rows(csv.reader(lines, delimiter=separator), len(header), text))


def _lines(text: io.TextIOWrapper) -> Iterator[str]:
    """Yield lines with their ends, split many at a time: that is faster than to read each."""
    rest = ""
    while piece := text.read(_PIECE):
        *lines, rest = (rest + piece).split("\n")
        yield from [line + "\n" for line in lines]
        if len(rest) > _LONGEST_ROW:
            raise TooLargeError(f"has a line of over {_LONGEST_ROW >> 20} MiB")
    if rest:
        yield rest


def _header(line: str, separator: str) -> list[str]:
    return [_uncell(name.strip()) for name in next(csv.reader([line], delimiter=separator))]


def _separator(line: str, wanted: str | None) -> str:
    headers = {mark: _header(line, mark) for mark in _SEPARATORS}
    if wanted is not None:
        return next((mark for mark, header in headers.items() if wanted in header), ",")
    return max(headers, key=lambda mark: len(headers[mark]))


def _rows(reader: Any, width: int, text: io.TextIOWrapper) -> Iterator[Row]:
    with text:
        number = 0
        while True:
            number += 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield Row(number, [], f"is no row of a table: {error}")
                continue
            if not any(text.strip() for text in cells):
                continue
            if len(cells) != width:
                yield Row(number, [], f"has {len(cells)} cells, the header has {width}")
            else:
                yield Row(number, [_uncell(text) if text[:1] == "'" else text for text in cells])


def column_place(table: Table, names: Sequence[str], remedy: str, file: str) -> int:
    """Return where the first of some columns stands that is there.

    Raises:
        DataError: if there is none of these names; ``remedy`` is what names another one.
    """
    found = next((name for name in names if name in table.header), None)
    if found is not None:
        return table.header.index(found)
    looked = f"'{names[0]}'" if len(names) == 1 else " or ".join(names)
    header = ", ".join(c[:40] for c in table.header[:50])
    raise DataError(
        f"{file} has no column {looked}; its columns are {header}"
        f"{nearest(names[0], table.header) or '.'} Name the right one with {remedy}"
    )
