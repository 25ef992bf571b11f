"""A set of crystals from any source, with what is said of each; every request keeps its row.

Shapes: ``C`` crystals, read or not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, compress, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chemeleon.crystals.batch import Array, Crystals
from chemeleon.data.crystal import Record
from chemeleon.data.parse import BadCrystalError, from_structure
from chemeleon.data.problems import OnError, check_reasons
from chemeleon.data.sources import has_column, read_records
from chemeleon.errors import DataError
from chemeleon.evaluation.describe import NUMBERS, TEXTS, Describe
from chemeleon.evaluation.origin import crystals_of, sample_manifest
from chemeleon.evaluation.wanted import Wanted
from chemeleon.evaluation.work import Progress, answers

if TYPE_CHECKING:
    import pandas
    from pymatgen.core import Structure

_ARRAYS = 4096  # crystals put into arrays at a time
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

    def whole(self, name: str) -> pandas.api.extensions.ExtensionArray:
        """Return one of `describe.NUMBERS` as whole numbers, missing where unknown."""
        import pandas

        return pandas.array(self.column(name), dtype="Int64")

    def text(self, name: str) -> list[str]:
        """Return one of `describe.TEXTS`, ``C`` words; empty where unknown."""
        at = TEXTS.index(name)
        return [row[at] for row in self.texts]

    def words(self, name: str) -> list[str | None]:
        """Return the same for a table: None where unknown."""
        return [word or None for word in self.text(name)]

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

    def items() -> Iterator[tuple[str, Any]]:
        for record in records:
            kept.append(record._replace(content=None, values={}))
            yield record.kind, record.content

    found = answers(Describe([]), items(), workers)
    parts, numbers, texts, reasons = [], [np.zeros((0, len(NUMBERS)))], [], []
    while said := list(islice(found, _ARRAYS)):  # arrays of many take less memory than as many
        parts.append(Crystals.of([one.crystal for one in said]))
        reasons += [one.reason for one in said]
        numbers.append(np.array([one.numbers for one in said]))
        texts += [one.texts for one in said]
    if not kept and isinstance(source, Path):
        raise DataError(
            f"{source} holds no crystals: a CSV with a column cif, CIF, POSCAR, extxyz, JSON, a zip"
            " or a folder of such files is expected"
        )
    found = Collection(
        ids=[r.id or f"row-{i}" for i, r in enumerate(kept, start=1)],
        sources=[f"{r.file}:{r.row}" if r.row > 1 or r.kind != "cif" else r.file for r in kept],
        reasons=reasons,
        crystals=Crystals.join(parts),
        numbers=np.concatenate(numbers),
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
