"""Uniqueness and novelty of a set of crystals.

Uniqueness is a property of the whole set: crystals belong together if a chain of matches joins
them, and not by which of them came first. A match of ``i < j`` is
``StructureMatcher.fit(crystal i, crystal j)``; a crystal is novel if ``fit(crystal, reference)``
holds for none of the references.

Shapes: ``C`` crystals.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from chemeleon.crystals.batch import Array, Crystal, Crystals
from chemeleon.evaluation.matching.limits import Tolerances
from chemeleon.evaluation.matching.reduced import Reduce
from chemeleon.evaluation.matching.verdicts import UNDECIDED, YES, MatchJob
from chemeleon.evaluation.work import Progress, answers, finish, told
from chemeleon.workers import worker_count, workers_wait

_PAIRS = 300_000  # of one job, about
_FEW_PAIRS = 1000
_KEYS_CHUNK = 4096
_WITHIN_PARTS = 4
_WAITING_PAIRS = 64  # of one job, for workers that run already

K = TypeVar("K", bound=Hashable)


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
    matches, undecided = _compared(
        prepared, None, tolerances, seconds, workers, progress, "uniqueness"
    )
    readable = np.array([bool(k) for k in prepared.keys], dtype=bool)
    first = first_joined(len(readable), matches)
    unique = (first == np.arange(len(first))) & readable
    return Groups(np.where(readable, first, -1), unique, undecided)


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
    matches, undecided = _compared(
        prepared, reference, tolerances, seconds, workers, progress, "novelty"
    )
    match = np.full(len(prepared.keys), -1, dtype=np.int64)
    match[matches[:, 0]] = matches[:, 1]
    return Novelty(match, undecided)


def first_joined(count: int, pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the first that each of ``count`` is joined to by a chain of pairs ``(E, 2)``."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if not len(pairs):
        return np.arange(count)
    graph = coo_array((np.ones(len(pairs)), tuple(pairs.T)), shape=(count, count))
    label = connected_components(graph, directed=False)[1]
    return np.unique(label, return_index=True)[1][label]


def _compared(
    prepared: Prepared,
    reference: Prepared | None,
    tolerances: Tolerances,
    seconds: float,
    workers: int | None,
    progress: Progress | None,
    word: str,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Compare crystals with a reference, or with each other.

    Returns:
        ``(E, 2)`` matches, as far as they are asked for (see `MatchJob`), and ``(C,)`` pairs of
        each crystal without a verdict.
    """
    undecided = _unreduced_pairs(prepared, reference)
    jobs = list(_jobs(prepared, reference, tolerances, seconds, workers))
    if not workers_wait() and sum(_pairs(job.rows) for _, _, job in jobs) < _FEW_PAIRS:
        workers = 1  # done before other processes have started
    every = [np.zeros((0, 3), dtype=np.int64)]
    found = finish((job for _, _, job in jobs), workers)
    for done, ((rows, others, _), edges) in enumerate(zip(jobs, found, strict=True), start=1):
        first, second, verdict = edges.T
        every.append(np.stack([rows[first], others[second], verdict], axis=1))
        if progress:
            progress(word, done / len(jobs))
    edges = np.concatenate(every)
    sides = 2 if reference is None else 1
    np.add.at(undecided, edges[edges[:, 2] == UNDECIDED, :sides].ravel(), 1)
    return edges[edges[:, 2] == YES, :2], undecided


def _jobs(
    prepared: Prepared,
    reference: Prepared | None,
    tolerances: Tolerances,
    seconds: float,
    workers: int | None,
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], MatchJob]]:
    """Yield jobs, and which crystals their firsts and others are."""
    ours = _comparable(prepared)
    theirs = ours if reference is None else _comparable(reference)
    for key, rows in ours.items():
        others = theirs.get(key, rows[:0])
        starts = range(1, len(rows)) if reference is None else [0] * len(rows)
        asked = [(row, range(start, len(others))) for row, start in enumerate(starts)]
        pairs = _pairs(asked)
        if not pairs:
            continue
        firsts = prepared.crystals.subset(rows)
        stack = None if reference is None else reference.crystals.subset(others)
        # rows far apart in one job: within a set early ones have more partners than late ones
        parts = _parts(pairs, workers, within=reference is None)
        for part in range(min(parts, len(asked))):
            yield rows, others, MatchJob(asked[part::parts], firsts, stack, tolerances, seconds)


def _pairs(asked: Sequence[tuple[int, range]]) -> int:
    return sum(len(partners) for _, partners in asked)


def _parts(pairs: int, workers: int | None, within: bool) -> int:
    """Return into how many jobs to cut so many pairs of one composition."""
    least = -(-pairs // _PAIRS)
    if not workers_wait():
        return least
    # each part of a set asks anew what joins crystals that match: finer cuts cost more there
    most = _WITHIN_PARTS if within else 2 * (workers or worker_count())
    return max(least, min(-(-pairs // _WAITING_PAIRS), most))


def rows_of(keys: Iterable[K]) -> dict[K, NDArray[np.int64]]:
    """Return which rows have each of the keys."""
    found: dict[K, list[int]] = {}
    for row, key in enumerate(keys):
        found.setdefault(key, []).append(row)
    return {key: np.array(rows, dtype=np.int64) for key, rows in found.items()}


def _comparable(prepared: Prepared) -> dict[tuple[bytes, int], NDArray[np.int64]]:
    """Return the reduced crystals that share composition and number of atoms."""
    counts = prepared.crystals.num_atoms.tolist()
    found = rows_of(zip(prepared.keys, counts, strict=True))
    return {key: rows for key, rows in found.items() if key[1]}


def _unreduced_pairs(one: Prepared, other: Prepared | None) -> NDArray[np.int64]:
    """Count the pairs of one composition that nobody compares because one is not reduced."""
    two = one if other is None else other
    total = Counter(two.keys)
    broken = Counter(k for k, why in zip(two.keys, two.reasons, strict=True) if why is not None)
    found = [
        0 if not key else broken[key] if why is None else total[key] - (other is None)
        for key, why in zip(one.keys, one.reasons, strict=True)
    ]
    return np.array(found, dtype=np.int64)


def shared(keys: Iterable[bytes], others: Iterable[Iterable[bytes]]) -> NDArray[np.bool_]:
    """Return which crystals share their composition with another, here or in the ``others``."""
    keys = list(keys)
    count = Counter(keys)
    elsewhere = {key for other in others for key in other}
    return np.array([bool(k) and (count[k] > 1 or k in elsewhere) for k in keys], dtype=bool)
