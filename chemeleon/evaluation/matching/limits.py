"""How pymatgen is asked: quietly, within a limit of time, by a matcher that each process keeps.

No torch here: workers import this.
"""

from __future__ import annotations

import functools
import os
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pymatgen.analysis.structure_matcher import StructureMatcher

Tolerances = tuple[float, float, float]  # ltol, stol, angle_tol in degrees


class TimeUpError(BaseException):
    """Not an Exception, so that no `except Exception` on the way swallows it."""


_GRACE_SECONDS = 2.0
_PATIENCE, _LEAST_PATIENCE_SECONDS = 30.0, 5.0
_IN_POOL = "CHEMELEON_POOL_WORKER" in os.environ  # as `workers` marks its workers


def backstop(seconds: float) -> float:
    """Return by the clock on the wall when work of so many seconds must have hung.

    Beside other processes work takes longer, and what waits for something that never comes takes
    no processor time at all.
    """
    return max(_PATIENCE * seconds, _LEAST_PATIENCE_SECONDS)


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise `TimeUpError` in the block after ``seconds`` of processor time of its own thread.

    Other processes, and other threads of this one, do not shorten it. What the block needs should
    be imported before.

    Python hands an alarm on between bytecodes only, so compiled code outlasts it. In a worker
    process two timers without a handler then end the process, one of processor time and, for what
    hangs without using any, one of the `backstop`; the caller starts another and gives up what the
    first was at.
    """
    if (
        not hasattr(signal, "setitimer")
        or threading.current_thread() is not threading.main_thread()
    ):
        yield
        return
    begun = time.thread_time()

    def expire(*_: object) -> None:
        left = begun + seconds - time.thread_time()
        if left <= 0:
            raise TimeUpError
        signal.setitimer(signal.ITIMER_PROF, max(left, 0.01), 0.25)  # others' time was counted

    handler = signal.signal(signal.SIGPROF, expire)
    # the alarm repeats in case the first one falls into code that drops exceptions
    outer, _ = signal.setitimer(signal.ITIMER_PROF, max(seconds, 1e-3), 0.25)
    if _IN_POOL:
        signal.setitimer(signal.ITIMER_VIRTUAL, seconds + _GRACE_SECONDS)
        signal.setitimer(signal.ITIMER_REAL, backstop(seconds))
    try:
        yield
    finally:
        if _IN_POOL:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            signal.setitimer(signal.ITIMER_REAL, 0)
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, handler)
        if outer > 0:
            used = time.thread_time() - begun
            signal.setitimer(signal.ITIMER_PROF, max(outer - used, 0.001))


@contextmanager
def quietly() -> Iterator[None]:
    """Let neither pymatgen nor numpy warn in the block: what they give is looked at."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield


@functools.cache
def matcher(tolerances: Tolerances) -> StructureMatcher:
    from pymatgen.analysis.structure_matcher import StructureMatcher

    ltol, stol, angle_tol = tolerances
    return StructureMatcher(ltol=ltol, stol=stol, angle_tol=angle_tol)
