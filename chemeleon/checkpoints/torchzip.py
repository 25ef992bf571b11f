"""Open the zip file that PyTorch saves, and read its tensors without PyTorch's loader.

The archive holds ``NAME/data.pkl``, a pickle (see ``chemeleon.checkpoints.unpickle``), and the
numbers of every tensor in ``NAME/data/KEY``, uncompressed. Only those tensors are read that are
asked for, each straight into its own memory, so reading takes little more than their size.
"""

from __future__ import annotations

import math
import os
import stat
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chemeleon.checkpoints.inert import LazyTensor
from chemeleon.checkpoints.unpickle import MAX_BYTES, unpickle
from chemeleon.errors import CheckpointError
from chemeleon.storage import at_home

MAX_ENTRIES = 100_000
_CHUNK = 1 << 24
_DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_AGAIN = "fetch the file again, or give another one"


class TorchArchive:
    """A file made by ``torch.save``, opened as data.

    Attributes:
        path: the file.
        content: what its pickle describes; tensors are ``LazyTensor``.

    Raises:
        CheckpointError: if the file is not such an archive, is damaged or breaks the rules.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = at_home(path)
        _check_kind(self.path)
        try:
            self._zip = zipfile.ZipFile(self.path)
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise CheckpointError(
                f"{self.path} is a damaged zip file ({error}), perhaps a broken download: {_AGAIN}"
            ) from None
        try:
            self._entries = self._list_entries()
            pickles = [name for name in self._entries if name.endswith("/data.pkl")]
            if len(pickles) != 1:
                raise CheckpointError(
                    f"{self.path} holds {len(pickles)} entries called data.pkl, expected one: it"
                    f" is a zip file, but no checkpoint; {_AGAIN}"
                )
            self._root = pickles[0].removesuffix("data.pkl")
            self._budget = self.path.stat().st_size
            self._check_byte_order()
            data = self._read(self._root + "data.pkl", MAX_BYTES)
            self.content: Any = unpickle(data, str(self.path))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> TorchArchive:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._zip.close()

    def _list_entries(self) -> dict[str, zipfile.ZipInfo]:
        entries = self._zip.infolist()
        if len(entries) > MAX_ENTRIES:
            raise CheckpointError(
                f"{self.path} has {len(entries)} entries, more than the {MAX_ENTRIES} that are"
                " read: this is not a published checkpoint"
            )
        for entry in entries:
            # without compression no entry can be larger than the file: no zip bombs
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
                raise CheckpointError(
                    f"{self.path}: entry '{entry.filename[:80]}' is compressed ({entry.file_size}"
                    f" bytes from {entry.compress_size}); checkpoints are stored without"
                    " compression, and nothing is unpacked here"
                )
        return {entry.filename: entry for entry in entries}

    def _read(self, name: str, limit: int) -> bytes:
        entry = self._entries[name]
        if entry.file_size > limit:
            raise CheckpointError(
                f"{self.path}: entry '{name}' has {entry.file_size} bytes, more than the {limit}"
                " that are read: this is not a published checkpoint"
            )
        data = bytearray(entry.file_size)
        self._read_into(entry, memoryview(data))
        return bytes(data)

    def _read_into(self, entry: zipfile.ZipInfo, memory: memoryview) -> None:
        done = 0
        try:
            with self._zip.open(entry) as handle:
                while done < len(memory):
                    chunk = handle.read(min(_CHUNK, len(memory) - done))
                    if not chunk:
                        raise EOFError("it ends too early")
                    memory[done : done + len(chunk)] = chunk
                    done += len(chunk)
        # zipfile raises several kinds for bad headers; RuntimeError for encrypted entries
        except (zipfile.BadZipFile, EOFError, OSError, ValueError, RuntimeError) as error:
            reason = str(error) or "it ends too early"
            raise CheckpointError(
                f"{self.path}: entry '{entry.filename[:80]}' is damaged ({reason}): {_AGAIN}"
            ) from None

    def _check_byte_order(self) -> None:
        name = self._root + "byteorder"
        if name in self._entries and self._read(name, 16) != b"little":
            raise CheckpointError(
                f"{self.path} was written on a big-endian machine, which is not supported: save it"
                " again on another one"
            )

    def read(self, name: str, tensor: LazyTensor) -> Tensor:
        """Read one tensor, contiguous, in its own type.

        Args:
            name: what the tensor is, for messages.
            tensor: where it lies.

        Raises:
            CheckpointError: if its numbers are missing, too few, or overlap.
        """
        storage, shape, stride = tensor.storage, tensor.shape, tensor.stride
        dtype = _DTYPES.get(storage.kind)
        entry = self._entries.get(f"{self._root}data/{storage.key}")
        if dtype is None or entry is None:
            what = f"type {storage.kind[:40]}" if dtype is None else f"entry '{storage.key[:40]}'"
            raise CheckpointError(
                f"{self.path}: tensor '{name}' needs {what}, which is unknown: the file is"
                f" incomplete or from another program; {_AGAIN}"
            )
        size = dtype.itemsize
        count = math.prod(shape)
        extent = 1 + sum((n - 1) * s for n, s in zip(shape, stride, strict=True)) if count else 0
        stored = min(storage.numel, entry.file_size // size)
        if tensor.offset + extent > stored or extent != count:
            raise CheckpointError(
                f"{self.path}: tensor '{name}' of shape {shape} and stride {stride} from {storage}"
                f" does not fit the {entry.file_size} bytes stored for it: the file is damaged;"
                f" {_AGAIN}"
            )
        self._budget -= entry.file_size
        if self._budget < 0:
            raise CheckpointError(
                f"{self.path}: its tensors claim more numbers than the file holds: it is damaged or"
                f" hostile; {_AGAIN}"
            )
        flat = torch.empty(entry.file_size // size, dtype=dtype)
        if flat.numel() * size != entry.file_size:
            raise CheckpointError(
                f"{self.path}: entry '{entry.filename}' has {entry.file_size} bytes, not a"
                f" multiple of {size}: the file is damaged; {_AGAIN}"
            )
        if flat.numel():
            self._read_into(entry, memoryview(flat.view(torch.uint8).numpy().data))
        return flat.as_strided(shape, stride, tensor.offset).contiguous()


def _check_kind(path: Path) -> None:
    """Say what a file that is not a zip file is.

    Raises:
        CheckpointError: if it is missing or something else.
    """
    if path.is_dir():
        raise CheckpointError(
            f"{path} is a folder: give the .ckpt file; a folder with config.yaml and"
            " model.safetensors needs no import, use it as it is"
        )
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for without end
            raise CheckpointError(f"{path} is a pipe or a device: give the path of a .ckpt file")
        with path.open("rb") as handle:
            head = handle.read(16)
            size = os.fstat(handle.fileno()).st_size
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist: give the path of a .ckpt file") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
    if head.startswith(b"PK\x03\x04"):
        return
    if size == 0:
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
    raise CheckpointError(f"{path} {what}")
