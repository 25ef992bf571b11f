"""A split in one compact file: exact decimals in safetensors, packed by xz. Nothing is parsed.

CIFs give coordinates, lengths and angles as decimals, so the file holds whole numbers of the last
decimal, and a reader gets the very numbers of the table that it was made from. Beside each cell as
given stands the integer matrix that makes its Niggli cell, so both forms are there. What ``xz -d``
gives is a safetensors file, whose metadata ``chemeleon`` is a JSON object.

Shapes: ``M`` crystals, ``A`` atoms of all crystals in a row.
"""

from __future__ import annotations

import json
import lzma
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from chemeleon.crystals.batch import MAX_ATOMIC_NUMBER
from chemeleon.crystals.lattice import lattice_angles, lattice_from_parameters, lattice_lengths
from chemeleon.data.cache import ParsedSet
from chemeleon.data.crystal import Record
from chemeleon.data.files import readable
from chemeleon.data.labels import Labels
from chemeleon.data.parse import wrap_float32
from chemeleon.errors import DataError

FORMAT = 1
MAX_BYTES = 1 << 27  # unpacked; 700,000 crystals of ten atoms
_MAX_HEADER = 1 << 20
_MAX_MEMORY = 1 << 26  # of the unpacker, beside what it gives
MOST_DECIMALS = 12  # of coordinates (share of the cell), lengths (angstrom) and angles (degree)
_STEP = 1 << 20

Array = NDArray[Any]


class Archive(NamedTuple):
    """The content of an archive.

    Attributes:
        parsed: its crystals with all numeric columns.
        text: text column to ``M`` values; empty where the table had none.
        names: all columns in the order of the table.
    """

    parsed: ParsedSet
    text: dict[str, list[str]]
    names: list[str]


def read_archive(path: Path, niggli: bool = True) -> Archive:
    """Read an archive.

    Args:
        path: a file of ``scripts/pack_dataset.py``.
        niggli: give Niggli cells instead of the cells of the source.

    Raises:
        DataError: if it cannot be read, is damaged or too large; memory stays bounded.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    content = _unpacked(path)
    try:
        size = int.from_bytes(content[:8], "little")
        _check(size <= _MAX_HEADER, f"its header has {size:,} bytes")
        details = json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["chemeleon"])
        if details["format"] != FORMAT:
            raise DataError(
                f"{path} has format {details['format']}; this version of chemeleon reads {FORMAT}"
            )
        arrays = load(content)
        del content
        return _archive(path.name, arrays, details, niggli)
    except KeyError as error:
        raise DataError(f"{path} is damaged or no archive of crystals: no {error}") from error
    except (SafetensorError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{path} is damaged or no archive of crystals: {error}") from error


def archive_records(path: Path) -> list[Record]:
    """Return the crystals of an archive as `sources.read_records` gives those of other files."""
    parsed, text, names = read_archive(path, niggli=False)
    columns: dict[str, list[Any]] = {
        name: text[name]
        if name in text
        else [None if x != x else x for x in parsed.columns[name].tolist()]
        for name in names
    }
    return [
        Record(
            path.name, i + 1, parsed.ids[i], "arrays", crystal, {n: columns[n][i] for n in names}
        )
        for i, crystal in enumerate(parsed.crystals())
    ]


def _unpacked(path: Path) -> bytes:
    """Unpack a file step by step, so that a small one cannot fill the memory."""
    with readable(path):
        packed = path.read_bytes()
        unpacker = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MAX_MEMORY)
        content = bytearray(unpacker.decompress(packed, _STEP))
        while not unpacker.eof and len(content) <= MAX_BYTES:
            more = unpacker.decompress(b"", _STEP)
            if not more and unpacker.needs_input:
                raise EOFError("it ends before its content does")
            content += more
    if len(content) > MAX_BYTES:
        raise DataError(f"{path} unpacks to more than {MAX_BYTES:,} bytes")
    return bytes(content)


def _check(fine: Any, what: str) -> None:
    if not fine:
        raise ValueError(what)


def _archive(name: str, arrays: dict[str, Array], details: Any, niggli: bool) -> Archive:
    numbers, counts, rows = (arrays[k] for k in ("atomic_numbers", "num_atoms", "niggli"))
    size, total = len(counts), len(numbers)
    _check(numbers.dtype == np.uint8 and numbers.ndim == 1 and size, "no elements")
    _check(1 <= numbers.min() <= numbers.max() <= MAX_ATOMIC_NUMBER, "unknown elements")
    _check(counts.dtype == np.int32 and counts.ndim == 1 and counts.min() > 0, "empty crystals")
    _check(counts.sum(dtype=np.int64) == total, f"{total} atoms, which are not those of its counts")
    _check(rows.dtype == np.int8 and rows.shape == (size, 3, 3), "wrong Niggli matrices")

    def numbers_of(key: str, *shape: int) -> Array:
        found, places = arrays[key], details["decimals"].get(key)
        _check(found.shape == shape, f"{key} has shape {found.shape} in place of {shape}")
        if places is None:
            _check(found.dtype == np.float32, f"{key} holds {found.dtype}")
            return found
        _check(found.dtype.kind == "i" and places in range(MOST_DECIMALS + 1), f"wrong {key}")
        values = found / 10.0**places
        values[found == np.iinfo(found.dtype).min] = np.nan
        return values

    lengths, angles = numbers_of("lengths", size, 3), numbers_of("angles", size, 3)
    frac = numbers_of("frac_coords", total, 3)
    lattice = lattice_from_parameters(
        torch.from_numpy(lengths), torch.deg2rad(torch.from_numpy(angles))
    ).numpy()
    if niggli:
        frac, lattice = _reduced(frac, lattice, rows.astype(np.float64), counts)
    frac -= np.floor(frac)
    volume = np.linalg.det(lattice)
    _check(
        np.isfinite(frac).all() and (volume > 1e-6).all() and (lengths > 0).all(), "broken cells"
    )
    given = [str(n) for n in details["columns"]]
    text = {n: _lines(arrays[f"text:{n}"], size) for n in given if f"text:{n}" in arrays}
    columns = {
        n: torch.from_numpy(numbers_of(f"column:{n}", size).astype(np.float32))
        for n in given
        if n not in text
    }
    parsed = ParsedSet(
        atomic_numbers=torch.from_numpy(numbers),
        frac_coords=torch.from_numpy(wrap_float32(frac)),
        lattice=torch.from_numpy(lattice.astype(np.float32)),
        num_atoms=torch.from_numpy(counts),
        rows=torch.arange(1, size + 1),
        files=torch.zeros(size, dtype=torch.int32),
        columns=columns,
        ids=_lines(arrays["ids"], size),
        file_names=[name],
        text_columns=list(text),
        labels={n: words for n, v in text.items() if (words := Labels.of(v)).small},
        problems=[],
        total=size,
    )
    return Archive(parsed, text, given)


def _lines(data: Array, count: int) -> list[str]:
    content = data.tobytes()
    _check(content.count(b"\n") == count - 1, "a wrong number of names or words")
    return content.decode().split("\n")


def _reduced(frac: Array, lattice: Array, rows: Array, counts: Array) -> tuple[Array, Array]:
    """Return coordinates and cells in the standard setting for the Niggli cells."""
    _check((abs(np.linalg.det(rows) - 1) < 1e-6).all(), "wrong Niggli matrices")
    cells = torch.from_numpy(rows @ lattice)
    turned = lattice_from_parameters(lattice_lengths(cells), lattice_angles(cells)).numpy()
    back = np.round(np.linalg.inv(rows)).astype(np.int8)
    # by columns: an array of a matrix per atom would be the largest of all
    owner = np.repeat(np.arange(len(counts)), counts)
    moved = np.empty_like(frac)
    for j in range(3):
        moved[:, j] = sum(frac[:, i] * back[owner, i, j] for i in range(3))
    return moved, turned
