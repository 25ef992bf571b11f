"""Formulas for models that place given orbits: their Wyckoff letters are proposed first."""

from __future__ import annotations

import json
import math

import pytest
from pymatgen.core import Lattice, Structure
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer
from typer.testing import CliRunner

from chemeleon import api
from chemeleon.cli.app import app
from chemeleon.crystals.convert import from_structures
from chemeleon.errors import ConfigError
from chemeleon.generation.assignments import load_proposer
from chemeleon.generation.formulas import of_data, of_proposals
from chemeleon.generation.ranking import KT, make_scorer
from tests.conftest import demo_crystals
from tests.test_orbit_csp import taught as taught


def test_each_candidate_is_another_hypothesis_with_the_formula_exactly(taught, tmp_path):
    found = api.sample(
        taught / "ldm",
        4,
        formula=["SrTiO3", "NaCl"],
        prototypes=["demo/train"],
        rank_by="none",
        output=tmp_path / "out",
    )
    assert len(found) == 8
    for structure in list(found)[:4]:
        assert structure is None or structure.composition.reduced_formula == "SrTiO3"
    rows = json.loads((tmp_path / "out" / "manifest.json").read_text())["candidates"]
    assert [row["formula"] for row in rows] == ["SrTiO3"] * 4 + ["NaCl"] * 4
    for formula in ("SrTiO3", "NaCl"):
        own = [row for row in rows if row["formula"] == formula]
        known = 2 if formula == "SrTiO3" else 4  # of the former, and they are taken in turn
        assert len({(row["space_group"], row["letters"]) for row in own}) == known
        shares = [row["probability"] for row in own[:known]]
        assert shares == sorted(shares, reverse=True)
    for structure, row in zip(found, rows, strict=True):
        if structure is not None:  # a supergroup of the group proposed, or the group
            atoms = sum(structure.composition.reduced_composition.values())
            assert len(structure) == row["formula_units"] * atoms


def test_few_proposals_are_taken_in_turn_and_unknown_formulas_are_refused():
    proposer = load_proposer(None, ["demo/train"])
    plan = of_proposals(["NaCl"], 200, [1], proposer)
    known = len({id(one) for one in plan.proposals})
    assert known < 200
    assert "taken in turn for 200 candidates" in plan.notes[0]
    assert plan.proposals[known].assignment is plan.proposals[0].assignment
    assert plan.units == [1] * 200
    with pytest.raises(ConfigError, match="Na7Cl: no assignment"):
        of_proposals(["Na7Cl"], 2, None, proposer)
    with pytest.raises(ConfigError, match="given twice"):
        of_proposals(["NaCl", "NaCl"], 2, None, proposer)


def test_cells_of_a_data_set_have_as_many_atoms_as_given():
    proposer = load_proposer(None, ["demo/train"])
    source = "demo/val where num_atoms <= 3"
    plan = of_data(source, 2, proposer=proposer)
    plain = of_data(source, 2)
    assert plan.targets == plain.targets
    from chemeleon.crystals.assignments import atoms_of

    for one, atoms in zip(plan.proposals, plain.atoms, strict=True):
        found = [z for z, count in atoms_of(one.assignment).items() for _ in range(count)]
        assert found == atoms


def test_what_proposes_is_for_models_that_need_it(taught, tiny_ldm):
    with pytest.raises(ConfigError, match="leave them out"):
        api.sample(None, 2, formula="NaCl", prototypes=["demo/train"])
    with pytest.raises(ConfigError, match="are of formulas"):
        api.sample(tiny_ldm, 2, prototypes=["demo/train"])


def test_prototypes_are_crystals_with_other_elements_and_the_volume_of_these(tmp_path):
    found = api.sample(
        "prototypes",
        3,
        formula=["SrTiO3", "NaCl"],
        prototypes=["demo/train"],
        rank_by="none",
        output=tmp_path / "out",
    )
    text = json.loads((tmp_path / "out" / "manifest.json").read_text())
    rows = text["candidates"]
    assert text["model"] == "prototypes"
    assert text["prototypes"] == ["demo/train"]
    assert [row["id"] for row in rows] == [
        "SrTiO3-1",
        "SrTiO3-2",
        "NaCl-1",
        "NaCl-2",
        "NaCl-3",
    ]  # no crystal comes twice, and the set has two for the former
    known = demo_crystals("train")
    rocksalt = [
        s for s, row in zip(found, rows, strict=True) if row["space_group"] == "Fm-3m (225)"
    ]
    assert rocksalt
    for structure, row in zip(found, rows, strict=True):
        assert structure.composition.reduced_formula == row["formula"]
        assert row["prototype"] in known.ids
        number = int(row["space_group"].split("(")[1].rstrip(")"))
        assert SpacegroupAnalyzer(structure, 0.01).get_space_group_number() >= number
    salt = next(s for s in rocksalt if s.composition.reduced_formula == "NaCl")
    assert 35 < salt.get_primitive_structure().volume < 55  # A^3; measured 44.9


@pytest.mark.parametrize("by", ["auto", "both", "energy"])
def test_prototypes_are_ranked_by_energy_and_votes(by, tmp_path):
    pytest.importorskip("chgnet")
    words = {"formula": "NaCl", "prototypes": ["demo/train"], "rank_by": by, "relax": 5}
    made = api.sample("prototypes", 4, output=tmp_path, overwrite=True, **words)
    told = json.loads((tmp_path / "manifest.json").read_text())
    assert ("ln(probability)" in told["ranked_by"]) == (by != "energy")
    rows = told["candidates"]
    merit = [("repeats" in row, row["score"]) for row in rows]
    assert merit == sorted(merit)
    assert all(row["repeats"] < row["id"] for row in rows if "repeats" in row)
    scorer = make_scorer("energy", None)
    assert scorer is not None
    for energy, row in zip(scorer.score(from_structures(made)).tolist(), rows, strict=True):
        unlikely = 0 if by == "energy" else -KT * math.log(row["probability"])
        best_of_several = any(row["id"] == other.get("repeats") for other in rows)
        if not best_of_several:
            assert row["score"] == pytest.approx(energy + unlikely, abs=1e-3)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"formula": "NaCl", "temperature": 0.9}, "leave out temperature"),
        ({"formula": "NaCl", "space_group": ["225"]}, "leave out space_group"),
        ({"formula": "NaCl", "assign": "runs/assign"}, "leave out assign"),
        ({"formula": "NaCl", "rank_by": "model"}, "rank by energy or none"),
        ({}, "name one with formula"),
        ({"formula": "Na7Cl"}, "Na7Cl: no assignment"),
    ],
)
def test_what_prototypes_cannot_do_is_said(options, said):
    more = {"prototypes": ["demo/train"]} if "formula" in options else {}
    with pytest.raises(ConfigError, match=said):
        api.sample("prototypes", 2, **options, **more)


def test_the_command_finds_prototypes_for_the_crystals_of_a_set(tmp_path):
    words = ["--model", "prototypes", "-n", "2"]
    words += ["--prototypes", "demo/train", "--prototypes", "demo/test"]
    words += ["--formulas-from", "demo/val where num_atoms <= 2", "-o", str(tmp_path / "out")]
    found = CliRunner().invoke(app, ["sample", *words])
    assert found.exit_code == 0, found.output
    text = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert text["written"] == text["requested"] > 0
    assert text["prototypes"] == ["demo/train", "demo/test"]  # a repeated option
    assert text["formulas_from"] == "demo/val where num_atoms <= 2"
    rows, files = text["candidates"], (tmp_path / "out" / "cif").iterdir()
    assert sorted(row["id"] for row in rows) == sorted(path.stem for path in files)
    assert all(row["prototype"] and row["formula_units"] >= 1 for row in rows)


def test_crystals_of_a_set_that_no_prototype_fits_are_left_out_and_named(tmp_path):
    (tmp_path / "set").mkdir()
    for name, elements in (("known", ["Na", "Cl"]), ("strange", ["Na"] * 7 + ["Cl"])):
        coords = [[i / 8, i / 8, 0] for i in range(len(elements))]
        Structure(Lattice.cubic(20), elements, coords).to(str(tmp_path / "set" / f"{name}.cif"))
    proposer = load_proposer(None, ["demo/train"])
    plan = of_data(str(tmp_path / "set"), 2, proposer=proposer, again=False)
    assert plan.targets == ["known"]
    assert plan.names() == ["known-1", "known-2"]
    assert plan.units == [1, 1]
    assert "1 of 2 crystals are left out (strange)" in plan.notes[0]
    assert "--assign" not in plan.notes[0]
    (tmp_path / "set" / "known.cif").unlink()
    with pytest.raises(ConfigError, match="no assignment"):
        of_data(str(tmp_path / "set"), 2, proposer=proposer, again=False)


def test_one_set_of_prototypes_needs_no_list_and_nothing_found_is_said():
    one, other = (
        api.assign_propose(["NaCl"], 2, prototypes=sets) for sets in ("demo/train", ["demo/train"])
    )
    assert [x.probability for x in one[0]] == [x.probability for x in other[0]]
    found = CliRunner().invoke(app, ["assign", "propose", "Na7Cl", "--prototypes", "demo/train"])
    assert "Na7Cl: no assignment is known" in found.output
