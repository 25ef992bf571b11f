"""Run `chemeleon` many times at little cost: a process that has imported everything forks for each.

Each run is a process of its own, in a group and session of its own, and ends as a process does that
a shell starts; only the seconds of importing are saved. Also the script that is that process.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import resource
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

# what the commands import, so that no fork has to
MODULES = (  # noqa: SIM905
    "torch torch.optim.adamw accelerate diffusers.schedulers.scheduling_ddim peft pandas"
    " pandas.io.formats.csvs scipy.stats scipy.sparse.csgraph scipy.optimize scipy.ndimage gemmi"
    " moyopy spglib smact smact.screening ase.io pymatgen.core pymatgen.io.cif pymatgen.io.ase"
    " pymatgen.analysis.structure_matcher pymatgen.analysis.phase_diagram rich.progress rich.table"
    " matplotlib.figure matplotlib.backends.backend_agg chemeleon.cli.app chemeleon.data.named"
    " chemeleon.api chemeleon.generation.sampling chemeleon.generation.pipeline"
    " chemeleon.prediction.run chemeleon.generation.formulas chemeleon.generation.relaxation"
    " chemeleon.data.writing chemeleon.data.prepare chemeleon.evaluation.report.draw"
    " chemeleon.evaluation.evaluate chemeleon.evaluation.report.figures"
    " chemeleon.evaluation.report.html"
    " chemeleon.energy.hull_tables chemeleon.energy.hull_sources chemeleon.training.launch"
    " chemeleon.training.vae chemeleon.training.ldm chemeleon.reinforcement.rl"
    " chemeleon.prediction.predictor"
    " chemeleon.checkpoints.convert chemeleon.checkpoints.push chemeleon.models.predictor"
).split()
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
MOVES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate"}


class Done(NamedTuple):
    """How a run ended.

    Attributes:
        code: exit code, negative for a signal.
        out: what it printed.
        err: what it printed to stderr.
        seconds: processor time.
        megabytes: the most memory that it held.
        steps: seconds from the first change to files that were watched to each of them and to the
            end.
        words: what each of these did.
    """

    code: int
    out: str
    err: str
    seconds: float
    megabytes: float
    steps: list[float]
    words: list[str]

    @property
    def errors(self) -> list[str]:
        """Lines of stderr without those of libraries: from the error on, or all without one."""
        lines = [line for line in self.err.splitlines() if line.strip()]
        first = [i for i, line in enumerate(lines) if line.startswith("error: ")]
        traceback = [i for i, line in enumerate(lines) if line.startswith("Traceback")]
        return lines[min(first + traceback) :] if first + traceback else lines


class Child:
    """A run that was started; its files of output are beside ``place``."""

    def __init__(self, number: int, pid: int, place: Path, server: Forks) -> None:
        self.pid, self._number, self._place, self._server = pid, number, place, server

    def alive(self) -> bool:
        """Whether it has not ended."""
        return self._number not in self._server.ended

    def stopped(self) -> bool:
        """Whether it waits for SIGCONT."""
        try:
            return " T" in Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2][:3]
        except OSError:
            return False

    def send(self, number: int) -> None:
        """Send a signal to it and all that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def kill(self) -> Done:
        """End it and all that it started, at once."""
        self.send(signal.SIGKILL)
        return self.wait()

    def until_stopped(self, seconds: float = 120) -> bool:
        """Wait until it stops at its ``stop_at``; False if it ends before."""
        end = time.monotonic() + seconds
        while self.alive() and not self.stopped():
            assert time.monotonic() < end, self.wait(0)
            time.sleep(0.002)
        return self.alive()

    def wait(self, seconds: float = 240) -> Done:
        """Wait for the end; past the limit it is killed, which its code then says."""
        with self._server.news:
            if not self._server.news.wait_for(lambda: not self.alive(), seconds):
                self.send(signal.SIGKILL)
                self.send(signal.SIGCONT)
                assert self._server.news.wait_for(lambda: not self.alive(), 30)
        told = self._server.ended[self._number]
        files = (self._place.with_suffix(end) for end in (".o", ".e", ".log"))
        out, err, log = (file.read_text("utf-8", "replace") for file in files)
        steps = [line.split(" ", 1) for line in log.splitlines()]
        times = [float(step[0]) for step in steps] + [told["time"]]
        seconds_of = [moment - times[0] for moment in times]
        words = [step[1] for step in steps]
        return Done(told["code"], out, err, told["seconds"], told["peak"], seconds_of, words)


class Forks:
    """The process that forks; a context that ends it."""

    def __init__(self, become: Sequence[str] = (), **environment: str) -> None:
        """Start it, as another user by the command before it, with more variables."""
        self._folder = tempfile.TemporaryDirectory(prefix="forks-", ignore_cleanup_errors=True)
        Path(self._folder.name).chmod(0o777)  # of another user, perhaps
        self.news = threading.Condition()
        self.ended: dict[int, Any] = {}
        self.pids: dict[int, int] = {}
        self._count = 0
        alone = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "CHEMELEON_WORKERS": "1"}
        alone |= {"WANDB_MODE": "offline", "MPLBACKEND": "agg"}
        root = str(Path(__file__).resolve().parents[1])
        path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
        self._process = subprocess.Popen(
            [*become, sys.executable, __file__],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, **alone, "PYTHONPATH": path, **environment},
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Forks:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()  # it then kills what still runs
        self._process.wait(60)
        self._folder.cleanup()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            told = json.loads(line)
            with self.news:
                if "pid" in told:
                    self.pids[told["number"]] = told["pid"]
                else:
                    self.ended[told["number"]] = told
                self.news.notify_all()

    def start(
        self,
        *arguments: object,
        cwd: Path | None = None,
        watch: Path | None = None,
        stop_at: int = 0,
        kill_at: int = 0,
        largest_file: int | None = None,
        environment: Mapping[str, str] | None = None,
        memory: int = 4000,
    ) -> Child:
        """Start ``chemeleon ARGUMENTS``.

        Args:
            arguments: of the command line.
            cwd: folder to be in.
            watch: folder whose changes are counted: each opening for writing, renaming, removing.
            stop_at: before the change of this number, stop until SIGCONT.
            kill_at: before the change of this number, SIGKILL.
            largest_file: bytes; past them writing fails.
            environment: variables to set.
            memory: megabytes at which it is killed, to spare the machine.
        """
        with self.news:
            self._count += 1
            number = self._count
        place = Path(self._folder.name) / str(number)
        request = {
            "number": number, "arguments": [str(word) for word in arguments],
            "place": str(place), "cwd": str(cwd or self._folder.name),
            "watch": None if watch is None else str(watch), "stop_at": stop_at, "kill_at": kill_at,
            "largest_file": largest_file, "environment": dict(environment or {}), "memory": memory,
        }  # fmt: skip
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        with self.news:
            assert self.news.wait_for(lambda: number in self.pids, 120), "nothing is forked"
        return Child(number, self.pids[number], place, self)

    def run(self, *arguments: object, seconds: float = 240, **more: Any) -> Done:
        """Run ``chemeleon ARGUMENTS`` to its end; see ``start``."""
        return self.start(*arguments, **more).wait(seconds)


def _under(path: str | bytes | os.PathLike[Any], folder: int | None, watch: str) -> bool:
    """Whether a path, perhaps relative to an open folder, is within ``watch``."""
    try:
        root = Path.cwd() if folder is None else Path(f"/proc/self/fd/{folder}").readlink()
        return (root / os.fsdecode(path)).is_relative_to(watch)
    except OSError:
        return False


def _watch(request: Mapping[str, Any]) -> None:
    """Count and note changes below a folder, and stop or die before the one that is asked for."""
    log = os.open(request["place"] + ".log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    watch, seen, owner = request["watch"], 0, os.getpid()

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if event == "open":
            arguments, flags = arguments[:1], arguments[2]
            if not flags & WRITES:
                return
        elif event not in MOVES:
            return
        relative = event in ("os.remove", "os.rmdir", "os.rename")  # perhaps to an open folder
        folder = next((x for x in arguments[1:] if relative and type(x) is int and x >= 0), None)
        paths = [x for x in arguments if isinstance(x, str | bytes | os.PathLike)]
        changes = any(_under(path, folder, watch) for path in paths)
        if not changes or os.getpid() != owner:
            return
        seen += 1
        os.write(log, f"{time.monotonic()} {event} {arguments!a:.300}\n".encode())
        if seen == request["kill_at"]:
            os.killpg(owner, signal.SIGKILL)
        if seen == request["stop_at"]:
            os.kill(owner, signal.SIGSTOP)

    sys.addaudithook(hook)


def _begin(request: Mapping[str, Any]) -> None:
    """Make the fork what a shell would have started."""
    os.setsid()
    streams = [os.open(os.devnull, os.O_RDONLY)]
    for end in (".o", ".e", ".log"):
        streams.append(os.open(request["place"] + end, os.O_WRONLY | os.O_CREAT | os.O_APPEND))
    for number, stream in enumerate(streams[:3]):
        os.dup2(stream, number)
    os.closerange(3, 256)
    os.environ.update(request["environment"])
    os.chdir(request["cwd"])
    if request["largest_file"] is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["largest_file"],) * 2)
    sys.argv = ["chemeleon", *request["arguments"]]
    sys.path[:] = [path for path in sys.path if path != str(Path(__file__).parent)]
    if request["watch"] is not None and request["largest_file"] is None:  # its log is a file
        _watch(request)


def _held(pid: int) -> float:
    """Return the megabytes that a process holds."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 / 2**20
    except (OSError, IndexError):
        return 0.0


def _serve() -> bool:
    """Fork for each request; True in a fork, which then is the command."""
    running: dict[int, Mapping[str, Any]] = {}
    text, open_ = b"", True
    while open_ or running:
        if open_ and select.select([0], [], [], 0.004 if running else 1)[0]:
            new = os.read(0, 1 << 16)
            text, open_ = text + new, bool(new)
            if not open_:
                for pid in running:
                    os.killpg(pid, signal.SIGKILL)
        while b"\n" in text:
            line, _, text = text.partition(b"\n")
            request = json.loads(line)
            pid = os.fork()
            if pid == 0:
                _begin(request)
                return True
            running[pid] = request
            _tell(number=request["number"], pid=pid)
        for pid, request in list(running.items()):
            if _held(pid) > request["memory"]:
                os.kill(pid, signal.SIGKILL)
            ended, status, used = os.wait4(pid, os.WNOHANG)
            if ended:
                code = os.waitstatus_to_exitcode(status)
                spent = used.ru_utime + used.ru_stime
                _tell(number=request["number"], code=code, seconds=spent,
                      peak=used.ru_maxrss / 1024, time=time.monotonic())  # fmt: skip
                del running[pid]
    return False


def _tell(**words: object) -> None:
    os.write(1, json.dumps(words).encode() + b"\n")


def _main() -> None:
    for name in MODULES:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # or forks copy all memory when they look for garbage
    if not _serve():
        return
    from chemeleon.cli.app import main

    code = 0
    try:
        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    os._exit(code)  # without taking down every module, which takes a second


if __name__ == "__main__":
    _main()
