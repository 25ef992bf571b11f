"""Work on many crystals that processes share, and that survives a crystal which ends one of them.

A `Job` holds what is to be done and knows how to be cut into smaller jobs. Where one ends its
process or raises, it is cut until the crystal that did it is found, and that one is given up.

No torch here: workers import this.
"""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import Any, ClassVar, TypeVar

from chemeleon.workers import Rescue, Worker, run_parallel, worker_count, workers_wait

logger = logging.getLogger(__name__)
S = TypeVar("S", bound=Sequence[Any])
T = TypeVar("T")
Progress = Callable[[str, float], None]  # of a word and the share done of what it names
TAME_ATOMS = 100  # of a crystal that compiled code is quick enough with to do without a process
_FEW_JOBS = 2  # starting workers takes longer than so few jobs
_PARTS = 8  # of a job that is cut


class Job(ABC):
    """What one process does at a time; it is sent there whole, so it holds plain data."""

    @property
    def is_tame(self) -> bool:
        """Whether it may run in this process, where nothing ends compiled code."""
        return True

    @abstractmethod
    def run(self) -> Any:
        """Return the result."""

    @abstractmethod
    def split(self) -> Sequence[Job]:
        """Return smaller jobs; at most one if it cannot be cut."""

    @abstractmethod
    def join(self, parts: Sequence[Any]) -> Any:
        """Return the result of the job from those of its parts, in order."""

    @abstractmethod
    def give_up(self, reason: str) -> Any:
        """Return a result that says why there is none."""


def run(job: Job) -> Any:
    """Do a job, in a worker process."""
    return job.run()


def rescue(job: Job) -> Rescue:
    """Return how `workers` goes on after jobs of this kind; why the first is given up is logged,
    as not every result can say it."""
    logged = threading.Event()

    def give_up(lost: Job, why: str) -> Any:
        if not logged.is_set():
            logged.set()
            logger.warning("%s gave no answer for a crystal: %s", type(lost).__name__, why)
        return lost.give_up(why)

    return Rescue(lambda lost: lost.split(), job.join, give_up)


def finish(jobs: Iterable[Job], workers: int | None = None) -> Iterator[Any]:
    """Yield the results of jobs in order, from worker processes where that pays or is safer.

    Args:
        jobs: of one kind; only a few are drawn ahead.
        workers: processes; all cores if None.
    """
    count = workers or worker_count()
    waiting = iter(jobs)
    first = list(islice(waiting, _FEW_JOBS + 1))
    everything = chain(first, waiting)
    if not first:
        return iter(())
    if len(first) <= _FEW_JOBS or count == 1:
        return _one_by_one(everything, rescue(first[0]))
    return run_parallel(f"{__name__}:run", everything, count, rescue(first[0]))


def _one_by_one(jobs: Iterable[Job], rescued: Rescue) -> Iterator[Any]:
    worker = Worker(f"{__name__}:run")  # starts with its first job, if there ever is one
    done = False
    try:
        for job in jobs:
            if not job.is_tame:
                yield worker.answer(job, rescued)
                continue
            try:
                found = job.run()
            except Exception:
                found = worker.answer(job, rescued)
            yield found
        done = True
    finally:
        if done and workers_wait():
            worker.release()  # starting anew takes a second each time
        else:
            worker.close(wait=True)


def pieces(items: S) -> list[S]:
    """Cut what a job is about into a few runs; into one if it holds one item."""
    step = -(-len(items) // _PARTS)
    return [items[i : i + step] for i in range(0, len(items), step)]  # type: ignore[misc]


@dataclass(frozen=True)
class Each(Job):
    """A job that asks the same of each of several items, one answer per item.

    Attributes:
        items: crystals, or what stands for them.
    """

    items: Sequence[Any]
    size: ClassVar[int]  # items of one job

    @abstractmethod
    def answer(self, item: Any) -> Any:
        """Return what there is to say of an item."""

    @abstractmethod
    def lost(self, reason: str) -> Any:
        """Return the answer of an item that ended its process."""

    def run(self) -> list[Any]:
        return [self.answer(item) for item in self.items]

    def split(self) -> list[Each]:
        return [replace(self, items=part) for part in pieces(self.items)]

    def join(self, parts: Sequence[list[Any]]) -> list[Any]:
        return list(chain.from_iterable(parts))

    def give_up(self, reason: str) -> list[Any]:
        return [self.lost(reason) for _ in self.items]


def answers(
    job: Each,
    items: Iterable[Any],
    workers: int | None = None,
    report: Callable[[int], None] | None = None,
) -> Iterator[Any]:
    """Yield the answers of many items, in order.

    Args:
        job: what is asked, of no items.
        items: all of them. If their number is known, jobs are smaller for workers that run already.
        workers: processes; all cores if None.
        report: called with the number of items done.
    """
    size = job.size
    if workers_wait() and isinstance(items, Sized):
        size = max(1, min(size, len(items) // (2 * (workers or worker_count()))))
    waiting, done = iter(items), 0
    jobs = iter(lambda: list(islice(waiting, size)), [])
    for found in finish((replace(job, items=part) for part in jobs), workers):
        yield from found
        done += len(found)
        if report is not None:
            report(done)


def in_rows(values: Iterable[T], rows: Iterable[int], total: int) -> list[T | None]:
    """Return ``total`` entries: the values at their rows, None elsewhere."""
    found: list[T | None] = [None] * total
    for row, value in zip(rows, values, strict=True):
        found[row] = value
    return found


def told(progress: Progress | None, word: str, total: int) -> Callable[[int], None] | None:
    """Return what tells the share done of so many items, if anybody listens."""
    return None if progress is None else lambda done: progress(word, done / total)
