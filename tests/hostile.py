"""Files that are broken, or made to do harm when loaded; none of them may get anywhere.

Every case writes a file. Harm would be to create the canary file. ``outcome`` is ``error`` where
the file must be refused, ``import`` where what is hostile is inert and the rest of it is sound.
"""

from __future__ import annotations

import io
import math
import os
import pickle
import struct
import subprocess
import sys
import types
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from chemeleon.checkpoints.chemeleon2.layouts import vae_layout
from chemeleon.config.architecture import VAEConfig

TINY = VAEConfig(
    latent_dim=2,
    width=8,
    encoder_layers=1,
    decoder_layers=1,
    heads=2,
    feedforward=8,
    coordinate_head="raw",
    wrap_input=False,
)


class Case(NamedTuple):
    """A file to be made at a path, given the path of the canary, and what must come of it."""

    name: str
    make: Callable[[Path, Path], object]
    outcome: str = "error"
    message: str = ""


class Harm:
    """Asks the unpickler for a call."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> Any:
        return self.call


def sound() -> dict[str, Any]:
    """Return a checkpoint of a tiny VAE, as Lightning would hold it."""
    generator = torch.Generator().manual_seed(0)
    state = {w.name: torch.randn(w.shape, generator=generator) for w in vae_layout(TINY).values()}
    encoder = types.SimpleNamespace(num_heads=2)
    return {"epoch": 1, "state_dict": state, "hyper_parameters": {"encoder": encoder}}


def saved(change: Callable[[dict[str, Any], Path], object]) -> Callable[[Path, Path], object]:
    """Return a maker of a sound checkpoint with a change."""

    def make(path: Path, canary: Path) -> None:
        content = sound()
        change(content, canary)
        torch.save(content, path)

    return make


def archive(
    path: Path, data: bytes, entries: dict[str, bytes] | None = None, compress: bool = False
) -> None:
    """Write a zip file as PyTorch does, around any pickle."""
    kind = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", kind) as handle:
        handle.writestr("archive/data.pkl", data)
        handle.writestr("archive/version", "3\n")  # without it PyTorch does not look further
        for name, content in (entries or {}).items():
            handle.writestr(name, content)


def raw(data: bytes | Callable[[Path], bytes]) -> Callable[[Path, Path], object]:
    """Return a maker of an archive around a pickle."""
    return lambda path, canary: archive(path, data(canary) if callable(data) else data)


def harms(canary: Path) -> dict[str, Harm]:
    """Return calls that would create the canary."""
    touch = f"touch {canary}"
    code = f"open({str(canary)!r}, 'w')"
    return {
        "os.system": Harm(os.system, touch),
        "os.popen": Harm(os.popen, touch),
        "os.open": Harm(os.open, str(canary), os.O_CREAT),
        "os.mkdir": Harm(os.mkdir, str(canary)),
        "subprocess.Popen": Harm(subprocess.Popen, ["touch", str(canary)]),
        "subprocess.check_output": Harm(subprocess.check_output, ["touch", str(canary)]),
        "eval": Harm(eval, code),
        "exec": Harm(exec, code),
        "open": Harm(open, str(canary), "w"),
        "import": Harm(__import__, "antigravity"),
        "getattr": Harm(getattr, Harm(__import__, "os"), "system"),
        "torch.load": Harm(torch.load, str(canary)),
        "torch.save": Harm(torch.save, {}, str(canary)),
        "Path.touch": Harm(Path.touch, canary),
        "nested": Harm(map, Harm(getattr, Harm(__import__, "os"), "system"), [touch]),
        "called result": Harm(Harm, Harm(eval, code), Harm(exec, code)),
        "pickle.loads": Harm(pickle.loads, pickle.dumps(Harm(os.system, touch))),
        "exit": Harm(sys.exit, 0),
    }


def _harm_in(name: str, place: str) -> Callable[[Path, Path], object]:
    def change(content: dict[str, Any], canary: Path) -> None:
        harm = harms(canary)[name]
        if place == "hyper":
            content["hyper_parameters"]["optimizer"] = [harm]
        elif place == "state":
            content["state_dict"]["harm"] = harm
        elif place == "key":
            content[harm] = 1
        else:
            content["state_dict"] = harm

    return saved(change)


def reducers() -> list[Case]:
    """Calls hidden in a sound file: they stay inert, or the file is refused for them."""
    blocked = ["os.system", "os.popen", "os.open", "os.mkdir", "exit", "Path.touch", "nested"]
    names = set(harms(Path("canary")))
    cases = [
        Case(f"{name} in hyper-parameters", _harm_in(name, "hyper"), "import")
        for name in sorted(names.difference(blocked))
    ]
    cases += [
        Case(f"{name} in hyper-parameters", _harm_in(name, "hyper"), message="cannot be read")
        for name in blocked
    ]
    cases += [
        Case("os.system among the weights", _harm_in("os.system", "state"), message="blocked"),
        Case("os.system as a key", _harm_in("os.system", "key"), message="a key is neither"),
        Case("eval among the weights", _harm_in("eval", "state"), "import"),
        Case("eval as a key", _harm_in("eval", "key"), message="a key is neither"),
        Case("exec instead of the weights", _harm_in("exec", "whole"), message="state_dict"),
    ]
    for protocol in range(6):

        def make(path: Path, canary: Path, protocol: int = protocol) -> None:
            archive(path, pickle.dumps({"state_dict": harms(canary)["os.system"]}, protocol))

        cases.append(Case(f"protocol {protocol}", make, message="cannot be read"))
    return cases


def text(content: str) -> bytes:
    """Return the opcode of a text."""
    encoded = content.encode()
    return b"X" + struct.pack("<L", len(encoded)) + encoded


def opcodes() -> list[Case]:
    """Pickles written by hand."""

    def touch(before: bytes, after: bytes) -> Callable[[Path, Path], object]:
        return raw(lambda canary: before + text(f"touch {canary}") + after)

    huge = struct.pack("<Q", 2**60)
    nested = b"\x80\x02" + b"(" * 100_000 + b"l" * 100_000 + b"."
    doubled = b"\x80\x02)" + b"2\x86" * 40 + b"."
    key = b"\x80\x02})" + b"2\x86" * 40 + b"K\x01s."
    collide = b"".join(b"\x8a\x10" + (i * (2**61 - 1)).to_bytes(16, "little") for i in range(60000))
    return [
        Case("INST", touch(b"(", b"ios\nsystem\n.")),
        Case("OBJ", touch(b"(cos\nsystem\n", b"o.")),
        Case("GLOBAL and REDUCE", touch(b"cos\nsystem\n(", b"tR.")),
        Case("NEWOBJ", touch(b"\x80\x02cos\nsystem\n(", b"t\x81.")),
        Case("NEWOBJ_EX", touch(b"\x80\x02cos\nsystem\n(", b"t}\x92.")),
        Case("STACK_GLOBAL", touch(b"\x80\x02\x8c\x02os\x8c\x06system\x93(", b"tR.")),
        Case("BUILD", touch(b"\x80\x02cos\nsystem\n)\x81}U\1a", b"sb.")),
        Case("EXT1", raw(b"\x80\x02\x82\x01.")),
        Case("EXT4", raw(b"\x80\x02\x84\x01\x00\x00\x00.")),
        Case("PERSID", raw(b"Pos.system\n.")),
        Case("BINPERSID of a name", raw(b"\x80\x02X\x02\x00\x00\x00osQ.")),
        Case("NEXT_BUFFER", raw(b"\x80\x02\x97.")),
        Case("BINBYTES8 of 2**60 bytes", raw(b"\x80\x02\x8e" + huge + b"a.")),
        Case("BYTEARRAY8 of 2**60 bytes", raw(b"\x80\x02\x96" + huge + b"a.")),
        Case("BINUNICODE8 of 2**60 bytes", raw(b"\x80\x02\x8d" + huge + b"a.")),
        Case("BINUNICODE of 4 GB", raw(b"\x80\x02X\xff\xff\xff\xffa.")),
        Case("LONG4 of 2 GB", raw(b"\x80\x02\x8b\xff\xff\xff\x7fa.")),
        Case("LONG4 of -1 bytes", raw(b"\x80\x02\x8b\xff\xff\xff\xffa.")),
        Case("an integer of a million bits", raw(b"\x80\x02\x8b\x00\x00\x02\x00" + b"\1" * 131072)),
        Case("an integer of many digits", raw(b"L" + b"9" * 1_000_000 + b"L\n.")),
        Case("FRAME of 2**63 bytes", raw(b"\x80\x02\x95" + b"\xff" * 8 + b"}.")),
        Case("memo index of 4 billion", raw(b"\x80\x02}r\xff\xff\xff\xff.")),
        Case("memo never set", raw(b"\x80\x02h\x05.")),
        Case("a hundred thousand nested lists", raw(nested)),
        Case("a tuple that doubles forty times", raw(doubled)),
        Case("it as a key", raw(key)),
        Case("colliding keys", raw(b"\x80\x02}(" + collide + b"u.")),
        Case("a list in itself", raw(b"\x80\x02]q\x00h\x00a.")),
        Case(
            "more opcodes than are read",
            raw(b"\x80\x02" + b"N" * 600_000 + b"."),
            message="not ended",
        ),
        Case("a class name of 1 MB", raw(b"c" + b"a" * 1_000_000 + b"\nb\n.")),
        Case("an empty stack", raw(b"\x80\x02R.")),
        Case("no mark", raw(b"\x80\x02t.")),
        Case("no end", raw(b"\x80\x02}")),
        Case("items of a number", raw(b"\x80\x02K\x01K\x01K\x01s.")),
        Case("no opcode", raw(b"\x80\x02\xfe.")),
        Case("an empty pickle", raw(b"")),
        Case("noise", raw(bytes(range(256)) * 100)),
    ]


def tensor_at(
    numel: int, offset: Any, shape: Any, stride: Any, stored: int = 32
) -> Callable[[Path, Path], object]:
    """Return a maker of a file in which one tensor claims to lie there."""

    def make(path: Path, canary: Path) -> None:
        buffer = io.BytesIO()
        pickler = pickle.Pickler(buffer, 2)
        pickler.persistent_id = lambda item: item.id if isinstance(item, _Outside) else None
        rebuild = torch._utils._rebuild_tensor_v2
        state, entries = {}, {"archive/data/odd": b"\0" * 4 * stored}
        for i, (name, size) in enumerate(vae_layout(TINY).values()):
            storage, count = _Outside(str(i), math.prod(size)), math.prod(size)
            strides = (size[-1], 1) if len(size) == 2 else (1,)
            state[name] = Harm(rebuild, storage, 0, size, strides, False, {})
            entries[f"archive/data/{i}"] = b"\0" * 4 * count
        odd = Harm(rebuild, _Outside("odd", numel), offset, shape, stride, False, {})
        state["quant_conv.weight"] = odd
        hyper = {"encoder": types.SimpleNamespace(num_heads=2)}
        pickler.dump({"state_dict": state, "hyper_parameters": hyper})
        archive(path, buffer.getvalue(), entries)

    return make


class _Outside:
    def __init__(self, key: str, numel: int) -> None:
        self.id = ("storage", torch.FloatStorage, key, "cpu", numel)


def _twice(path: Path, canary: Path) -> None:
    """Let all weights share one storage, so that together they are larger than the file."""
    content = sound()
    big = torch.zeros(100, 8)
    shapes = {wanted.name: wanted.shape for wanted in vae_layout(TINY).values()}
    for name, shape in shapes.items():
        content["state_dict"][name] = big.flatten()[: math.prod(shape)].view(shape)
    torch.save(content, path)


def tensors() -> list[Case]:
    """Tensors that point where they should not."""
    return [
        Case("a tensor in its place", tensor_at(32, 0, (4, 8), (8, 1)), "import"),
        Case("a transposed tensor", tensor_at(32, 0, (4, 8), (1, 4)), "import"),
        Case("negative stride", tensor_at(32, 0, (4, 8), (-8, 1)), message="impossible"),
        Case("negative offset", tensor_at(32, -1, (4, 8), (8, 1)), message="impossible"),
        Case("offset out of bounds", tensor_at(32, 1, (4, 8), (8, 1)), message="does not fit"),
        Case("stride out of bounds", tensor_at(32, 0, (4, 8), (9, 1)), message="does not fit"),
        Case("far out of bounds", tensor_at(32, 0, (4, 8), (10**9, 1)), message="does not fit"),
        Case("stride 0", tensor_at(32, 0, (4, 8), (0, 0)), message="does not fit"),
        Case("a shape of 2**47", tensor_at(32, 0, (2**47,), (0,)), message="expected (4, 8)"),
        Case("a shape of 2**70", tensor_at(32, 0, (2**70,), (0,)), message="impossible"),
        Case("a shape of text", tensor_at(32, 0, ("a", "b"), (8, 1)), message="impossible"),
        Case("a shape of no list", tensor_at(32, 0, 7, 8), message="impossible"),
        Case(
            "storage shorter than it claims", tensor_at(10**12, 8, (4, 8), (8, 1)), "error", "fit"
        ),
        Case(
            "a billion of no numbers", tensor_at(0, 0, (10**5,) * 2, (10**5, 1), 0), message="fit"
        ),
        Case("one storage for all", _twice, message="claim more"),
    ]
