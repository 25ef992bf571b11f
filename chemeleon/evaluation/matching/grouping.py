"""Uniqueness and novelty of a set of crystals.

Uniqueness is a property of the whole set: crystals belong together if a chain of matches joins
them, and not by which of them came first. A match of ``i < j`` is
``StructureMatcher.fit(crystal i, crystal j)``; a crystal is novel if ``fit(crystal, reference)``
holds for none of the references.

Shapes: ``C`` crystals.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from chemeleon.crystals.batch import Array, Crystal, Crystals
from chemeleon.evaluation.matching.judge import Edges, MatchJob
from chemeleon.evaluation.matching.limits import Tolerances
from chemeleon.evaluation.matching.reduced import Reduce
from chemeleon.evaluation.work import Progress, answers, finish, told
from chemeleon.workers import worker_count, workers_wait

_PAIRS = 300_000  # of one job, about
_FEW_PAIRS = 1000
_KEYS_CHUNK = 4096
_WITHIN_PARTS = 4
_WAITING_PAIRS = 64  # of one job, for workers that run already

Key = tuple[bytes, int]


class Prepared(NamedTuple):
    """Crystals as the matcher compares them.

    Attributes:
        crystals: reduced; of no atoms where a crystal is not (yet) reduced.
        keys: reduced composition of each; empty where it could not be read.
        reasons: why a crystal could not be reduced, else None.
    """

    crystals: Crystals[Array]
    keys: list[bytes]
    reasons: list[str | None]


class Groups(NamedTuple):
    """Connected components of the match graph.

    Attributes:
        group: ``(C,)`` int64, the first crystal of the component; -1 for unreadable ones.
        unique: ``(C,)`` bool, True for the first of each component.
        undecided: ``(C,)`` int64 pairs of this crystal without a verdict in time.
    """

    group: NDArray[np.int64]
    unique: NDArray[np.bool_]
    undecided: NDArray[np.int64]


class Novelty(NamedTuple):
    """Whether crystals are in a reference set.

    Attributes:
        match: ``(C,)`` int64, a reference that matches, or -1.
        undecided: ``(C,)`` int64 pairs of this crystal without a verdict in time.
    """

    match: NDArray[np.int64]
    undecided: NDArray[np.int64]


def composition_keys(crystals: Crystals[Array]) -> list[bytes]:
    """Return the reduced composition of each crystal as bytes; empty for those of no atoms.

    Crystals with other bytes never match. See `elements_of`.
    """
    keys: list[bytes] = []
    for begin in range(0, len(crystals), _KEYS_CHUNK):
        part = crystals.subset(np.arange(begin, min(begin + _KEYS_CHUNK, len(crystals))))
        total = len(part)
        table = np.bincount(part.owners * 256 + part.atomic_numbers, minlength=total * 256).reshape(
            total, 256
        )
        rows, elements = np.nonzero(table)
        reduced = table // np.maximum(np.gcd.reduce(table, axis=1), 1)[:, None]
        pairs = np.stack([elements, reduced[rows, elements]], -1).astype(np.uint16).tobytes()
        ends = np.cumsum(np.bincount(rows, minlength=total)) * 4  # two numbers of two bytes
        bounds = [0, *ends.tolist()]
        keys += [pairs[low:high] for low, high in pairwise(bounds)]
    return keys


def elements_of(key: bytes) -> dict[int, int]:
    """Return atomic number to amount of one of the `composition_keys`."""
    pairs = np.frombuffer(key, dtype=np.uint16).reshape(-1, 2)
    return {int(element): int(amount) for element, amount in pairs}


def prepare(
    crystals: Crystals[Array],
    wanted: NDArray[np.bool_] | None = None,
    *,
    seconds: float = 10.0,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Prepared:
    """Reduce crystals for matching, each of them once, on all cores.

    Args:
        crystals: as given.
        wanted: ``(C,)``, which to reduce; all by default.
        seconds: limit per crystal.
        workers: processes; all cores if None.
        progress: called with a word and the share done.
    """
    todo = crystals.num_atoms > 0 if wanted is None else wanted & (crystals.num_atoms > 0)
    rows = np.flatnonzero(todo)
    report = told(progress, "reducing cells", len(rows))
    given = crystals.subset(rows)
    cells: list[Crystal | None] = [None] * len(crystals)
    reasons: list[str | None] = [None] * len(crystals)
    for row, found in zip(rows, answers(Reduce([], seconds), given, workers, report), strict=True):
        if isinstance(found, str):
            reasons[row] = found
        else:
            cells[row] = found
    return Prepared(Crystals.of(cells), composition_keys(crystals), reasons)


def find_groups(
    prepared: Prepared,
    tolerances: Tolerances,
    *,
    seconds: float = 10.0,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Groups:
    """Join crystals that match, directly or through others.

    A crystal that could not be reduced stands alone; each of its pairs counts as undecided.
    """
    total = len(prepared.keys)
    group, undecided = np.arange(total), _unreduced_pairs(prepared, prepared, within=True)
    members = _by_key(prepared)
    jobs = list(_within_jobs(prepared, members, tolerances, seconds, workers))
    for rows, edges in _judged(jobs, workers, progress, "uniqueness"):
        for first, second in rows[edges.matches].tolist():
            _join(group, first, second)
        np.add.at(undecided, rows[edges.undecided].ravel(), 1)
    group = np.array([_root(group, i) for i in range(total)], dtype=np.int64).reshape(total)
    readable = np.array([bool(k) for k in prepared.keys], dtype=bool)
    group = np.where(readable, group, -1)
    return Groups(group, (group == np.arange(total)) & readable, undecided)


def find_known(
    prepared: Prepared,
    reference: Prepared,
    tolerances: Tolerances,
    *,
    seconds: float = 10.0,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Novelty:
    """Look for each crystal in a reference set."""
    match = np.full(len(prepared.keys), -1, dtype=np.int64)
    undecided = _unreduced_pairs(prepared, reference, within=False)
    theirs = _by_key(reference)
    ours = {key: rows for key, rows in _by_key(prepared).items() if key in theirs}
    jobs = list(_against_jobs(prepared, reference, ours, theirs, tolerances, seconds, workers))
    for (rows, others), edges in _judged(jobs, workers, progress, "novelty"):
        match[rows[edges.matches[:, 0]]] = others[edges.matches[:, 1]]
        np.add.at(undecided, rows[edges.undecided[:, 0]], 1)
    return Novelty(match, undecided)


def _judged(
    jobs: list[tuple[Any, MatchJob]], workers: int | None, progress: Progress | None, word: str
) -> Iterator[tuple[Any, Edges]]:
    if not workers_wait() and sum(_pairs(job) for _, job in jobs) < _FEW_PAIRS:
        workers = 1  # done before other processes have started
    found = finish((job for _, job in jobs), workers)
    for done, ((owner, _), edges) in enumerate(zip(jobs, found, strict=True), start=1):
        if progress:
            progress(word, done / len(jobs))
        yield owner, edges


def _parts(pairs: int, workers: int | None) -> int:
    """Return into how many jobs to cut so many pairs of one composition."""
    parts = -(-pairs // _PAIRS)
    if workers_wait():
        parts = max(parts, min(-(-pairs // _WAITING_PAIRS), 2 * (workers or worker_count())))
    return parts


def _pairs(job: MatchJob) -> int:
    others = job.firsts if job.others is None else job.others
    return len(job.rows) * len(others.lattice)


def _within_jobs(
    prepared: Prepared,
    members: dict[Key, NDArray[np.int64]],
    tolerances: Tolerances,
    seconds: float,
    workers: int | None,
) -> Iterator[tuple[NDArray[np.int64], MatchJob]]:
    for rows in members.values():
        size = len(rows)
        if size < 2:
            continue
        stack = prepared.crystals.subset(rows)
        # rows far apart in one job: early rows have more partners than late ones
        pairs = -(-size * size // 2)
        # each part asks anew what joins crystals that match: finer cuts cost more than they save
        parts = min(size, max(-(-pairs // _PAIRS), min(_parts(pairs, workers), _WITHIN_PARTS)))
        for part in range(parts):
            yield (
                rows,
                MatchJob(np.arange(part, size - 1, parts), stack, None, tolerances, seconds),
            )


def _against_jobs(
    prepared: Prepared,
    reference: Prepared,
    ours: dict[Key, NDArray[np.int64]],
    theirs: dict[Key, NDArray[np.int64]],
    tolerances: Tolerances,
    seconds: float,
    workers: int | None,
) -> Iterator[tuple[tuple[NDArray[np.int64], NDArray[np.int64]], MatchJob]]:
    for key, rows in ours.items():
        others = theirs[key]
        stack = reference.crystals.subset(others)
        step = -(-len(rows) // _parts(len(rows) * len(others), workers))
        for begin in range(0, len(rows), step):
            part = rows[begin : begin + step]
            mine = prepared.crystals.subset(part)
            job = MatchJob(np.arange(len(part)), mine, stack, tolerances, seconds)
            yield (part, others), job


def _by_key(prepared: Prepared) -> dict[Key, NDArray[np.int64]]:
    """Return the reduced crystals that share composition and number of atoms."""
    found: dict[Key, list[int]] = {}
    for row, (key, count) in enumerate(
        zip(prepared.keys, prepared.crystals.num_atoms.tolist(), strict=True)
    ):
        if count:
            found.setdefault((key, count), []).append(row)
    return {key: np.array(rows, dtype=np.int64) for key, rows in found.items()}


def _unreduced_pairs(one: Prepared, two: Prepared, within: bool) -> NDArray[np.int64]:
    """Count the pairs of one composition that nobody judges because one is not reduced."""
    total: dict[bytes, int] = {}
    broken: dict[bytes, int] = {}
    for key, reason in zip(two.keys, two.reasons, strict=True):
        if key:
            total[key] = total.get(key, 0) + 1
            broken[key] = broken.get(key, 0) + (reason is not None)
    found = np.zeros(len(one.keys), dtype=np.int64)
    for row, (key, reason) in enumerate(zip(one.keys, one.reasons, strict=True)):
        if key:
            pairs = total.get(key, 0) if reason is not None else broken.get(key, 0)
            found[row] = max(0, pairs - (within and reason is not None))
    return found


def shared(keys: Iterable[bytes], others: Iterable[Iterable[bytes]]) -> NDArray[np.bool_]:
    """Return which crystals share their composition with another, here or in the ``others``."""
    keys = list(keys)
    count: dict[bytes, int] = {}
    for key in keys:
        count[key] = count.get(key, 0) + 1
    elsewhere = {key for other in others for key in other}
    return np.array([bool(k) and (count[k] > 1 or k in elsewhere) for k in keys], dtype=bool)


def _root(group: NDArray[np.int64], index: int) -> int:
    while group[index] != index:
        group[index] = group[group[index]]
        index = int(group[index])
    return index


def _join(group: NDArray[np.int64], first: int, second: int) -> None:
    """Join two components; the smaller index stays the root."""
    one, two = sorted((_root(group, first), _root(group, second)))
    group[two] = one
