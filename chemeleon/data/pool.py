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
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

_COMMAND = "from chemeleon.data.pool import serve; serve()"
_idle: list[subprocess.Popen[bytes]] = []  # workers that wait for the next call
_keeping = threading.Event()


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
    given = os.environ.get("CHEMELEON_WORKERS", "")
    if given.isdigit() and int(given) > 0:
        return int(given)
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def run_parallel(function: str, jobs: Iterable[Any], workers: int) -> Iterator[Any]:
    """Yield ``function(job)`` for each job, in order, computed in ``workers`` processes.

    Args:
        function: ``package.module:name``.
        jobs: picklable arguments; only a few are drawn ahead.
        workers: number of processes.

    Raises:
        RuntimeError: if the function raises (it should not), or a process dies.
    """
    local = threading.local()
    started: list[subprocess.Popen[bytes]] = []

    def work(job: Any) -> Any:
        if not hasattr(local, "process"):
            local.process = _take()
            started.append(local.process)
        return _ask(local.process, (function, job))

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
        if not kept:
            for process in started:
                process.kill()
        executor.shutdown(wait=True)
        if kept:
            _idle.extend(started)
        else:
            for process in started:
                process.communicate()


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
        env={**os.environ, **threads, "PYTHONPATH": path},
    )


def _send(process: subprocess.Popen[bytes], value: Any) -> None:
    assert process.stdin is not None
    pickle.dump(value, process.stdin, protocol=pickle.HIGHEST_PROTOCOL)
    process.stdin.flush()


def _ask(process: subprocess.Popen[bytes], job: Any) -> Any:
    assert process.stdout is not None
    try:
        _send(process, job)
        good, result = pickle.load(process.stdout)
    except (EOFError, OSError, pickle.UnpicklingError) as error:
        raise RuntimeError(
            f"a worker process died (exit status {process.poll()}); was memory short?"
            " CHEMELEON_WORKERS=1 works in this process only"
        ) from error
    if not good:
        raise RuntimeError(f"a worker process failed:\n{result}")
    return result


def serve() -> None:
    """Answer jobs on standard input until it ends; the body of a worker process."""
    import signal
    import traceback

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends us
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
        except Exception:
            answer = (False, traceback.format_exc())
        pickle.dump(answer, answers, protocol=pickle.HIGHEST_PROTOCOL)
        answers.flush()
