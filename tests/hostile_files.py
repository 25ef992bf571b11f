"""Broken files and files of another kind; see ``hostile``."""

from __future__ import annotations

import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from hostile import Case, archive, saved, sound
from safetensors.torch import save_file


def _truncated(share: float) -> Callable[[Path, Path], object]:
    def make(path: Path, canary: Path) -> None:
        torch.save(sound(), path)
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * share)] if share < 1 else data[:-1])

    return make


def _edited(change: Callable[[dict[str, bytes]], object]) -> Callable[[Path, Path], object]:
    """Return a maker of a sound file whose entries are changed."""

    def make(path: Path, canary: Path) -> None:
        torch.save(sound(), path)
        with zipfile.ZipFile(path) as handle:
            entries = {name: handle.read(name) for name in handle.namelist()}
        change(entries)
        with zipfile.ZipFile(path, "w") as handle:
            for name, content in entries.items():
                handle.writestr(name, content)

    return make


def _data_name(entries: dict[str, bytes]) -> str:
    return next(name for name in entries if "/data/" in name)


def _flipped(path: Path, canary: Path) -> None:
    """Damage a number: the checksum of its entry no longer fits."""
    torch.save(sound(), path)
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as handle:
        entry = handle.getinfo(_data_name(dict.fromkeys(handle.namelist(), b"")))
    name, extra = struct.unpack("<HH", data[entry.header_offset + 26 : entry.header_offset + 30])
    data[entry.header_offset + 30 + name + extra] ^= 0xFF
    path.write_bytes(data)


def _encrypted(path: Path, canary: Path) -> None:
    torch.save(sound(), path)
    data = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + offset] |= 1
    path.write_bytes(data)


def _bomb(name: str) -> Callable[[Path, Path], object]:
    def make(path: Path, canary: Path) -> None:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as handle:
            handle.writestr("archive/data.pkl", pickle.dumps({}))
            with handle.open(name, "w") as out:
                for _ in range(256):
                    out.write(bytes(2**20))

    return make


def _lying(path: Path, canary: Path) -> None:
    """Claim 4 GB of numbers in the list of entries."""
    torch.save(sound(), path)
    data = bytearray(path.read_bytes())
    start = data.index(b"PK\x01\x02")
    while b"/data/0" not in data[start : start + 100]:
        start = data.index(b"PK\x01\x02", start + 4)
    data[start + 20 : start + 28] = struct.pack("<LL", 0xFFFFFFF0, 0xFFFFFFF0)
    path.write_bytes(data)


def _many_entries(path: Path, canary: Path) -> None:
    with zipfile.ZipFile(path, "w") as handle:
        for i in range(100_001):
            handle.writestr(str(i), b"")


def archives() -> list[Case]:
    """Zip files that are damaged or not what they seem."""
    traversal = {"archive/../../../canary": b"x", "/tmp/canary": b"x"}
    return [
        *[Case(f"truncated at {share}", _truncated(share)) for share in (0.01, 0.1, 0.5, 0.9, 1)],
        Case("zip bomb as pickle", _bomb("bomb/data.pkl"), message="compress"),
        Case("zip bomb as numbers", _bomb("archive/data/0"), message="compress"),
        Case("a pickle of 70 MB", lambda p, c: archive(p, bytes(70 * 2**20)), message="bytes"),
        Case("a hundred thousand entries", _many_entries, message="entries"),
        Case("names that climb out", lambda p, c: archive(p, pickle.dumps({}, 2), traversal)),
        Case("no data.pkl", _edited(lambda e: e.pop(next(n for n in e if "data.pkl" in n)))),
        Case("two of data.pkl", _edited(lambda e: e.update({"b/data.pkl": b"N."}))),
        Case("missing numbers", _edited(lambda e: e.pop(_data_name(e))), message="incomplete"),
        Case("numbers cut short", _edited(lambda e: e.update({_data_name(e): b"1234"}))),
        Case("half a number", _edited(lambda e: e.update({_data_name(e): b"1" * 3203}))),
        Case("big-endian", _edited(lambda e: e.update({_byteorder(e): b"big"})), message="endian"),
        Case("a flipped bit", _flipped, message="damaged"),
        Case("sizes that lie", _lying, message="claim more"),
        Case("encrypted", _encrypted, message="damaged"),
    ]


def _byteorder(entries: dict[str, bytes]) -> str:
    return next(name for name in entries if name.endswith("byteorder"))


def _state(change: Callable[[dict[str, Any]], object]) -> Callable[[Path, Path], object]:
    return saved(lambda content, canary: change(content["state_dict"]))


def _hyper(value: Any) -> Callable[[Path, Path], object]:
    return saved(lambda content, canary: content.update(hyper_parameters=value))


def contents() -> list[Case]:
    """Sound files of a model that cannot be."""
    quant = "quant_conv.weight"
    return [
        Case("no state_dict", saved(lambda c, _: c.pop("state_dict")), message="state_dict"),
        Case("an empty state_dict", _state(dict.clear), message="neither a VAE"),
        Case("a list", lambda p, c: torch.save([1, 2], p), message="state_dict"),
        Case("a tensor", lambda p, c: torch.save(torch.ones(3), p), message="state_dict"),
        Case("a missing key", _state(lambda s: s.pop(quant)), message=f"missing {quant}"),
        Case(
            "a wrong shape", _state(lambda s: s.update({quant: torch.ones(3, 8)})), "error", "shape"
        ),
        Case("no layers", _state(_drop_layers), message="transformer"),
        Case("an unknown key", _state(lambda s: s.update(a=torch.ones(1))), message="not known"),
        Case("NaN", _state(lambda s: s[quant][0].fill_(float("nan"))), message="NaN"),
        Case("infinity", _state(lambda s: s[quant][0].fill_(float("inf"))), message="infinite"),
        Case("integers", _state(lambda s: s.update({quant: s[quant].long()})), message="not real"),
        Case("no heads", _hyper({}), message="attention heads"),
        Case("heads that do not divide", _hyper({"a": _heads(3)}), message="multiple of heads"),
        Case("heads of text", _hyper({"a": _heads("2")}), message="attention heads"),
        Case("a billion heads", _hyper({"a": _heads(10**9)}), message="attention heads"),
        Case("hyper-parameters of text", _hyper("none"), message="attention heads"),
        Case("no VAE inside", _state(_only_denoiser), message="without its VAE"),
    ]


def _drop_layers(state: dict[str, Any]) -> None:
    for name in [name for name in state if "layers" in name]:
        del state[name]


def _only_denoiser(state: dict[str, Any]) -> None:
    state.clear()
    state["denoiser.x_embedder.weight"] = torch.ones(8, 2)


def _heads(count: Any) -> Any:
    import types

    return types.SimpleNamespace(num_heads=count)


def others() -> list[Case]:
    """Files that are no checkpoint at all."""

    def text(content: bytes) -> Callable[[Path, Path], object]:
        return lambda path, canary: path.write_bytes(content)

    def old_format(path: Path, canary: Path) -> None:
        torch.save(sound(), path, _use_new_zipfile_serialization=False)

    def weights(path: Path, canary: Path) -> None:
        save_file({"a": torch.ones(3)}, path)

    return [
        Case("nothing there", lambda p, c: None, message="does not exist"),
        Case("an empty file", text(b""), message="empty"),
        Case("text", text(b"hello"), message="not a zip file"),
        Case("a web page", text(b"<!DOCTYPE html>"), message="web page"),
        Case("a pointer", text(b"version https://git-lfs.github.com/spec/v1"), message="pointer"),
        Case("a folder", lambda p, c: p.mkdir(), message="folder"),
        Case("safetensors", weights, message="safetensors"),
        Case("the old format of PyTorch", old_format, message="1.6"),
        Case("a bare pickle", text(pickle.dumps({})), message="pickle"),
        Case("only the start of a zip file", text(b"PK\x03\x04"), message="damaged"),
    ]
