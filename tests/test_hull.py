"""Energies above hull are pymatgen's, and what cannot be judged is not called unstable."""

from __future__ import annotations

import gzip
import itertools
import json
import re
import time
from collections import defaultdict

import numpy as np
import pytest
from energy_helpers import rocksalt, val_rows
from pymatgen.analysis.phase_diagram import PhaseDiagram
from pymatgen.core import Composition
from pymatgen.entries.computed_entries import (
    ComputedEntry,
    ConstantEnergyAdjustment,
)
from scipy.optimize import linprog
from typer.testing import CliRunner

from chemeleon.cli.app import app
from chemeleon.crystals.convert import from_structures
from chemeleon.energy.compositions import formula_of, fractions
from chemeleon.energy.elements import elemental_references
from chemeleon.energy.hull import Hull
from chemeleon.energy.hull_crystals import from_crystals
from chemeleon.energy.hull_solver import lowest_energy
from chemeleon.energy.hull_sources import find_hull
from chemeleon.energy.hull_tables import from_entries, from_table
from chemeleon.energy.potentials import load_potential
from chemeleon.errors import DataError

runner = CliRunner()


class Judge:
    """pymatgen's phase diagram of each chemical system, from the entries that belong to it."""

    def __init__(self, formulas, energies):
        self.rows = defaultdict(list)
        for formula, energy in zip(formulas, energies, strict=True):
            self.rows[frozenset(re.findall("[A-Z][a-z]?", formula))].append((formula, energy))

    def entries(self, formula: str) -> list[ComputedEntry]:
        symbols = re.findall("[A-Z][a-z]?", formula)
        sizes = range(1, len(symbols) + 1)
        systems = [frozenset(c) for n in sizes for c in itertools.combinations(symbols, n)]
        rows = [(symbol, 0.0) for symbol in symbols]
        rows += [row for system in systems for row in self.rows.get(system, ())]
        return [_entry(*row) for row in rows]


def _entry(formula: str, energy: float) -> ComputedEntry:
    composition = Composition(formula)
    return ComputedEntry(composition, energy * composition.num_atoms)


def test_random_programmes_have_the_optimum_of_linprog():
    rng = np.random.default_rng(0)
    for size, count in [(1, 3), (2, 5), (3, 4), (3, 9), (3, 40), (4, 15), (6, 300), (8, 500)]:
        for _ in range(20):
            # few different integers: ties, equal compositions and degenerate corners
            amounts = rng.integers(0, 4, (count, size)) + np.eye(size)[rng.integers(0, size, count)]
            phases = amounts / amounts.sum(1, keepdims=True)
            energies = rng.integers(-20, 3, count) / 10
            target = phases[rng.integers(count)] + 0.5
            target /= target.sum()
            columns = np.vstack([phases, np.eye(size)]).T
            cost = np.concatenate([energies, np.zeros(size)])
            wanted = linprog(cost, A_eq=columns, b_eq=target).fun
            assert lowest_energy(target, phases, energies) == pytest.approx(wanted, abs=1e-8)


def test_a_hull_by_hand():
    table = ["Na", "Cl", "NaCl", "NaCl3", "Na3Cl"]
    energies = [0.1, 0.0, -2.0, -0.6, -1.2]
    hull = Hull([fractions(f) for f in table], energies, {"Na": None, "Cl": None}, {})
    asked = ["NaCl", "Na2Cl2", "NaCl3", "Na3Cl", "Na", "KCl", "NaCl", "Na7Cl"]
    given = [-2.0, -2.5, -0.6, 0.0, 0.1, -2.0, np.nan, -0.6]
    answer = hull.above(asked, given)
    assert answer.states == ["ok"] * 5 + ["element missing", "no energy", "ok"]
    wanted = [0, -0.5, 0.4, 1.2, 0.1, np.nan, np.nan, 0.0]
    np.testing.assert_allclose(answer.e_above_hull_ev, wanted, atol=1e-9)
    assert answer.system_known.tolist() == [True] * 5 + [False, True, True]


def test_an_unknown_system_is_judged_by_its_parts_and_marked():
    hull = Hull([fractions("NaCl"), fractions("KCl")], [-2.0, -2.2], dict.fromkeys("NaKCl"), {})
    hull.references.update(Na=None, Cl=None)
    answer = hull.above(["NaKCl2"], [-2.0])
    assert answer.states == ["ok"]
    assert answer.e_above_hull_ev[0] == pytest.approx(0.1)
    assert not answer.system_known[0]


@pytest.mark.parametrize(
    ("formula", "reduced"),
    [("LiFePO4", "FeLiO4P"), ("Ca(OH)2", "CaH2O2"), ("Na0.5Cl0.5", "ClNa"), ("O2", "O")],
)
def test_formulas_are_read(formula, reduced):
    assert formula_of(fractions(formula)) == reduced
    assert fractions(Composition(formula)) == fractions(formula) == fractions(reduced)


@pytest.mark.parametrize("formula", ["", "Xx2", "Na-", "Na0", "hello"])
def test_what_is_no_formula_is_refused(formula):
    with pytest.raises(DataError, match="no chemical formula"):
        fractions(formula)


def _write_entries(path, entries):
    with gzip.open(path, "wt") as file:
        json.dump([e.as_dict() for e in entries], file)


def test_entries_give_pymatgens_answers_with_their_corrections(tmp_path):
    rows = [("Li", -1.9), ("Li2", -3.7), ("O2", -9.9), ("Fe", -8.4), ("Li2O", -14.0)]
    rows += [("Fe2O3", -37.0), ("FeO", -14.9), ("LiFeO2", -25.5), ("Li5FeO4", -49.0), ("LiN", -7)]
    entries = [ComputedEntry(f, e, entry_id=f) for f, e in rows]
    for entry in entries:
        if "O" in entry.composition and len(entry.composition) > 1:
            shift = -0.687 * entry.composition["O"]
            entry.energy_adjustments.append(ConstantEnergyAdjustment(shift, name="oxide"))
    _write_entries(tmp_path / "entries.json.gz", entries)
    hull = from_entries(tmp_path / "entries.json.gz")
    diagram = PhaseDiagram([e for e in entries if "N" not in e.composition])
    assert hull.manifest["skipped"] == 1
    assert "N, which has no elemental reference" in hull.manifest["skipped_examples"][0]
    asked = [e for e in entries if "N" not in e.composition]
    formulas = [e.composition for e in asked]
    formation = hull.formation_energies(formulas, [e.energy_per_atom for e in asked])
    np.testing.assert_allclose(
        formation, [diagram.get_form_energy_per_atom(e) for e in asked], atol=1e-9
    )
    found = hull.above(formulas, formation).e_above_hull_ev
    np.testing.assert_allclose(found, [diagram.get_e_above_hull(e) for e in asked], atol=1e-6)
    assert hull.above(["LiN"], [-1.0]).states == ["element missing"]


def test_a_table_its_references_and_its_gaps(tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("formula,e_form\nNaCl,-2\nNa,0\nCl,0\nXx,-1\nNaCl3,\nKCl,nan\n")
    with pytest.raises(DataError, match=r"3 of 6 rows cannot be used.*--on-error skip"):
        from_table(table)
    hull = from_table(table, on_error="skip")
    assert (hull.manifest["rows"], hull.manifest["phases"], hull.manifest["skipped"]) == (6, 3, 3)
    assert hull.above(["KCl"], [-2.0]).states == ["element missing"]
    with pytest.raises(DataError, match="--references"):
        hull.formation_energies(["NaCl"], [-3.5])
    (tmp_path / "r.json").write_text('{"Na": -1.3}')
    hull = from_table(table, tmp_path / "r.json", on_error="skip")
    assert hull.formation_energies(["Na", "NaCl"], [-1.2, -3.5])[0] == pytest.approx(0.1)
    assert np.isnan(hull.formation_energies(["NaCl"], [-3.5])).all()
    with pytest.raises(DataError, match="did you mean 'e_form'"):
        from_table(table, energy_column="e_from")
    (tmp_path / "elemental_references.json").write_text('{"Na": -1.3, "Cl": -1.7}')
    hull = from_table(table, on_error="skip")  # it lies beside the table
    assert hull.formation_energies(["NaCl"], [-3.5]) == pytest.approx(-2.0)


def test_a_hull_is_saved_as_it_is(tmp_path):
    phases = [fractions(f) for f in ("LiFePO4", "Fe13Li7", "Na0.123456789Cl")]
    hull = Hull(phases, [-2.1234567891, -0.1, -1], {"Li": -1.9, "Fe": None}, {"rows": 3})
    path = tmp_path / "hull.json.gz"
    hull.save(path)
    again = Hull.load(path)
    assert list(again.phases) == sorted(phases)
    assert again.references == {"Fe": None, "Li": -1.9}
    assert again.manifest == {"rows": 3}
    np.testing.assert_allclose(
        [again.phases[p] for p in phases], [hull.phases[p] for p in phases], atol=1e-9
    )
    content = path.read_bytes()
    hull.save(path)
    assert path.read_bytes() == content


@pytest.mark.parametrize("text", ["[]", "{}", "not json", '{"format": "chemeleon hull 1"}'])
def test_other_files_are_refused(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(DataError, match=r"x\.json"):
        Hull.load(tmp_path / "x.json")
    with pytest.raises(DataError, match="chemeleon data hull"):
        Hull.load(tmp_path / "missing.json")


def test_a_data_set_with_the_energies_of_a_potential():
    salts = [rocksalt(5.69, "Na", "Cl"), rocksalt(4.6, "Na", "O")]
    potential = load_potential("chgnet", "cpu")
    hull = from_crystals(from_structures(salts), potential, "two salts")
    assert hull.manifest["potential"] == "chgnet 0.3.0"
    assert hull.references["Na"] == pytest.approx(-1.31, abs=0.1)  # MP: -1.312
    assert hull.references["O"] == pytest.approx(-4.95, abs=0.2)  # MP: -4.948
    totals = potential.energies(salts).per_atom_ev
    formulas = [s.composition for s in salts]
    formation = hull.formation_energies(formulas, totals)
    assert formation[0] == pytest.approx(-2.1, abs=0.2)  # MP: -2.10
    answer = hull.above(formulas, formation)
    assert answer.e_above_hull_ev[0] == pytest.approx(0, abs=1e-6)
    assert hull.above(["KCl"], [-2]).states == ["element missing"]


def test_references_of_molecules_are_no_false_minima():
    # dense packings of O and F have energies of 3.4 and 3.7 eV/atom below the molecules' there
    found = elemental_references(["O", "F"], load_potential("chgnet:0.2.0", "cpu"))
    assert {found["O"].shape, found["F"].shape} == {"dimers"}
    assert found["O"].energy_ev == pytest.approx(-4.95, abs=0.2)  # MP: -4.948
    assert found["F"].energy_ev == pytest.approx(-1.91, abs=0.7)  # MP: -1.912


def test_the_command(tmp_path):
    table = tmp_path / "energies.csv"
    table.write_text("pretty_formula,formation_energy_per_atom\nNaCl,-2\nNaCl3,-0.6\n")
    out = tmp_path / "hull.json.gz"
    result = runner.invoke(app, ["data", "hull", str(table), "-o", str(out)])
    assert result.exit_code == 0, result.output
    assert "DFT formation energy" in result.output
    assert Hull.load(out).above(["NaCl"], [-1.9]).e_above_hull_ev[0] == pytest.approx(0.1)
    again = runner.invoke(app, ["data", "hull", str(table), "-o", str(out)])
    assert "--overwrite" in str(again.exception)
    table.write_text(table.read_text() + "Xx,-1\n")
    words = ["data", "hull", str(table), "-o", str(out), "--overwrite"]
    assert "1 of 3 rows" in str(runner.invoke(app, words).exception)
    assert runner.invoke(app, [*words, "--on-error", "skip"]).exit_code == 0
    assert "few, skip or fail" in str(runner.invoke(app, [*words, "--on-error", "skp"]).exception)
    words = ["data", "hull", "demo", "-o", str(tmp_path / "x.json")]
    assert "--potential chgnet" in str(runner.invoke(app, words).exception)
    words = ["data", "hull", "demo/val", "-o", str(tmp_path / "x.json"), "--potential", "chgnet"]
    two = runner.invoke(app, [*words, "--split", "train"]).exception
    assert "demo/val names the split val, and train is requested" in str(two)


@pytest.mark.parametrize("step", [225, pytest.param(9, marks=pytest.mark.slow)])
def test_real_crystals_lie_where_pymatgen_puts_them(step):
    hull = find_hull("mp").load()
    judge = Judge([formula_of(parts) for parts in hull.phases], hull.phases.values())
    rows = val_rows()
    names, given, column = (x[::step] for x in (rows.formulas, rows.formation_ev, rows.above_ev))
    start = time.process_time()
    answer = hull.above(names, given)
    ours = time.process_time() - start
    # the search for the entries of a chemical system is in our time, and not in pymatgen's
    entries = [(judge.entries(n), _entry(n, e)) for n, e in zip(names, given, strict=True)]
    start = time.process_time()
    theirs = [PhaseDiagram(e).get_e_above_hull(x, allow_negative=True) for e, x in entries]
    assert time.process_time() - start > (5 if step == 9 else 2) * ours  # few tell less
    assert answer.states == ["ok"] * len(names)
    np.testing.assert_allclose(answer.e_above_hull_ev, theirs, atol=1e-6)
    difference = answer.e_above_hull_ev - column
    assert difference.max() <= 0.001  # a hull of fewer phases lies higher
    assert (np.abs(difference) <= 0.001).mean() >= (0.79 if step == 9 else 0.7)


@pytest.mark.parametrize("name", ["hull.json.gz", "formation_energies.csv.gz"])
def test_a_hull_that_unpacks_without_end_is_refused(tmp_path, name):
    bomb = tmp_path / name
    with gzip.open(bomb, "wb") as file:
        for _ in range(200):
            file.write(b" " * (1 << 20))
    read = Hull.load if name.endswith(".json.gz") else from_table
    with pytest.raises(DataError, match=r"over 100 times its size|a line of over 16 MiB"):
        read(bomb)


def test_tables_of_a_hull_may_be_separated_by_semicolons(tmp_path):
    table = tmp_path / "mine.csv"
    table.write_text("\ufeffformula;formation_energy_per_atom\nNaCl;-2.1\nNa;0\nCl;0\n")
    assert len(from_table(table)) == 3
