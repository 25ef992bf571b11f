"""Locks of the kernel's on files, which end with their process; and disks that have none."""

from __future__ import annotations

import errno
import logging
import os
import shlex
import socket
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from chemeleon.errors import ConfigError

# what disks without locks answer (some NFS, Lustre, FUSE); at ENOSYS filelock has locks of its own
_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP})
_told: set[int] = set()  # disks without locks, by their numbers

logger = logging.getLogger(__name__)


@contextmanager
def locked(
    lock: Path, target: Path, wait: bool, remedy: str = "name another folder"
) -> Iterator[bool]:
    """Hold a lock; give False where a disk without locks leaves it open who else writes.

    Such a disk is told once, and nothing is held.

    Args:
        lock: the file that is locked; it is gone afterwards.
        target: what it stands for, in messages.
        wait: until another process lets go, instead of an error.
        remedy: what to do but to wait.

    Raises:
        ConfigError: naming the process that holds it.
        OSError: naming ``target``, if the file cannot be made.
    """
    from filelock import FileLock, SoftFileLock, Timeout

    held = FileLock(lock, timeout=-1 if wait else 0, mode=0o666)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of ENOSYS
            held.acquire()
    except Timeout:
        raise ConfigError(
            f"{target} is being written to by {_owner(lock)}: wait for it, or {remedy}"
        ) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            error.filename = str(target)
            raise
        _tell(lock.parent, error)
        try:
            yield False
        finally:
            with suppress(OSError):
                if not lock.stat().st_size:  # else somebody holds it, on a host that has locks
                    lock.unlink()
        return
    try:
        with suppress(OSError):  # only for the message
            command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])[:200]
            since = datetime.now().astimezone().isoformat(timespec="seconds")
            said = f"process {os.getpid()} on {socket.gethostname()} since {since} (`{command}`)"
            if not isinstance(held, SoftFileLock):  # whose file has a meaning
                lock.write_text(said, encoding="utf-8", errors="backslashreplace")
        yield True
    finally:
        if not isinstance(held, SoftFileLock):
            # while it is held: who has it open and waits will find that it leads nowhere
            with suppress(OSError):
                lock.unlink(missing_ok=True)
        held.release()


def _owner(lock: Path) -> str:
    for _ in range(10):  # the other one may be about to say it
        with suppress(OSError, ValueError), lock.open(encoding="utf-8") as file:
            if said := " ".join(file.read(500).split()):
                return said if said.startswith("process") else f"process {said}"
        time.sleep(0.1)
    return "another command"


def _tell(folder: Path, error: OSError) -> None:
    disk = folder.stat().st_dev
    if disk not in _told:
        _told.add(disk)
        logger.warning(
            "%s is on a disk without locks (%s): let no other command write there meanwhile",
            folder,
            error.strerror,
        )
