"""The hulls of the package: what they hold, how they are found, and who is judged against them."""

from __future__ import annotations

import csv
import gzip
import json
import logging
from pathlib import Path

import numpy as np
import pytest
from conftest import load_script
from energy_helpers import lennard_jones, rocksalt, val_rows
from reward_helpers import mix, score
from typer.testing import CliRunner

import chemeleon
from chemeleon.cli.app import app
from chemeleon.crystals.convert import from_structures
from chemeleon.crystals.files import write_structures
from chemeleon.energy.compositions import formula_of
from chemeleon.energy.hull import Hull
from chemeleon.energy.hull_sources import SHIPPED, default_hull, find_hull, hull_for
from chemeleon.energy.potentials import load_potential
from chemeleon.energy.scales import MP2020
from chemeleon.errors import ChemeleonError, ConfigError

LENNARD_JONES = "energy_helpers:lennard_jones"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CHEMELEON_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("CHEMELEON_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def hulls() -> dict[str, Hull]:
    return {name: find_hull(name).load() for name in ("mp", "mp_all")}


def corrected() -> object:
    """An ASE calculator that says whose energies it means to give."""
    calculator = lennard_jones()
    calculator.energy_scale = MP2020
    return calculator


# --- what they hold


@pytest.mark.parametrize(
    ("name", "within_1", "within_10", "above"),
    [("mp", 0.810, 0.884, 0), ("mp_all", 0.804, 0.883, 68)],
)
def test_real_crystals_lie_where_the_materials_project_puts_them(
    hulls, name, within_1, within_10, above
):
    rows = val_rows()
    answer = hulls[name].above(rows.formulas, rows.formation_ev)
    assert answer.states == ["ok"] * len(rows.ids) == ["ok"] * 9047
    gap = answer.e_above_hull_ev - rows.above_ev
    assert (np.abs(gap) <= 0.001).mean() == pytest.approx(within_1, abs=5e-4)
    assert (np.abs(gap) <= 0.010).mean() == pytest.approx(within_10, abs=5e-4)
    # a hull of fewer phases puts no crystal higher; an estimate that is too low does
    assert (gap > 0.001).sum() == above
    assert gap.max() < 0.037


def test_the_estimates_lie_beside_the_dft_phases(hulls):
    mp, both = hulls["mp"], hulls["mp_all"]
    assert (mp.manifest["rows"], len(mp), len(both)) == (36681, 32001, both.manifest["phases"])
    assert mp.phases.keys() < both.phases.keys()
    assert all(both.phases[parts] <= energy for parts, energy in mp.phases.items())
    elements = [parts for parts in both.phases if len(parts) == 1]
    assert all(both.phases[parts] == mp.phases[parts] for parts in elements)
    assert both.references == mp.references
    assert None not in mp.references.values()
    assert mp.manifest["energies"] == "DFT formation energy"
    assert "CHGNet 0.3.0 estimates" in both.manifest["energies"]
    assert len(both) < len(mp) + both.manifest["estimates"]
    for hull in (mp, both):
        assert hull.manifest["energy_scale"] == MP2020
        assert "CC BY 4.0" in hull.manifest["source"]
        assert "shared" not in json.dumps(hull.manifest)


def test_the_estimates_are_those_of_the_set(hulls):
    made = load_script("pack_hull").estimated(None, hulls["mp"])
    kept = Hull.load(SHIPPED / "mp_estimates.json.gz")
    assert made.phases == kept.phases
    assert made.manifest == kept.manifest


def test_the_script_writes_them(tmp_path, monkeypatch):
    folder = tmp_path / "dft"
    folder.mkdir()
    (folder / "formation_energies.csv").write_text(
        "pretty_formula,formation_energy_per_atom\nNaCl,-2.1234567891\nNa,0\nCl,0\nKCl,-2.2\nK,0\n"
    )
    (folder / "elemental_references.json").write_text('{"Na": -1.3, "Cl": -1.8, "K": -1.1}')
    rows = [
        ("a", rocksalt(), "", -2.05),  # not lower than DFT's
        ("b", rocksalt(5.0, "K", "Na"), "", -0.3),
        ("c", rocksalt(5.1, "K", "Na"), "", -0.2),
        ("d", rocksalt(5.0, "Cl", "Cl"), "", -0.022),  # an element
        ("e", rocksalt(6.0, "K", "Cl"), -2.2, -9.0),  # has a value
        ("f", rocksalt(6.0, "Rb", "Cl"), "", -2.0),  # has no reference
    ]
    with (tmp_path / "train.csv").open("w", newline="") as file:
        table = csv.writer(file)
        head = ("formation_energy_per_atom", "formation_energy_chgnet")
        table.writerow(("material_id", *head, "cif"))
        table.writerows((i, dft, est, s.to(fmt="cif")) for i, s, dft, est in rows)
    script = load_script("pack_hull")
    written = []
    for out in ("one", "two"):
        words = ["pack_hull", str(folder), str(tmp_path / "train.csv"), "-o", str(tmp_path / out)]
        monkeypatch.setattr("sys.argv", words)
        script.main()
        written.append([path.read_bytes() for path in sorted((tmp_path / out).iterdir())])
    assert written[0] == written[1]
    base = Hull.load(tmp_path / "one" / "mp.json.gz")
    assert base.above(["NaCl"], [0.0]).e_above_hull_ev == pytest.approx(2.123457, abs=1e-9)
    made = Hull.load(tmp_path / "one" / "mp_estimates.json.gz")
    named = {formula_of(parts): energy for parts, energy in made.phases.items()}
    assert named == {"ClNa": -2.05, "KNa": -0.3}


# --- how they are found


def test_what_is_there_goes_before_the_package(tmp_path, caplog):
    found = find_hull("mp")
    assert found.shipped
    assert found.label == "mp"
    splits = tmp_path / "data" / "mp"  # the data set of that name is no hull
    splits.mkdir(parents=True)
    (splits / "train.csv.gz").write_bytes(b"")
    assert find_hull("mp").shipped
    with gzip.open(splits / "formation_energies.csv.gz", "wt") as file:
        file.write("formula,e_form\nNaCl,-2\n")
    found = find_hull("mp")
    assert found.label == str(splits)
    assert not caplog.messages
    assert len(found.load()) == 1
    assert caplog.messages == [f"hull mp: read from {splits}, not the package's"]
    (tmp_path / "mp").write_bytes((SHIPPED / "mp_estimates.json.gz").read_bytes())
    assert find_hull("mp").files == (Path("mp"),)
    assert len(find_hull("mp").load()) > 20_000
    assert len(find_hull("mp/formation_energies.csv.gz").load()) == 1  # under the root
    assert find_hull("mp_all").shipped


def test_what_is_not_there_is_told(tmp_path):
    with pytest.raises(ConfigError, match=r"no hull 'mp_al'.*did you mean 'mp_all'"):
        find_hull("mp_al")
    (tmp_path / "salts").mkdir()
    with pytest.raises(ConfigError, match=r"salts holds no formation_energies\.csv\.gz"):
        find_hull("salts")


def test_the_command_copies_one(tmp_path, hulls):
    out = tmp_path / "copy.json.gz"
    result = CliRunner().invoke(app, ["data", "hull", "mp_all", "-o", str(out)])
    assert result.exit_code == 0, result.output
    assert "CC BY 4.0" in result.output
    assert Hull.load(out).phases == hulls["mp_all"].phases
    assert find_hull(out).label == str(out)
    words = ["data", "hull", "mp", "-o", str(tmp_path / "x.json"), "--references", "r.json"]
    assert "is no CSV" in str(CliRunner().invoke(app, words).exception)


# --- who is judged against them


def test_the_judge_must_be_on_the_hulls_scale(hulls):
    chgnet, other = load_potential("chgnet", "cpu"), load_potential("chgnet:r2scan", "cpu")
    unknown, stated = (load_potential(f"{__name__}:{n}") for n in ("lennard_jones", "corrected"))
    for hull in hulls.values():
        assert not hull.corrects(chgnet, "mp", "chgnet")
        assert not hull.corrects(load_potential("chgnet:0.2.0", "cpu"), "mp", "chgnet:0.2.0")
        assert not hull.corrects(stated, "mp", "corrected")
        for judge, asked in ((other, "chgnet:r2scan"), (unknown, "thing")):
            words = f"'mp2020', and .* states none .*--potential {asked} -o hull.json.gz"
            with pytest.raises(ConfigError, match=words):
                hull.corrects(judge, "mp", asked)
    assert [default_hull(p) for p in (chgnet, stated, other, unknown)] == ["mp", "mp", None, None]
    assert hull_for(other, None, "chgnet:r2scan") is hull_for(unknown, None, "x") is None
    total = chgnet.energies([rocksalt()]).per_atom_ev
    formation = hulls["mp"].formation_energies(["NaCl"], total)
    assert formation == pytest.approx(-2.1, abs=0.05)  # MP: -2.10


def test_the_reward_takes_mp_for_chgnet(tmp_path, caplog):
    train = from_structures([rocksalt(), rocksalt(4.25, "Mg", "O")])
    for reference in (None, train):  # which it has no need of
        caplog.clear()
        made = mix(reference, energy="energy")
        (line,) = [text for text in caplog.messages if "hull" in text]
        assert "chgnet is judged against 'mp', 32001 phases of the Materials Project" in line
    assert not (tmp_path / "cache" / "hulls").exists()
    assert score(made, train).facts["e_hull"].tolist() == pytest.approx([0.0, 0.0], abs=0.05)
    caplog.clear()
    mix(None, energy={"reward": "energy", "options": {"hull": "mp_all"}})
    assert not caplog.messages
    for potential in ("chgnet:r2scan", LENNARD_JONES):
        with pytest.raises(ConfigError, match="needs a training set"):
            mix(None, energy={"reward": "energy", "options": {"potential": potential}})
    with pytest.raises(ConfigError, match="did you mean 'mp'"):
        mix(None, energy={"reward": "energy", "options": {"hull": "mpp"}})


def test_evaluation_takes_mp_for_chgnet(tmp_path, caplog):
    crystals = [rocksalt(), rocksalt(6.9, "Cs", "Cl")]
    with caplog.at_level(logging.WARNING):
        report = chemeleon.evaluate(crystals, potential="chgnet", device="cpu")
    (line,) = [text for text in caplog.messages if "no hull was named" in text]
    assert "chgnet is judged against 'mp'" in line
    assert report.summary["manifest"]["hull"]["file"] == "mp"
    assert report.summary["manifest"]["hull"]["energies"] == "DFT formation energy"
    assert report.crystals["hull_state"].tolist() == ["ok", "ok"]
    write_structures(crystals, tmp_path / "made", ["extxyz"], ["a", "b"])
    words = [str(next((tmp_path / "made").iterdir())), "--potential", "chgnet", "--device", "cpu"]
    done = CliRunner().invoke(app, ["evaluate", *words, "--hull", "mp_all", "-o", "report"])
    assert done.exit_code == 0, done.output
    hull = json.loads(Path("report/summary.json").read_text())["manifest"]["hull"]
    assert hull["file"] == "mp_all"
    assert "CHGNet 0.3.0 estimates" in hull["energies"]
    report = chemeleon.evaluate(crystals)  # no potential, no energies
    assert report.summary["manifest"]["hull"] is None
    report = chemeleon.evaluate(crystals, potential=LENNARD_JONES)
    assert report.summary["manifest"]["hull"] is None
    with pytest.raises(ChemeleonError, match="on the scale 'mp2020'"):
        chemeleon.evaluate(crystals, potential="chgnet:r2scan", hull="mp", device="cpu")


def test_a_table_is_a_hull_for_evaluation_too(tmp_path):
    table = tmp_path / "formation_energies.csv"
    table.write_text("formula,e_form\nNaCl,-2\n")
    (tmp_path / "elemental_references.json").write_text('{"Na": -1.3, "Cl": -1.8}')
    report = chemeleon.evaluate([rocksalt()], potential=f"{__name__}:corrected", hull=table)
    told = report.summary["manifest"]
    assert told["potential"]["energy_scale"] == told["hull"]["energy_scale"] == MP2020
    assert not told["potential"]["mp2020_corrections_added"]
    formation = report.crystals["energy_ev_per_atom"][0] + 1.55
    assert report.crystals["e_above_hull_ev"].tolist() == pytest.approx([formation + 2])
