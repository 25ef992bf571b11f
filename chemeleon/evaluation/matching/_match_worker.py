"""One pair of crystals put to pymatgen, under a time limit; also the program of a worker process.

Run as a file by `matching`. It imports neither torch nor the rest of the package, so a worker
starts in the time that pymatgen takes to import, holds no device, and needs nothing of the
calling script.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from pymatgen.analysis.structure_matcher import StructureMatcher

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]  # of a Crystal, whose class is not imported
Tolerances = tuple[float, float, float]  # ltol, stol, angle_tol in degrees


class Answer(NamedTuple):
    """What pymatgen says about one pair."""

    rmse: float | None  # in units of (V/N)^(1/3); None without a match
    timed_out: bool = False
    reason: str | None = None  # why there is no answer, where pymatgen gave none


class TimeUpError(BaseException):
    """Not an Exception, so that no `except Exception` on the way swallows it."""


_GRACE_SECONDS = 2.0
_PATIENCE, _LEAST_PATIENCE_SECONDS = 30.0, 5.0
_IN_POOL = "CHEMELEON_POOL_WORKER" in os.environ  # as `data.pool` marks its workers


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


@functools.cache
def matcher(tolerances: Tolerances) -> StructureMatcher:
    from pymatgen.analysis.structure_matcher import StructureMatcher

    ltol, stol, angle_tol = tolerances
    return StructureMatcher(ltol=ltol, stol=stol, angle_tol=angle_tol)


def match_one(first: Arrays, second: Arrays, tolerances: Tolerances, seconds: float) -> Answer:
    """Ask ``StructureMatcher.get_rms_dist``; whatever goes wrong becomes a reason."""
    from pymatgen.core import Structure

    ask = matcher(tolerances)  # imports, before the clock starts
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            with time_limit(seconds):
                structures = [
                    Structure(
                        np.asarray(lattice, float), numbers.tolist(), np.asarray(coords, float)
                    )
                    for numbers, coords, lattice in (first, second)
                ]
                found = ask.get_rms_dist(*structures)
    except TimeUpError:
        return Answer(None, True, f"no answer within {seconds:g} s")
    except Exception as error:
        return Answer(None, False, f"{type(error).__name__}: {error}")
    return Answer(None if found is None else float(found[0]))


def serve(descriptor: int) -> None:
    """Answer jobs that come through a connection until it closes."""
    from multiprocessing.connection import Connection

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which closes the pipe
    matcher((0.2, 0.3, 5.0))
    with Connection(descriptor) as link:
        try:
            link.send("ready")
            while True:
                pairs, tolerances, seconds = link.recv()
                for first, second in pairs:
                    link.send(tuple(match_one(first, second, tolerances, seconds)))
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return


if __name__ == "__main__":
    serve(int(sys.argv[1]))
