"""Files changed at random: none crashes, hangs or fills memory, or gives crystals from nowhere."""

from __future__ import annotations

import gzip
import json
import random
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from measured import measure
from reading_helpers import CASES

COUNT, SECONDS, MEGABYTES = 300, 5.0, 500
SEED = 17
TOKENS = [
    b"nan", b"inf", b"-1", b"0", b"1e309", b"1e-309", b"999999999", b"9" * 400, b'"', b"'", b";",
    b",", b"\n", b"\r", b"\t", b"\x00", b"\xff\xfe", b"\xe2\x88\x92", b"{", b"[", b"]}", b"?", b".",
    b"loop_", b"data_y\n", b"_atom_site_label", b"Lattice=", b"D", b"X", b"1/0", b"x,y,z", b"null",
    b"=", b"-0", b"0x10", b"1_0", b"#", b"@module",
]  # fmt: skip


def mutated(data: bytes, draw: random.Random) -> bytes:
    """Change a file in one to four places."""
    found = bytearray(data)
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(found) + 1)
        end = min(len(found), at + draw.choice((1, 3, 10, 60)))
        change = draw.randrange(7)
        if change == 0:
            found[at:end] = b""
        elif change == 1:
            found[at:at] = draw.choice(TOKENS)
        elif change == 2:
            found[at:end] = draw.choice(TOKENS)
        elif change == 3:
            found[at:at] = found[at:end]
        elif change == 4 and at < len(found):
            found[at] ^= 1 << draw.randrange(8)
        elif change == 5:
            lines = bytes(found).split(b"\n")
            i, j = draw.randrange(len(lines)), draw.randrange(len(lines))
            lines[i], lines[j] = lines[j], lines[i]
            found = bytearray(b"\n".join(lines))
        elif draw.random() < 0.2:
            found = found[:at]
    return bytes(found)


def _zip(path: Path) -> bytes:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(CASES / "01_vasp4_poscar" / "POSCAR.hash_names", "a/POSCAR")
        archive.write(CASES / "15_extxyz" / "energy_keys.extxyz", "b/x.extxyz")
        archive.writestr("t.csv.gz", gzip.compress((CASES / "13_csv_manners/bom.csv").read_bytes()))
    return path.read_bytes()


def _cif(path: Path) -> bytes:
    return (CASES / "13_csv_manners" / "bom.csv").read_bytes().split(b'"')[1] * 2


def _file(*place: str) -> Callable[[Path], bytes]:
    return lambda path: CASES.joinpath(*place).read_bytes()


ORIGINALS: dict[str, Callable[[Path], bytes]] = {
    "a.cif": _cif,
    "POSCAR": _file("01_vasp4_poscar", "POSCAR.negative_volume"),
    "a.extxyz": _file("15_extxyz", "many_one_isotope.extxyz"),
    "a.json": _file("11_json_shapes", "rest_answer.json"),
    "a.jsonl": _file("11_json_shapes", "lines.jsonl"),
    "a.csv": _file("13_csv_manners", "decimal_comma.csv"),
    "a.zip": _zip,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ORIGINALS)
def test_mutated_files(name: str, tmp_path: Path) -> None:
    original = tmp_path / name
    data = ORIGINALS[name](original)
    original.write_bytes(data)
    draw = random.Random(f"{SEED} {name}")
    paths = []
    for index in range(COUNT):
        paths.append(tmp_path / str(index) / name)
        paths[-1].parent.mkdir()
        paths[-1].write_bytes(mutated(data, draw))
    whole, *answers = measure([original, *paths], warm=[original])
    assert whole.crystals > 0
    assert len(answers) == COUNT
    for path, answer in zip(paths, answers, strict=True):
        told = json.dumps([str(path), *answer])
        assert answer.seconds < SECONDS, told
        assert answer.megabytes < MEGABYTES, told
        assert answer.crystals <= whole.crystals or answer.reasons, told
        assert answer.crystals or answer.reasons, told
    assert sum(bool(answer.reasons) for answer in answers) > COUNT / 10
