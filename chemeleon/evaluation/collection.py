"""A set of crystals from any source, with what is said of each; every request keeps its row.

Shapes: ``C`` crystals, read or not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, compress, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chemeleon.crystals.batch import Array, Crystals
from chemeleon.data.crystal import Record
from chemeleon.data.parse import BadCrystalError, from_structure
from chemeleon.data.pool import Rescue, Worker, run_parallel, worker_count
from chemeleon.data.problems import OnError, check_reasons
from chemeleon.data.sources import has_column, read_records
from chemeleon.errors import DataError
from chemeleon.evaluation.describe import NUMBERS, RESCUE, TEXTS, describe_chunk, is_tame
from chemeleon.evaluation.origin import crystals_of, sample_manifest
from chemeleon.evaluation.wanted import Wanted

if TYPE_CHECKING:
    from pymatgen.core import Structure

Progress = Callable[[str, float], None]
_CHUNK = 128
_FEW_JOBS = 2  # starting workers takes longer than so few jobs
_ID_COLUMNS = ("material_id", "id", "name")


@dataclass(frozen=True)
class Collection:
    """Crystals in input order.

    Attributes:
        ids: ``C`` names.
        sources: file of each, with its row where a file holds several.
        reasons: why a crystal could not be read, else None.
        crystals: as given, in float64; of no atoms where there is a reason.
        numbers: ``(C, K)`` float64, columns of `describe.NUMBERS`; NaN where unknown.
        texts: ``C`` rows of `describe.TEXTS`.
        left_out: rows of the source that were not wanted.
    """

    ids: list[str]
    sources: list[str]
    reasons: list[str | None]
    crystals: Crystals[Array]
    numbers: NDArray[np.float64]
    texts: list[tuple[str, ...]]
    left_out: int = 0

    def __len__(self) -> int:
        return len(self.ids)

    def column(self, name: str) -> NDArray[np.float64]:
        """Return one of `describe.NUMBERS`, ``(C,)``."""
        return self.numbers[:, NUMBERS.index(name)]

    def text(self, name: str) -> list[str]:
        """Return one of `describe.TEXTS`, ``C`` words; empty where unknown."""
        at = TEXTS.index(name)
        return [row[at] for row in self.texts]

    def take(self, rows: NDArray[np.int64], left_out: int) -> Collection:
        """Return the crystals of these rows."""
        ids, sources, reasons, texts = (
            [values[i] for i in rows.tolist()]
            for values in (self.ids, self.sources, self.reasons, self.texts)
        )
        crystals = self.crystals.subset(rows)
        return Collection(ids, sources, reasons, crystals, self.numbers[rows], texts, left_out)

    def check(self, on_error: OnError, name: str) -> None:
        """Raise DataError if too many rows are bad."""
        reasons = [reason for reason in self.reasons if reason is not None]
        total = len(self) + self.left_out
        check_reasons(reasons, total, on_error, name, "--on-error skip leaves them out")


def parallel(
    function: str,
    local: Callable[[Any], Any],
    jobs: Iterable[Any],
    workers: int | None,
    rescue: Rescue | None = None,
    tame: Callable[[Any], bool] | None = None,
) -> Iterator[Any]:
    """Yield ``function(job)`` in order, from worker processes where that pays or is safer.

    Args:
        function: ``package.module:name`` of ``local``.
        local: the function itself.
        jobs: picklable arguments.
        workers: processes; all cores if None.
        rescue: how to go on when a job ends its process or raises.
        tame: whether a job may run in this process, where nothing ends compiled code; all by
            default.
    """
    count = workers or worker_count()
    waiting = iter(jobs)
    first = list(islice(waiting, _FEW_JOBS + 1))
    everything = chain(first, waiting)
    if len(first) <= _FEW_JOBS or count == 1:
        return _one_by_one(function, local, everything, rescue, tame or (lambda job: True))
    return run_parallel(function, everything, count, rescue)


def _one_by_one(
    function: str,
    local: Callable[[Any], Any],
    jobs: Iterable[Any],
    rescue: Rescue | None,
    tame: Callable[[Any], bool],
) -> Iterator[Any]:
    worker = Worker(function)  # starts with its first job, if there ever is one
    try:
        for job in jobs:
            if not tame(job):
                yield worker.answer(job, rescue)
                continue
            try:
                found = local(job)
            except Exception:
                if rescue is None:
                    raise
                found = worker.answer(job, rescue)
            yield found
    finally:
        worker.close(wait=True)


def read_collection(
    source: Path | Sequence[Structure | None],
    *,
    ids: Sequence[str] | None = None,
    where: str | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Collection:
    """Read and describe crystals; whatever cannot be read becomes a row with its reason.

    Args:
        source: file or folder, see `data.sources`, or pymatgen structures (None: not made).
        ids: names of the structures.
        where: which rows of a file or folder, see `data.where`; a crystal that cannot be read
            stays if it may be one of them.
        workers: processes; all cores if None.
        progress: called with a word and the share done.

    Raises:
        DataError: if the source as a whole cannot be read, holds nothing, is a structure in place
            of a list, or no row is wanted.
    """
    told = progress or (lambda word, share: None)
    wanted = None
    if isinstance(source, Path):
        records = _records(source, told)
        if where is not None:
            wanted = Wanted.of(_records(source), where, source, _id_column(source))
            records = compress(records, wanted.possible)
    elif hasattr(source, "lattice"):
        raise DataError("one structure was given where a list of them is expected: [structure]")
    else:
        records = _from_structures(source, ids)
    kept: list[Record] = []
    parts, numbers, texts, reasons = [], [], [], []

    def jobs() -> Iterator[list[tuple[str, Any]]]:
        while chunk := list(islice(records, _CHUNK)):
            kept.extend(r._replace(content=None, values={}) for r in chunk)
            yield [(r.kind, r.content) for r in chunk]

    function = f"{describe_chunk.__module__}:describe_chunk"
    for described in parallel(function, describe_chunk, jobs(), workers, RESCUE, is_tame):
        parts.append(described.crystals)
        reasons += described.reasons
        numbers.append(described.numbers)
        texts += described.texts
    if not kept and isinstance(source, Path):
        raise DataError(
            f"{source} holds no crystals: a CSV with a column cif, CIF, POSCAR, extxyz, JSON, a zip"
            " or a folder of such files is expected"
        )
    width = len(NUMBERS)
    found = Collection(
        ids=[r.id or f"row-{i}" for i, r in enumerate(kept, start=1)],
        sources=[f"{r.file}:{r.row}" if r.row > 1 or r.kind != "cif" else r.file for r in kept],
        reasons=reasons,
        crystals=Crystals.join(parts),
        numbers=np.concatenate([np.zeros((0, width)), *numbers]),
        texts=texts,
    )
    if wanted is None:
        return found
    rows = wanted.rows(found.crystals, found.reasons)
    return found.take(rows, wanted.total - len(rows))


def _records(path: Path, progress: Progress | None = None) -> Iterator[Record]:
    unwritten: list[Record] = []
    manifest = sample_manifest(path)
    if manifest is not None:
        path, unwritten = crystals_of(path, manifest)
    report = None if progress is None else lambda share: progress("reading", share)
    return chain(read_records(path, _id_column(path), "cif", report), unwritten)


def _id_column(path: Path) -> str | None:
    return next((c for c in _ID_COLUMNS if has_column(path, c)), None)


def _from_structures(
    structures: Sequence[Structure | None], ids: Sequence[str] | None
) -> Iterator[Record]:
    names = [f"crystal-{i:06d}" for i in range(len(structures))] if ids is None else list(ids)
    for row, (structure, name) in enumerate(zip(structures, names, strict=True), start=1):
        kind, content = "arrays", None
        try:
            if structure is None:
                raise BadCrystalError("no structure was made")
            content = tuple(from_structure(structure))
        except BadCrystalError as error:
            kind, content = "problem", str(error)
        yield Record("memory", row, name, kind, content, {})
