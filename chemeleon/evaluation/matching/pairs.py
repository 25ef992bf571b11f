"""Whether two crystals are the same: pymatgen's answers, from all cores, with a limit per pair.

The judge is ``StructureMatcher.get_rms_dist``. Speed comes from the cores and from not asking
where the answer is known: crystals of different reduced composition never match.

Workers are plain child processes that run `_match_worker.py` and talk through a pipe. Unlike a
`multiprocessing` pool they do not fork this process (safe with threads and CUDA) and do not import
its `__main__` (scripts need no ``if __name__ == "__main__"``), and when one dies the pair that it
worked on is known. They stay alive until this process ends.

Nothing here imports torch at module level.
"""

from __future__ import annotations

import atexit
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from multiprocessing import connection
from pathlib import Path
from typing import IO, Literal, NamedTuple

import numpy as np

from chemeleon.crystals.batch import Crystal
from chemeleon.data.pool import WORKER_SIGN, out_of_time, worker_count
from chemeleon.errors import ChemeleonError, ConfigError, nearest
from chemeleon.evaluation.matching import _match_worker
from chemeleon.evaluation.matching._match_worker import Answer, Tolerances, backstop, match_one

MatcherName = Literal["cdvae", "pymatgen", "lemat"]

# ltol, stol, angle_tol: pymatgen's defaults, CDVAE (arXiv:2110.06197), LeMat-GenBench.
TOLERANCES: dict[str, Tolerances] = {
    "pymatgen": (0.2, 0.3, 5.0),
    "cdvae": (0.3, 0.5, 10.0),
    "lemat": (0.1, 0.3, 5.0),
}
_FEW = 16  # fewer pairs are matched in this process
_CHUNK = 8
_EXTREME_CELL = 100.0  # longest over shortest vector: compiled code there outlasts any alarm
_GRACE_SECONDS = 10.0  # beyond the backstop of the worker itself
_START_SECONDS = 120.0

Pair = tuple[Crystal, Crystal]


class MatchResult(NamedTuple):
    """Answers for ``K`` pairs.

    Attributes:
        matched: ``(K,)`` bool.
        rmse: ``(K,)`` float64, root mean square displacement over (V/N)^(1/3); NaN where no match.
        timed_out: ``(K,)`` bool; these count as not matched.
        reasons: why pymatgen gave no answer, else None.
    """

    matched: np.ndarray
    rmse: np.ndarray
    timed_out: np.ndarray
    reasons: list[str | None]

    @property
    def match_rate(self) -> float:
        """Share of all pairs that match; NaN without pairs."""
        return float(self.matched.mean()) if len(self.matched) else float("nan")

    @property
    def mean_rmse(self) -> float:
        """Mean over the matched pairs; NaN where none matches."""
        return float(self.rmse[self.matched].mean()) if self.matched.any() else float("nan")


def match_pairs(
    pairs: Sequence[Pair],
    matcher: MatcherName = "cdvae",
    jobs: int | None = None,
    seconds_per_pair: float = 10.0,
) -> MatchResult:
    """Match each pair of crystals; a bad crystal gives a reason, never an exception.

    Args:
        pairs: (found, reference).
        matcher: named tolerances, see `TOLERANCES`.
        jobs: worker processes; all cores by default. Fewer than 16 pairs, of ordinary cells, are
            matched in this process.
        seconds_per_pair: processor time after which a pair counts as not matched, and timed out.

    Raises:
        ConfigError: for an unknown matcher or a useless limit.
    """
    if matcher not in TOLERANCES:
        hint = nearest(matcher, TOLERANCES)
        raise ConfigError(f"unknown matcher '{matcher}'{hint}; known: {', '.join(TOLERANCES)}")
    if not seconds_per_pair > 0 or (jobs is not None and jobs < 1):
        raise ConfigError(
            f"seconds_per_pair={seconds_per_pair} and jobs={jobs} must be positive numbers"
        )
    tolerances = TOLERANCES[matcher]
    answers = [_known_answer(first, second) for first, second in pairs]
    asked = [i for i, answer in enumerate(answers) if answer is None]
    # without POSIX there are neither alarms nor inherited pipes: match here, without a limit
    in_main = threading.current_thread() is threading.main_thread()
    here = len(asked) < _FEW and in_main and not any(_is_extreme(pairs[i]) for i in asked)
    if here or os.name != "posix":
        for i in asked:
            answers[i] = match_one(*pairs[i], tolerances, seconds_per_pair)
    elif asked:
        workers = min(jobs or worker_count(), -(-len(asked) // _CHUNK))
        with _LOCK:
            found = _run(_workers(workers), [pairs[i] for i in asked], tolerances, seconds_per_pair)
        for i, answer in zip(asked, found, strict=True):
            answers[i] = answer
    given = [answer or Answer(None) for answer in answers]
    return MatchResult(
        matched=np.array([a.rmse is not None for a in given], dtype=bool),
        rmse=np.array([np.nan if a.rmse is None else a.rmse for a in given], dtype=np.float64),
        timed_out=np.array([a.timed_out for a in given], dtype=bool),
        reasons=[a.reason for a in given],
    )


def _known_answer(first: Crystal, second: Crystal) -> Answer | None:
    """Answer what needs no matcher: unusable arrays and different compositions."""
    for numbers, coords, lattice in (first, second):
        if np.shape(lattice) != (3, 3) or np.shape(coords) != (len(numbers), 3):
            return Answer(None, False, f"shapes {np.shape(lattice)} and {np.shape(coords)}")
        if len(numbers) == 0:
            return Answer(None, False, "no atoms")
        if not (np.isfinite(lattice).all() and np.isfinite(coords).all()):
            return Answer(None, False, "not finite")
        if np.min(numbers) < 1 or np.max(numbers) > 118:
            return Answer(None, False, "atomic number outside 1 to 118")
    one, two = _composition(first.atomic_numbers), _composition(second.atomic_numbers)
    return None if one == two else Answer(None)


def _composition(numbers: np.ndarray) -> bytes:
    counts = np.bincount(numbers, minlength=119)
    return (counts // np.gcd.reduce(counts)).tobytes()


def _is_extreme(pair: Pair) -> bool:
    lengths = np.linalg.norm([crystal.lattice for crystal in pair], axis=-1)
    return bool((lengths.max(-1) > _EXTREME_CELL * lengths.min(-1)).any())


class _Worker:
    """A child process and the pipe to it."""

    def __init__(self) -> None:
        self.link, theirs = connection.Pipe()
        self.errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - lives with the worker
        paths = os.pathsep.join(path for path in sys.path if path)
        environment = {**os.environ, "PYTHONPATH": paths, WORKER_SIGN: "1"}
        # every core has its own worker already
        environment |= {f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "OPENBLAS")}
        program = str(Path(_match_worker.__file__))
        self.process = subprocess.Popen(
            [sys.executable, "-P", program, str(theirs.fileno())],
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
            stdout=self.errors,  # LAPACK prints
            stderr=self.errors,
            env=environment,
        )
        theirs.close()
        self.ready = False

    def receive(self, seconds: float) -> object:
        """Return the next message; EOFError from a dead worker, TimeoutError from a mute one."""
        if not self.link.poll(seconds):
            raise TimeoutError
        return self.link.recv()

    def await_start(self) -> None:
        """Wait until pymatgen is imported."""
        if self.ready:
            return
        try:
            self.receive(_START_SECONDS)
        except (EOFError, OSError) as error:
            self.close()
            self.errors.seek(0)
            text = self.errors.read().decode(errors="replace").strip()
            raise ChemeleonError(f"a matching process did not start: {text[-500:]}") from error
        self.ready = True

    def alive(self) -> bool:
        return self.process.poll() is None and not self.link.closed

    def close(self) -> None:
        self.link.close()
        self.process.kill()
        self.process.wait()


_LOCK = threading.Lock()
_POOL: list[_Worker] = []
_OWNER = os.getpid()


def _workers(count: int) -> list[_Worker]:
    """Return living workers, starting what is missing."""
    global _OWNER
    if os.getpid() != _OWNER:  # a fork must not talk through its parent's pipes
        _POOL.clear()
        _OWNER = os.getpid()
    _POOL[:] = [worker for worker in _POOL if worker.alive()]
    while len(_POOL) < count:
        _POOL.append(_Worker())
    return _POOL[:count]


@atexit.register
def close_workers() -> None:
    """End the worker processes; the next call of `match_pairs` starts new ones."""
    if os.getpid() == _OWNER:
        for worker in _POOL:
            worker.close()
    _POOL.clear()


def _run(
    workers: list[_Worker], pairs: list[Pair], tolerances: Tolerances, seconds: float
) -> list[Answer]:
    """Spread pairs over workers, one thread waiting on each."""
    answers: list[Answer] = [Answer(None, False, "not asked")] * len(pairs)
    todo: queue.SimpleQueue[list[int]] = queue.SimpleQueue()
    for start in range(0, len(pairs), _CHUNK):
        todo.put(list(range(start, min(start + _CHUNK, len(pairs)))))
    failures: list[BaseException] = []
    stop = threading.Event()

    def drive(worker: _Worker) -> None:
        try:
            while not stop.is_set():
                try:
                    chunk = todo.get_nowait()
                except queue.Empty:
                    return
                while chunk and not stop.is_set():
                    if not worker.alive():
                        worker = _Worker()
                        _POOL.append(worker)
                    worker.await_start()
                    chunk = _ask(worker, chunk, pairs, tolerances, seconds, answers)
        except BaseException as error:
            failures.append(error)
            stop.set()

    threads = [threading.Thread(target=drive, args=(w,), daemon=True) for w in workers]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    except BaseException:  # Ctrl-C: answers on their way must not be read by the next call
        stop.set()
        close_workers()
        raise
    if failures:
        close_workers()
        raise failures[0]
    return answers


def _ask(
    worker: _Worker,
    chunk: list[int],
    pairs: list[Pair],
    tolerances: Tolerances,
    seconds: float,
    answers: list[Answer],
) -> list[int]:
    """Have a chunk answered; return the pairs still to ask where the worker was lost on one."""
    done = 0
    try:
        plain = [tuple(tuple(crystal) for crystal in pairs[i]) for i in chunk]  # no class of ours
        worker.link.send((plain, tolerances, seconds))
        for i in chunk:
            answers[i] = Answer(*worker.receive(backstop(seconds) + _GRACE_SECONDS))  # type: ignore[misc]
            done += 1
    except TimeoutError:
        worker.close()
        late = True
    except (EOFError, OSError):
        worker.close()
        late = out_of_time(worker.process.returncode)
    else:
        return []
    reason = "the matching process died on this pair"
    if late:
        reason = f"stuck for more than {seconds:g} s, killed"
    answers[chunk[done]] = Answer(None, late, reason)
    return chunk[done + 1 :]
