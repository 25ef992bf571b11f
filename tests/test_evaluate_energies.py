"""Energies in an evaluation: raw, relaxed, the control row's, and what the hull cannot judge."""

from __future__ import annotations

import gzip
import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from energy_helpers import rocksalt, rocksalt_cube
from pymatgen.core import Lattice, Structure

import chemeleon
from chemeleon.data.parse import from_structure
from chemeleon.energy.compositions import fractions
from chemeleon.energy.hull import Hull
from chemeleon.errors import ConfigError
from chemeleon.evaluation.matching.limits import TimeUpError
from chemeleon.evaluation.metrics import coverage
from chemeleon.evaluation.metrics.base import Options
from chemeleon.evaluation.reference import column_word, load_reference
from chemeleon.evaluation.report.basis import warnings

POTENTIAL = "energy_helpers:lennard_jones"
LOW, HIGH = -50.0, 50.0  # eV/atom, below and above whatever the potential says


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHEMELEON_CACHE", str(tmp_path / "cache"))


def save_hull(path: Path, element_ev: float, potential: str = f"{POTENTIAL} unknown") -> str:
    """A hull of NaCl and of the elements Na, Cl and Cs, all without formation energy."""
    phases = {"NaCl": -1e-9, "Na": 0.0, "Cl": 0.0, "Cs": 0.0}
    references: dict[str, float | None] = dict.fromkeys(("Na", "Cl", "Cs"), element_ev)
    manifest: dict[str, Any] = {"energies": "by hand", "source": "test", "potential": potential}
    Hull([fractions(f) for f in phases], list(phases.values()), references, manifest).save(path)
    return str(path)


@pytest.fixture
def control(tmp_path: Path) -> str:
    folder = tmp_path / "control"
    folder.mkdir()
    for i, a in enumerate((5.6, 5.69, 5.8)):
        (folder / f"c{i}.cif").write_text(rocksalt(a).to(fmt="cif"))
    return str(folder)


def crystals() -> list[Structure | None]:
    """Judged, of a system that the hull lacks, with an element it lacks, not made, crushed."""
    crushed = rocksalt()
    crushed.scale_lattice(0.15)
    return [rocksalt(), rocksalt(6.9, "Cs", "Cl"), rocksalt(4.2, "Mg", "O"), None, crushed]


def test_raw_relaxed_and_control(tmp_path: Path, control: str) -> None:
    report = chemeleon.evaluate(
        crystals(), references=[control], control=control, potential=POTENTIAL, relax_steps=3,
        hull=save_hull(tmp_path / "h.json", HIGH), control_energies=2,
        base=control, output=tmp_path / "out",
    )  # fmt: skip
    table = report.crystals
    missing = "system missing"
    assert table["hull_state"].tolist()[:3] == ["ok", missing, "element missing"]
    assert table["hull_state"].isna()[3]
    assert table["hull_state"][4] == "no energy"
    assert table["relaxed_hull_state"].tolist()[:3] == ["ok", missing, "element missing"]
    assert table["relax_steps"].notna().tolist() == [True, True, True, False, False]
    assert report.relaxed[0] is not None
    assert report.relaxed[3] is report.relaxed[4] is None
    assert (table["relaxed_energy_ev_per_atom"] <= table["energy_ev_per_atom"] + 1e-9)[:3].all()
    assert table["relaxed_unique"].tolist() == [True, True, True, False, False]
    novel = next(name for name in table if name.startswith("relaxed_novel_"))
    assert table[novel].tolist() == [False, True, True, False, False]
    figures = {entry["name"]: entry for entry in report.summary["headline"]}
    # of all five: what is not judged is not stable
    assert (figures["stable"]["count"], figures["stable"]["of"]) == (2, 5)
    assert figures["stable"]["control"] == 1.0  # of the two control crystals with energies
    assert figures["relaxed_sun"]["count"] == 1
    assert figures["mean_relax_rmsd_a"]["value"] == pytest.approx(table["relax_rmsd_a"].mean())
    raw = report.summary["energies"]["raw"]
    assert (raw["requested"], raw["with_energy"]) == (5, 3)
    assert raw["hull_states"][missing] == 1
    assert len(report.summary["distributions"]["e_above_hull_ev"]["reference"]) == 2
    manifest = report.summary["manifest"]
    assert manifest["hull"]["energies"] == "by hand"
    assert manifest["relax_steps"] == 3
    assert report.summary["repetition"]["base_top_ten"]["count"] == 3

    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    for section in ("energies", "repetition"):
        assert f'<section id="{section}">' in page
    assert "the hull has no phase with one of its elements" in page
    assert "Elements that changed most" in page
    assert (tmp_path / "out" / "cif" / "00001_crystal-000000_relaxed.cif").is_file()


def test_what_counts_holds_on_every_hull(tmp_path: Path, control: str) -> None:
    # the first lacks Cs, the second puts NaCl lower than any energy and has all elements
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    save_hull(first, HIGH)
    known = Hull.load(first)
    phases = {
        "NaCl": -2 * HIGH,
        "CsCl": -1e-9,
        "Na": 0.0,
        "Cl": 0.0,
        "Cs": 0.0,
        "Mg": 0.0,
        "O": 0.0,
    }
    elements = dict.fromkeys(("Na", "Cl", "Cs", "Mg", "O"), HIGH)
    Hull([fractions(f) for f in phases], list(phases.values()), elements, known.manifest).save(
        second
    )
    common: dict[str, Any] = {"references": [control], "control": control, "potential": POTENTIAL}
    words = {"relax_steps": 2, "symmetrize": True, "output": tmp_path / "out"}
    report = chemeleon.evaluate(crystals(), hull=[first, second], **common, **words)
    table = report.crystals
    alone = [chemeleon.evaluate(crystals(), hull=hull, **common) for hull in (first, second)]
    one, two = (found.crystals["e_above_hull_ev"].to_numpy() for found in alone)
    names = [f"e_above_hull_ev_{column_word(str(path))}" for path in (first, second)]
    np.testing.assert_allclose(table[names[0]], one)
    np.testing.assert_allclose(table[names[1]], two)
    assert np.isfinite(one[:3]).tolist() == [True, True, False]
    assert np.isfinite(two[:3]).tolist() == [True, True, True]
    np.testing.assert_allclose(table["e_above_hull_ev"], np.maximum(one, two))
    # of each crystal the state on the hull that counts
    assert table["hull_state"][:3].tolist() == ["ok", "ok", "element missing"]
    for state in ("relaxed_", "idealised_"):
        assert table[state + names[1]].notna()[:3].all()
    figures = {entry["name"]: entry for entry in report.summary["headline"]}
    ends = [name.removeprefix("e_above_hull_ev") for name in names]
    assert [figures[f"msun{end}"]["count"] for end in ["", *ends]] == [1, 1, 2]
    assert figures["relaxed_sun"]["label"].startswith("SUN (relaxed), every hull: ")
    assert f"relaxed_sun{ends[1]}" in figures
    controls = [found.summary["headline"] for found in (report, *alone)]
    stable = [next(e["control"] for e in found if e["name"] == "stable") for found in controls]
    assert stable == [0.0, 1.0, 0.0]
    manifest = report.summary["manifest"]
    assert [manifest["hull"]["phases"], manifest["further_hulls"][0]["phases"]] == [4, 7]
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "what counts must hold on every one" in page
    with pytest.raises(ConfigError, match="hulls are named twice, or alike"):
        chemeleon.evaluate(crystals(), hull=[first, str(first)], potential=POTENTIAL)


def test_what_no_crystal_was_judged_for_has_no_share(tmp_path: Path, control: str) -> None:
    hull = save_hull(tmp_path / "h.json", HIGH)
    common: dict[str, Any] = {"references": [control], "potential": POTENTIAL, "hull": hull}
    unknown = rocksalt(4.2, "Mg", "O")
    report = chemeleon.evaluate([unknown], control=control, relax_steps=1, **common)
    for prefix in ("", "relaxed_"):
        for name in ("stable", "metastable", "sun", "msun", "msun_exclusive"):
            assert prefix + name not in report.headline.index
    assert report.summary["energies"]["raw"]["hull_states"] == {"element missing": 1}
    assert "e_above_hull_ev" in report.crystals
    # in a bin without any it counts as elsewhere
    report = chemeleon.evaluate([rocksalt(), rocksalt_cube(4.2, "Mg", "O")], **common)
    bins = {row["atoms"]: row for row in report.summary["bins"]["atoms"]}
    assert [bins[name]["metastable"]["count"] for name in ("1 to 5", "6 to 10")] == [1, 0]
    assert report.headline.loc["metastable", "value"] == 0.5


def test_rows_above_the_control_are_told_at_once() -> None:
    def row(name: str, label: str, low: float, control: float | None) -> dict[str, Any]:
        return {"name": name, "label": label, "value": 0.5, "low": low, "control": control}

    headline = [
        row("sun", "SUN: mp", 0.1, 0.2),
        row("relaxed_sun", "SUN (relaxed): mp", 0.4, 0.02),
        row("idealised_sun", "SUN (idealised): mp", 0.4, 0.03),
        row("msun", "MSUN", 0.4, 0.03),
        row("sun_mp", "SUN", 0.4, None),
    ]
    (said,) = warnings({}, headline)
    rows = "SUN (relaxed): mp of 50.0 % (2.0 %), SUN (idealised): mp of 50.0 % (3.0 %)."
    assert said.startswith(f"above the real crystals of the control (in brackets): {rows}")
    assert warnings({}, headline[:1]) == []


def test_without_cifs_the_relaxed_crystals_are_kept_in_one_file(tmp_path: Path) -> None:
    from ase.io import read

    report = chemeleon.evaluate(crystals(), potential=POTENTIAL, relax_steps=2)
    report.save(tmp_path / "out", cif=False)
    found: Any = read(tmp_path / "out" / "relaxed.extxyz", index=":")
    assert [atoms.info["id"] for atoms in found] == [f"crystal-{i:06d}" for i in range(3)]
    kept = report.relaxed[1]
    assert kept is not None
    np.testing.assert_allclose(found[1].cell.array, kept.lattice.matrix, atol=1e-6)


def test_hull_and_judge_must_go_together(tmp_path: Path) -> None:
    hull = save_hull(tmp_path / "h.json", LOW, "chgnet 0.3.0")
    with pytest.raises(ConfigError, match=r"holds energies of chgnet 0\.3\.0, but the judge is"):
        chemeleon.evaluate(crystals(), potential="chgnet:0.2.0", hull=hull, device="cpu")


def test_prediction_is_on_the_page(tmp_path: Path, control: str) -> None:
    given = [rocksalt(5.7), rocksalt(5.7, "K", "Cl"), None]
    report = chemeleon.evaluate(
        given, targets=control, ids=["c0-0", "c1-0", "c2-0"], output=tmp_path / "out"
    )
    assert report.summary["csp"]["at_1"]["count"] == 1
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "Structure prediction" in page
    assert "Match rate at 1, cRMSE" in page
    assert report.headline.loc["csp_at_1", "value"] == pytest.approx(1 / 3)
    assert "1 of 3" in page
    assert '<section id="energies">' not in page


def test_a_hull_of_every_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from chemeleon.cli.app import app

    folder = tmp_path / "data" / "salts"
    folder.mkdir(parents=True)
    for split, crystal in (("train", rocksalt()), ("val", rocksalt(6.9, "Cs", "Cl"))):
        rows = "material_id,cif\n" + f'{split}-1,"{crystal.to(fmt="cif")}"\n'
        (folder / f"{split}.csv.gz").write_bytes(gzip.compress(rows.encode()))
    out = tmp_path / "hull.json"
    words = ["data", "hull", str(folder), "--split", "all", "--potential", POTENTIAL]
    done = CliRunner().invoke(app, [*words, "-o", str(out)])
    assert done.exit_code == 0, done.output
    hull = Hull.load(out)
    assert len(hull) == 2
    assert set(hull.references) == {"Na", "Cl", "Cs"}
    assert hull.manifest["source"].endswith("train + val")


def test_covered_equals_the_plain_definition() -> None:
    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(size=(2, 300, coverage.STRUCTURE + coverage.COMPOSITION))
    ours[5] = theirs[7]
    ours[9, 0] = np.nan
    ours[10:280] += 30
    cut = coverage.STRUCTURE
    mean, deviation = theirs[:, cut:].mean(0), theirs[:, cut:].std(0)
    scaled = [(x[:, cut:] - mean) / deviation for x in (ours, theirs)]
    distance = [
        np.linalg.norm(one[:, None] - two[None], axis=-1)
        for one, two in ((ours[:, :cut], theirs[:, :cut]), (scaled[0], scaled[1]))
    ]
    distance = [np.where(np.isnan(ours[:, :1]), np.inf, table) for table in distance]
    cutoffs = (9.5, 15.5)
    recall, precision = coverage.covered(ours, theirs, cutoffs)
    wanted = [
        np.all([table.min(axis) <= c for table, c in zip(distance, cutoffs, strict=True)], axis=0)
        for axis in (0, 1)
    ]
    assert 0 < recall.sum() < 300
    assert 0 < precision.sum() < 300
    np.testing.assert_array_equal(recall, wanted[0])
    np.testing.assert_array_equal(precision, wanted[1])
    assert not precision[9]
    cutoffs = coverage.cutoffs("perov_5/test")
    assert cutoffs == (0.2, 4.0)
    assert coverage.covered(ours, theirs, cutoffs)[1].sum() == 1


@pytest.mark.skipif(importlib.util.find_spec("matminer") is not None, reason="matminer is here")
def test_coverage_says_what_to_install(control: str) -> None:
    with pytest.raises(ConfigError, match=r"pip install 'chemeleon\[coverage\]'"):
        chemeleon.evaluate([rocksalt()], control=control, coverage=True)


def test_coverage_is_a_figure_beside_the_control(
    control: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def by_size(crystals: Any, wanted: np.ndarray, options: Any) -> np.ndarray:
        asked.append(wanted.tolist())
        found = np.zeros((len(crystals), coverage.STRUCTURE + coverage.COMPOSITION))
        found[:, 0] = np.cbrt(np.abs(np.linalg.det(crystals.lattice)))
        found[~wanted] = np.nan
        return found

    monkeypatch.setattr(coverage, "check_installed", lambda: None)
    monkeypatch.setattr(coverage, "version", lambda package: "1")
    monkeypatch.setattr(coverage, "fingerprints", by_size)
    given = [rocksalt(5.7), rocksalt(6.9, "Cs", "Cl"), None]
    for _ in range(2):  # those of the control set are kept on disk
        report = chemeleon.evaluate(given, references=[control], control=control, coverage=True)
    assert asked == [[True, True, False], [True] * 3, [True, True, False]]
    found = report.summary["coverage"]
    assert (found["reference_crystals"], found["crystals"]) == (3, 2)
    assert found["cutoffs"] == {"structure": 0.4, "composition": 10.0}
    assert (found["cov_recall"]["count"], found["cov_precision"]["count"]) == (3, 1)
    assert found["cov_precision"]["of"] == 3
    headline = report.headline.loc["cov_recall"]
    assert (headline["value"], headline["control"]) == (1, 1)


def test_coverage_of_the_control_is_that_of_halves_of_what_has_a_fingerprint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def by_size(crystals: Any, wanted: np.ndarray, options: Any) -> np.ndarray:
        found = np.zeros((len(crystals), coverage.STRUCTURE + coverage.COMPOSITION))
        found[:, 0] = np.cbrt(np.abs(np.linalg.det(crystals.lattice)))
        found[found[:, 0] > 4.5] = np.nan
        return found

    monkeypatch.setattr(coverage, "check_installed", lambda: None)
    monkeypatch.setattr(coverage, "version", lambda package: "1")
    monkeypatch.setattr(coverage, "fingerprints", by_size)
    for i, a in enumerate((5.6, 7.5, 5.6, 7.5, 6.8, 6.8)):
        (tmp_path / f"c{i}.cif").write_text(rocksalt(a).to(fmt="cif"))
    control = str(tmp_path)
    report = chemeleon.evaluate([rocksalt()], control=control, references=[], coverage=True)
    assert report.headline.loc[["cov_recall", "cov_precision"], "control"].tolist() == [1, 1]


def test_a_fingerprint_that_was_lost_is_made_again(
    control: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # of three crystals: one has a fingerprint, one has none, and the third is lost the first time
    made, asked = [0.5, np.inf, np.nan], []

    def fingerprints(crystals: Any, wanted: np.ndarray, options: Any) -> np.ndarray:
        asked.append(wanted.tolist())
        values = np.where(wanted, made, np.nan)
        return np.repeat(values[:, None], coverage.STRUCTURE + coverage.COMPOSITION, 1)

    monkeypatch.setattr(coverage, "version", lambda package: "1")
    monkeypatch.setattr(coverage, "fingerprints", fingerprints)
    reference = load_reference(control, workers=1)
    first = coverage.reference_fingerprints(reference, Options())
    assert np.isnan(first).all(1).tolist() == [False, False, True]
    made[:] = [7, 7, 0.25]
    for _ in range(2):
        again = coverage.reference_fingerprints(reference, Options())
        assert again[:, 0].tolist() == [0.5, np.inf, 0.25]
    assert asked == [[True] * 3, [False, False, True]]


@pytest.mark.parametrize(
    ("error", "said"),
    [(ValueError("no Voronoi cell"), np.inf), (TimeUpError(), np.nan), (MemoryError(), np.nan)],
)
def test_what_has_no_fingerprint_is_told_from_what_was_lost(error, said, monkeypatch) -> None:
    class Featurizer:
        def featurize(self, *given: Any) -> None:
            raise error

    monkeypatch.setattr(coverage, "_featurizers", lambda: (Featurizer(), Featurizer()))
    size = coverage.STRUCTURE + coverage.COMPOSITION
    found = coverage.Fingerprint([]).answer(from_structure(rocksalt()))
    np.testing.assert_array_equal(found, np.full(size, said))


def test_a_fingerprint_with_gaps_is_none(monkeypatch) -> None:
    class Featurizer:
        def __init__(self, size: int) -> None:
            self.values = [np.nan] * size

        def featurize(self, *given: Any) -> list[float]:
            return self.values

    sizes = coverage.STRUCTURE, coverage.COMPOSITION
    monkeypatch.setattr(coverage, "_featurizers", lambda: tuple(map(Featurizer, sizes)))
    assert np.isinf(coverage.Fingerprint([]).answer(from_structure(rocksalt()))).all()


def test_coverage_of_real_fingerprints(control: str, tmp_path: Path) -> None:
    pytest.importorskip("matminer", reason="pip install matminer")
    far = Structure(Lattice.cubic(3), ["Og", "H"], [[0, 0, 0], [0.5] * 3])
    given = [rocksalt(5.7), far, None]
    for _ in range(2):  # the second time from the cache
        report = chemeleon.evaluate(given, references=[control], control=control, coverage=True)
    found = report.summary["coverage"]
    assert found["reference_crystals"] == 3
    assert (found["cov_recall"]["count"], found["cov_precision"]["count"]) == (3, 1)
    assert found["cov_precision"]["of"] == 3
    entries = {entry["name"]: entry for entry in report.summary["headline"]}
    assert entries["cov_recall"]["control"] == 1.0
    json.dumps(report.summary, allow_nan=False)
