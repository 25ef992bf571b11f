"""Pack tables of the project's layout into the archives of ``chemeleon/datasets``.

    python scripts/pack_dataset.py data/mp -o chemeleon/datasets/mp

Each of train, val and test that SRC_DIR holds (in any form that ``chemeleon data describe`` reads)
becomes one ``.safetensors.xz``; the same tables give the same bytes. Each archive is read again and
compared with what training would make of the table, as given and reduced. `chemeleon.data.archive`
tells what is in an archive and reads it.
"""

from __future__ import annotations

import argparse
import json
import lzma
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save

from chemeleon.config.schema import DataConfig
from chemeleon.crystals.lattice import lattice_angles, lattice_lengths
from chemeleon.data.archive import FORMAT, MAX_BYTES, read_archive
from chemeleon.data.building import collect
from chemeleon.data.columns import columns_of
from chemeleon.data.crystal import Record
from chemeleon.data.dataset import SPLITS, split_path
from chemeleon.data.names import ARCHIVE_SUFFIX
from chemeleon.data.niggli import determinant, niggli_matrix
from chemeleon.data.parse import BadCrystalError, parse_as_given, standardise
from chemeleon.data.problems import Problem, problems_error
from chemeleon.data.sources import read_records
from chemeleon.errors import DataError

DECIMALS = 8  # of coordinates, lengths and angles in tables
_TOLERANCE = 1e-6  # of the cell, and angstrom; beyond what float32 resolves
# lp and pb say that most numbers have four bytes
_FILTERS = [
    {
        "id": lzma.FILTER_LZMA2,
        "preset": 9 | lzma.PRESET_EXTREME,
        "dict_size": 1 << 25,
        "lc": 1,
        "lp": 2,
        "pb": 2,
    }
]

Array = NDArray[Any]


class Packed(NamedTuple):
    """One crystal: the fields of `parse.Crystal` in the standard setting, and its Niggli cell."""

    atomic_numbers: Array
    frac_coords: Array
    lattice: Array
    niggli: Array  # (3, 3) whole numbers; times ``lattice`` they are the Niggli cell


def write_archive(path: Path, records: Sequence[Record]) -> None:
    """Write records of `sources.read_records` as an archive; equal records give equal bytes.

    Args:
        path: ends in ``.safetensors.xz``.
        records: crystals with different ids. Coordinates, lengths and angles are kept to eight
            decimals, numbers of columns as float32.

    Raises:
        DataError: for a crystal that cannot be used; an archive has no bad rows.
    """
    if not path.name.lower().endswith(ARCHIVE_SUFFIX):
        raise DataError(f"{path} must end in {ARCHIVE_SUFFIX}, by which archives are known")
    path.write_bytes(pack(records, _crystals(records)))


def _crystals(records: Sequence[Record]) -> list[Packed]:
    crystals: list[Packed] = []
    problems: list[Problem] = []
    seen: set[str] = set()
    for record in records:
        try:
            if record.kind == "problem":
                raise BadCrystalError(record.content)
            if not record.id or record.id in seen:
                raise BadCrystalError("duplicate id" if record.id else "has no id")
            seen.add(record.id)
            given = parse_as_given(record.kind, record.content)
            plain = standardise(given, niggli=False)
            crystals.append(Packed(*plain, _niggli_rows(given.lattice)))
        except BadCrystalError as error:
            problems.append(Problem(record.file, record.row, record.id, str(error)))
    if problems or not crystals:
        raise problems_error(problems, len(records), "an archive holds only crystals without fault")
    return crystals


def _niggli_rows(lattice: Array) -> Array:
    """Return the whole numbers that `standardise` multiplies a cell by to reduce it."""
    reduced = niggli_matrix(lattice)
    if np.allclose(reduced, lattice):
        return np.eye(3, dtype=np.int8)
    rows = reduced @ np.linalg.inv(lattice)
    if abs(rows - np.round(rows)).max() > 1e-3 or abs(rows).max() > 127:
        raise BadCrystalError("its Niggli cell is no small whole multiple of its cell")
    # the standard setting turns the axes of a left-handed cell round
    return np.round(rows if determinant(lattice) > 0 else -rows).astype(np.int8)


def pack(records: Sequence[Record], crystals: Sequence[Packed], most: int = DECIMALS) -> bytes:
    """Return the bytes of an archive; the content of records is not used.

    Args:
        records: ids and columns.
        crystals: their atoms, in the same order.
        most: decimals of coordinates, lengths and angles at the most, up to `MOST_DECIMALS`.
    """
    numbers, frac, cells, niggli = zip(*crystals, strict=True)
    lattice = torch.from_numpy(np.array(cells))
    columns, text, _ = columns_of([record.values for record in records])
    decimals: dict[str, int] = {}
    arrays: dict[str, Array] = {
        "atomic_numbers": np.concatenate(numbers).astype(np.uint8),
        "num_atoms": np.array([len(n) for n in numbers], dtype=np.int32),
        "niggli": np.array(niggli, dtype=np.int8),
        "ids": _joined([r.id for r in records]),
        **{f"text:{n}": _joined([str(r.values.get(n) or "") for r in records]) for n in text},
    }
    for name, values in {
        "frac_coords": np.concatenate(frac),
        "lengths": lattice_lengths(lattice).numpy(),
        "angles": np.degrees(lattice_angles(lattice).numpy()),
    }.items():
        places = _places(values, 0.1**most / 100, most)
        decimals[name] = most if places is None else places
        arrays[name] = _whole(values, decimals[name])
    arrays["frac_coords"] %= 10 ** decimals["frac_coords"]  # 0.999999999 becomes 1, which is 0
    for name, tensor in columns.items():
        key, values = f"column:{name}", tensor.numpy()
        arrays[key], places = values, _places(values, 0.0)
        if places is not None:
            decimals[key], arrays[key] = places, _whole(values, places)
    order = list(dict.fromkeys(name for r in records for name in r.values))
    details = json.dumps({"format": FORMAT, "columns": order, "decimals": decimals})
    content = save(arrays, metadata={"chemeleon": details})
    if len(content) > MAX_BYTES:
        raise DataError(f"{len(content):,} bytes are more than an archive holds ({MAX_BYTES:,})")
    return lzma.compress(content, check=lzma.CHECK_CRC64, filters=_FILTERS)


def _places(values: Array, tolerance: float, most: int = DECIMALS) -> int | None:
    """Return how many decimals give the values back, in their own precision; None if too many."""
    known = values[~np.isnan(values)]
    for places in range(most + 1):
        back = (np.round(known.astype(np.float64) * 10**places) / 10**places).astype(values.dtype)
        if abs(known).max(initial=0) * 10**places < 2**53 and (
            abs(back - known).max(initial=0) <= tolerance
        ):
            return places
    return None


def _whole(values: Array, places: int) -> Array:
    """Return whole numbers of the last decimal in the smallest type; the least one means none."""
    scaled = np.round(values.astype(np.float64) * 10**places)
    largest = np.nanmax(abs(scaled), initial=0)
    kind = next(k for k in (np.int8, np.int16, np.int32, np.int64) if largest <= np.iinfo(k).max)
    missing = np.isnan(scaled)
    scaled[missing] = 0
    whole = scaled.astype(kind)
    whole[missing] = np.iinfo(kind).min
    return whole


def _joined(lines: list[str]) -> Array:
    return np.frombuffer("\n".join(x.replace("\n", " ") for x in lines).encode(), dtype=np.uint8)


def pack_table(source: Path, path: Path) -> None:
    """Write one archive and hold it against its table."""
    records = list(read_records(source, "material_id", "cif"))
    write_archive(path, records)
    worst = []
    for niggli in (False, True):
        wanted = collect(iter(records), niggli)
        found = read_archive(path, niggli).parsed
        same = [torch.equal(wanted.atomic_numbers, found.atomic_numbers)]
        same += [torch.equal(wanted.num_atoms, found.num_atoms), wanted.ids == found.ids]
        same += [list(wanted.columns) == list(found.columns)]
        same += [
            torch.equal(values.nan_to_num(torch.inf), found.columns[name].nan_to_num(torch.inf))
            for name, values in wanted.columns.items()
        ]
        away = (wanted.frac_coords - found.frac_coords).abs()
        coords = float(torch.minimum(away, 1 - away).max())
        # float32 itself resolves no more of a long cell
        step = wanted.lattice.abs().amax().item() * torch.finfo(torch.float32).eps
        cells = float((wanted.lattice - found.lattice).abs().max())
        worst += [coords, cells]
        if not all(same) or coords > _TOLERANCE or cells > max(_TOLERANCE, step):
            raise DataError(f"{path} does not give {source} back: {coords:.2g}, {cells:.2g} A")
    print(f"{path}: {len(records):,} crystals, {path.stat().st_size:,} bytes; away from the table")
    print("  by {:.2g} and {:.2g} A as given, {:.2g} and {:.2g} A reduced".format(*worst))


def main() -> None:
    """Pack every split that is there."""
    parser = argparse.ArgumentParser(description="Pack tables into archives.")
    parser.add_argument("source", type=Path, metavar="SRC_DIR")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    asked = parser.parse_args()
    source = asked.source.resolve()
    config = DataConfig(name=source.name, root=str(source.parent))
    asked.output.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        try:
            path = split_path(config, split)
        except DataError as error:
            print(f"{split}: {error}")
            continue
        pack_table(path, asked.output / f"{split}{ARCHIVE_SUFFIX}")


if __name__ == "__main__":
    main()
