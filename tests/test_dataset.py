"""Loading splits: rows, problems, cache, processes."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pymatgen.core import Lattice, Structure
from pymatgen.io.cif import CifWriter

from chemeleon.config.schema import DataConfig
from chemeleon.crystals.files import write_structures
from chemeleon.crystals.formula import atom_histogram
from chemeleon.data import cache, dataset
from chemeleon.data.dataset import load_report, load_source, load_split
from chemeleon.data.describe import describe
from chemeleon.errors import DataError
from chemeleon.workers import run_parallel

pytestmark = pytest.mark.filterwarnings("ignore")
ROCKSALT = Structure(Lattice.cubic(4.2), ["Na", "Cl"], [[0, 0, 0], [0.5] * 3])
CIF = str(CifWriter(ROCKSALT))


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CHEMELEON_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CHEMELEON_DATA", str(tmp_path))
    return tmp_path / "cache" / "data"


def cubic(size: float) -> str:
    return CIF.replace("4.20000000", f"{size:.8f}").replace("74.08800000", f"{size**3:.8f}")


def write_csv(path: Path, rows: list[list[Any]], header: tuple[str, ...]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., DataConfig]:
    def write(rows: list[list[Any]], header: tuple[str, ...] = ("material_id", "cif", "gap"),
              **options: Any) -> DataConfig:  # fmt: skip
        write_csv(tmp_path / "mine" / "train.csv", rows, header)
        return DataConfig.model_validate({"name": "mine", **options})

    return write


def test_rows_columns_and_ids(make: Callable[..., DataConfig]) -> None:
    rows = [["a", cubic(4), "1.5"], ["b", cubic(5), ""], ["c", cubic(6), "2"]]
    crystals = load_split(make(rows), "train")
    assert crystals.ids == ["a", "b", "c"]
    assert crystals.targets == {}
    assert torch.allclose(crystals.lattice[:, 0, 0], torch.tensor([4.0, 5.0, 6.0]))
    assert crystals.atomic_numbers.dtype == torch.int64
    assert atom_histogram(crystals).tolist() == [0, 0, 3]
    report = load_report(make(rows), "train")
    assert report.columns["gap"][1].isnan()
    assert not report.problems


def test_requested_target_must_be_there(make: Callable[..., DataConfig]) -> None:
    rows = [["a", cubic(4), "1.5"], ["b", cubic(5), ""], ["c", cubic(6), "NaN"]]
    report = load_report(make(rows, targets=["gap"]), "train")
    assert report.crystals.ids == ["a"]
    assert report.crystals.targets["gap"].tolist() == [1.5]
    assert report.problems == []  # nothing is wrong with them
    assert report.left_out == {"have no number in column 'gap'": 2}
    load_split(make(rows, targets=["gap"], on_error="fail"), "train")
    with pytest.raises(DataError, match=r"has no column 'gpa'.*did you mean 'gap'"):
        load_split(make(rows, targets=["gpa"]), "train")
    text = [["a", cubic(4), "wide"]]
    with pytest.raises(DataError, match="column 'gap' holds text"):
        load_split(make(text, targets=["gap"]), "train")


def test_every_kind_of_bad_row_is_listed(make: Callable[..., DataConfig]) -> None:
    third = "0.50000000  0.50000000  0.50000000  1"
    assert third in CIF
    rows = [
        ["good", cubic(4), "1"],
        ["garbage", "not a cif", "1"],
        ["partial", CIF.replace(third, third[:-1] + "0.5"), "1"],
        ["heavy", CIF.replace("Cl", "Fm"), "1"],
        ["flat", cubic(0.0001), "1"],
        ["good", cubic(5), "1"],
        ["on top", CIF.replace(third, "0.001 0 0 1"), "1"],
        ["short", cubic(5)],
        ["", cubic(5), "1"],
    ]
    report = load_report(make(rows, on_error="skip"), "train")
    assert report.crystals.ids == ["good"]
    reasons = {(p.row, p.id): p.reason for p in report.problems}
    assert len(reasons) == 8
    for key, words in {
        (2, "garbage"): "unparsable CIF",
        (3, "partial"): "partial occupancy: site 2",
        (4, "heavy"): "atomic number 100",
        (6, "good"): "duplicate id, first seen in train.csv, row 1",
        (7, "on top"): "on top of each other",
        (8, ""): "has 2 cells, the header has 3",
        (9, ""): "has no id",
    }.items():
        assert words in reasons[key]
    with pytest.raises(
        DataError, match=r"(?s)8 of 9 rows cannot be used.*row 2, garbage.*on_error=skip"
    ):
        load_split(make(rows, on_error="fail"), "train")


def test_long_lists_are_cut_and_limits_kept(make: Callable[..., DataConfig]) -> None:
    rows = [[f"m{i}", CIF, "1"] for i in range(30)]
    bad = [[f"b{i}", "no cif", "1"] for i in range(30)]
    for on_error in ("fail", "few", "skip"):  # of nothing there is nothing to leave out
        with pytest.raises(DataError, match=r"(?s)30 of 30.*row 1, b0: unparsable.*10 more"):
            load_split(make(bad, on_error=on_error), "train")
    with pytest.raises(DataError, match=r"none of the 30 .* left: 30 have more .* max_atoms=1"):
        load_split(make(rows, max_atoms=1), "train")
    assert len(load_split(make(rows, max_atoms=2), "train")) == 30


def test_few_bad_rows_are_left_out_and_more_stop(
    make: Callable[..., DataConfig], caplog: pytest.LogCaptureFixture
) -> None:
    good = [[f"m{i}", CIF, "1"] for i in range(297)]
    bad = [[f"b{i}", "no cif", "1"] for i in range(3)]
    assert len(load_split(make([*good, *bad]), "train")) == 297  # 1 %, and no more
    (line,) = (record.message for record in caplog.records)
    assert line.startswith("mine train: 297 of 300 crystals; 3 cannot be used, the first is train")
    half = CIF.replace("0.50000000  0.50000000  0.50000000  1", "0.5 0.5 0.5 0.5")
    more = [["p1", half, "1"], ["p2", half.replace("0.5\n", "0.25\n"), "1"], ["short"]]
    with pytest.raises(DataError) as caught:
        load_split(make([*good, *bad, *more, ["", CIF, "1"], ["m1", CIF, "1"]]), "train")
    text = str(caught.value)
    assert "8 of 305 rows cannot be used, more than 1%: 3 x unparsable CIF" in text
    assert "2 x partial occupancy" in text  # of one kind, though the numbers differ
    assert "2 for other reasons" in text
    assert "data.on_error=skip" in text
    config = make([*good, *bad, *bad], on_error="skip")
    assert len(load_split(config, "train")) == 297


def test_rows_by_an_expression(
    make: Callable[..., DataConfig], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    header = ("material_id", "cif", "gap", "source", "spacegroup.number")
    rows = [
        ["a", cubic(4), "1.5", "dft", "225"],
        ["b", cubic(5), "", "dft", "225"],
        ["c", cubic(6), "0.1", "model", "221"],
        ["d", CIF.replace("Na", "Li"), "0", "", "221"],
        *([f"e{i}", cubic(4), "9", "dft", "1"] for i in range(200)),
        ["bad", "no cif", "1", "dft", "1"],
    ]
    write_csv(tmp_path / "mine" / "val.csv", rows[:4], header)

    def kept(where: str, split: str = "val", **options: Any) -> list[str]:
        return load_split(make(rows, header, where=where, **options), split).ids

    assert kept("gap <= 0.1") == ["c", "d"]
    assert kept('source == "dft" and spacegroup.number == 225') == ["a", "b"]
    assert kept('"Li" in elements or known(gap) and gap > 1', max_atoms=2) == ["a", "d"]
    assert not caplog.records[1].message.count("cannot")
    caplog.clear()
    for _ in range(2):
        assert kept("gap <= 0.1", "train") == ["c", "d"]
    (line,) = (record.message for record in caplog.records)  # said once
    start = "mine train: 2 of 205 crystals where gap <= 0.1; 201 do not fit; 1 have no value to"
    assert line.startswith(start)
    report = load_report(make(rows, header, where="gap > 1", targets=["gap"]), "train")
    assert report.left_out == {"do not fit": 2, "have no value to tell": 1}
    assert len(report.crystals) == len(report.columns["gap"]) == 201
    assert report.labels["source"].values() == ["dft"] * 201
    with pytest.raises(DataError, match="none of the 4 crystals is left where gap > 5: 3 do not"):
        kept("gap > 5")
    with pytest.raises(DataError, match=r"no column 'gpa'; did you mean 'gap'\?.*character 5"):
        kept("not gpa > 5")
    demo = DataConfig(name="demo", where="num_elements == 2")
    found = load_split(demo, "val")
    assert 0 < len(found) < len(load_split(DataConfig(), "val"))


def test_missing_sets_and_columns_say_what_to_do(
    make: Callable[..., DataConfig], tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"data prepare SOURCE -o .*nowhere.*CHEMELEON_DATA"):
        load_split(DataConfig.model_validate({"name": "nowhere"}), "train")
    public = {"name": "far", "download": {"url": "https://x/{split}.csv", "rows": {"train": 1}}}
    with pytest.raises(DataError, match="chemeleon data download far"):
        load_split(DataConfig.model_validate(public), "train")
    config = make([["a", CIF, "1"]])
    with pytest.raises(DataError, match=r"no val split: looked for .*mine"):
        load_split(config, "val")
    with pytest.raises(DataError, match=r"no column 'cfi'.*did you mean 'cif'.*data\.cif_column"):
        load_split(config.model_copy(update={"cif_column": "cfi"}), "train")
    with pytest.raises(DataError, match=r"no split 'tran'; .*did you mean 'train'"):
        load_split(config, "tran")


def test_further_sets_are_trained_on_and_not_validated_on(make, tmp_path: Path) -> None:
    header = ("material_id", "cif", "gap")
    write_csv(tmp_path / "more" / "train.csv", [["c", cubic(6), "3"], ["d", cubic(7), ""]], header)
    write_csv(tmp_path / "bare" / "train.csv", [["e", cubic(8)]], header[:2])
    write_csv(tmp_path / "mine" / "val.csv", [["v", cubic(9), "1"]], header)
    rows = [["a", cubic(4), "1"], ["b", cubic(5), "2"]]
    config = make(rows, where="gap > 1", also=["more", "bare"])
    assert load_split(config, "train").ids == ["b", "c", "d", "e"]
    with pytest.raises(DataError, match="val"):
        load_split(config, "val")  # none of its rows fits, and those of the others do not help
    config = make(rows, also=["more"], targets=["gap"])
    found = load_split(config, "train")
    assert (found.ids, found.targets["gap"].tolist()) == (["a", "b", "c"], [1, 2, 3])
    assert load_split(config, "val").ids == ["v"]
    with pytest.raises(DataError, match="gap"):
        load_split(make(rows, also=["bare"], targets=["gap"]), "train")
    config = make(rows, also=["more", "bare"], targets=["gap"])
    found = load_split(config, "train", partial="any")
    assert found.ids == ["a", "b", "c", "d", "e"]
    assert [str(gap) for gap in found.targets["gap"].tolist()] == [
        "1.0",
        "2.0",
        "3.0",
        "nan",
        "nan",
    ]
    words = [["f", cubic(8), "small"]]
    write_csv(tmp_path / "texts" / "train.csv", words, header)
    with pytest.raises(DataError, match=r"texts.*column 'gap' holds text"):
        load_split(make(rows, also=["texts"], targets=["gap"]), "train", partial="any")
    with pytest.raises(DataError, match="nowhere"):
        load_split(make(rows, also=["nowhere"]), "train")


def test_cut_short_gz_is_an_error(tmp_path: Path) -> None:
    import gzip

    (tmp_path / "mine").mkdir()
    data = gzip.compress(b"material_id,cif\n" + os.urandom(5000))
    (tmp_path / "mine" / "train.csv.gz").write_bytes(data[:2000])
    with pytest.raises(DataError, match=r"train\.csv\.gz cannot be read.*cut short"):
        load_split(DataConfig.model_validate({"name": "mine"}), "train")


def test_cache_is_used_and_notices_changes(
    make: Callable[..., DataConfig], monkeypatch: pytest.MonkeyPatch, cache_folder: Path
) -> None:
    config = make([["a", cubic(4), "1"], ["b", "bad", "2"]], targets=["gap"], on_error="skip")
    first = load_report(config, "train")
    calls: list[Any] = []
    original = dataset.parse_source

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        return original(*args, **kwargs)

    monkeypatch.setattr(dataset, "parse_source", counted)
    second = load_report(config, "train")
    assert not calls
    assert second.problems == first.problems
    assert second.crystals.ids == first.crystals.ids
    assert torch.equal(second.crystals.frac_coords, first.crystals.frac_coords)
    make([["a", cubic(5), "1"], ["c", cubic(5), "3"]])
    assert load_split(config, "train").ids == ["a", "c"]
    load_split(config.model_copy(update={"niggli": False}), "train")
    assert len(calls) == 2
    # a damaged file is parsed again, and nothing half-written is left
    for file in cache_folder.glob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:50])
    assert load_split(config, "train").ids == ["a", "c"]
    assert len(calls) == 3
    assert not list(cache_folder.glob(".tmp-*"))


def test_unwritable_cache_only_warns(
    make: Callable[..., DataConfig], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "occupied").write_text("")
    monkeypatch.setenv("CHEMELEON_CACHE", str(tmp_path / "occupied"))
    assert len(load_split(make([["a", CIF, "1"]]), "train")) == 1


def test_processes_that_start_together_parse_once(
    make: Callable[..., DataConfig], cache_folder: Path, tmp_path: Path
) -> None:
    make([[f"m{i}", cubic(4 + i / 1000), "1"] for i in range(400)])
    # no __main__ guard: worker processes must not import this script again
    script = tmp_path / "script.py"
    script.write_text(
        "import chemeleon.data.dataset as d\n"
        "from chemeleon.config.schema import DataConfig\n"
        "parse = d.parse_source\n"
        "d.parse_source = lambda *a, **k: print('parsed') or parse(*a, **k)\n"
        "c = d.load_split(DataConfig.model_validate({'name': 'mine'}), 'train')\n"
        "print(len(c), c.ids[399], float(c.lattice[399, 0, 0]))\n"
    )
    environment = {**os.environ, "CHEMELEON_WORKERS": "2"}
    running = [
        subprocess.Popen(
            [sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=environment
        )
        for _ in range(2)
    ]
    answers = [process.communicate(timeout=120)[0] for process in running]
    assert "".join(answers).count("parsed") == 1
    for answer in answers:
        count, name, size = answer.split()[-3:]
        assert (count, name) == ("400", "m399")
        assert float(size) == pytest.approx(4.399)
    assert len(list(cache_folder.glob("*.safetensors"))) == 1


def test_workers_report_failures_and_keep_order() -> None:
    assert list(run_parallel("math:sqrt", [i * i for i in range(20)], 2)) == list(range(20))
    with pytest.raises(RuntimeError, match="math domain error"):
        list(run_parallel("math:sqrt", [-1.0], 1))
    with pytest.raises(RuntimeError, match="a worker process died"):
        list(run_parallel("os:_exit", [3], 1))


def test_folder_zip_and_json_sources(tmp_path: Path) -> None:
    structures = [
        Structure(Lattice.cubic(3 + i), ["Na", "Cl"], [[0, 0, 0], [0.5] * 3]) for i in range(3)
    ]
    folder = tmp_path / "mine" / "train"
    write_structures(structures, folder, ["cif"], ["x", "y", "z"])
    (folder / "POSCAR_four").write_text(ROCKSALT.to(fmt="poscar"))
    (folder / "broken.cif").write_text("broken")
    (folder / "notes.txt").write_text("read me")
    config = DataConfig.model_validate({"name": "mine", "on_error": "skip"})
    report = load_report(config, "train")
    assert sorted(report.crystals.ids) == ["POSCAR_four", "x", "y", "z"]
    assert [(p.file, p.id) for p in report.problems] == [("broken.cif", "broken")]
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for path in folder.rglob("*.cif"):
            archive.write(path, path.name)
        archive.writestr("../../escaped.cif", CIF)
    packed = load_source(config, tmp_path / "all.zip")
    assert sorted(packed.crystals.ids) == ["x", "y", "z"]
    assert "leads out of the archive" in packed.problems[0].reason
    assert not list(tmp_path.parent.glob("**/escaped.cif"))
    for structure in structures:
        structure.properties = {"gap": 1.25}
    write_structures(structures, tmp_path, ["json", "extxyz"], ["x", "y", "z"])
    for name in ("structures.json.gz", "structures.extxyz"):
        found = load_source(config, tmp_path / name)
        assert found.crystals.ids == ["x", "y", "z"]
        assert found.columns["gap"].tolist() == [1.25] * 3
        sizes = found.crystals.lattice[:, 0, 0]
        assert torch.allclose(sizes, torch.tensor([3.0, 4.0, 5.0]))


def test_demo_set_follows_the_config() -> None:
    config = DataConfig(name="demo")
    everything = load_report(config, "val")
    assert len(everything.crystals) > 50
    small = load_split(config.model_copy(update={"max_atoms": 4}), "val")
    assert 0 < len(small) < len(everything.crystals)
    assert int(small.num_atoms.max()) <= 4
    name = next(iter(everything.columns))
    asked = load_split(config.model_copy(update={"targets": [name]}), "val")
    assert list(asked.targets) == [name]


def test_large_cache_loads_quickly(cache_folder: Path) -> None:
    import time

    crystals, atoms = 200_000, 2_000_000
    big = cache.ParsedSet(
        atomic_numbers=torch.ones(atoms, dtype=torch.uint8),
        frac_coords=torch.rand(atoms, 3),
        lattice=torch.eye(3).repeat(crystals, 1, 1),
        num_atoms=torch.full((crystals,), 10, dtype=torch.int32),
        rows=torch.arange(1, crystals + 1),
        files=torch.zeros(crystals, dtype=torch.int32),
        columns={"gap": torch.rand(crystals)},
        ids=[f"agm{i:09d}" for i in range(crystals)],
        file_names=["train.csv.gz"],
        text_columns=[],
        problems=[],
        total=crystals,
    )
    cache.cached("x", {}, lambda: big)
    started = time.perf_counter()
    found = cache.cached("x", {}, lambda: pytest.fail("not cached"))
    assert found.ids[-1] == f"agm{crystals - 1:09d}"
    assert torch.equal(found.frac_coords, big.frac_coords)
    assert time.perf_counter() - started < 3


def test_without_a_place_for_the_cache(
    make: Callable[..., DataConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("CHEMELEON_CACHE", str(tmp_path / "file"))
    found = load_report(make([["a", cubic(4), "1"]]), "train")
    assert found.crystals.ids == ["a"]
    assert "parsed crystals are not cached" in caplog.text
    assert (tmp_path / "file").read_text() == "no folder"


def test_describe_counts(make: Callable[..., DataConfig]) -> None:
    rows = [["a", cubic(4), "1.5"], ["b", cubic(5), ""], ["c", "bad", "2"]]
    report = load_report(make(rows, on_error="skip"), "train")
    found = describe(report)
    assert (len(report.crystals), report.total) == (2, 3)
    assert found.elements == {"Na": 2, "Cl": 2}
    assert found.space_groups == {"Pm-3m (221)": 2}
    by_name = {h.name: h for h in [*found.histograms, *found.targets]}
    assert by_name["atoms per cell"].counts == [2]
    assert by_name["gap"].missing == 1
    assert by_name["gap"].mean == 1.5
    # 58.44 g/mol in 64 cubic angstrom
    assert by_name["density (g/cm3)"].edges[-1] == pytest.approx(58.443 / 64 * 1.66054, rel=1e-4)
    for histogram in by_name.values():
        assert sum(histogram.counts) + histogram.missing == 2


def test_describe_counts_infinite_values_as_missing(make: Callable[..., DataConfig]) -> None:
    report = load_report(make([[i, cubic(4), "1"] for i in "abcd"]), "train")
    values = torch.tensor([1.0, 3.0, float("inf"), float("nan")])
    (found,) = describe(replace(report, columns={"gap": values})).targets
    assert (found.mean, found.missing, sum(found.counts)) == (2, 2, 2)
    assert (found.edges[0], found.edges[-1]) == (1, 3)
