"""Results on disk: a new one takes the place of the old one whole, and one command writes.

What a command makes grows in a hidden folder beside the old result, and takes its place at the end
by renaming. A command that is killed on the way leaves the old result as it was; one that is killed
while names change has left all that is needed to finish, which the next reader or writer does
(`settle`). So no result is ever mixed of two.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from chemeleon.errors import ConfigError, name_for_user, naming
from chemeleon.locks import locked

MODEL_PARTS = MODEL_CONFIG, MODEL_WEIGHTS = ("config.yaml", "model.safetensors")
_MODELS = ("best", "last", "init")  # of a run: model folders, written as such
SET_PARTS = ("train.csv.gz", "val.csv.gz", "test.csv.gz", "report.json")

# hidden names: a result in the making, one that is complete, one that is taking its place
_MAKING, _READY, _PLACING = ".making-", ".ready", ".placing"
_LOCK = ".lock"
_NEW, _OLD, _PARTS = "new", "old", "parts.json"
_MOST_PARTS = 10_000  # characters of the names of parts
_BESIDE = re.compile(r"\.(.+)\.\d+\.tmp")


def at_home(path: str | Path) -> Path:
    """Return a path with ``~`` filled in; without a home (of nobody's name) it stays as it is."""
    return Path(os.path.expanduser(path))  # noqa: PTH111


def is_there(path: Path) -> bool:
    """Tell whether a path leads to something; words that are too long for one do not."""
    try:
        return path.exists()
    except OSError:
        return False


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a file beside ``path``, then put it in place in one step.

    Raises:
        OSError: naming ``path``, which is then as it was.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with naming(path, beside, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            beside.touch()
            mode = beside.stat().st_mode
            write(beside)
            beside.chmod(mode)  # safetensors writes for the owner alone
            with beside.open("rb+") as handle:
                os.fsync(handle.fileno())
            beside.replace(path)
            _sync(path.parent)
        finally:
            with suppress(OSError):
                beside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Replace a text file in one step."""
    # half of a pair of letters, which JSON and names of files may hold, becomes an escape
    data = text.encode(errors="backslashreplace")
    write_atomically(path, lambda beside: beside.write_bytes(data))


def _sync(folder: Path) -> None:
    with suppress(OSError):  # not everywhere can a folder be opened
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def refuse_existing(folder: Path, parts: Sequence[str], overwrite: bool, remedy: str) -> None:
    """Raise ConfigError if the folder holds any of ``parts`` and they may not be replaced."""
    present = [part for part in parts if (folder / part).exists()]
    if present and not overwrite:
        what = f"{folder} already holds {', '.join(present)}"
        if len(parts) == 1:
            what = f"{folder / parts[0]} exists already"
        raise ConfigError(f"{what}: {remedy}, or replace it with --overwrite")


def refuse_inside(source: Path, folder: Path, parts: Sequence[str]) -> None:
    """Raise ConfigError if what is read is, or lies in, a result that would be replaced."""
    inner, home = source.resolve(), folder.resolve()
    if inner == home or any(inner.is_relative_to(home / part) for part in parts):
        raise ConfigError(f"{source} would be replaced in {folder}: name another -o")


def is_ours(name: str) -> bool:
    """Tell the hidden files and folders of this module from those of a user."""
    known = (_READY, _PLACING, _LOCK)
    return name in known or name.startswith(_MAKING) or _BESIDE.fullmatch(name) is not None


class Draft:
    """A result in the making, beside the one whose place it takes with `commit`.

    Attributes:
        folder: where the result belongs.
        parts: names of all files and folders of such a result; what else is there stays.
        path: where to write to: a hidden folder from `begin` to `commit`, else ``folder``.
    """

    def __init__(self, folder: Path, parts: Sequence[str]) -> None:
        self.folder, self.parts = folder, tuple(parts)
        self.path = folder
        self._making: Path | None = None
        self._fresh = False

    def replaces(self) -> bool:
        """Tell whether there is an earlier result, or some of one."""
        return any((self.folder / part).exists() for part in self.parts)

    def begin(self, *, fresh: bool = False) -> None:
        """Make the hidden folder, with all that taking its place will need; within ``with``.

        Args:
            fresh: there is nothing to be kept, so write to ``folder``, where all can see it.
        """
        self._fresh = fresh
        if fresh:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._making = Path(tempfile.mkdtemp(prefix=_MAKING, dir=self.folder))
        except OSError as error:
            error.filename = str(self.folder)
            raise
        (self._making / _OLD).mkdir()
        (self._making / _NEW).mkdir()
        self.path = self._making / _NEW
        (self._making / _PARTS).write_text(json.dumps(self.parts), encoding="utf-8")

    def commit(self) -> None:
        """Take the place of the earlier result; nothing is done twice."""
        self._fresh = False
        if self._making is not None:
            self._making.rename(self.folder / _READY)
            self._making, self.path = None, self.folder
            try:
                _take_place(self.folder)
            except OSError:
                _put_back(self.folder)
                raise

    def __enter__(self) -> Draft:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self._fresh and isinstance(error, OSError):  # no room: what there is of it is no result
            for part in self.parts:
                _remove(self.folder / part)
        if self._making is None:
            return
        making, self._making, self.path = self._making, None, self.folder
        shutil.rmtree(making, ignore_errors=True)
        if isinstance(error, OSError):
            name_for_user(error, self.folder, making / _NEW, self.folder)
            name_for_user(error, self.folder, making, self.folder)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _take_place(folder: Path) -> None:
    """Move the old parts out and the new ones in; may be called again wherever it was cut off.

    The folder may be anybody's, with links in it: nothing is moved from or to other folders.
    """
    ready, placing = folder / _READY, folder / _PLACING
    if _is_folder(ready) and _is_folder(ready / _OLD):
        for part in _parts(ready):
            if part == Path(part).name and os.path.lexists(folder / part):
                (folder / part).rename(ready / _OLD / part)
        ready.rename(placing)
    if _is_folder(placing) and _is_folder(placing / _NEW):
        for item in list((placing / _NEW).iterdir()):
            item.rename(folder / item.name)
        _sync(folder)
        # out of the way first, as a network disk may keep a file that somebody reads
        gone = folder / f"{_MAKING}{os.getpid()}-{time.monotonic_ns()}"
        placing.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


def _put_back(folder: Path) -> None:
    """Undo the first half of `_take_place`, before anything new has come in."""
    ready = folder / _READY
    if _is_folder(ready / _OLD):
        for item in list((ready / _OLD).iterdir()):
            item.rename(folder / item.name)
        shutil.rmtree(ready, ignore_errors=True)


def _parts(ready: Path) -> list[str]:
    if not (ready / _PARTS).is_file():  # a pipe would be waited for
        return []
    with (ready / _PARTS).open(encoding="utf-8") as file:
        return json.loads(file.read(_MOST_PARTS))


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def settle(folder: Path) -> None:
    """Finish what a command had begun that was killed while its result took its place.

    Call it before a result is read; where nobody was killed it costs two questions to the disk. A
    command that lives is given a second to finish by itself; on a disk without locks it may live
    still, and then both do the same.
    """
    for last in (*[False] * 9, True):
        # os.path, as it answers for words that are no path, too
        if not any(os.path.isdir(folder / name) for name in (_READY, _PLACING)):  # noqa: PTH112
            return
        # on a read-only disk, or of what is not ours, nothing is finished
        odd = (ConfigError, OSError, ValueError, TypeError, RecursionError)
        with suppress(*odd), ExitStack() as held:
            # a model's lock is that of its run
            locks = [path / _LOCK for path in (folder.parent, folder)]
            locks = [lock for lock in locks if lock.parent == folder or lock.exists()]
            alone = [held.enter_context(locked(lock, folder, wait=False)) for lock in locks]
            if all(alone) or last:
                _take_place(folder)
                return
        time.sleep(0.1)


@contextmanager
def hold(
    target: Path,
    parts: Sequence[str] = (),
    *,
    overwrite: bool = True,
    remedy: str = "name another -o",
    wait: bool = False,
) -> Iterator[None]:
    """Keep other commands from writing to a folder, or to a file, meanwhile.

    What a killed command left is removed. The lock is the kernel's, so that of a dead process is
    none. A disk without locks is told once, and the work goes on without; what a killed command
    left stays there, as it may be of one that lives.

    Args:
        target: a folder, made if it is missing; a file if there are no ``parts``.
        parts: names that the result in the folder has.
        overwrite: an earlier result may be replaced.
        remedy: what to do where it may not.
        wait: until the other command is done, instead of an error.

    Raises:
        ConfigError: naming the earlier result, or the process that writes there.
        OSError: naming the folder, if it cannot be written to.
    """
    if not parts and target.is_dir():
        raise ConfigError(f"{target} is a folder: name a file")
    folder, names = (target, parts) if parts else (target.parent, (target.name,))
    refuse_existing(folder, names, overwrite, remedy)  # before anything is made
    lock = folder / (_LOCK if parts else f".{target.name}{_LOCK}")
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    with naming(folder, lock, folder):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        with locked(lock, target, wait, remedy) as alone:
            _sweep(target, parts, alone)
            refuse_existing(folder, names, overwrite, remedy)  # of one that has ended meanwhile
            yield
    finally:
        with suppress(OSError):  # not empty, as something has been written
            for path in new:
                path.rmdir()


@contextmanager
def replacing(
    folder: Path, parts: Sequence[str], overwrite: bool, remedy: str = "name another -o"
) -> Iterator[Path]:
    """Hold a folder and give an empty one, whose content takes the place of ``parts`` at the end.

    Raises:
        ConfigError: if the folder holds any of ``parts`` and may not be overwritten, or if another
            command writes to it.
        OSError: naming a path in the folder, if the disk is full or cannot be written to; the
            earlier result is then as it was.
    """
    with hold(folder, parts, overwrite=overwrite, remedy=remedy), Draft(folder, parts) as draft:
        draft.begin()
        yield draft.path
        draft.commit()


def _sweep(target: Path, parts: Sequence[str], alone: bool) -> None:
    """Finish what killed commands had begun; if no other can live, remove what they left."""
    if not parts:
        if alone:
            _sweep_beside(target.parent, (target.name,))
        return
    models = {target / name: MODEL_PARTS for name in _MODELS if name in parts}
    for folder, names in {target: parts, **models}.items():
        if not folder.is_dir():
            continue
        if not alone:
            settle(folder)
            continue
        with suppress(ValueError, TypeError, RecursionError):  # a list of parts that is not ours
            _take_place(folder)
        _sweep_beside(folder, names)
        for path in folder.glob(".making*"):
            # a draft, or the folder that an earlier version sampled into
            if _is_folder(path) and (path.name.startswith(_MAKING) or (path / "cif").is_dir()):
                shutil.rmtree(path, ignore_errors=True)


def _sweep_beside(folder: Path, names: Sequence[str]) -> None:
    for path in folder.glob(".*.tmp"):
        found = _BESIDE.fullmatch(path.name)
        if found is not None and found[1] in names:
            path.unlink(missing_ok=True)
