"""A set of crystals from any source, with what is said of each; every request keeps its row.

Shapes: ``C`` crystals, read or not; ``R`` rows of a file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, compress, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from chemeleon.crystals.batch import Array, Crystal, Crystals
from chemeleon.data.columns import columns_of
from chemeleon.data.crystal import Record, structure_of
from chemeleon.data.parse import BadCrystalError, from_structure
from chemeleon.data.problems import OnError, check_reasons
from chemeleon.data.sources import has_column, read_records
from chemeleon.data.where import Rows, judge
from chemeleon.errors import DataError
from chemeleon.evaluation.describe import NUMBERS, TEXTS, WHOLE, Describe
from chemeleon.evaluation.origin import crystals_of, sample_manifest
from chemeleon.evaluation.work import Progress, answers

if TYPE_CHECKING:
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

    def words(self, name: str) -> list[str | None]:
        """Return one of `describe.TEXTS`, ``C`` words; None where unknown."""
        at = TEXTS.index(name)
        return [row[at] or None for row in self.texts]

    def table(self, *names: str) -> dict[str, Any]:
        """Return columns by their names, as a table holds them; missing where unknown."""
        import pandas

        found: dict[str, Any] = {}
        for name in names:
            found[name] = self.words(name) if name in TEXTS else self.column(name)
            if name in WHOLE:
                found[name] = pandas.array(found[name], dtype="Int64")
        return found

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


class Structures(Sequence["Structure | None"]):
    """A list of pymatgen structures that are made when they are asked for.

    200,000 Structures would take more memory than all the rest of an evaluation.
    """

    def __init__(self, crystals: Crystals[Array]) -> None:
        self._crystals = crystals

    def __len__(self) -> int:
        return len(self._crystals)

    @overload
    def __getitem__(self, index: int) -> Structure | None: ...
    @overload
    def __getitem__(self, index: slice) -> list[Structure | None]: ...
    def __getitem__(self, index: int | slice) -> Structure | list[Structure | None] | None:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        row = range(len(self))[index]
        return structure_of(self._crystals.crystal(row)) if self._crystals.num_atoms[row] else None


def read_collection(
    source: Path | Sequence[Structure | None] | Crystals[Array],
    *,
    ids: Sequence[str] | None = None,
    where: str | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Collection:
    """Read and describe crystals; whatever cannot be read becomes a row with its reason.

    Args:
        source: file or folder, see `data.sources`, pymatgen structures (None: not made), or
            crystals in arrays (of no atoms: not made).
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
    rows, possible = None, np.zeros(0, bool)
    if isinstance(source, Path):
        records = _records(source, told)
        if where is not None:
            # columns rule out most rows, so that only what may be wanted is parsed and described
            rows = _columns(_records(source), _id_column(source))
            possible = ~judge(where, rows, str(source)).no
            records = compress(records, possible)
    elif hasattr(source, "lattice") and not isinstance(source, Crystals):
        raise DataError("one structure was given where a list of them is expected: [structure]")
    else:
        records = _from_memory(source, ids)
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
    if where is None or rows is None:
        return found
    kept_rows = _wanted(found, where, rows, np.flatnonzero(possible), str(source))
    return found.take(kept_rows, len(rows) - len(kept_rows))


def _columns(records: Iterable[Record], id_column: str | None) -> Rows:
    """Return the columns of ``R`` rows, without compositions."""
    named = [(record.id, record.values) for record in records]
    columns, labels, _ = columns_of([values for _, values in named])
    numbers = {name: column.numpy() for name, column in columns.items()}
    nothing = np.zeros(0, np.uint8), np.zeros(len(named), np.int64)
    return Rows(numbers, labels, [], *nothing, [n for n, _ in named], id_column or "material_id")


def _wanted(
    found: Collection, where: str, rows: Rows, at: NDArray[np.int64], source: str
) -> NDArray[np.int64]:
    """Return which crystals an expression wants, now that their compositions are known; those
    that cannot be read stay.

    Args:
        found: the crystals of rows that may be wanted.
        where: the expression.
        rows: columns of the file.
        at: ``(C,)`` the row of each crystal.
        source: named in errors.

    Raises:
        DataError: if no crystal is left.
    """
    known = replace(
        rows,
        numbers={name: column[at] for name, column in rows.numbers.items()},
        labels={name: column.take(at) for name, column in rows.labels.items()},
        atomic_numbers=found.crystals.atomic_numbers,
        num_atoms=found.crystals.num_atoms,
        ids=[rows.ids[i] for i in at.tolist()],
    )
    yes, no = judge(where, known, source)
    good = np.array([reason is None for reason in found.reasons], dtype=bool)
    if not (good & yes).any():
        raise DataError(f"{source}: none of the {len(rows):,} crystals is left where {where}")
    return np.flatnonzero(np.where(good, yes, ~no))


def _records(path: Path, progress: Progress | None = None) -> Iterator[Record]:
    unwritten: list[Record] = []
    manifest = sample_manifest(path)
    if manifest is not None:
        path, unwritten = crystals_of(path, manifest)
    report = None if progress is None else lambda share: progress("reading", share)
    return chain(read_records(path, _id_column(path), "cif", report), unwritten)


def _id_column(path: Path) -> str | None:
    return next((c for c in _ID_COLUMNS if has_column(path, c)), None)


def _from_memory(
    source: Sequence[Structure | None] | Crystals[Array], ids: Sequence[str] | None
) -> Iterator[Record]:
    names = [f"crystal-{i:06d}" for i in range(len(source))] if ids is None else list(ids)
    for row, (given, name) in enumerate(zip(source, names, strict=True), start=1):
        kind, content = "arrays", None
        try:
            if given is None or (isinstance(given, Crystal) and not len(given.atomic_numbers)):
                raise BadCrystalError("no structure was made")
            content = tuple(given if isinstance(given, Crystal) else from_structure(given))
        except BadCrystalError as error:
            kind, content = "problem", str(error)
        yield Record("memory", row, name, kind, content, {})
