"""Functions for worker processes that do what a bad crystal can do to one."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from chemeleon.evaluation.matching.limits import TimeUpError, time_limit
from chemeleon.evaluation.work import Each

if TYPE_CHECKING:
    from chemeleon.evaluation.matching.pairs import Answer, MatchPairs
    from chemeleon.evaluation.matching.verdicts import Edges, MatchJob

KILLS, STICKS, RAISES = 13, 17, 23


def halves(items: list[int]) -> list[int]:
    """Return the items doubled, unless one of them ends the process, hangs or raises."""
    for item in items:
        if item == KILLS:
            os.kill(os.getpid(), signal.SIGKILL)
        if item == STICKS:
            with time_limit(0.2):
                sum(range(10**13))  # compiled: no alarm of Python's gets through
        if item == RAISES:
            raise ValueError(f"no {item} please")
    return [2 * item for item in items]


@dataclass(frozen=True)
class Halves(Each):
    """`halves`; 1 must not be doubled in the process of the tests, and 2 raises there."""

    parent: int
    size = 1

    @property
    def is_tame(self) -> bool:
        return 1 not in self.items

    def lost(self, reason: str) -> str:
        return reason

    def answer(self, item: int) -> int:
        if os.getpid() == self.parent:
            assert item != 1
            raise ValueError("not here")
        return halves([item])[0]


def killed_once(path: str) -> str:
    """Die the first time, as when others have taken the memory."""
    sign = Path(path)
    if not sign.exists():
        sign.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "answered"


def deadly_judge(job: MatchJob) -> Edges:
    """Judge, but die on the pair of the cells of volume 27 and 64."""
    others = job.firsts if job.others is None else job.others
    for row, partners in job.rows:
        for other in partners:
            volumes = [
                abs(np.linalg.det(x)) for x in (job.firsts.lattice[row], others.lattice[other])
            ]
            if np.allclose(volumes, [27, 64]):
                os.kill(os.getpid(), signal.SIGKILL)
    return job.run()


def deadly_matcher(job: MatchPairs) -> list[Answer]:
    """Match, but die on a pair with a cell that is 100 times longer than wide."""
    for first, _ in job.items:
        lengths = np.linalg.norm(first.lattice, axis=-1)
        if lengths.max() > 100 * lengths.min():
            os.kill(os.getpid(), signal.SIGKILL)
    return job.run()


def slow_machine(waits: list[float]) -> list[str]:
    """Work as long as each number says, of which little is processor time."""
    found = []
    for seconds in waits:
        try:
            with time_limit(0.3):
                time.sleep(seconds)
                sum(range(10**5))
            found.append("done")
        except TimeUpError:
            found.append("time is up")
    return found
