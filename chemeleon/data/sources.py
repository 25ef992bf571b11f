"""Read crystals out of files, one record at a time, without parsing them.

A source is a CSV (plain or gz), a structure file, or a folder or zip of these. Everything that is
found is a record: a crystal, or a problem with its reason. Nothing of a zip is written to disk.
"""

from __future__ import annotations

import csv
import hashlib
import os
import zipfile
from collections.abc import Callable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any, NamedTuple

from chemeleon.data import extxyz, files, json_shapes, poscar
from chemeleon.data.cif import blocks
from chemeleon.data.crystal import BadCrystalError, Record
from chemeleon.data.files import BROKEN, Member, TooLargeError
from chemeleon.data.limits import Limits
from chemeleon.data.names import KNOWN, kind_of, plain_id, stem, unique_stems
from chemeleon.data.plain import plain_value
from chemeleon.data.tables import column_place, open_table
from chemeleon.errors import DataError, printable
from chemeleon.storage import settle

Report = Callable[[float], None]


class _Reader(NamedTuple):
    """How a source is read; see `read_records`."""

    id_column: str | None
    cif_column: str
    limits: Limits
    notes: list[str]
    report: Report
    many: bool = False  # one of many files


def read_records(
    path: Path,
    id_column: str | None,
    cif_column: str,
    report: Report | None = None,
    *,
    limits: Limits | None = None,
    notes: list[str] | None = None,
) -> Iterator[Record]:
    """Yield the crystals of a source.

    Args:
        path: file or folder.
        id_column: CSV column with the name; None numbers the rows.
        cif_column: CSV column with the CIF text.
        report: called now and then with the share that has been read, 0 to 1.
        limits: what a file may ask for.
        notes: gets what is to be said of the source beside its problems.

    Raises:
        DataError: if the source as a whole cannot be read.
    """
    reader = _Reader(
        id_column,
        cif_column,
        limits or Limits(),
        [] if notes is None else notes,
        report or (lambda share: None),
    )
    with files.readable(path):
        for record in _records(path, reader):
            name = plain_id(record.id)
            yield record if name == record.id else record._replace(id=name)
    reader.report(1.0)


def _records(path: Path, reader: _Reader) -> Iterator[Record]:
    settle(path)
    if path.is_dir():
        members = list(files.folder_members(path))
        yield from _read_members(members, reader._replace(many=True))
    elif is_archive(path):
        from chemeleon.data.archive import archive_records  # with it comes torch

        yield from archive_records(path)
    elif kind_of(path.name) == "zip":
        with zipfile.ZipFile(path) as archive:
            members = list(files.zip_members(archive, path.stat().st_size))
            yield from _read_members(members, reader._replace(many=True))
    else:
        yield from _read_single(path, reader)


def is_archive(path: Path) -> bool:
    """Tell an archive (`data.archive`) by its name."""
    return kind_of(path.name) == "archive"


def fingerprint(path: Path, limits: Limits | None = None) -> str:
    """Return the sha256 of a source: of the file, or of all names and contents of a folder.

    Raises:
        DataError: if it cannot be read, or is a structure file over the limit, or no known kind.
    """
    with files.readable(path):
        if not path.is_dir():
            _check_file(path, limits or Limits())
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        digest = hashlib.sha256()
        for member in files.folder_members(path):
            if files.is_hidden(member.name):
                continue
            digest.update(os.fsencode(member.name) + b"\0")
            try:
                with member.open() as file:
                    _update(digest, member.name, file, limits or Limits())
            except OSError:  # reading will make it a problem
                digest.update(b"unreadable")
        return digest.hexdigest()


def _update(digest: Any, name: str, file: IO[bytes], limits: Limits) -> None:
    """Add a file to a digest; of one over the limit, which will be refused, only so much."""
    left = None if kind_of(name) == "table" else limits.bytes + 1
    own = hashlib.sha256()
    while piece := file.read(1 << 20):
        own.update(piece)
        if left is not None and (left := left - len(piece)) <= 0:
            break
    digest.update(own.digest())


def has_column(path: Path, column: str) -> bool:
    """Tell whether a CSV has the column; True for anything else, where it does not matter."""
    if kind_of(path.name) != "table" or not path.is_file():
        return True
    try:
        with path.open("rb") as file:
            return column in open_table(file, path.name, column).header
    except (*BROKEN, TooLargeError, csv.Error, DataError):
        return True  # reading the whole file will say what is wrong


def _check_file(path: Path, limits: Limits) -> None:
    """Refuse a single file of no known kind or beyond the limit before all of it is read."""
    size, kind = path.stat().st_size, kind_of(path.name)
    if not path.is_file():
        raise DataError(f"{path} is no file and no folder")
    if kind is None or kind == "words":
        raise DataError(f"{path.name} is of no known kind: {KNOWN} of such files is expected")
    if kind not in ("table", "zip", "archive") and size > limits.bytes:
        raise TooLargeError(limits.over("bytes", f"its {size:,} bytes"))


def _read_single(path: Path, reader: _Reader) -> Iterator[Record]:
    _check_file(path, reader.limits)
    size = max(path.stat().st_size, 1)
    with path.open("rb") as raw:
        found = _read_file(printable(path.name), printable(stem(path.name)), raw, reader)
        for index, record in enumerate(found):
            if index % 256 == 0 and not raw.closed:
                reader.report(min(raw.tell() / size, 1.0))
            yield record


def _read_members(members: list[Member], reader: _Reader) -> Iterator[Record]:
    """Yield the crystals of many files; one that cannot be read is a problem of its own."""
    seen = [m for m in members if not files.is_hidden(m.name)]
    read = [m for m in seen if m.problem is not None or kind_of(m.name) != "words"]
    _note(reader, len(members) - len(seen), "hidden file{}")
    _note(reader, len(seen) - len(read), "text{} (.txt, .md)")
    stems = unique_stems([printable(m.name) for m in read])
    for index, member in enumerate(read):
        reader.report(index / len(read))
        name = printable(member.name)
        problem, row = member.problem, 0
        if problem is None and kind_of(name) in (None, "zip", "archive"):
            problem = "file of no known kind"
        if problem is None:
            try:
                for record in _read_file(name, stems[name], member.open(), reader):
                    row = record.row
                    yield record
            except (*BROKEN, TooLargeError, csv.Error, DataError) as error:
                words = str(error).removeprefix(f"{name}: ") or type(error).__name__
                problem = words if isinstance(error, DataError) else f"cannot be read: {words}"
        if problem is not None:
            yield Record(name, row + 1, stems[name], "problem", problem, {})


def _note(reader: _Reader, count: int, what: str) -> None:
    if count:
        named, verb = what.format("s" if count > 1 else ""), "were" if count > 1 else "was"
        reader.notes.append(f"{count:,} {named} {verb} not read")


def _read_file(name: str, own: str, stream: IO[bytes], reader: _Reader) -> Iterator[Record]:
    """Yield the crystals of one file, named after it where they have no names."""
    kind = kind_of(name)
    if kind == "table":
        yield from _read_table(name, own, stream, reader)
        return
    text = files.decode(files.read_all(stream, reader.limits))
    if kind == "poscar":
        if note := poscar.elements_from_comment(text):
            reader.notes.append(f"{name}: {note}")
        yield Record(name, 1, own, "poscar", text, {})
        return
    split = {"cif": _split_cif, "extxyz": _split_extxyz, "json": _split_json}[str(kind)]
    records = split(name, own, text, reader.limits)
    most = reader.limits.frames
    yield from islice(records, most)
    if next(records, None) is not None:
        reason = reader.limits.over("frames", f"more than {most:,} crystals in one file")
        yield Record(name, most + 1, own, "problem", reason, {})


def _read_table(name: str, own: str, stream: IO[bytes], reader: _Reader) -> Iterator[Record]:
    table = open_table(stream, name, reader.cif_column)
    if reader.many and reader.cif_column not in table.header:
        reader.notes.append(
            f"{name} has no column '{reader.cif_column}' and was not read; `data prepare"
            " --properties` takes the numbers of such a table"
        )
        return
    cif_at = column_place(table, [reader.cif_column], "data.cif_column=...", name)
    wanted, id_at = reader.id_column, None
    if wanted is not None and not (reader.many and wanted not in table.header):
        id_at = column_place(table, [wanted], "data.id_column=...", name)
    others = [(i, c) for i, c in enumerate(table.header) if c and i not in (cif_at, id_at)]
    for row in table.rows:
        if row.problem is not None:
            fallback = f"{own}-{row.number}" if id_at is None else ""
            yield Record(name, row.number, fallback, "problem", row.problem, {})
            continue
        crystal_id = f"{own}-{row.number}" if id_at is None else row.cells[id_at].strip()
        values = {column: row.cells[i] for i, column in others}
        yield Record(name, row.number, crystal_id, "cif", row.cells[cif_at], values)


def _split_cif(name: str, own: str, text: str, limits: Limits) -> Iterator[Record]:
    found = blocks(text)
    names = [block for block, _ in found]
    ids = [b if b and names.count(b) == 1 else str(row) for row, b in enumerate(names, start=1)]
    if len(set(ids)) < len(ids):  # a block is called like the row of another
        ids = [str(row) for row in range(1, len(ids) + 1)]
    for row, (crystal_id, (_, part)) in enumerate(zip(ids, found, strict=True), start=1):
        own_id = own if len(found) == 1 else f"{own}-{crystal_id}"
        yield Record(name, row, own_id, "cif", part, {})


def _split_extxyz(name: str, own: str, text: str, limits: Limits) -> Iterator[Record]:
    for row, frame in enumerate(extxyz.frames(text, limits), start=1):
        kind, content = "extxyz", frame.text
        values: dict[str, Any] = {}
        crystal_id, problem = f"{own}-{row}", frame.problem
        try:
            values = dict(extxyz.values(content.partition("\n")[0]))
            crystal_id = values.pop("material_id", None) or values.pop("id", None) or crystal_id
            values = {key: plain_value(word) for key, word in values.items()}
        except BadCrystalError as error:
            problem = problem or str(error)
        if problem is not None:
            kind, content = "problem", problem
        yield Record(name, row, crystal_id, kind, content, values)


def _split_json(name: str, own: str, text: str, limits: Limits) -> Iterator[Record]:
    found = json_shapes.crystals(text)
    first = list(islice(found, 2))
    for row, crystal in enumerate(chain(first, found), start=1):
        kind = "problem" if isinstance(crystal.content, str) else "dict"
        crystal_id = crystal.id or (own if len(first) == 1 else f"{own}-{row}")
        yield Record(name, row, crystal_id, kind, crystal.content, crystal.values)
