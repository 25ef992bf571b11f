"""Model folders whose weights or files are hostile; see hostile_configs.py."""

from __future__ import annotations

import json
import os
import pickle
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from hostile_configs import BOTH, CANARY, VAE, Hostile, Make, put
from safetensors.torch import load_file, save_file

WEIGHTS = "model.safetensors"
Tensors = dict[str, torch.Tensor]
P = ("predict", "convert")


def weights(change: Callable[[Tensors], object]) -> Make:
    """Return what changes the tensors in place."""

    def make(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        change(tensors)
        (folder / WEIGHTS).unlink()  # it may be mapped
        save_file({name: x.contiguous() for name, x in tensors.items()}, folder / WEIGHTS)

    return make


def having(name: str, value: Any) -> Make:
    """Return what sets one tensor."""
    return weights(lambda tensors: tensors.update({name: torch.as_tensor(value)}))


def all_as(change: Callable[[torch.Tensor], torch.Tensor]) -> Make:
    """Return what changes every tensor but the counts of sizes."""
    return weights(lambda tensors: tensors.update(
        {n: change(x) for n, x in tensors.items() if "histogram" not in n}))  # fmt: skip


def raw(header: object, data: bytes = b"", length: int | None = None, sparse: int = 0) -> Make:
    """Return what writes a safetensors file by hand; ``sparse`` bytes of nothing follow."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()

    def make(folder: Path) -> None:
        size = struct.pack("<Q", len(text) if length is None else length)
        with (folder / WEIGHTS).open("wb") as file:
            file.write(size + text + data)
            file.truncate(file.tell() + sparse)

    return make


def more(entries: dict[str, Any], sparse: int = 0) -> Make:
    """Return what adds entries to the header, and so many bytes of nothing to the file."""

    def make(folder: Path) -> None:
        path = folder / WEIGHTS
        content = path.read_bytes()
        (length,) = struct.unpack("<Q", content[:8])
        header = json.loads(content[8 : 8 + length])
        data = content[8 + length :]
        placed = json.loads(json.dumps(entries).replace('"END"', str(len(data))).replace(
            '"FAR"', str(len(data) + sparse)))  # fmt: skip
        raw({**header, **placed}, data, sparse=sparse)(folder)

    return make


def instead(name: str, make: Callable[[Path], object]) -> Make:
    """Return what puts something else in the place of a file."""

    def replace(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return replace


def _socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # names of sockets are short
    try:
        socket.socket(socket.AF_UNIX).bind(path.name)
    finally:
        os.chdir(here)


def cut(share: float) -> Make:
    """Return what keeps the first share of the weights."""

    def make(folder: Path) -> None:
        size = (folder / WEIGHTS).stat().st_size
        os.truncate(folder / WEIGHTS, int(share * size))

    return make


class Imports:
    """A pickle of it imports the canary."""

    def __reduce__(self):
        import importlib

        return importlib.import_module, (CANARY,)


SIZES = {
    "NaN": [float("nan")] * 21, "one NaN": [0.0] * 20 + [float("nan")], "negative": [-1.0] * 21,
    "partly negative": [0.0, 5.0, -1.0], "zeros": [0.0] * 21, "empty": torch.zeros(0),
    "infinite": [0.0, 1.0, float("inf")], "a number": 3.0, "a table": torch.ones(21, 21),
    "300,000 long": torch.ones(300_000), "a crystal of 299,999 atoms": torch.eye(300_000, 1).roll(
        -1, 0)[:, 0], "a crystal of 5,000 atoms": torch.cat([torch.zeros(5000), torch.ones(1)]),
    "no atoms": [1.0] + [0.0] * 20, "complex": torch.ones(21, dtype=torch.complex64),
    "beyond float32": torch.full((21,), 1e308, dtype=torch.float64),
}  # fmt: skip
INERT_SIZES = {
    "integers": torch.ones(21, dtype=torch.int64), "bool": torch.ones(21, dtype=torch.bool),
    "the least number": torch.full((21,), 1e-45), "the largest": torch.full((21,), 3e38),
}  # fmt: skip
F32 = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
LATENT = {"NaN": float("nan"), "infinity": float("inf"), "-1": -1.0, "0": 0.0}
EXTRA = "x\x1b[2J\n\r\u202e"

FILES: dict[str, Hostile] = {
    # --- numbers
    **{f"sizes: {name}": Hostile("ldm", having("size_histogram", value), BOTH)
       for name, value in SIZES.items()},
    **{f"sizes: {name}": Hostile("ldm", having("size_histogram", value), BOTH, False)
       for name, value in INERT_SIZES.items()},
    "sizes: none": Hostile("ldm", weights(lambda t: t.pop("size_histogram")), BOTH),
    **{f"formulas: {name}": Hostile("csp", having("formula_histogram", value), ("csp", "convert"))
       for name, value in {"NaN": torch.full((21, 21), float("nan")), "a row": torch.ones(21),
                           "negative": -torch.ones(21, 21), "small": torch.ones(2, 2),
                           "a cube": torch.ones(21, 21, 21)}.items()},
    "sizes of which no table can be made": Hostile("csp", weights(lambda t: (
        t.pop("formula_histogram"), t.update(size_histogram=torch.ones(60_000)))),
        ("csp", "convert")),
    **{f"mean of latents {name}": Hostile("ldm", having("latent_mean", [value] * 8), BOTH,
                                          False) for name, value in LATENT.items()},
    **{f"spread of latents {name}": Hostile("ldm", having("latent_std", [value] * 8), BOTH, False)
       for name, value in LATENT.items()},
    "all NaN": Hostile("ldm", all_as(lambda x: x * float("nan")), BOTH, False),
    "all NaN, a VAE": Hostile("vae", all_as(lambda x: x * float("nan")), VAE, False),
    "all infinite": Hostile("ldm", all_as(lambda x: x + float("inf")), BOTH, False),
    "all 1e38": Hostile("ldm", all_as(lambda x: torch.full_like(x, 1e38)), BOTH, False),
    "all integers": Hostile("ldm", all_as(lambda x: x.long()), BOTH, False),
    "all bytes": Hostile("vae", all_as(lambda x: x.to(torch.uint8)), VAE, False),
    "all complex": Hostile("ldm", all_as(lambda x: x.to(torch.complex64)), BOTH),
    "all complex, a VAE": Hostile("vae", all_as(lambda x: x.to(torch.complex64)), VAE),
    "all of 8 bits": Hostile("ldm", all_as(lambda x: x.to(torch.float8_e4m3fn)), BOTH, False),
    "all bool": Hostile("ldm", all_as(lambda x: x > 0), BOTH, False),
    "NaN as units of a prediction": Hostile("predictor", having("target_std", [float("nan")]), P,
                                            False),
    "no numbers to predict": Hostile("predictor", having("target_mean", torch.zeros(0)), P),
    # --- names and shapes
    "a tensor too many, with escapes": Hostile("ldm", having(EXTRA, [1.0]), BOTH),
    "a tensor without name": Hostile("ldm", having("", [1.0]), BOTH),
    "a name of 1 MB": Hostile("ldm", having("x" * 1_000_000, [1.0]), BOTH),
    "100,000 tensors too many": Hostile("ldm", weights(lambda t: t.update(
        {f"x{i}": torch.zeros(1) for i in range(100_000)})), BOTH),
    "flat tensors": Hostile("ldm", all_as(lambda x: x.flatten()), BOTH),
    "tensors of nothing": Hostile("vae", all_as(lambda x: x.flatten()[:0]), VAE),
    "tensors of 60 dimensions": Hostile("vae", all_as(lambda x: x.reshape([1] * 60 + [-1])), VAE),
    "a VAE instead of an LDM": Hostile("vae", put("kind: vae", "kind: ldm"), BOTH),
    # --- safetensors by hand
    "no header": Hostile("ldm", raw(b""), BOTH),
    "a header of 2^63 bytes": Hostile("ldm", raw({}, length=2**63), BOTH),
    "a header longer than its file": Hostile("vae", raw({"a": F32}, length=10**6), VAE),
    "a header of 90 MB": Hostile("ldm", raw(b"{" + b" " * 90_000_000 + b"}"), BOTH),
    "a deep header": Hostile("ldm", raw(b'{"a":' + b"[" * 1_000_000), BOTH),
    "a header of noise": Hostile("ldm", raw(bytes(range(256)) * 9), BOTH),
    "numbers beyond the file": Hostile("ldm", raw(
        {"a": {**F32, "shape": [10**9], "data_offsets": [0, 4 * 10**9]}}), BOTH),
    "negative places": Hostile("ldm", raw({"a": {**F32, "data_offsets": [-4, 0]}}), BOTH),
    "places in reverse": Hostile("ldm", raw({"a": {**F32, "data_offsets": [4, 0]}}, b"0000"), BOTH),
    "tensors on top of each other": Hostile("ldm", more(
        {f"x{i}": F32 for i in range(1000)}), BOTH),
    "a shape that overflows": Hostile("ldm", more(
        {"x": {**F32, "shape": [2**40, 2**40, 0], "data_offsets": ["END", "END"]}}), BOTH),
    "a shape of 2^62 nothings": Hostile("ldm", more(
        {"x": {**F32, "shape": [0, 2**62], "data_offsets": ["END", "END"]}}), BOTH),
    "an unknown type": Hostile("ldm", more({"x": {**F32, "dtype": "F7"}}), BOTH),
    "metadata that is no text": Hostile("ldm", more({"__metadata__": {"format": [1]}}), BOTH),
    "other metadata": Hostile("ldm", more({"__metadata__": {"format": CANARY}}), BOTH, False),
    "20 GB of nothing in a tensor too many": Hostile("ldm", more(
        {"x": {**F32, "shape": [5 << 30], "data_offsets": ["END", "FAR"]}}, sparse=20 << 30), BOTH),
    "20 GB of half numbers": Hostile("vae", more(
        {"x": {"dtype": "BF16", "shape": [10 << 30], "data_offsets": ["END", "FAR"]}},
        sparse=20 << 30), VAE),
    "4 GB of sizes": Hostile("ldm", raw({"size_histogram": {
        **F32, "shape": [1 << 30], "data_offsets": [0, 4 << 30]}}, sparse=4 << 30), BOTH),
    "cut in half": Hostile("ldm", cut(0.5), BOTH),
    "cut by a byte": Hostile("vae", cut(0.99999), VAE),
    "seven bytes": Hostile("ldm", instead(WEIGHTS, lambda p: p.write_bytes(b"1234567")), BOTH),
    "no bytes": Hostile("ldm", instead(WEIGHTS, lambda p: p.touch()), BOTH),
    "a pickle": Hostile("ldm", instead(
        WEIGHTS, lambda p: p.write_bytes(pickle.dumps(Imports()))), BOTH),
    "a pickle of torch": Hostile("ldm", instead(
        WEIGHTS, lambda p: torch.save({"x": Imports()}, p)), BOTH),
    "20 GB of noughts": Hostile("ldm", instead(WEIGHTS, lambda p: (
        p.touch(), os.truncate(p, 20 << 30))), BOTH),
    # --- no plain files
    **{f"{file}: {name}": Hostile("ldm", instead(file, make), BOTH)
       for file in ("config.yaml", WEIGHTS)
       for name, make in {
           "a pipe": os.mkfifo, "a folder": Path.mkdir, "a socket": _socket,
           "/dev/zero": lambda p: p.symlink_to("/dev/zero"),
           "/dev/stdin": lambda p: p.symlink_to("/dev/stdin"),
           "/proc/self/mem": lambda p: p.symlink_to("/proc/self/mem"),
           "nowhere": lambda p: p.symlink_to("nowhere"),
           "itself": lambda p: p.symlink_to(p.name)}.items()},
    "best within best": Hostile("ldm", lambda f: (
        (f / WEIGHTS).unlink(), (f / "best").symlink_to(".")), BOTH),
}  # fmt: skip
