"""Spread work over processes that know nothing of the parent.

The standard pools do not fit: `fork` copies a process in which torch already runs threads (and
perhaps CUDA), which can hang; `spawn` and `forkserver` import the user's main script again, which
fails in scripts without a ``__main__`` guard. Here each worker is a fresh interpreter that imports
functions of this package and talks through its own pipes. It never imports torch.
"""

from __future__ import annotations

import atexit
import importlib
import os
import pickle
import signal
import subprocess
import sys
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

from chemeleon.config.requests import MAX_JOBS, whole_number
from chemeleon.errors import DataError

_COMMAND = "from chemeleon.workers import serve; serve()"
WORKER_SIGN = "CHEMELEON_POOL_WORKER"  # set in the environment of a worker, and only there
_idle: list[subprocess.Popen[bytes]] = []  # processes that wait for the next call
_keeping = threading.Event()
if hasattr(os, "register_at_fork"):  # a fork must not talk through its parent's pipes
    os.register_at_fork(after_in_child=_idle.clear)
NO_ANSWER = "no answer in time, not even to the alarm, so its process was ended"


class Rescue(NamedTuple):
    """How to go on after a job that ended its process, or raised.

    The job is cut into smaller ones until the part that did it is found. That part is tried once
    more (memory may have been short because of others), and then given up.

    Attributes:
        split: job to smaller jobs; at most one of them if it cannot be cut.
        join: results of the smaller jobs, in order, to that of the job.
        give_up: job and what happened to its result.
    """

    split: Callable[[Any], Sequence[Any]]
    join: Callable[[Sequence[Any]], Any]
    give_up: Callable[[Any, str], Any]


class LostError(Exception):
    """A job without an answer; `died`: with its process; `final`: the same would happen again."""

    def __init__(self, reason: str, died: bool, final: bool) -> None:
        super().__init__(reason)
        self.died, self.final = died, final


class WorkerDiedError(DataError, RuntimeError):
    """A process was ended from outside; on the command line this is told in words."""


def keep_workers() -> None:
    """Let worker processes wait for the next `run_parallel` from now on; they end with this one.

    For callers that need them every second, such as rewards: starting anew takes a second each
    time, most of it for the import of pymatgen.
    """
    if not _keeping.is_set():
        _keeping.set()
        atexit.register(_end_idle)


def workers_wait() -> bool:
    """Return whether `keep_workers` was called, so that even small jobs are worth sending."""
    return _keeping.is_set()


def worker_count() -> int:
    """Return the cores that this process may use, or ``$CHEMELEON_WORKERS``."""
    given = whole_number(os.environ.get("CHEMELEON_WORKERS", ""))
    if given is not None and 0 < given <= MAX_JOBS:
        return given
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def run_parallel(
    function: str, jobs: Iterable[Any], workers: int, rescue: Rescue | None = None
) -> Iterator[Any]:
    """Yield ``function(job)`` for each job, in order, computed in ``workers`` processes.

    Args:
        function: ``package.module:name``.
        jobs: picklable arguments; only a few are drawn ahead.
        workers: number of processes.
        rescue: how to go on when a process dies or the function raises.

    Raises:
        RuntimeError: if the function raises (it should not) or a process dies, without a rescue.
    """
    local = threading.local()
    started: list[Worker] = []

    def work(job: Any) -> Any:
        if not hasattr(local, "worker"):
            local.worker = Worker(function)
            started.append(local.worker)
        return local.worker.answer(job, rescue)

    done = False
    pending: deque[Future[Any]] = deque()
    executor = ThreadPoolExecutor(workers)
    try:
        for job in jobs:
            pending.append(executor.submit(work, job))
            if len(pending) > 3 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
        done = True
    finally:
        for future in pending:
            future.cancel()
        kept = done and _keeping.is_set()
        for worker in started:
            if not kept:
                worker.close()
        executor.shutdown(wait=True)
        for worker in started:
            if kept:
                worker.release()
            else:
                worker.close(wait=True)


class Worker:
    """A process that answers jobs of one function; it is started by the first, and after a loss.

    Args:
        function: ``package.module:name``.
    """

    def __init__(self, function: str) -> None:
        self.function = function
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False

    def answer(self, job: Any, rescue: Rescue | None = None) -> Any:
        """Return ``function(job)``.

        Raises:
            RuntimeError: if there is no answer, and no rescue.
        """
        try:
            return self._ask(job)
        except LostError as lost:
            if self._closed:
                raise RuntimeError("the worker process was ended") from None
            if rescue is None:
                if lost.died:
                    raise WorkerDiedError(f"a worker process died: {lost}") from lost
                raise RuntimeError(f"a worker process failed: {lost}") from lost
            parts = rescue.split(job)
            if len(parts) > 1:
                return rescue.join([self.answer(part, rescue) for part in parts])
            if not lost.final:
                try:
                    return self._ask(job)
                except LostError as again:
                    lost = again
            return rescue.give_up(job, str(lost))

    def close(self, wait: bool = False) -> None:
        """End the process."""
        self._closed = True
        process = self._process
        if process is not None:
            process.kill()
            if wait:
                process.communicate()

    def release(self) -> None:
        """Leave the process to the next who needs one."""
        self._closed = True
        if self._process is not None:
            _idle.append(self._process)

    def _ask(self, job: Any) -> Any:
        if self._closed:
            raise LostError("the worker process was ended", True, True)
        if self._process is None:
            self._process = _take()
        process = self._process
        assert process.stdout is not None
        try:
            _send(process, (self.function, job))
            good, result = pickle.load(process.stdout)
        except (EOFError, OSError, pickle.UnpicklingError):
            process.kill()
            process.communicate()
            self._process = None
            raise LostError(*_obituary(process.returncode)) from None
        if not good:
            raise LostError(result, False, True)
        return result


def out_of_time(status: int | None) -> bool:
    """Return whether a process was ended by a timer of `evaluation.matching.limits.time_limit`."""
    return status in (-signal.SIGVTALRM, -signal.SIGALRM) if os.name == "posix" else False


def _obituary(status: int) -> tuple[str, bool, bool]:
    """Say what ended a process, that it did, and whether it would happen again."""
    if out_of_time(status):
        return NO_ANSWER, True, True
    if status == -getattr(signal, "SIGKILL", 9):
        return "its process was killed; was memory short?", True, False
    return f"exit status {status} of its process", True, False


def _take() -> subprocess.Popen[bytes]:
    while True:
        try:
            process = _idle.pop()
        except IndexError:
            return _start()
        if process.poll() is None:
            return process


def _end_idle() -> None:
    while _idle:
        process = _idle.pop()
        process.kill()
        process.communicate()


def _start() -> subprocess.Popen[bytes]:
    threads = {f"{x}_NUM_THREADS": "1" for x in ("OMP", "OPENBLAS", "MKL")}
    path = os.pathsep.join(p for p in sys.path if p)
    return subprocess.Popen(
        [sys.executable, "-P", "-c", _COMMAND],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, **threads, "PYTHONPATH": path, WORKER_SIGN: "1"},
    )


def _send(process: subprocess.Popen[bytes], value: Any) -> None:
    assert process.stdin is not None
    pickle.dump(value, process.stdin, protocol=pickle.HIGHEST_PROTOCOL)
    process.stdin.flush()


def serve() -> None:
    """Answer jobs on standard input until it ends; the body of a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends us
    # pymatgen puts elements without one last, which is all that we ask
    warnings.filterwarnings("ignore", message="No Pauling electronegativity")
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a library that prints must not break the pipe
    while True:
        try:
            place, job = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            module, name = place.split(":")
            function = getattr(importlib.import_module(module), name)
            answer = (True, function(job))
        except Exception as error:
            answer = (False, f"{type(error).__name__}: {error}{_place(error)}")
        pickle.dump(answer, answers, protocol=pickle.HIGHEST_PROTOCOL)
        answers.flush()


def _place(error: Exception) -> str:
    """Say where an error was raised, in few words."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return ""
    return f" (in {os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno})"  # noqa: PTH119
