"""Read crystals out of files, one record at a time, without parsing them.

A source is a CSV (plain or gz), a folder or zip of structure files, one structure file, or a JSON
of pymatgen structures. Nothing of a zip is ever written to disk.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from chemeleon.errors import DataError, nearest

TABLE_SUFFIXES = (".csv", ".csv.gz")
_MAX_MEMBER_BYTES = 1 << 30
ARCHIVE_SUFFIX = ".safetensors.xz"
OTHER_SUFFIXES = (ARCHIVE_SUFFIX, ".json", ".json.gz", ".zip", ".extxyz", ".cif")


class Record(NamedTuple):
    """One crystal as found: ``kind`` and ``content`` are the arguments of `parse.parse`."""

    file: str
    row: int
    id: str
    kind: str
    content: Any
    values: Mapping[str, Any]


Report = Callable[[float], None]


def read_records(
    path: Path, id_column: str | None, cif_column: str, report: Report | None = None
) -> Iterator[Record]:
    """Yield the crystals of a source.

    Args:
        path: file or folder.
        id_column: CSV column with the name; None numbers the rows.
        cif_column: CSV column with the CIF text.
        report: called now and then with the share that has been read, 0 to 1.

    Raises:
        DataError: if the source as a whole cannot be read.
    """
    report = report or (lambda share: None)
    name = path.name.lower()
    with _readable(path):
        if path.is_dir():
            yield from _read_folder(path, report)
        elif is_archive(path):
            from chemeleon.data.archive import archive_records  # which imports this module

            yield from archive_records(path)
        elif name.endswith(".zip"):
            yield from _read_zip(path, report)
        elif name.endswith(TABLE_SUFFIXES):
            yield from _read_csv(path, id_column, cif_column, report)
        else:
            yield from _read_file(path.name, path.read_bytes(), strict=True)
    report(1.0)


def is_archive(path: Path) -> bool:
    """Tell a file of `packing.write_archive` by its name."""
    return path.name.lower().endswith(ARCHIVE_SUFFIX)


def fingerprint(path: Path) -> str:
    """Return the sha256 of a source: of the file, or of all names and contents of a folder."""
    with _readable(path):
        if path.is_file():
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        digest = hashlib.sha256()
        for member in _members(path):
            digest.update(member.relative_to(path).as_posix().encode() + b"\0")
            digest.update(hashlib.sha256(member.read_bytes()).digest())
        return digest.hexdigest()


def has_column(path: Path, column: str) -> bool:
    """Tell whether a CSV has the column; True for anything else, where it does not matter."""
    if not path.name.lower().endswith((".csv", ".csv.gz")) or not path.is_file():
        return True
    with path.open("rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
    try:
        with gzip.open(path, "rt") if packed else path.open() as file:
            return column in next(csv.reader(file), [])
    except (OSError, EOFError, UnicodeDecodeError, csv.Error):
        return True  # reading the whole file will say what is wrong


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn the many errors of broken files into one that names the file."""
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile, csv.Error) as error:
        raise DataError(
            f"{path} cannot be read: {error or type(error).__name__}."
            " If it was downloaded or copied, it may be cut short: fetch it again"
        ) from error


def _members(folder: Path) -> list[Path]:
    return sorted(
        p for p in folder.rglob("*") if p.is_file() and not p.name.startswith((".", "report.json"))
    )


def _read_folder(folder: Path, report: Report) -> Iterator[Record]:
    members = _members(folder)
    for index, member in enumerate(members):
        report(index / len(members))
        yield from _read_member(member.relative_to(folder).as_posix(), member.read_bytes)


def _read_zip(path: Path, report: Report) -> Iterator[Record]:
    with zipfile.ZipFile(path) as archive:
        infos = [i for i in archive.infolist() if not i.is_dir()]
        for index, info in enumerate(sorted(infos, key=lambda i: i.filename)):
            name = PurePosixPath(info.filename)
            if "__MACOSX" in name.parts:
                continue
            if name.is_absolute() or ".." in name.parts:
                # members are only read, never written; but such a file deserves no trust
                reason = "its name leads out of the archive"
                yield Record(info.filename, 1, name.stem, "problem", reason, {})
                continue
            report(index / len(infos))
            if info.file_size > _MAX_MEMBER_BYTES:
                reason = f"unpacks to {info.file_size} bytes, over {_MAX_MEMBER_BYTES}"
                yield Record(info.filename, 1, name.stem, "problem", reason, {})
                continue
            yield from _read_member(info.filename, lambda info=info: archive.read(info))


def _read_member(name: str, read: Callable[[], bytes]) -> Iterator[Record]:
    """Yield the crystals of one of many files; one that cannot be read is a problem of its own."""
    try:
        yield from _read_file(name, read())
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile, RuntimeError) as error:
        reason = f"cannot be read: {error or type(error).__name__}"
        yield Record(name, 1, PurePosixPath(name).name.split(".")[0], "problem", reason, {})


def _read_csv(
    path: Path, id_column: str | None, cif_column: str, report: Report
) -> Iterator[Record]:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    size = max(path.stat().st_size, 1)
    with path.open("rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        plain: Any = gzip.GzipFile(fileobj=raw) if packed else raw
        text = io.TextIOWrapper(plain, encoding="utf-8-sig", errors="replace", newline="")
        rows = csv.reader(text)
        header = next(rows, None)
        if not header:
            raise DataError(f"{path} is empty; a header such as material_id,cif was expected")
        for column, key in ((cif_column, "cif_column"), (id_column, "id_column")):
            if column is not None and column not in header:
                raise DataError(
                    f"{path} has no column '{column}'; its columns are {', '.join(header)}"
                    f"{nearest(column, header) or '.'} Name the right one with data.{key}=..."
                )
        cif_at = header.index(cif_column)
        id_at = None if id_column is None else header.index(id_column)
        others = [(i, c) for i, c in enumerate(header) if c and i not in (cif_at, id_at)]
        stem = path.name.split(".")[0]
        for row, cells in enumerate(rows, start=1):
            if not cells:
                continue
            if row % 256 == 0:
                report(raw.tell() / size)
            name = f"{stem}-{row}" if id_at is None else ""
            if len(cells) != len(header):
                reason = f"has {len(cells)} cells, the header has {len(header)}"
                yield Record(path.name, row, name, "problem", reason, {})
                continue
            if id_at is not None:
                name = cells[id_at].strip()
            values = {c: cells[i] for i, c in others}
            yield Record(path.name, row, name, "cif", cells[cif_at], values)


def _read_file(name: str, data: bytes, strict: bool = False) -> Iterator[Record]:
    """Yield the crystals of one structure file; other files are problems, or errors if strict."""
    lower = name.lower().removesuffix(".gz")
    if lower != name.lower():
        data = gzip.decompress(data)
    base = PurePosixPath(lower).name
    stem = PurePosixPath(name).name.split(".")[0] or name
    if lower.endswith((".cif", ".mcif")):
        yield Record(name, 1, stem, "cif", data.decode("utf-8", errors="replace"), {})
    elif base.startswith(("poscar", "contcar")) or lower.endswith((".vasp", ".poscar")):
        whole = name if base in {"poscar", "contcar"} else stem
        yield Record(name, 1, whole, "poscar", data.decode("utf-8", errors="replace"), {})
    elif lower.endswith((".extxyz", ".xyz")):
        yield from _read_extxyz(name, stem, data)
    elif lower.endswith(".json"):
        yield from _read_json(name, stem, data)
    elif strict:
        raise DataError(
            f"{name} is of no known kind: a CSV (.csv, .csv.gz), CIF, POSCAR (or .vasp), extxyz,"
            " JSON of pymatgen structures, a zip or a folder of such files is expected"
        )
    elif not lower.endswith((".csv", ".txt", ".md")):
        yield Record(name, 1, stem, "problem", "file of no known kind", {})


def _read_extxyz(name: str, stem: str, data: bytes) -> Iterator[Record]:
    from ase.io import iread

    # not StringIO, which takes four bytes for each letter
    text = io.TextIOWrapper(io.BytesIO(data), encoding="utf-8", errors="replace")
    frames = iread(text, format="extxyz", index=":")
    row = 0
    while True:
        row += 1
        fallback = f"{stem}-{row}"
        try:
            atoms = next(frames)
        except StopIteration:
            return
        except Exception as error:  # ase raises many classes; what follows cannot be found
            yield Record(name, row, fallback, "problem", f"unparsable extxyz: {error}", {})
            return
        if not all(atoms.pbc):
            yield Record(name, row, fallback, "problem", "not periodic in three directions", {})
            continue
        content = (atoms.numbers, atoms.get_scaled_positions(wrap=False), atoms.cell.array)
        info = {k: v for k, v in atoms.info.items() if isinstance(v, int | float | str)}
        crystal_id = str(info.pop("material_id", info.pop("id", fallback)))
        yield Record(name, row, crystal_id, "arrays", content, info)


def _read_json(name: str, stem: str, data: bytes) -> Iterator[Record]:
    try:
        found = json.loads(data)
    except ValueError as error:
        yield Record(name, 1, stem, "problem", f"unparsable JSON: {error}", {})
        return
    if isinstance(found, dict):
        single = "lattice" in found or "structure" in found
        items = [(stem, found)] if single else list(found.items())
    else:
        items = [(f"{stem}-{i}", item) for i, item in enumerate(found, start=1)]
    for row, (fallback, item) in enumerate(items, start=1):
        if not isinstance(item, dict):
            yield Record(name, row, str(fallback), "problem", "not a structure dictionary", {})
            continue
        structure = item.get("structure", item)
        extra = item if structure is not item else item.get("properties") or {}
        nested = extra.get("properties") or {}
        values = {k: v for k, v in {**extra, **nested}.items() if isinstance(v, int | float | str)}
        crystal_id = values.pop("material_id", values.pop("id", fallback))
        yield Record(name, row, str(crystal_id), "dict", structure, values)
