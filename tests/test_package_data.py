"""Data sets inside the package: the archive, what it holds, and `data export`."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import logging
import lzma
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import load_script
from pymatgen.core import Lattice, Structure
from pymatgen.io.cif import CifWriter
from safetensors.numpy import load, save
from typer.testing import CliRunner

from chemeleon.cli.data import app
from chemeleon.config.presets import load_data
from chemeleon.config.schema import DataConfig
from chemeleon.data import dataset
from chemeleon.data.archive import read_archive
from chemeleon.data.building import parse_source
from chemeleon.data.cache import ParsedSet
from chemeleon.data.crystal import Record
from chemeleon.data.dataset import load_report, load_split, split_path
from chemeleon.data.sources import read_records
from chemeleon.errors import DataError

write_archive = load_script("pack_dataset").write_archive
pytestmark = pytest.mark.filterwarnings("ignore")
SHIPPED = dataset.packaged_root() / "mp"


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHEMELEON_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CHEMELEON_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    dataset._tell.cache_clear()


def crystal(seed: int) -> Structure:
    """Return a crystal whose cell is far from reduced, of every lattice system in turn."""
    random = np.random.default_rng(seed)
    a, b, c = random.uniform(6, 9, 3).round(6)  # atoms are further apart than 0.5 A
    cells = (
        Lattice.cubic(a),
        Lattice.hexagonal(a, c),
        Lattice.rhombohedral(a, 33.849633),
        Lattice.monoclinic(a, b, c, 131.2),
        Lattice.from_parameters(a, b, c, 52.1234567, 61.5, 78.25),
        Lattice.from_parameters(a, a, a, 109.47122, 109.47122, 109.47122),
    )
    while True:  # until no atoms are on top of each other
        coords = np.concatenate([[[0, 1 / 3, 2 / 3]], random.uniform(-1, 2, (seed % 4 + 1, 3))])
        coords[:, 2] = np.linspace(0, 0.9, len(coords))
        elements = ["Na", "Cl", "O", "O", "Cs"][: len(coords)]
        made = Structure(cells[seed % 6], elements, coords)
        if made.is_valid(tol=0.6):
            return made


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Return a table with gaps, text, long decimals and names with signs."""
    path = tmp_path / "source" / "train.csv.gz"
    path.parent.mkdir()
    with gzip.open(path, "wt", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["material_id", "gap", "from", "cif", "n.a", "empty", "wide"])
        for i in range(48):
            row = ["" if i % 5 == 0 else i / 7, "" if i == 3 else f'a, "b" é{i % 3}']
            cif = str(CifWriter(crystal(i)))
            writer.writerow([f"m-{i}", *row, cif, -i / 100, "", 10.0 ** (i - 20)])
    return path


@pytest.fixture
def records(table: Path) -> list[Record]:
    return list(read_records(table, "material_id", "cif"))


def assert_equal(found: ParsedSet, wanted: ParsedSet) -> None:
    assert (found.ids, found.total, found.problems) == (wanted.ids, wanted.total, [])
    assert torch.equal(found.atomic_numbers, wanted.atomic_numbers)
    assert torch.equal(found.num_atoms, wanted.num_atoms)
    assert torch.equal(found.rows, wanted.rows)
    assert torch.equal(found.files, wanted.files)
    assert [t.dtype for t in (found.lattice, found.frac_coords, found.num_atoms)] == [
        t.dtype for t in (wanted.lattice, wanted.frac_coords, wanted.num_atoms)
    ]
    assert found.text_columns == wanted.text_columns
    assert {n: v.values() for n, v in found.labels.items()} == {
        n: v.values() for n, v in wanted.labels.items()
    }
    assert list(found.columns) == list(wanted.columns)
    for name, values in wanted.columns.items():
        torch.testing.assert_close(found.columns[name], values, rtol=0, atol=0, equal_nan=True)
    away = (found.frac_coords - wanted.frac_coords).abs()
    assert float(torch.minimum(away, 1 - away).max()) < 2e-7
    assert float(found.frac_coords.min()) >= 0
    assert float(found.frac_coords.max()) < 1
    torch.testing.assert_close(found.lattice, wanted.lattice, rtol=0, atol=1e-6)


# --- the archive


@pytest.mark.parametrize("niggli", [True, False])
def test_archive_gives_what_the_table_gives(
    table: Path, records: list[Record], tmp_path: Path, niggli: bool
) -> None:
    path = tmp_path / "train.safetensors.xz"
    write_archive(path, records)
    wanted = parse_source(table, niggli=niggli)
    assert_equal(read_archive(path, niggli).parsed, wanted)
    assert_equal(parse_source(path, niggli=niggli), wanted)
    if niggli:
        given = parse_source(table, niggli=False)
        assert (given.lattice - wanted.lattice).abs().amax() > 1  # so there was something to reduce


def test_archive_is_small_and_always_the_same(records: list[Record], tmp_path: Path) -> None:
    paths = [tmp_path / f"{name}.safetensors.xz" for name in "ab"]
    for path in paths:
        write_archive(path, records)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert paths[0].stat().st_size < 12_000


def test_records_of_an_archive(table: Path, records: list[Record], tmp_path: Path) -> None:
    path = tmp_path / "train.safetensors.xz"
    write_archive(path, records)
    found = list(read_records(path, "any", "any"))
    assert found[7].values["from"] == 'a, "b" é1'
    assert found[3].values["from"] == ""
    assert found[5].values["gap"] is None
    assert found[7].values["gap"] == pytest.approx(1)
    assert list(found[0].values) == ["gap", "from", "n.a", "empty", "wide"]
    again = tmp_path / "again.safetensors.xz"
    write_archive(again, found)  # arrays in place of CIFs
    one, two = read_archive(path).parsed, read_archive(again).parsed
    assert one.ids == two.ids
    torch.testing.assert_close(one.lattice, two.lattice, rtol=0, atol=2e-6)


def test_left_handed_cells(tmp_path: Path) -> None:
    structure = crystal(4)
    cell = structure.lattice.matrix * [1, 1, -1]
    content = (np.array(structure.atomic_numbers), structure.frac_coords, cell)
    record = Record("x", 1, "left", "arrays", content, {})
    path = tmp_path / "x.safetensors.xz"
    write_archive(path, [record])
    from chemeleon.data.building import collect

    for niggli in (True, False):
        assert_equal(read_archive(path, niggli).parsed, collect(iter([record]), niggli))


def test_only_good_crystals_are_packed(records: list[Record], tmp_path: Path) -> None:
    broken = [records[0], records[0], records[1]._replace(content="no cif"), records[2]]
    with pytest.raises(DataError, match=r"(?s)2 of 4 rows.*duplicate id") as caught:
        write_archive(tmp_path / "x.safetensors.xz", broken)
    assert "row 2, m-1" in str(caught.value)
    assert not list(tmp_path.glob("*.xz"))
    with pytest.raises(DataError, match=r"must end in \.safetensors\.xz"):
        write_archive(tmp_path / "x.xz", records)


def changed(content: bytes, **changes: Any) -> bytes:
    """Return the unpacked archive with other arrays (None leaves one out) or details."""
    arrays = load(content)
    size = int.from_bytes(content[:8], "little")
    details = json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["chemeleon"])
    for name, value in changes.items():
        if name in arrays:
            arrays.pop(name)
            arrays |= {} if value is None else {name: value(load(content)[name])}
        else:
            details[name] = value
    return save(arrays, metadata={"chemeleon": json.dumps(details)})


HOSTILE: dict[str, dict[str, Any]] = {
    "fewer atoms than counted": {"atomic_numbers": lambda x: x[:-1]},
    "huge counts": {"num_atoms": lambda x: np.full_like(x, 2**31 - 1)},
    "negative counts": {"num_atoms": lambda x: -x},
    "wide counts": {"num_atoms": lambda x: x.astype(np.int64)},
    "element 0": {"atomic_numbers": lambda x: x * 0},
    "element 255": {"atomic_numbers": lambda x: x | 255},
    "no coordinates": {"frac_coords": None},
    "coordinates of two directions": {"frac_coords": lambda x: x[:, :2]},
    "coordinates as text": {"frac_coords": lambda x: x.astype(np.uint8)},
    "negative lengths": {"lengths": lambda x: -x},
    "no lengths": {"lengths": lambda x: x * 0},
    "angles beyond any cell": {"angles": lambda x: x * 0 + 1_700_000_000},
    "a singular matrix": {"niggli": lambda x: x * 0},
    "a mirror": {"niggli": lambda x: -x},
    "too few names": {"ids": lambda x: x[: len(x) // 2]},
    "names that are no text": {"ids": lambda x: np.where(x == 10, 10, 255).astype(np.uint8)},
    "a short column": {"column:gap": lambda x: x[:-1]},
    "a lost column": {"column:gap": None},
    "another format": {"format": 2},
    "decimals without end": {"decimals": {"frac_coords": 10**6, "lengths": 8, "angles": 8}},
    "decimals of no kind": {"decimals": []},
    "columns of no kind": {"columns": 5},
}


@pytest.mark.parametrize("case", HOSTILE)
def test_wrong_content_is_refused(case: str, records: list[Record], tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors.xz"
    write_archive(path, records)
    path.write_bytes(lzma.compress(changed(lzma.decompress(path.read_bytes()), **HOSTILE[case])))
    with pytest.raises(DataError, match=str(path)):
        read_archive(path)


def test_damaged_files_are_refused(records: list[Record], tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors.xz"
    write_archive(path, records)
    whole = path.read_bytes()
    random = np.random.default_rng(0)
    for _ in range(60):
        broken = bytearray(whole)
        broken[random.integers(len(broken))] ^= 1 << int(random.integers(8))
        path.write_bytes(broken)
        with pytest.raises(DataError, match=r"x\.safetensors\.xz"):
            read_archive(path)
    for cut in (0, 1, 20, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(DataError, match=r"cannot be read.*fetch it again"):
            read_archive(path)
    with pytest.raises(DataError, match="does not exist"):
        read_archive(tmp_path / "other.safetensors.xz")


def test_bombs_are_refused_in_little_memory(tmp_path: Path) -> None:
    packer = lzma.LZMACompressor(preset=0)
    with (tmp_path / "zeros.safetensors.xz").open("wb") as file:
        for _ in range(400):
            file.write(packer.compress(bytes(1 << 20)))
        file.write(packer.flush())
    header = b'{"__metadata__":{"chemeleon":"' + b"[" * 900_000 + b'"}}'
    deep = len(header).to_bytes(8, "little") + header
    (tmp_path / "deep.safetensors.xz").write_bytes(lzma.compress(deep))
    tensor = {"dtype": "U8", "shape": [1 << 62], "data_offsets": [0, 1 << 62]}
    details = {"format": 1, "columns": [], "decimals": {}}
    metadata = {"chemeleon": json.dumps(details)}
    header = json.dumps({"__metadata__": metadata, "atomic_numbers": tensor}).encode()
    huge = len(header).to_bytes(8, "little") + header
    (tmp_path / "huge.safetensors.xz").write_bytes(lzma.compress(huge))
    (tmp_path / "long.safetensors.xz").write_bytes(lzma.compress(b"\xff" * 8 + bytes(100)))
    program = """
import resource, sys
from pathlib import Path
from chemeleon.data.archive import read_archive
from chemeleon.errors import DataError
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sorted(Path(sys.argv[1]).glob("*.safetensors.xz")):
    try:
        read_archive(path)
    except DataError as error:
        print(path.name)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    *refused, megabytes = done.stdout.split()
    assert [name.split(".")[0] for name in refused] == ["deep", "huge", "long", "zeros"]
    assert int(megabytes) < 400


# --- the set that is shipped


# crystals and atoms; sha256 of elements, counts, names and columns; sums of coordinates and volumes
FACTS = {
    "train": (61311, 648148),
    "val": (9047, 93512),
    "test": (4523, 46473),
}
DIGESTS = {
    "train": "c5631444d4dd6ef5b60865766bccd1f61c36d9dd75e49814dd67605304d55752",
    "val": "33165489d25bbd1d9e600eb3bdc259355e41a8ebba99df5087ee9f85c7cb3fa4",
    "test": "1911b59f12059fe5d0fb7f5c377255e82666933213674caf9c8a804df8bdb38d",
}
SUMS = {
    "train": (858579.11, 14054801.334995048),
    "val": (122804.18, 1784048.3011173331),
    "test": (60887.44, 895906.9405942628),
}


@pytest.mark.parametrize("split", FACTS)
def test_shipped_set_holds_what_its_card_says(split: str) -> None:
    found, text, names = read_archive(SHIPPED / f"{split}.safetensors.xz")
    crystals, atoms = FACTS[split]
    assert (found.total, len(found.atomic_numbers)) == (crystals, atoms)
    assert len(set(found.ids)) == crystals
    assert int(found.num_atoms.max()) == 20
    assert names == [
        "formation_energy_per_atom",
        "formation_energy_chgnet",
        "band_gap",
        "e_above_hull",
        "e_above_hull_source",
        "spacegroup.number",
        "mp_20",
        "mpts_52_holdout",
    ]
    known = {name: int((~values.isnan()).sum()) for name, values in found.columns.items()}
    train = split == "train"
    assert known["formation_energy_per_atom"] == (21183 if train else crystals)
    assert known["band_gap"] == (5828 if train else crystals)
    assert set(text["e_above_hull_source"]) - {""} == ({"dft", "chgnet"} if train else {"mp"})
    assert known["spacegroup.number"] == crystals
    if train:
        assert int(found.columns["mp_20"].sum()) == 21824
    content = hashlib.sha256(found.atomic_numbers.numpy().tobytes())
    content.update(found.num_atoms.numpy().tobytes() + "\n".join(found.ids).encode())
    for name, values in found.columns.items():
        content.update(name.encode() + values.nan_to_num(-1000).numpy().tobytes())
    assert content.hexdigest() == DIGESTS[split]
    assert float(found.frac_coords.double().sum()) == pytest.approx(SUMS[split][0], abs=0.5)
    volume = torch.linalg.det(found.lattice.double()).sum()
    assert float(volume) == pytest.approx(SUMS[split][1], rel=1e-7)


def test_known_crystals() -> None:
    given = read_archive(SHIPPED / "val.safetensors.xz", niggli=False).parsed
    assert given.ids[0] == "mp-865981"
    assert given.atomic_numbers[:4].tolist() == [69, 12, 80, 80]
    wanted = torch.tensor([0, 0.5, 0.25, 0.75])
    torch.testing.assert_close(given.frac_coords[:4], wanted[:, None].expand(4, 3), rtol=0, atol=0)
    lengths = torch.linalg.vector_norm(given.lattice[0].double(), dim=-1)
    torch.testing.assert_close(lengths, torch.full((3,), 5.0488004).double(), rtol=0, atol=1e-6)
    assert float(given.columns["formation_energy_per_atom"][0]) == np.float32(-0.4363681541666666)


def test_a_set_of_the_package_needs_no_folder(caplog: pytest.LogCaptureFixture) -> None:
    config = load_data("mp").model_copy(update={"targets": ["band_gap"]})
    with caplog.at_level(logging.INFO):
        assert len(load_split(config, "test")) == 4523
        assert split_path(config, "val") == SHIPPED / "val.safetensors.xz"
    assert [r.message for r in caplog.records] == ["data set mp is read from the package"]
    assert not list(Path().rglob("*.safetensors"))  # nothing is cached


def test_a_folder_comes_before_the_package(
    table: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "data" / "mp").mkdir(parents=True)
    table.rename(tmp_path / "data" / "mp" / "train.csv.gz")
    config = load_data("mp")
    with caplog.at_level(logging.INFO):
        assert len(load_split(config, "train")) == 48
    assert "data/mp, which comes before the set of the package" in caplog.messages[0]
    with pytest.raises(DataError, match=r"no val split.*rename data/mp"):
        load_split(config, "val")


def test_any_folder_of_the_package_is_a_set(
    records: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "box" / "mine").mkdir(parents=True)
    write_archive(tmp_path / "box" / "mine" / "train.safetensors.xz", records)
    monkeypatch.setattr(dataset, "packaged_root", lambda: tmp_path / "box")
    assert len(load_split(DataConfig(name="mine", targets=["n.a"]), "train")) == 48
    result = CliRunner().invoke(app, ["describe", "mine", "--space-groups", "0"])
    assert result.exit_code == 0, result.output
    assert "48 crystals" in " ".join(result.output.split())


# --- export


def run(*words: str | Path) -> str:
    result = CliRunner().invoke(app, ["export", *map(str, words)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


@pytest.fixture
def source(table: Path) -> DataConfig:
    return DataConfig(name="source", root=str(table.parent.parent))


def test_csv_export_is_a_data_set(source: DataConfig, table: Path, tmp_path: Path) -> None:
    said = run("source", "--root", table.parent.parent, "-o", tmp_path / "out")
    assert "train 48 crystals of source" in said
    with gzip.open(tmp_path / "out" / "train.csv.gz", "rt", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["material_id", "cif", "gap", "from", "n.a", "empty", "wide"]
    assert (rows[7]["from"], rows[3]["from"], rows[5]["gap"]) == ('a, "b" é1', "", "")
    again = load_report(DataConfig(name="out", root=str(tmp_path), niggli=False), "train")
    wanted = load_report(source.model_copy(update={"niggli": False}), "train")
    assert again.crystals.ids == wanted.crystals.ids
    for name, values in wanted.columns.items():
        torch.testing.assert_close(again.columns[name], values, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(again.crystals.lattice, wanted.crystals.lattice, rtol=0, atol=3e-6)
    away = (again.crystals.frac_coords - wanted.crystals.frac_coords).abs()
    assert float(torch.minimum(away, 1 - away).max()) < 1e-6


@pytest.mark.parametrize("form", ["cif", "extxyz"])
def test_export_to_structure_files(form: str, table: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run("source", "--root", table.parent.parent, "-o", out, "--split", "train", "--format", form)
    path = out / ("train" if form == "cif" else "train.extxyz")
    kept = {p.name for p in out.iterdir()}
    table_name = "train-properties.csv"
    assert kept == ({path.name, table_name} if form == "cif" else {path.name})
    found = {r.id: r for r in read_records(path, None, "cif")}
    assert len(found) == 48
    assert all(r.kind != "problem" for r in found.values())
    if form == "cif":
        with (out / table_name).open(newline="") as file:
            rows = {row["material_id"]: row for row in csv.DictReader(file)}
        assert float(rows["m-7"]["gap"]) == pytest.approx(1)
    else:
        rows = {name: r.values for name, r in found.items()}
        assert float(rows["m-7"]["gap"]) == pytest.approx(1)
        assert float(rows["m-7"]["n.a"]) == pytest.approx(-0.07)
        assert "gap" not in rows["m-5"]
    assert rows["m-7"]["from"] == 'a, "b" é1'


def test_rows_of_an_export(table: Path, tmp_path: Path) -> None:
    root = table.parent.parent
    said = run("source", "--root", root, "-o", tmp_path / "out", "--where", "gap > 1 and gap < 2")
    assert "train 5 crystals" in said  # 8 to 13 sevenths, without the 10 that has none
    again = load_report(DataConfig(name="out", root=str(tmp_path)), "train")
    assert again.crystals.ids == ["m-8", "m-9", "m-11", "m-12", "m-13"]
    assert again.labels["from"].values()[0] == 'a, "b" é2'


def test_export_refuses(table: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("kept")
    with pytest.raises(DataError, match=r"exists already; choose another folder$"):
        run("source", "--root", table.parent.parent, "-o", tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["mine.txt"]
    with pytest.raises(DataError, match="no val split"):
        run("source", "--root", table.parent.parent, "-o", tmp_path / "new", "--split", "val")
    assert not (tmp_path / "new").exists()


def test_names_with_a_split_and_an_expression(table: Path, tmp_path: Path) -> None:
    root = table.parent.parent
    said = run("source/train where gap > 1 and gap < 2", "--root", root, "-o", tmp_path / "out")
    assert "train 5 crystals of source" in said
    for name in ("source/train where gap < 2", str(table.parent / "train") + " where gap < 2"):
        shown = CliRunner().invoke(app, ["describe", name, "--root", str(root)])
        assert shown.exit_code == 0, shown.output
        assert "11 crystals" in shown.output  # below 14 sevenths, without 0, 5 and 10


@pytest.mark.parametrize(("rank", "lines"), [("0", 1), ("1", 0)])
def test_one_process_of_many_says_what_is_read(rank: str, lines: int) -> None:
    words = ["data", "describe", "mp/val where num_atoms <= 1", "--space-groups", "0"]
    made = subprocess.run(
        [sys.executable, "-m", "chemeleon", *words],
        env={**os.environ, "RANK": rank, "WORLD_SIZE": "2"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert made.stderr.count("is read from the package") == lines
    # a long path folds the line; the second process has nothing to do
    assert ("21 crystals" in " ".join(made.stdout.split())) == bool(lines)
