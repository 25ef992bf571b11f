"""Read what PyTorch saved, as data: by its own restricted loader, after a look at the zip file.

The archive holds ``NAME/data.pkl``, a pickle, and the numbers of every tensor in ``NAME/data/KEY``,
uncompressed. The loader maps the file, so only what is looked at takes memory. What it does not see
is checked before: damaged or cut numbers, lists of entries that lie, a pickle that would take for
ever (see ``screen``). No class or function of the file is imported: an ``Inert`` stands for each.
"""

from __future__ import annotations

import os
import pickle
import stat
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from chemeleon.checkpoints.chemeleon2.hyper import Inert
from chemeleon.checkpoints.chemeleon2.screen import Outline, Refused, screen

MAX_BYTES = 64 * 2**20  # a published checkpoint has 0.1 MB of pickle beside its tensors
MAX_ENTRIES = 100_000
_ONE_AT_A_TIME = Lock()  # what the loader knows is the same for all threads
PICKLE = "data.pkl"
AGAIN = "fetch the file again, or give another one"


def load(path: Path) -> Any:
    """Return what a file made by ``torch.save`` holds; its tensors are mapped from the disk.

    Raises:
        Refused: if the file is not such an archive, is damaged or breaks the rules.
    """
    _check_kind(path)
    try:
        with zipfile.ZipFile(path) as archive:
            pickled = _find_pickle(path, archive)
            bad = archive.testzip()
            if bad is not None:
                raise zipfile.BadZipFile(f"entry '{bad[:80]}' is not what was written")
            data = archive.read(pickled)
            numbers = pickled.filename.removesuffix(PICKLE) + "data/"
            entries = {entry.filename: entry.file_size for entry in archive.infolist()}
            stored = {
                k.removeprefix(numbers): size
                for k, size in entries.items()
                if k.startswith(numbers)
            }
    # zipfile raises several kinds for bad headers; RuntimeError for encrypted entries
    except (zipfile.BadZipFile, EOFError, OSError, ValueError, RuntimeError) as error:
        reason = str(error) or "it ends too early"
        raise Refused(
            f"is a damaged zip file ({reason}), perhaps a broken download: {AGAIN}"
        ) from None
    try:
        outline = screen(data, stored)
        with _ONE_AT_A_TIME:
            return _load(path, outline)
    except Refused as refused:
        reason = str(refused)
    except pickle.UnpicklingError as error:
        # the last paragraph but one, among advice to load the file without care
        reason = str(error).split("\n\n")[-2:][0].strip()
    except Exception as error:  # whatever a hostile byte string provokes is a damaged pickle
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
    raise Refused(
        f"has a pickle that cannot be read ({reason[:200]}): the file is damaged or no checkpoint;"
        " fetch it again"
    )


def _load(path: Path, outline: Outline) -> Any:
    unknown = get_unsafe_globals_in_checkpoint(path)
    others = sorted(outline.calls.difference(unknown))
    if others:
        raise Refused(f"it calls {', '.join(others[:5])}")
    stand_ins: list[Any] = [
        (_Filled if name in outline.mappings else type("Inert", (Inert,), {"name": name}), name)
        for name in unknown
    ]
    with safe_globals(stand_ins):
        return torch.load(path, map_location="cpu", mmap=True, weights_only=True)


class _Filled:
    """Stands for a class of mappings: the loader fills plain ones only."""

    def __new__(cls, *_: Any) -> Any:
        return OrderedDict()


def _find_pickle(path: Path, archive: zipfile.ZipFile) -> zipfile.ZipInfo:
    """Return the entry of the pickle, if names, sizes and order of all bytes are possible."""
    entries = {entry.filename: entry for entry in archive.infolist()}
    if len(archive.infolist()) > MAX_ENTRIES:
        raise Refused(
            f"has {len(archive.infolist())} entries, more than the {MAX_ENTRIES} that are read:"
            " this is not a published checkpoint"
        )
    for entry in entries.values():
        # without compression no entry can be larger than the file: no zip bombs
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
            raise Refused(
                f"has a compressed entry, '{entry.filename[:80]}' ({entry.file_size} bytes from"
                f" {entry.compress_size}); checkpoints are stored without compression, and nothing"
                " is unpacked here"
            )
    # PyTorch's reader of zip files is another one, and must find the same entries
    if len({name.lower() for name in entries}) < len(archive.infolist()):
        raise Refused(f"has two entries of one name: it is damaged; {AGAIN}")
    if _start_of_list(path) != archive.start_dir:
        raise Refused(f"has its list of entries elsewhere than the end of the file says: {AGAIN}")
    pickles = [name for name in entries if name.endswith("/" + PICKLE)]
    if len(pickles) != 1:
        raise Refused(
            f"holds {len(pickles)} entries called {PICKLE}, expected one: it is a zip file, but no"
            f" checkpoint; {AGAIN}"
        )
    size = entries[pickles[0]].file_size
    if size > MAX_BYTES:
        raise Refused(
            f"has {size} bytes in entry '{pickles[0][:80]}', more than the {MAX_BYTES} that are"
            " read: this is not a published checkpoint"
        )
    if sum(entry.file_size for entry in entries.values()) > path.stat().st_size:
        raise Refused(
            f"has entries that claim more numbers than it holds: it is damaged or hostile; {AGAIN}"
        )
    order = entries.get(pickles[0].removesuffix(PICKLE) + "byteorder")
    if order is not None and archive.read(order) != b"little":
        raise Refused(
            "was written on a big-endian machine, which is not supported: save it again on another"
            " one"
        )
    return entries[pickles[0]]


def _start_of_list(path: Path) -> int | None:
    """Return where the end of a file says that the list of entries begins, None if it says not."""
    with path.open("rb") as handle:
        handle.seek(-98, os.SEEK_END)  # 22 bytes of the end, 20 and 56 of its 64-bit form
        tail = handle.read()
        size = handle.tell()
    if tail[-22:-18] != b"PK\x05\x06" or tail[-2:] != b"\0\0":  # or there is a comment behind it
        return None
    (start,) = struct.unpack("<L", tail[-6:-2])
    if tail[-42:-38] == b"PK\x06\x07":
        start, place = struct.unpack("<Q4x4xQ", tail[-50:-26])
        return start if place == size - 98 else None
    return start


def _check_kind(path: Path) -> None:
    """Say what a file that is not a zip file is."""
    if path.is_dir():
        raise Refused(
            "is a folder: give the .ckpt file; a folder with config.yaml and model.safetensors"
            " needs no import, use it as it is"
        )
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for without end
            raise Refused("is a pipe or a device: give the path of a .ckpt file")
        with path.open("rb") as handle:
            head = handle.read(16)
    except FileNotFoundError:
        raise Refused("does not exist: give the path of a .ckpt file") from None
    except OSError as error:
        raise Refused(f"cannot be read: {error.strerror}") from None
    if head.startswith(b"PK\x03\x04"):
        return
    if not head:
        what = "is empty, perhaps a broken download: fetch it again"
    elif head[8:9] == b"{":
        what = (
            "is a safetensors file, not a Lightning checkpoint: put it beside its config.yaml and"
            " give that folder as a model"
        )
    elif head[:1] == b"\x80":
        what = (
            "is a bare pickle, as PyTorch wrote before version 1.6: load and save it again with a"
            " newer PyTorch, on a machine where you trust the file"
        )
    elif head.startswith((b"<!DOC", b"<html", b"version http")):
        what = "is a web page or a pointer instead of the file: fetch the file itself"
    else:
        what = "is not a zip file, so it is no Lightning checkpoint: give the .ckpt file"
    raise Refused(what)
