"""Metrics of crystals and of sets of them, against what other codes and plain counting say."""

from __future__ import annotations

import importlib
import math

import numpy as np
import pytest
from ase.data import covalent_radii
from energy_helpers import rocksalt_cube, various
from pymatgen.core import Composition, Lattice, Structure
from scipy.stats import wasserstein_distance
from typer.testing import CliRunner

import chemeleon
from chemeleon.cli.app import app
from chemeleon.crystals.soundness import closest_contacts, of_each
from chemeleon.evaluation.collection import read_collection
from chemeleon.evaluation.metrics import METRICS
from chemeleon.evaluation.metrics.base import (
    Options,
    View,
    add_columns,
    add_vectors,
    find_figures,
    start_table,
)
from chemeleon.evaluation.metrics.statistics import jensen_shannon, wasserstein
from chemeleon.evaluation.metrics.supply import REASONS
from chemeleon.evaluation.report.columns import column_table

FCC = [[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]
CSCL = Structure(Lattice.cubic(4.11), ["Cs", "Cl"], [[0, 0, 0], [0.5] * 3])


def _closest(structure: Structure) -> float:
    """The smallest distance over the sum of radii, by pymatgen's neighbours."""
    ratios = [
        neighbour.nn_distance / (covalent_radii[site.specie.Z] + covalent_radii[neighbour.specie.Z])
        for site, near in zip(structure, structure.get_all_neighbors(9.0), strict=True)
        for neighbour in near
    ]
    return min(ratios)


def _skewed(seed: int) -> Structure:
    """Atoms of very different size at random in a cell that is anything but reduced."""
    rng = np.random.default_rng(seed)
    shear = np.eye(3)
    shear[1, 0], shear[2, 0], shear[2, 1] = rng.integers(-4, 5, 3)
    cell = shear @ (np.diag(rng.uniform(2.5, 6, 3)) + rng.normal(0, 0.8, (3, 3)))
    count = int(rng.integers(1, 7))
    species = rng.choice(["H", "O", "Cs", "Fe", "Ba", "F"], count).tolist()
    return Structure(Lattice(cell), species, rng.uniform(-2, 2, (count, 3)))


def test_closest_contacts_are_those_of_pymatgen() -> None:
    # a large pair may be closer, in terms of radii, than the nearest two atoms
    given = [*various(), *(_skewed(seed) for seed in range(150))]
    found = of_each(closest_contacts, read_collection(given, workers=1).crystals)
    assert found.tolist() == pytest.approx([_closest(s) for s in given], rel=1e-6)


def test_closest_contacts_of_what_has_none() -> None:
    known = Structure(Lattice.cubic(4), ["Lr"], [[0, 0, 0]])  # ase has no radius of it
    found = of_each(closest_contacts, read_collection([known, None, CSCL]).crystals)
    assert np.isnan(found).tolist() == [True, True, False]


def test_jensen_shannon_distance_by_hand() -> None:
    one, two = np.array([1.0, 1.0, 0.0]), np.array([0.0, 2.0, 2.0])
    # shares (1/2, 1/2, 0) and (0, 1/2, 1/2); their mean is (1/4, 1/2, 1/4)
    divergence = (0.5 * math.log2(2) + 0.5 * math.log2(1)) / 2 * 2
    assert jensen_shannon(one, two) == pytest.approx(math.sqrt(divergence))
    assert jensen_shannon(one, one * 7) == pytest.approx(0, abs=1e-8)
    assert jensen_shannon(np.array([3.0, 0.0]), np.array([0.0, 1.0])) == pytest.approx(1)
    assert math.isnan(jensen_shannon(one, np.zeros(3)))


def test_wasserstein_distance_is_that_of_scipy() -> None:
    rng = np.random.default_rng(0)
    for size in (1, 2, 7, 100):
        one, two = rng.normal(size=size), rng.normal(1, 3, 40).round()  # with equal values
        expected = wasserstein_distance(one, two)
        assert wasserstein(one, two) == pytest.approx(expected, rel=1e-12)
        assert wasserstein(two, np.append(one, np.nan)) == pytest.approx(expected, rel=1e-12)
    assert wasserstein(two, two) == 0
    assert math.isnan(wasserstein(two, np.array([np.nan])))


def test_symmetry_is_told_at_two_tolerances_by_size_and_beside_the_control(tmp_path, monkeypatch):
    monkeypatch.setenv("CHEMELEON_CACHE", str(tmp_path / "cache"))
    shaken = rocksalt_cube()
    rng = np.random.default_rng(0)
    for i in range(8):
        shaken.translate_sites([i], rng.normal(0, 0.015, 3), frac_coords=False)
    low = _skewed(3)
    assert len(low) < 6
    folder = tmp_path / "real"
    folder.mkdir()
    for i, structure in enumerate((rocksalt_cube(), CSCL, rocksalt_cube(5.0, "K", "Br"))):
        structure.to(filename=str(folder / f"{i}.cif"))
    report = chemeleon.evaluate([shaken, CSCL, low, None], control=str(folder))
    assert report.crystals["space_group"].tolist()[:3] == [225, 221, 1]
    assert report.crystals["space_group_strict"].tolist()[:3] == [1, 221, 1]
    headline = report.headline
    assert headline["value"][["p1", "p1_strict", "space_groups"]].tolist() == [0.25, 0.5, 3]
    assert headline["low"]["p1"] > 0
    assert headline["control"][["p1", "p1_strict", "space_groups"]].tolist() == [0, 0, 2]
    # two cubic and one triclinic crystal beside cubic ones: shares (2/3, 1/3) and (1, 0)
    mean = 5 / 6
    divergence = 2 / 3 * math.log2(2 / 3 / mean) + 1 / 3 * math.log2(2) - math.log2(mean)
    assert headline["value"]["jsd_crystal_systems"] == pytest.approx(math.sqrt(divergence / 2))
    assert headline["control"]["jsd_crystal_systems"] == pytest.approx(0, abs=1e-8)
    bins = {row["atoms"]: row for row in report.summary["bins"]["atoms"]}
    assert bins["1 to 5"]["p1"]["count"] == 1
    assert bins["6 to 10"]["p1_strict"]["count"] == bins["6 to 10"]["space_groups"] == 1
    assert bins["6 to 10"]["jsd_crystal_systems"] == pytest.approx(0, abs=1e-8)
    group = next(e["group"] for e in report.summary["headline"] if e["name"] == "p1")
    assert group == "symmetry"


def test_figures_of_relaxed_and_of_idealised_crystals_are_found_by_the_same_code() -> None:
    given = read_collection([CSCL, _skewed(3)])
    table = start_table(given)
    for prefix in ("", "relaxed_", "idealised_"):
        add_columns(table, METRICS, given, Options(), prefix)
    view = add_vectors(View(table, crystals=given), METRICS, Options())
    figures = {f.name: f for f in find_figures(view, METRICS, view, Options())}
    for name in ("p1", "close_contact", "space_groups", "jsd_crystal_systems"):
        raw = figures[name]
        for prefix, word in (("relaxed_", " (relaxed)"), ("idealised_", " (idealised)")):
            assert figures[prefix + name].label == raw.label + word
            assert figures[prefix + name].number == pytest.approx(raw.number)
    assert "relaxed_mean_hhi_production" not in figures  # of the composition alone
    assert View(table, "relaxed_").numbers("closest_contact").shape == (2,)


def test_supply_and_impractical_elements() -> None:
    given = [
        Structure(Lattice.cubic(4), [one, two], [[0, 0, 0], [0.5] * 3])
        for one, two in (("Fe", "O"), ("Tc", "O"), ("Pb", "Pt"), ("Xe", "F"))
    ]
    report = chemeleon.evaluate([*given, None], control="none")
    table = report.crystals
    words = [None if not isinstance(w, str) else w for w in table["impractical"]]
    assert words == [None, "Tc (radioactive)", "Pb (toxic), Pt (scarce)", "Xe (noble gas)", None]
    # production of iron is spread to 2400, that of oxygen to 500 (Gaultois et al., table S1)
    weight = Composition("FeO").get_wt_fraction("Fe")
    assert table["hhi_production"][0] == pytest.approx(2400 * weight + 500 * (1 - weight))
    assert np.isnan(table["hhi_production"].to_numpy(float)[[1, 4]]).all()
    figures = report.headline["value"]
    assert figures[["impractical", "toxic", "scarce"]].tolist() == pytest.approx([0.4, 0.2, 0.2])
    assert figures["mean_hhi_production"] == pytest.approx(np.nanmean(table["hhi_production"]))
    named = " ".join(REASONS.values()).split()
    assert len(named) == len(set(named))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--property", "band_gap=1.5..x", "--predictor", "m"], "takes NAME=LOW..HIGH"),
        (["--property", "band_gap", "--predictor", "m"], "takes NAME=LOW..HIGH"),
        (["--property", "a=1", "--property", "a=2", "--predictor", "m"], "given twice"),
        (["--property", "band_gap=1.5..2"], "go together"),
        (["--predictor", "m"], "go together"),
    ],
)
def test_wanted_properties_that_cannot_be(words, message, tmp_path) -> None:
    CSCL.to(filename=str(tmp_path / "a.cif"))
    done = CliRunner().invoke(app, ["evaluate", str(tmp_path), "-o", str(tmp_path / "o"), *words])
    assert message in str(done.exception) or message in done.output
    assert not (tmp_path / "o").exists()


OWN = '''
"""Crystals of one element."""

from chemeleon.evaluation.metrics.base import Column, Figure, Metric
from chemeleon.evaluation.metrics.sections import Bars, Shown, Table


class Elemental(Metric):
    name = "elemental"
    group = "validity"
    basis = "Of one element: so counted."
    as_given = binned = True
    shown = (Column("elemental_size", "Size of the pure", shown=True, histogram="Pure size"),)

    def columns(self, crystals, options):
        atoms, elements = (crystals.column(x) for x in ("num_atoms", "num_elements"))
        atoms[elements != 1] = float("nan")
        return {"elemental_size": atoms}

    def figures(self, crystals, options):
        yield Figure("elemental", "Of one element", flag=crystals.numbers("elemental_size") > 0)

    def facts(self, crystals, control, options, headline):
        return {"elemental": {"of": len(crystals), "value": headline["elemental"]["value"]}}

    def entries(self, summary):
        yield {"name": "again", "label": "Of one again", "group": "own", **summary["elemental"]}

    def sections(self, summary):
        found = summary["elemental"]
        rows = [["all <b>", found["of"]], ["pure", found], ["nothing", None]]
        bars = Bars("Pure bars", ["Cu"], {"Cu": 100 * found["value"]}, {})
        parts = [Table("Pure table", ["", "n"], rows), bars]
        yield Shown("Pure section", parts, "Said.", ["validity"])
        yield Shown("Nothing pure", [])
'''


def test_a_metric_in_a_file_of_its_own_is_in_summary_table_and_report(tmp_path, monkeypatch):
    (tmp_path / "own_metric.py").write_text(OWN, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    own = importlib.import_module("own_metric").Elemental()
    METRICS.append(own)
    try:
        copper = Structure(Lattice.cubic(3.6), ["Cu"] * 4, FCC)
        report = chemeleon.evaluate([copper, CSCL, None], output=tmp_path / "out")
        headline = report.headline
    finally:
        METRICS.remove(own)
    assert report.crystals["elemental_size"].fillna(0).tolist() == [4, 0, 0]
    entry = headline.loc["elemental"]
    assert (entry["label"], entry["value"]) == ("Of one element", pytest.approx(1 / 3))
    assert 0 < entry["low"] < entry["value"]
    summary = report.summary
    assert summary["elemental"] == {"of": 3, "value": pytest.approx(1 / 3)}
    assert summary["distributions"]["elemental_size"]["sample"] == [4]
    assert summary["bins"]["elements"][0]["elemental"]["value"] == 1
    assert summary["manifest"]["metrics"]["elemental"]["basis"] == own.basis
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    for words in (
        "<td>Of one element", own.basis, "<h3>Pure size", "<h3>Own</h3>", "<td>Of one again",
        '<section id="pure-section">', f"{own.basis} Said.", "<h3>Pure table", "<td>all &lt;b&gt;",
        '<span class="value">33.3 %', "<td>–</td>", "<h3>Pure bars", "Cu\nours 33.3 %",
    ):  # fmt: skip
        assert words in page
    assert "Nothing pure" not in page
    assert headline.loc["again", "value"] == pytest.approx(1 / 3)
    shown = column_table(report.crystals, [0], [*METRICS, own])
    assert shown["values"]["elemental_size"] == [4]
