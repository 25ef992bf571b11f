"""Attacks on what the import itself does with a file; see ``hostile``."""

from __future__ import annotations

import os
import stat
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from hostile import Case, archive, raw, saved, sound, tensor_at, text


def _recursive(content: dict[str, Any]) -> None:
    """Let hyper-parameters hold themselves, and others hold each other 3**40 times."""
    shared: Any = {"types": 1.0}
    for _ in range(40):
        shared = {"a": shared, "b": shared, "c": [shared]}
    loop: dict[str, Any] = {"loss_weights": shared}
    loop["condition_type"] = loop
    content["hyper_parameters"].update(loop, condition_module=loop)


def _nested(depth: int) -> Callable[[Path, Path], object]:
    """Return a maker of hyper-parameters that are calls of calls of calls."""
    calls = b"ca\nb\n" * depth + b"N" + b"\x85R" * depth
    head = b"\x80\x02}(X\x0a\0\0\0state_dict}X\x10\0\0\0hyper_parameters"
    return raw(head + calls + b"u.")


def _with_symlink(path: Path, canary: Path) -> None:
    """Make the numbers of a tensor a link to a file of the computer."""
    torch.save(sound(), path)
    with zipfile.ZipFile(path) as handle:
        entries = {name: handle.read(name) for name in handle.namelist()}
    with zipfile.ZipFile(path, "w") as handle:
        for name, content in entries.items():
            info = zipfile.ZipInfo(name)
            if name.endswith("/data/0"):
                info.external_attr = (stat.S_IFLNK | 0o777) << 16
                content = b"/etc/passwd"
            handle.writestr(info, content)


def _first_size(claimed: int) -> Callable[[Path, Path], object]:
    """Return a maker of a file whose list of entries lies about the first, the pickle."""

    def make(path: Path, canary: Path) -> None:
        torch.save(sound(), path)
        data = bytearray(path.read_bytes())
        start = data.index(b"PK\x01\x02") + 20
        data[start : start + 8] = struct.pack("<LL", claimed, claimed)
        path.write_bytes(data)

    return make


def _one_place(path: Path, canary: Path) -> None:
    """Let every entry lie where the pickle lies."""
    torch.save(sound(), path)
    data = bytearray(path.read_bytes())
    first = start = data.index(b"PK\x01\x02")
    while (start := data.find(b"PK\x01\x02", start + 4)) > 0:
        data[start + 42 : start + 46] = data[first + 42 : first + 46]
    path.write_bytes(data)


def _state(name: str, value: torch.Tensor) -> Callable[[Path, Path], object]:
    return saved(lambda content, canary: content["state_dict"].update({name: value}))


def _elsewhere(path: Path, canary: Path) -> None:
    """Let one reader look for the list of entries where another does not."""
    torch.save(sound(), path)
    data = bytearray(path.read_bytes())
    assert data[-42:-38] == b"PK\x06\x07"
    data[-34:-26] = struct.pack("<Q", len(data) - 99)  # one byte before where it is
    path.write_bytes(data)


def _behind_another(path: Path, canary: Path) -> None:
    """Put a zip file before the zip file."""
    archive(path, b"N.")
    first = path.read_bytes()
    torch.save(sound(), path)
    path.write_bytes(first + path.read_bytes())


def _other_case(path: Path, canary: Path) -> None:
    """Add a pickle whose name differs in its case alone, which PyTorch does not see."""
    torch.save(sound(), path)
    with zipfile.ZipFile(path, "a") as handle:
        handle.writestr("model/DATA.pkl", b"N.")


def overloads() -> list[Case]:
    """What PyTorch's restricted loader allows, and is busy with for ever or fills memory with."""
    doubled = b")q\x00" + b"".join(b"h%ch%c\x86q%c" % (i, i, i + 1) for i in range(40))
    numbers = b"".join(
        b"h\x00" + struct.pack(">cdcd", b"G", 1000003.0 * i, b"G", -float(i)) + b"\x86RN"
        for i in range(30_000)
    )
    names = b"".join(b"ca\nb%d\n" % i for i in range(5000)) + b"q\0"
    slow = text("\xe4\u4e00" * 100_000) + text("punycode")
    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\nh(" + text("cpu") + b"K\1tQ."

    def two(head: bytes, tail: bytes) -> Callable[[Path, Path], object]:
        return raw(b"\x80\x02" + head + tail)

    return [
        Case("a doubled tuple as a key", two(doubled, b"}h(K\1s."), message="a key is"),
        Case("a doubled tuple in a set", two(doubled, b"c__builtin__\nset\n]h(a\x85R.")),
        Case("a doubled tuple in pairs", two(doubled, b"ccollections\nOrderedDict\n]h(a\x85R.")),
        Case("a doubled tuple called", two(doubled, b"h()R."), message="no name"),
        Case("a doubled tuple made new", two(doubled, b"h()\x81."), message="no name"),
        Case("a doubled tuple as an entry", two(doubled, storage), message="not a storage"),
        Case("colliding numbers", two(b"c__builtin__\ncomplex\nq\0}(", numbers + b"u.")),
        Case("two GB of bytes", two(b"c__builtin__\nbytearray\n", b"J\xff\xff\xff\x7f\x85R.")),
        Case("40 GB of numbers", two(b"ctorch\nFloatTensor\n", b"J\0\0\1\0J\0\0\1\0\x86R.")),
        Case("a new tensor", two(b"ctorch\nTensor\n", b"J\0\0\1\0J\0\0\1\0\x86\x81.")),
        Case(
            "bytes of another encoding",
            two(b"c_codecs\nencode\n" + slow, b"\x86R."),
            message="calls _codecs",
        ),
        Case("five thousand names", two(names, b"h\0)R" * 50_000 + b"."), message="names"),
        Case("a list elsewhere", _elsewhere, message="list of entries"),
        Case("a zip file behind another", _behind_another, message="list of entries"),
        Case("names of another case", _other_case, message="two entries of one name"),
    ]


def _states() -> list[Case]:
    """Attributes that the loader sets on what we call methods of."""
    mapping = b"ccollections\nOrderedDict\n)R"
    size = b"ctorch\nSize\n"

    def weights(built: bytes) -> Callable[[Path, Path], object]:
        return raw(b"\x80\x02}" + text("state_dict") + built + b"s.")

    def hyper(attribute: str) -> Callable[[Path, Path], object]:
        filled = b"ca\nb\n)R" + text("type") + b"Ns}" + text(attribute) + size + b"sb"
        settings = text("hyper_parameters") + filled
        return raw(b"\x80\x02}(" + text("state_dict") + b"}" + settings + b"u.")

    def parameter(attribute: str) -> Callable[[Path, Path], object]:
        def change(content: dict[str, Any], canary: Path) -> None:
            name = "quant_conv.weight"
            made = torch.nn.Parameter(content["state_dict"][name])
            made.__dict__[attribute] = torch.Size
            content["state_dict"][name] = made

        return saved(change)

    def versions(content: dict[str, Any], canary: Path) -> None:
        content["state_dict"] = OrderedDict(content["state_dict"])
        content["state_dict"]._metadata = OrderedDict({"": {"version": 1}})

    def moved(path: Path, canary: Path) -> None:
        storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu")
        tensor = b"ctorch._utils\n_rebuild_tensor\n(" + storage + b"K\1tQq\0K\0))tR"
        huge = b"(h\0K\0J\xff\xff\xff\x0f\x85K\1\x85tb"  # 1 GB, for which the loader makes room
        pickled = b"\x80\x02}" + text("state_dict") + tensor + huge + b"s."
        archive(path, pickled, {"archive/data/0": b"\0" * 4})

    said = "in place of its methods: "
    items, pairs = b"}" + text("items") + size + b"sb", b"]" + text("get") + size + b"\x86ab"
    return [
        Case("weights with items of their own", weights(mapping + items), message=said + "items"),
        Case("weights with attributes in pairs", weights(mapping + pairs), message="no plain dict"),
        Case("settings with a get of their own", hyper("get"), message=said + "get"),
        Case("settings with another attribute", hyper("got"), message="neither a VAE"),
        Case("a parameter with a detach", parameter("detach"), message=said + "detach"),
        Case("a parameter with a tag", parameter("tag"), "import"),
        Case("weights with their versions", saved(versions), "import"),
        Case("a tensor that is moved", moved, message="told anew"),
        Case(
            "many attributes many times",
            raw(
                b"\x80\x02"
                + mapping
                + b"}("
                + b"".join(b"J" + struct.pack("<l", i) + b"N" for i in range(100_000))
                + b"uq\0b"
                + b"h\0b" * 100_000
                + b"."
            ),
            message="has not ended",
        ),
    ]


def tricks() -> list[Case]:
    """Names, links, sizes and loops that a careless reader would follow."""
    layer = "encoder.transformer.layers.{}.linear1.weight"
    shared = torch.ones(8, 8)
    wide = torch.ones(1).expand(100, 10**9)
    slots = b"\x80\x02ccollections\nOrderedDict\n)R}(X\x09\0\0\0__class__cos\nsystem\nu}\x86b."
    attribute = b"\x80\x02\x8c\x08builtins\x8c\x13__import__.__self__\x93\x8c\x02os\x85R."
    storage = b"\x80\x02(X\x07\0\0\0storagectorch\nFloatStorage\nX\1\0\0\x000X\3\0\0\0cpuNtQ."

    def many(content: dict[str, Any], canary: Path) -> None:
        content["state_dict"].update({layer.format(i): shared for i in range(5000)})

    def climbing(path: Path, canary: Path) -> None:
        archive(path, storage.replace(b"N", b"J\xff\xff\xff\xff"))

    return [
        *_states(),
        Case("BUILD with slots on a dict", raw(slots), message="cannot be read"),
        Case("a factory of defaultdict", raw(b"ccollections\ndefaultdict\ncos\nsystem\n\x85R.")),
        Case("attributes of a builtin", raw(attribute), message="cannot be read"),
        Case("a storage of None numbers", raw(storage), message="not a storage"),
        Case("a storage of -1 numbers", climbing, message="cannot be read"),
        Case("hyper-parameters in themselves", saved(lambda c, _: _recursive(c)), "import"),
        Case("a hundred thousand nested calls", _nested(100_000), message="neither a VAE"),
        Case("a million nested tuples", raw(b"\x80\x02N" + b"\x85" * 1_000_000 + b".")),
        Case("a link as numbers", _with_symlink, message="does not fit the 11 bytes"),
        Case("a pickle of 4 GB in a small file", _first_size(2**32 - 1), message="are read"),
        Case("a pickle longer than its file", _first_size(60 * 2**20), message="damaged"),
        Case("all entries in one place", _one_place, message="damaged"),
        Case("a width of a billion", _state("encoder.atom_type_embedder.weight", wide)),
        Case("five thousand layers of one", saved(many), message="equal to 128"),
        Case("layer 999999999", _state(layer.format(999_999_999), shared), message="not known"),
        Case("no rows of 2**47", tensor_at(32, 0, (0, 2**47), (1, 1)), message="expected (4, 8)"),
        Case("flags as a shape", tensor_at(32, 0, (True, 8), (8, 1)), message="impossible"),
        Case("a name that clears the screen", _state("\x1b[2J\nerror: all is well", shared)),
        Case("a name of half a character", _state("a\udcff", shared), message=r"a\xff"),
        Case("a pipe", lambda path, canary: os.mkfifo(path), message="is a pipe"),
        Case("a device", lambda path, canary: path.symlink_to("/dev/zero"), message="device"),
    ]
