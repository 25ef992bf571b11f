"""Parse a whole source, on all cores, into flat tensors."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import TextColumn, TimeRemainingColumn

from chemeleon.crystals.batch import Array, Crystals
from chemeleon.data.cache import ParsedSet
from chemeleon.data.columns import columns_of
from chemeleon.data.crystal import Record
from chemeleon.data.limits import Limits
from chemeleon.data.parse import ParsedChunk, parse_chunk
from chemeleon.data.problems import Problem, problems_error
from chemeleon.data.sources import is_archive, read_records
from chemeleon.terminal import progress_bar
from chemeleon.workers import run_parallel, worker_count

_CHUNK = 128
_MOST_PROBLEMS = 200_000  # what is no list of crystals must not fill memory with reasons
_IN_PROCESS = 200  # starting workers takes longer than parsing so few crystals


def parse_source(
    path: Path,
    *,
    id_column: str | None = "material_id",
    cif_column: str = "cif",
    niggli: bool = True,
    limits: Limits | None = None,
    progress: bool = False,
) -> ParsedSet:
    """Read and parse every crystal of a source; bad rows become problems.

    Args:
        path: CSV, folder, zip, structure file or archive.
        id_column: CSV column of the name; None numbers the rows.
        cif_column: CSV column of the CIF.
        niggli: reduce the cells.
        limits: what a file may ask for.
        progress: show a bar on standard error.

    Raises:
        DataError: if the source as a whole cannot be read.
    """
    if is_archive(path):
        from chemeleon.data.archive import read_archive  # which imports this module

        return read_archive(path, niggli).parsed
    columns = TextColumn("{task.percentage:>3.0f} %"), TimeRemainingColumn()
    with progress_bar(*columns, transient=True, shown=progress) as bar:
        task = bar.add_task(f"parsing {path.name}", total=1.0)
        notes: list[str] = []
        records = read_records(
            path,
            id_column,
            cif_column,
            lambda share: bar.update(task, completed=share),
            limits=limits,
            notes=notes,
        )
        return collect(records, niggli, limits, notes)


def collect(
    records: Iterator[Record],
    niggli: bool = True,
    limits: Limits | None = None,
    notes: list[str] | None = None,
) -> ParsedSet:
    """Parse records; bad ones, and those whose id came before, become problems.

    Args:
        records: crystals as found.
        niggli: reduce the cells.
        limits: what a crystal may ask for.
        notes: of the reader, which may grow while records are taken.

    Raises:
        DataError: if more rows are bad than can be told.
    """
    keep: list[Crystals[Array]] = []  # of each chunk
    kept: list[Record] = []  # without content, which is most of the memory
    problems: list[Problem] = []
    total = 0
    seen: dict[str, str] = {}
    for chunk, (reasons, crystals) in _parsed(records, niggli, limits or Limits()):
        total += len(chunk)
        if len(problems) > _MOST_PROBLEMS:
            raise problems_error(problems, total, "This is no list of crystals")
        # one of a chunk's good crystals may still be a duplicate
        wanted: list[bool] = []
        for record, reason in zip(chunk, reasons, strict=True):
            place = f"{record.file}, row {record.row}"
            first = seen.get(record.id) if record.id else None
            seen.setdefault(record.id, place)
            if reason is None:
                if not record.id:
                    reason = "has no id"
                elif first is not None:
                    reason = f"duplicate id, first seen in {first}"
                wanted.append(reason is None)
            if reason is None:
                kept.append(record)
            else:
                problems.append(Problem(record.file, record.row, record.id, reason))
        keep.append(crystals.subset(np.array(wanted, dtype=bool)))
    places = [f"{r.file}, row {r.row}" for r in kept]
    values, labels, said = columns_of([r.values for r in kept], places)
    names = list(dict.fromkeys(record.file for record in kept))
    index = {name: i for i, name in enumerate(names)}
    merged = Crystals.join(keep)
    return ParsedSet(
        atomic_numbers=torch.from_numpy(merged.atomic_numbers),
        frac_coords=torch.from_numpy(merged.frac_coords).float(),
        lattice=torch.from_numpy(merged.lattice).float(),
        num_atoms=torch.from_numpy(merged.num_atoms).int(),
        rows=torch.tensor([r.row for r in kept], dtype=torch.int64),
        files=torch.tensor([index[r.file] for r in kept], dtype=torch.int32),
        columns=values,
        ids=[r.id for r in kept],
        file_names=names,
        text_columns=list(labels),
        problems=problems,
        total=total,
        labels={name: found for name, found in labels.items() if found.small},
        notes=[*(notes or []), *said],
    )


def _parsed(
    records: Iterator[Record], niggli: bool, limits: Limits
) -> Iterator[tuple[list[Record], ParsedChunk]]:
    """Yield chunks of records (their content dropped) with the result of `parse_chunk`."""
    first = list(islice(records, _IN_PROCESS))
    workers = worker_count()
    small = len(first) < _IN_PROCESS or workers == 1
    everything = chain(first, records)
    waiting: list[list[Record]] = []

    def jobs() -> Iterator[Any]:
        while chunk := list(islice(everything, _CHUNK)):
            waiting.append([r._replace(content=None) for r in chunk])
            yield [(r.kind, r.content) for r in chunk], niggli, limits

    place = "chemeleon.data.parse:parse_chunk"
    results = map(parse_chunk, jobs()) if small else run_parallel(place, jobs(), workers)
    for result in results:
        yield waiting.pop(0), result
