"""Several sets of crystals side by side, and what a report says to mistrust."""

from __future__ import annotations

import json
import warnings as python_warnings
from pathlib import Path

import pandas
import pytest
from energy_helpers import rocksalt, rocksalt_cube
from pymatgen.core import Lattice, Structure
from typer.testing import CliRunner

import chemeleon
from chemeleon.cli.app import app
from chemeleon.crystals.files import write_structures
from chemeleon.errors import ChemeleonError
from chemeleon.evaluation.report.basis import warnings
from chemeleon.evaluation.report.comparison import set_names

CSCL = Structure(Lattice.cubic(4.12), ["Cs", "Cl"], [[0, 0, 0], [0.5] * 3])


def _set(folder: Path, crystals: list[Structure], **made: object) -> Path:
    """Write crystals as `chemeleon sample` does, or without ``made`` as files alone."""
    (folder / "cif").mkdir(parents=True)
    for i, structure in enumerate(crystals):
        structure.to(filename=str(folder / "cif" / f"a-{i}.cif"))
    if made:
        told = {"requested": len(crystals), "invalid": [], "formats": ["cif"], **made}
        (folder / "manifest.json").write_text(json.dumps(told))
    return folder


def test_sets_are_put_side_by_side_under_names_of_their_own(tmp_path, monkeypatch):
    relaxation = {"potential": "springs 2", "steps": 7}
    _set(tmp_path / "up", [CSCL], symmetrization={})
    _set(tmp_path / "up" / "control", [CSCL, rocksalt(), rocksalt()], relaxation=relaxation)
    plain = _set(tmp_path / "plain", [rocksalt(), CSCL])
    (tmp_path / "up" / "below").mkdir()
    monkeypatch.chdir(tmp_path / "up" / "below")
    out = tmp_path / "out"
    sources = ["../../up", "../control", str(plain)]
    words = ["evaluate", *sources, "--potential", "energy_helpers:lennard_jones"]
    answer = CliRunner().invoke(app, [*words, "--control", str(plain), "-o", str(out)])
    assert answer.exit_code == 0, answer.output
    assert sorted(path.name for path in (out / "sets").iterdir()) == ["control", "plain", "up"]
    row = pandas.read_csv(out / "comparison.csv", index_col="name").loc["unique"]
    assert row["control value"] == pytest.approx(2 / 3)
    assert row["up value"] == row["plain value"] == row["control"] == 1
    assert 0 < row["control low"] < 2 / 3 < row["control high"] < 1
    # what was done to one set is not said of the others
    said = json.loads((out / "summary.json").read_text())["manifest"]["basis"]["energy"]
    assert "control: The crystals had been relaxed by springs 2, at most 7 steps when" in said
    assert "up: The crystals had been idealised when" in said
    assert said.count("had been") == 2
    assert "plain" not in said
    single = json.loads((out / "sets" / "plain" / "summary.json").read_text())
    assert single["manifest"]["requested"] == 2


def test_primitive_cells_are_read_where_conventional_ones_stand_beside(tmp_path):
    folder = _set(tmp_path / "made", [rocksalt_cube()], symmetrization={})
    write_structures([rocksalt()], folder, ["poscar"], ["a-0"])
    report = chemeleon.evaluate(folder)
    assert report.crystals[["id", "num_atoms"]].to_numpy().tolist() == [["a-0", 2]]


def test_a_set_of_dots_is_called_by_its_folder(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    monkeypatch.chdir(tmp_path / "a")
    assert set_names(["..", ".", "b"]) == [tmp_path.name, "a", "b"]
    assert set_names(["b/x.csv", "c/x.csv"]) == ["b-x.csv", "c-x.csv"]
    assert set_names(["b", "b"]) == ["1-b", "2-b"]
    assert set_names(["/", "b"]) == ["root", "b"]


def test_match_rates_of_structure_prediction_stand_side_by_side(tmp_path):
    targets = _set(tmp_path / "targets", [CSCL, rocksalt()])
    good = _set(tmp_path / "good", [CSCL, rocksalt()])
    half = _set(tmp_path / "half", [CSCL, rocksalt_cube(9.9, "K", "Br")])
    found = chemeleon.compare([good, half], targets=str(targets), output=tmp_path / "out")
    headline = found.headline.loc[["csp_at_1", "csp_at_1_rmse"]]
    assert headline["good value"].tolist() == pytest.approx([1, 0], abs=1e-6)
    assert headline["half value"].tolist() == pytest.approx([0.5, 0], abs=1e-6)
    assert set(headline["group"]) == {"csp"}
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Structure prediction" in page
    assert "Match rate at 1, RMSE" in page


def test_no_figure_of_the_control_rests_on_no_crystals():
    with python_warnings.catch_warnings():
        python_warnings.simplefilter("error", RuntimeWarning)
        report = chemeleon.evaluate(
            [CSCL, rocksalt()], control="demo", control_energies=0, symmetrize=True
        )
    control = report.headline["control"]
    assert control[["valid", "p1", "space_groups"]].notna().all()
    names = [name for name in control.index if "idealised" in name]
    assert {"idealised", "idealised_p1", "idealised_space_groups"} <= set(names)
    assert control[names].isna().all()


def test_training_sets_that_no_reference_holds_are_named():
    def told(*names, trained=("mp", "mp_made")):
        references = [{"name": name} for name in names]
        return warnings({"references": references, "trained_on": trained}, [])

    assert told("mp", "mp_made/train where num_atoms < 5") == []
    (said,) = told("mp/train")
    assert "trained on mp_made, whose copies count as novel" in said
    assert "add -r mp_made" in said
    assert told("mp", trained=("mp_20_open",)) == []  # mp has taken its place
    assert told("mp", trained=()) == []
    assert told() == []  # nothing counts as new


@pytest.mark.parametrize(
    ("judge", "made", "said"),
    [
        ("chgnet 0.3.0", {"relaxation": {"potential": "chgnet 0.2.0"}}, "were relaxed by"),
        ("chgnet 0.3.0", {"rewarded_by": ["chgnet 0.3.0", "x 1"]}, "was rewarded by chgnet"),
        ("sevenn.calculator:SevenNetCalculator 1", {"rewarded_by": ["sevennet l3i5"]}, "rewarded"),
        ("sevennet 0", {"rewarded_by": ["sevenn.calculator:SevenNetCalculator 1"]}, "rewarded"),
        ("mine.energies:first 1", {"ranked_by": "mine.energies:second 2"}, "were ranked by"),
        ("sevennet l3i5", {"relaxation": {"potential": "chgnet 0.3.0"}}, None),
        ("mace small", {"rewarded_by": ["predictor runs/gap (band_gap)"]}, None),
    ],
)
def test_a_judge_of_the_family_that_made_or_taught_is_told(judge, made, said):
    name, version = judge.split(" ")
    found = warnings({"potential": {"name": name, "version": version}, **made}, [])
    assert len(found) == (said is not None)
    assert said is None or said in found[0]
    assert warnings({"potential": None, **made}, []) == []


def test_more_stable_new_crystals_than_real_ones_have_are_told():
    entry = {"name": "relaxed_sun", "label": "SUN", "value": 0.5, "low": 0.4, "control": 0.3}
    (told,) = warnings({}, [entry])
    assert "SUN of 50.0 % (30.0 %)" in told
    assert warnings({}, [{**entry, "low": 0.3}]) == []
    assert warnings({}, [{**entry, "name": "relaxed_msun"}]) == []
    assert warnings({}, [{**entry, "control": None}]) == []


def test_what_a_caller_says_of_the_origin_breaks_no_report():
    said = {
        "relaxation": "by PBE",
        "rewarded_by": "x",
        "ranked_by": 3,
        "matcher": None,
        "note": "a",
    }
    found = chemeleon.evaluate([CSCL], manifest=said).summary["manifest"]
    assert found["note"] == "a"
    assert found["matcher"]["name"] == "pymatgen"
    assert not {"relaxation", "rewarded_by", "ranked_by"} & found.keys()
    said = {"relaxation": {"potential": "springs 1", "steps": 5}, "symmetrized": True, "seed": 4}
    found = chemeleon.evaluate(
        [CSCL], manifest=said, potential="energy_helpers:lennard_jones"
    ).summary["manifest"]
    assert found.items() >= said.items()


def test_what_makes_no_sense_is_refused_in_words():
    with pytest.raises(ChemeleonError, match=r"a list of them is expected: \[structure\]"):
        chemeleon.symmetrize(CSCL)
    for sources in ([], "out"):
        with pytest.raises(ChemeleonError, match="a list of files or folders"):
            chemeleon.compare(sources)
    with pytest.raises(ChemeleonError, match="potential foo is for relax and symmetrize"):
        chemeleon.sample(n=1, potential="foo")
    answer = CliRunner().invoke(app, ["sample", "-n", "1", "--potential", "foo"])
    assert answer.exit_code != 0
    assert "neither of which is given" in str(answer.exception or answer.output)
