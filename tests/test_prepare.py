"""`data prepare`: any source to train, val and test."""

from __future__ import annotations

import csv
import gzip
import json
import shlex
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure
from pymatgen.io.cif import CifWriter
from typer.testing import CliRunner

import chemeleon
from chemeleon.cli.data import app
from chemeleon.config import presets
from chemeleon.config.schema import DataConfig
from chemeleon.data.dataset import load_split
from chemeleon.data.limits import Limits
from chemeleon.data.prepare import prepare, split_indices
from chemeleon.errors import ConfigError, DataError

pytestmark = pytest.mark.filterwarnings("ignore")
HALIDES = [(a, x) for a in ("Li", "Na", "K", "Rb") for x in ("F", "Cl", "Br", "I")]


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHEMELEON_CACHE", str(tmp_path / "cache"))


def rocksalt(index: int) -> Structure:
    lattice = Lattice.cubic(4 + 0.01 * index)
    return Structure(lattice, HALIDES[index % 16], [[0, 0, 0], [0.5, 0.5, 0.5]])


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "source.csv.gz"
    with gzip.open(path, "wt", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["material_id", "formula", "gap", "cif"])
        for i in range(100):
            gap = "" if i == 7 else i / 7
            writer.writerow([f"m{i}", "x", gap, str(CifWriter(rocksalt(i)))])
        writer.writerow(["bad", "x", 1, "no cif"])
    return path


def ids(folder: Path, split: str) -> list[str]:
    return load_split(
        DataConfig.model_validate({"name": folder.name, "root": str(folder.parent)}), split
    ).ids


def test_csv_becomes_a_data_set(table: Path, tmp_path: Path) -> None:
    report = prepare(table, tmp_path / "data" / "mine", (0.8, 0.1, 0.1), seed=3)
    assert report.written == {"train": 80, "val": 10, "test": 10}
    assert report.total == 101
    assert [p.id for p in report.problems] == ["bad"]
    assert report.columns == ["gap", "formula"]
    found = [ids(tmp_path / "data" / "mine", s) for s in ("train", "val", "test")]
    assert sorted(chain(*found)) == sorted(f"m{i}" for i in range(100))
    config = DataConfig.model_validate(
        {"name": "mine", "root": str(tmp_path / "data"), "targets": ["gap"]}
    )
    crystals = load_split(config, "train")
    for name, gap, size in zip(
        crystals.ids, crystals.targets["gap"].tolist(), crystals.lattice[:, 0, 0], strict=True
    ):
        index = int(name[1:])
        assert gap == pytest.approx(index / 7, rel=1e-6)
        assert float(size) == pytest.approx(4 + 0.01 * index, abs=1e-5)
    written = json.loads((tmp_path / "data" / "mine" / "report.json").read_text())
    assert written["problems"][0]["reason"].startswith("unparsable CIF")


def test_same_seed_same_split_and_no_overwriting(table: Path, tmp_path: Path) -> None:
    for name, seed in (("one", 1), ("two", 1), ("three", 2)):
        prepare(table, tmp_path / name, seed=seed)
    assert ids(tmp_path / "one", "val") == ids(tmp_path / "two", "val")
    assert ids(tmp_path / "one", "val") != ids(tmp_path / "three", "val")
    with pytest.raises(DataError, match=r"exists already; .*--overwrite"):
        prepare(table, tmp_path / "one")
    prepare(table, tmp_path / "one", seed=2, overwrite=True)
    assert ids(tmp_path / "one", "val") == ids(tmp_path / "three", "val")
    (tmp_path / "one" / "thesis.tex").write_text("precious")
    with pytest.raises(DataError, match=r"holds thesis\.tex"):
        prepare(table, tmp_path / "one", overwrite=True)
    assert (tmp_path / "one" / "thesis.tex").read_text() == "precious"


def test_rows_by_an_expression(table: Path, tmp_path: Path) -> None:
    where = 'gap > 7 and "Li" in elements and formula == "x"'
    report = prepare(table, tmp_path / "mine", (1, 0, 0), where=where)
    wanted = [f"m{i}" for i in range(50, 100) if HALIDES[i % 16][0] == "Li"]
    assert ids(tmp_path / "mine", "train") == wanted
    assert report.left_out == {"do not fit": 100 - len(wanted)}  # without a gap, but no Li either
    with pytest.raises(DataError, match="none of the 100 crystals is left where gap > 99"):
        prepare(table, tmp_path / "none", where="gap > 99")
    # of the columns of text nothing is lost on the way
    again = prepare(tmp_path / "mine" / "train.csv.gz", tmp_path / "again", where='formula == "x"')
    assert sum(again.written.values()) == len(wanted)


def test_fail_leaves_nothing_behind(table: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="1 of 101 rows cannot be used"):
        prepare(table, tmp_path / "out" / "mine", on_error="fail")
    assert not (tmp_path / "out").exists()
    with pytest.raises(DataError, match="three shares"):
        prepare(table, tmp_path / "mine", (0.5, 0.1, 0.1))


def test_formulas_stay_together(table: Path, tmp_path: Path) -> None:
    prepare(table, tmp_path / "mine", (0.6, 0.2, 0.2), split_by="formula")
    splits = [ids(tmp_path / "mine", s) for s in ("train", "val", "test")]
    formulas = [{HALIDES[int(i[1:]) % 16] for i in names} for names in splits]
    assert not formulas[0] & formulas[1]
    assert not formulas[0] & formulas[2]
    assert not formulas[1] & formulas[2]
    assert sum(len(f) for f in formulas) == 16
    assert abs(len(splits[0]) - 60) <= 7


def test_equal_crystals_are_found(tmp_path: Path) -> None:
    first = rocksalt(0)
    shifted = Structure(first.lattice, first.species, first.frac_coords + 0.3)
    doubled = first.copy()
    doubled.make_supercell([2, 1, 1])
    strained = Structure(Lattice.tetragonal(4, 5.5), first.species, first.frac_coords)
    folder = tmp_path / "cifs"
    folder.mkdir()
    for name, structure in zip(
        "abcde", (first, shifted, doubled, strained, rocksalt(1)), strict=True
    ):
        (folder / f"{name}.cif").write_text(str(CifWriter(structure)))
    report = prepare(folder, tmp_path / "mine", (1, 0, 0), deduplicate=True)
    assert report.duplicates == {"b": "a", "c": "a"}
    assert ids(tmp_path / "mine", "train") == ["a", "d", "e"]
    assert not (tmp_path / "mine" / "val.csv.gz").exists()


def test_csv_without_names_is_numbered(tmp_path: Path) -> None:
    path = tmp_path / "plain.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([["structure"], *([str(CifWriter(rocksalt(i)))] for i in range(3))])
    prepare(path, tmp_path / "mine", (1, 0, 0), cif_column="structure")
    assert ids(tmp_path / "mine", "train") == ["plain-1", "plain-2", "plain-3"]


def test_shares_are_met_and_disjoint() -> None:
    parts = split_indices(1000, (0.9, 0.05, 0.05), 0)
    assert [len(p) for p in parts] == [900, 50, 50]
    assert sorted(chain(*parts)) == list(range(1000))
    groups = [str(i) for i in np.random.default_rng(0).integers(0, 200, 1000)]
    parts = split_indices(1000, (0.9, 0.05, 0.05), 0, groups)
    assert sorted(chain(*parts)) == list(range(1000))
    names = [{groups[i] for i in part} for part in parts]
    assert not names[0] & (names[1] | names[2])
    assert len(parts[1]) == pytest.approx(50, abs=12)


def test_command_line(table: Path, tmp_path: Path) -> None:
    run = CliRunner().invoke
    out = tmp_path / "data" / "mine"
    done = run(app, ["prepare", str(table), "-o", str(out), "--split", "0.8,0.1,0.1"])
    assert done.exit_code == 0, done.output
    assert "train 80, val 10, test 10 of 101 crystals" in " ".join(done.output.split())
    assert "unparsable" in done.output
    shown = run(app, ["describe", str(out)])
    assert shown.exit_code == 0, shown.output
    for words in ("mine train", "mine test", "atoms per cell", "Pm-3m", "gap"):
        assert words in shown.output
    named = run(app, ["describe", "mine", "--root", str(out.parent), "--split", "val"])
    assert "mine val" in named.output, named.exception
    whole = run(app, ["describe", str(table)])
    assert "1 rows with problems" in whole.output
    some = run(app, ["describe", str(table), "--where", "gap > 7 and num_atoms == 2"])
    said = " ".join(some.output.split())  # a long path folds the line
    assert "50 crystals" in said, some.exception
    assert "left out: 49 do not fit" in said
    assert "left out: 1 have no value to tell" in said
    few = run(app, ["prepare", str(table), "-o", str(tmp_path / "few"), "--where", "gap <= 2"])
    assert "left out: 85 do not fit" in few.output, few.exception
    wrong = run(app, ["prepare", str(table), "-o", str(tmp_path / "x"), "--by", "formla"])
    assert "did you mean 'formula'" in str(wrong.exception)
    for command in ("describe", "prepare", "download"):
        text = run(app, [command, "--help"]).output
        assert f"chemeleon data {command}" in text


def test_structures_in_memory_become_a_data_set(tmp_path: Path) -> None:
    structures = [rocksalt(i) for i in range(10)]
    structures[3].properties["material_id"] = "mine"
    report = chemeleon.prepare(structures, tmp_path / "some" / "salts", split=(0.7, 0.3, 0))
    assert report.source == "structures in memory"
    assert report.written == {"train": 7, "val": 3, "test": 0}
    found = {*ids(tmp_path / "some" / "salts", "train"), *ids(tmp_path / "some" / "salts", "val")}
    assert found == {"mine", *(f"crystal-{i:06d}" for i in range(10) if i != 3)}
    # the words are what a training needs, whatever its preset reads
    config = presets.load("ldm", "mp/mini", None, report.words).config
    assert len(load_split(config.data, "train")) == 7


def test_words_of_a_data_set_keep_odd_names(tmp_path: Path) -> None:
    report = chemeleon.prepare([rocksalt(i) for i in range(4)], tmp_path / "a b" / "0225: x")
    data = presets.load("ldm", "own/finetune", None, report.words).config.data
    assert (data.name, data.root) == ("0225: x", str(tmp_path / "a b"))


def cifs(folder: Path, names: list[str]) -> Path:
    folder.mkdir()
    for i, name in enumerate(names):
        (folder / f"{name}.cif").write_text(str(CifWriter(rocksalt(i))))
    return folder


def test_properties_beside_files_are_joined_by_name(tmp_path: Path) -> None:
    folder = cifs(tmp_path / "cifs", ["Li0.5", "b", "c"])
    (folder / "bad.cif").write_text("no cif")
    beside = tmp_path / "gaps.csv"
    beside.write_text("name,gap,group\nLi0.5,1.5,Fm-3m\nb.cif,2.5,Fm-3m\nbad,3,x\nother,4,x\n")
    report = prepare(folder, tmp_path / "mine", (1, 0, 0), properties=beside, on_error="skip")
    assert "gap" in report.columns
    rows = {}
    with gzip.open(tmp_path / "mine" / "train.csv.gz", "rt") as file:
        for row in csv.DictReader(file):
            rows[row["material_id"]] = row["gap"]
    assert rows == {"Li0.5": "1.5", "b": "2.5", "c": ""}
    for words in (
        "column 'group' is not of numbers: 'Fm-3m' (gaps.csv, row 1)",
        "gaps.csv: 1 row (other) without a crystal",
        "gaps.csv: 1 crystal (c) without a row",
    ):
        assert words in report.notes
    written = json.loads((tmp_path / "mine" / "report.json").read_text())
    assert written["notes"] == report.notes
    for text, column, words in (
        ("ref,gap\nb,1\n", None, "has no column material_id or id or name .*; its columns are ref"),
        ("ref,gap\nx,1\n", "ref", "no name in gaps.csv, such as 'x', is that of"),
        ("name,gap\nb,1\nb.cif,2\n", None, "rows 1 and 2 are both of 'b'"),
    ):
        beside.write_text(text)
        with pytest.raises(DataError, match=words):
            prepare(
                folder,
                tmp_path / "new",
                (1, 0, 0),
                properties=beside,
                id_column=column,
                on_error="skip",
            )
    assert not (tmp_path / "new").exists()


def test_the_next_command_works_as_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = cifs(tmp_path / "cifs", [f"m{i}" for i in range(6)])
    run = CliRunner().invoke
    words = ["prepare", str(folder), "-o", "my data/one set"]
    done = run(app, [*words, "--split", "0.5,0.5,0", "--limit", "atoms=2"])
    assert done.exit_code == 0, done.output
    (line,) = [line for line in done.output.splitlines() if line.startswith("Next: ")]
    program, stage, verb, option, preset, *given = shlex.split(line.removeprefix("Next: "))
    assert (program, stage, verb, option) == ("chemeleon", "vae", "train", "--preset")
    config = presets.load("vae", preset, None, given).config
    assert len(load_split(config.data, "train")) == 3
    done = run(app, [*words, "--split", "1,0,0", "--overwrite"])
    (line,) = [line for line in done.output.splitlines() if line.startswith("Next: ")]
    program, _, *given = shlex.split(line.removeprefix("Next: "))
    assert run(app, given).exit_code == 0
    done = run(app, [*words, "--overwrite", "--limit", "atoms=1"])
    assert "2 atoms are over data.limits.atoms=1" in str(done.exception)
    done = run(app, [*words, "--limit", "atom=1"])
    assert "did you mean 'atoms'" in str(done.exception)
    for wrong in ("atoms=many", "atoms", "atom=1"):
        done = run(app, [*words, "--limit", wrong])
        assert isinstance(done.exception, ConfigError)
        for limit in Limits._fields:
            assert limit in str(done.exception), wrong


def test_a_way_to_split_that_there_is_not_is_refused(tmp_path: Path) -> None:
    folder = cifs(tmp_path / "cifs", ["a", "b"])
    with pytest.raises(ConfigError, match="split_by Formula: must be random or formula; did you"):
        prepare(folder, tmp_path / "new", split_by="Formula")
    assert not (tmp_path / "new").exists()
