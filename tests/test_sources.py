"""Folders, archives and names: every file is read, counted or a problem, and nothing stops."""

from __future__ import annotations

import gzip
import io
import os
import zipfile
from pathlib import Path

import pytest
from reading_helpers import CASES, read, read_text

from chemeleon.data.limits import Limits
from chemeleon.data.names import kind_of, stem, unique_stems
from chemeleon.data.sources import fingerprint
from chemeleon.errors import DataError

POSCAR = "x\n1\n4.2 0 0\n0 4.2 0\n0 0 4.2\nMg O\n1 1\nDirect\n0 0 0\n.5 .5 .5\n"
FRAMES = '2\nLattice="4 0 0 0 4 0 0 0 4"\nCs 0 0 0\nCl 2 2 2\n' * 3
TABLE = (CASES / "13_csv_manners" / "bom.csv").read_text("utf-8-sig")


def make(folder: Path, **contents: str) -> None:
    for name, text in contents.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.mark.parametrize(("name", "kind", "called"), [
    ("Li0.5CoO2.cif", "cif", "Li0.5CoO2"),
    ("step_0.01.cif.gz", "cif", "step_0.01"),
    ("a/b.c/out.VASP", "poscar", "out"),
    ("POSCAR.a", "poscar", "POSCAR.a"),
    ("POSCAR_1.2.gz", "poscar", "POSCAR_1.2"),
    ("CONTCAR", "poscar", "CONTCAR"),
    ("poscars.zip", "zip", "poscars"),
    ("POSCAR.json", "json", "POSCAR"),
    ("run.v2.extxyz", "extxyz", "run.v2"),
    ("table.csv.gz", "table", "table"),
    ("lines.jsonl", "json", "lines"),
    ("notes.pdf", None, "notes.pdf"),
    ("v1.2", None, "v1.2"),
])  # fmt: skip
def test_kinds_and_names(name: str, kind: str | None, called: str) -> None:
    assert (kind_of(name), stem(name)) == (kind, called)


def test_equal_names_carry_their_folder() -> None:
    names = ["run1/out.cif", "run2/out.cif", "run2/out.vasp", "x/Li0.5.cif", "y/Li0.75.cif",
             "z/POSCAR", "POSCAR.a", "POSCAR.b"]  # fmt: skip
    assert list(unique_stems(names).values()) == [
        "run1/out", "run2/out.cif", "run2/out.vasp", "Li0.5", "Li0.75",
        "z/POSCAR", "POSCAR.a", "POSCAR.b",
    ]  # fmt: skip


def test_a_folder_reads_everything_and_counts_the_rest(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    make(folder, run1__out_vasp=POSCAR, run2__out_vasp=POSCAR, POSCAR_a=POSCAR, POSCAR_b=POSCAR,
         md__traj_extxyz=FRAMES, sets__a_csv=TABLE, notes_txt="x", _hidden_cif="x",
         props_csv="name,gap\na,1\n", thesis_tex="x")  # fmt: skip
    (folder / "odd.vasp").symlink_to(folder / "nowhere")
    os.mkfifo(folder / "pipe.cif")  # opening it would wait for ever
    found = read(folder)
    assert sorted(found.ids) == [
        "POSCAR.a", "POSCAR.b", "run1/out", "run2/out", "traj-1", "traj-2", "traj-3",
        "zz-1", "zz-2", "zz-3",
    ]  # fmt: skip
    for words in (
        "odd.vasp, row 1, odd: cannot be read",
        "thesis.tex, row 1, thesis.tex: file of no known kind",
    ):
        assert any(words in problem for problem in found.problems), words
    assert len(found.problems) == 2
    assert any("props.csv has no column 'cif'" in note for note in found.parsed.notes)
    assert "1 hidden file was not read" in found.parsed.notes
    assert "1 text (.txt, .md) was not read" in found.parsed.notes


def test_a_name_that_is_no_utf8_stops_nothing(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/mine"
    os.mkdir(folder)  # noqa: PTH102
    for name in (b"caf\xe9.vasp", b"caf\xe8.vasp", b"two\nlines.vasp"):
        with open(folder + b"/" + name, "w") as file:  # noqa: PTH123
            file.write(POSCAR)
    found = read(tmp_path / "mine")
    assert sorted(found.ids) == ["caf\\xe8", "caf\\xe9", "two\\nlines"]
    assert all(name.isprintable() and name.encode() for name in found.ids)
    assert fingerprint(tmp_path / "mine")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_and_folder_are_problems(tmp_path: Path) -> None:
    make(tmp_path, good_vasp=POSCAR, bad_vasp=POSCAR, shut__a_vasp=POSCAR)
    (tmp_path / "bad.vasp").chmod(0)
    (tmp_path / "shut").chmod(0)
    try:
        found = read(tmp_path)
        assert found.ids == ["good"]
        assert len(found.problems) == 2
    finally:
        (tmp_path / "shut").chmod(0o700)


def packed(path: Path, members: dict[str, str | bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def test_archives(tmp_path: Path) -> None:
    inner = packed(tmp_path / "inner.zip", {"a.vasp": POSCAR})
    path = packed(tmp_path / "a.zip", {
        "run1/out.vasp": POSCAR, "run2/out.vasp.gz": gzip.compress(POSCAR.encode()),
        "t.csv": TABLE, "t2.csv.gz": gzip.compress(TABLE.replace("zz-", "yy-").encode()),
        "inner.zip": inner.read_bytes(), "../out.vasp": POSCAR, "/abs.vasp": POSCAR,
        "..\\win.vasp": POSCAR, "__MACOSX/._x.vasp": "x", "half.vasp.gz": b"\x1f\x8b\x08",
    })  # fmt: skip
    found = read(path)
    names = ["run1/out", "run2/out", *(f"{x}-{i}" for x in ("yy", "zz") for i in (1, 2, 3))]
    assert sorted(found.ids) == sorted(names)
    reasons = "\n".join(found.problems)
    assert reasons.count("leads out of the archive") == 3
    assert "an archive within an archive is not read" in reasons
    assert "half.vasp.gz, row 1, half: cannot be read" in reasons
    data = path.read_bytes()
    (tmp_path / "cut.zip").write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=r"cut\.zip cannot be read"):
        read(tmp_path / "cut.zip")


def test_a_gz_that_grows_beyond_reason_is_refused(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with gzip.GzipFile(fileobj=stream, mode="wb") as file:
        for _ in range(80):
            file.write(bytes(1 << 20))
    for name in ("a.vasp.gz", "a.csv.gz", "a.json", "a.extxyz"):
        with pytest.raises(DataError, match=r"over 100 times its size|a line of over 16 MiB"):
            read_text(tmp_path, name, stream.getvalue())
    path = packed(tmp_path / "a.zip", {
        "a.vasp": bytes(80 << 20), "b.vasp.gz": stream.getvalue(), "good.vasp": POSCAR,
    })  # fmt: skip
    found = read(path)
    assert len(found.problems) >= 2
    many = {f"{i}.vasp": bytes(60 << 20) for i in range(3)}
    found = read(packed(tmp_path / "b.zip", {"0.cif": "", **many}))
    assert any("over 100 times" in problem for problem in found.problems)


def test_limits_are_said_with_their_setting(tmp_path: Path) -> None:
    (tmp_path / "a.vasp").write_text(POSCAR)
    with pytest.raises(DataError, match=r"its 59 bytes are over data\.limits\.bytes=50"):
        read(tmp_path / "a.vasp", Limits(bytes=50))
    (tmp_path / "b.vasp.gz").write_bytes(gzip.compress(POSCAR.encode(), 9))
    found = read(tmp_path, Limits(bytes=58))
    assert all("over data.limits.bytes=58" in problem for problem in found.problems)
    found = read(tmp_path, Limits(atoms=1))
    assert "2 atoms are over data.limits.atoms=1" in found.problems[0]
    (tmp_path / "c.extxyz").write_text(FRAMES)
    found = read(tmp_path / "c.extxyz", Limits(frames=2))
    assert len(found.ids) == 2
    assert "more than 2 crystals in one file are over data.limits.frames=2" in found.problems[0]


def test_a_single_file_of_no_kind_is_an_error(tmp_path: Path) -> None:
    for name in ("a.pdf", "a.txt", "a.tar.gz"):
        with pytest.raises(DataError, match="is of no known kind: CSV"):
            read_text(tmp_path, name, "x")
        with pytest.raises(DataError, match="is of no known kind: CSV"):
            fingerprint(tmp_path / name)
    with pytest.raises(DataError, match="does not exist"):
        fingerprint(tmp_path / "none.cif")


def test_names_with_dots_are_whole() -> None:
    found = read(CASES / "24_names_with_dots")
    assert sorted(found.ids) == ["Li0.5CoO2", "Li0.75CoO2", "step_0.01"]
    assert found.problems == []


def test_every_block_of_a_cif_is_a_crystal_or_a_problem(tmp_path: Path) -> None:
    text = (CASES / "02_many_blocks" / "three_phases.cif").read_text()
    found = read_text(tmp_path, "phases.v2.cif", text)
    assert len(set(found.ids)) == 3
    assert all(name.startswith("phases.v2-") for name in found.ids)
    found = read_text(tmp_path, "b.cif", text.replace("_cell_length_a", "_cell_length_q", 1))
    assert len(found.ids) == 2
    assert len(found.problems) == 1
    # of equal names, and of one that is alone
    (name,) = read_text(tmp_path, "c.cif", (CASES / "24_names_with_dots/Li0.5CoO2.cif").read_text()
                        ).ids  # fmt: skip
    assert name == "c"
