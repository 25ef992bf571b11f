"""Small files that ask for much: each is refused within 5 s and 500 MB, by a process of its own."""

from __future__ import annotations

import functools
import gzip
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from measured import Answer, measure

SECONDS, MEGABYTES = 5.0, 500
ZEROS = bytes(1 << 20)
FRAME = '1\nLattice="4 0 0 0 4 0 0 0 4" Properties=species:S:1:pos:{}\nCs 0 0 0\n'


@functools.cache  # to compress so much takes seconds
def _gzipped(megabytes: int) -> bytes:
    buffer = io.BytesIO()
    with gzip.open(buffer, "wb", compresslevel=9) as file:
        for _ in range(megabytes):
            file.write(ZEROS)
    return buffer.getvalue()


def _zeros(path: Path, megabytes: int) -> None:
    path.write_bytes(_gzipped(megabytes))


@functools.cache
def _zipped(megabytes: int) -> bytes:
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("a.xyz", "w", force_zip64=True) as file,
    ):
        for _ in range(megabytes):
            file.write(ZEROS)
    return buffer.getvalue()


def _zip(path: Path, name: str, megabytes: int) -> None:
    assert len(name) == len("a.xyz")  # it can then be renamed in place
    path.write_bytes(_zipped(megabytes).replace(b"a.xyz", name.encode()))


def _nested(path: Path) -> None:
    inner = path.with_name("inner.zip")
    _zip(inner, "a.cif", 400)
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(inner, "inner.zip")
        archive.write(inner, "inner.cif")
    inner.unlink()


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(20 << 30)


def _operations(path: Path) -> None:
    lines = [f"'x+{i}/24,y+{j}/24,z+{k}/24'" for i in range(24) for j in range(24)
             for k in range(24)]  # fmt: skip
    head = "data_x\n" + "".join(f"_cell_length_{x} 9\n_cell_angle_{y} 90\n" for x, y in
                                zip("abc", ("alpha", "beta", "gamma"), strict=True))  # fmt: skip
    columns = ("label", "type_symbol", "fract_x", "fract_y", "fract_z")
    sites = "loop_\n" + "".join(f"_atom_site_{x}\n" for x in columns)
    path.write_text(
        f"{head}loop_\n_symmetry_equiv_pos_as_xyz\n" + "\n".join(lines) + f"\n{sites}Cs1 Cs 0 0 0\n"
    )


BOMBS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "a count of a billion": ("POSCAR", lambda p: p.write_text(
        "x\n1\n4 0 0\n0 4 0\n0 0 4\nMg\n1000000000\nDirect\n0 0 0\n")),
    "many counts": ("POSCAR", lambda p: p.write_text(
        "x\n1\n4 0 0\n0 4 0\n0 0 4\nMg O\n9999 999999\nDirect\n0 0 0\n")),
    "a billion columns": ("a.extxyz", lambda p: p.write_text(FRAME.format("R:1000000000"))),
    "a billion atoms": ("a.extxyz", lambda p: p.write_text(
        FRAME.format("R:3").replace("1\n", "1000000000\n", 1))),
    "a long second line": ("a.extxyz", lambda p: p.write_text("1\n" + "a=[" * (10 << 20) + "\n")),
    "gz of a CIF": ("a.cif.gz", lambda p: _zeros(p, 400)),
    "gz of a table": ("a.csv.gz", lambda p: _zeros(p, 400)),
    "gz of short rows": ("a.csv.gz", lambda p: p.write_bytes(
        gzip.compress(b"material_id,cif\n" + b"a\n" * (40 << 20)))),
    "gz of frames": ("a.extxyz.gz", lambda p: _zeros(p, 400)),
    "gz of JSON": ("a.json.gz", lambda p: p.write_bytes(gzip.compress(b"[" + b"{}," * (32 << 20)))),
    "zip": ("a.zip", lambda p: _zip(p, "a.cif", 400)),
    "zip of a table": ("a.zip", lambda p: _zip(p, "a.csv", 400)),
    "zip in a zip": ("a.zip", _nested),
    "a sparse file of 20 GB": ("a.cif", _sparse),
    "13,824 operations": ("a.cif", _operations),
    "deep JSON": ("a.json", lambda p: p.write_text('{"a":[' * 1_000_000)),
    "integers of a million digits": ("a.json", lambda p: p.write_text(
        f'[{{"lattice": {"9" * 1_000_000}, "sites": []}}]')),
    "a JSON of a million atoms": ("a.json", lambda p: p.write_text(json.dumps(
        {"lattice": {"matrix": [[9, 0, 0], [0, 9, 0], [0, 0, 9]]},
         "sites": [{"species": [{"element": "H", "occu": 1}], "abc": [0, 0, 0]}] * 200_000}))),
}  # fmt: skip


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Answer]:
    paths = []
    for name, (file, make) in BOMBS.items():
        paths.append(tmp_path_factory.mktemp(name.replace(" ", "_")[:20]) / file)
        make(paths[-1])
    return dict(zip(BOMBS, measure(paths), strict=True))


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused(name: str, answers: dict[str, Answer]) -> None:
    answer = answers[name]
    assert answer.crystals == 0
    assert answer.reasons
    assert all(answer.reasons)
    assert answer.seconds < SECONDS, answer
    assert answer.megabytes < MEGABYTES, answer
