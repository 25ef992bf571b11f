"""Open what users have: files plain or gz, folders and zips, within bounds; never to disk.

Compressed data is refused as soon as it has grown too much, so no bomb fills memory.
"""

from __future__ import annotations

import csv
import gzip
import io
import lzma
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple, cast

from chemeleon.data.limits import Limits
from chemeleon.errors import DataError

BROKEN = (
    OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, RuntimeError,
)  # fmt: skip

_FREE_BYTES, _MAX_GROWTH = 1 << 26, 100  # texts of crystals shrink to a third to a twentieth
_PIECE = 1 << 18
_GZIP = b"\x1f\x8b"


class TooLargeError(Exception):
    """A file is larger than a reader takes; the message says which bound it meets."""


class Member(NamedTuple):
    """One file of a folder or zip.

    Attributes:
        name: path within the source, with ``/``.
        open: gives its bytes, still gz if it is.
        problem: why it is not to be opened, or None.
    """

    name: str
    open: Callable[[], IO[bytes]]
    problem: str | None = None


class _Growing(io.RawIOBase):
    """A gz stream that stops when it has grown to over `_MAX_GROWTH` times its size."""

    def __init__(self, packed: IO[bytes]) -> None:
        self.packed, self.plain, self.count = packed, gzip.GzipFile(fileobj=packed), 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(cast(bytearray, buffer))
        count = self.plain.readinto(view)
        self.count += count
        _check_growth(self.count, self.packed.tell())
        return count

    def close(self) -> None:
        self.packed.close()
        super().close()


def _check_growth(unpacked: int, packed: int) -> None:
    if unpacked > _FREE_BYTES and unpacked > _MAX_GROWTH * packed:
        raise TooLargeError(
            f"unpacks to over {_MAX_GROWTH} times its size ({unpacked >> 20} MiB so far): this is"
            " no text of crystals; unpack it yourself if you trust it"
        )


def unpacked(stream: IO[bytes]) -> IO[bytes]:
    """Return the stream, or what is in it if it is gz (told by its first bytes).

    Raises:
        TooLargeError: while reading, if it grows beyond reason.
    """
    whole = stream if stream.seekable() else io.BytesIO(stream.read())
    packed = whole.read(2) == _GZIP
    whole.seek(0)
    return io.BufferedReader(_Growing(whole), _PIECE) if packed else whole


@contextmanager
def readable(path: Path, needed: str = "") -> Iterator[None]:
    """Turn the many errors of broken files into one that names the file.

    Args:
        path: what is read.
        needed: what should be there, for a file that is missing.
    """
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"{path} does not exist{needed and '; ' + needed}") from None
    except TooLargeError as error:
        raise DataError(f"{path}: {error}") from None
    except (*BROKEN, csv.Error) as error:
        raise DataError(
            f"{path} cannot be read: {error or type(error).__name__}."
            " If it was downloaded or copied, it may be cut short: fetch it again"
        ) from error


def read_all(stream: IO[bytes], limits: Limits) -> bytes:
    """Read a stream (gz or not) to its end and close it.

    Raises:
        TooLargeError: if it is over the limit.
    """
    with stream, unpacked(stream) as plain:
        data = bytearray()
        while piece := plain.read(_PIECE):
            data += piece
            if len(data) > limits.bytes:
                raise TooLargeError(limits.over("bytes", "its unpacked bytes"))
        return bytes(data)


def decode(data: bytes) -> str:
    """Return text; the mark of a byte order is dropped, and what is not UTF-8 shows as U+FFFD."""
    wide = data[:2] in (b"\xff\xfe", b"\xfe\xff")
    text = data.decode("utf-16" if wide else "utf-8-sig", errors="replace")
    return text if "\n" in text else text.replace("\r", "\n")


def is_hidden(name: str) -> bool:
    """Tell dot files, what is in dot folders, what macOS adds, and our own reports."""
    path = PurePosixPath(name.replace("\\", "/"))
    dotted = any(part.startswith(".") and part != ".." for part in path.parts)
    return dotted or path.name.startswith("report.json") or "__MACOSX" in path.parts


def folder_members(folder: Path) -> Iterator[Member]:
    """Yield the files below a folder, sorted; what cannot be entered is a member with a problem."""
    found: list[Member] = []

    def refused(error: OSError) -> None:
        name = Path(os.fsdecode(error.filename)).relative_to(folder).as_posix()
        found.append(Member(name, _closed, f"cannot be read: {error.strerror}"))

    for where, _, names in os.walk(folder, onerror=refused):
        paths = [Path(where, name) for name in names]
        found += [
            Member(p.relative_to(folder).as_posix(), lambda p=p: p.open("rb"))
            for p in paths
            if p.is_file() or p.is_symlink()
        ]
    yield from sorted(found, key=lambda member: os.fsencode(member.name))


def zip_members(archive: zipfile.ZipFile, packed: int) -> Iterator[Member]:
    """Yield the files of a zip, sorted by name; those not to be opened have a problem.

    Args:
        archive: the open zip.
        packed: its size in bytes.
    """
    total = 0
    infos = (i for i in archive.infolist() if not i.is_dir())
    for info in sorted(infos, key=lambda i: i.filename):
        name, problem = PurePosixPath(info.filename.replace("\\", "/")), None
        total += info.file_size
        try:
            _check_growth(info.file_size, min(info.compress_size, packed))
            _check_growth(total, packed)
        except TooLargeError as error:
            problem = str(error)
        if name.is_absolute() or ".." in name.parts:
            # members are only read, never written; but such a file deserves no trust
            problem = "its name leads out of the archive"
        elif name.suffix.lower() == ".zip":
            problem = "an archive within an archive is not read; unpack it"
        yield Member(info.filename, lambda info=info: archive.open(info), problem)


def _closed() -> IO[bytes]:
    raise OSError("it cannot be opened")
