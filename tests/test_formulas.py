"""Formulas: how they are read, and which cells are likely for them."""

from __future__ import annotations

import resource
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import demo_crystals

from chemeleon.crystals.convert import to_structures
from chemeleon.crystals.formula import formula_histogram, formula_units, likely_units, parse_formula
from chemeleon.errors import ConfigError
from chemeleon.generation.formulas import of_formulas, share_out


@pytest.mark.parametrize(
    ("text", "atoms"),
    [
        ("LiFePO4", [3, 8, 8, 8, 8, 15, 26]),
        ("Ca(OH)2", [1, 1, 8, 8, 20]),
        ("Si8", [14] * 8),
        ("NO", [7, 8]),
        ("D2O", [1, 1, 8]),
        ("No", None),  # nobelium, beyond the elements that models know
        ("Fe2Xx", None),
        ("", None),
        ("Li0.5O", None),
        ("LiFe-PO4", None),
        ("Rf", None),
    ],
)
def test_formulas_are_read_or_refused_in_words(text, atoms):
    if atoms is not None:
        assert parse_formula(text) == atoms
        return
    with pytest.raises(ConfigError, match=r"formula .*(LiFePO4|whole cell)"):
        parse_formula(text)


def test_formula_units_and_their_histogram():
    from pymatgen.core import Structure

    crystals = demo_crystals("val")
    structures: list[Structure] = to_structures(crystals)
    expected = [s.composition.get_reduced_composition_and_factor()[1] for s in structures]
    assert formula_units(crystals).tolist() == [round(x) for x in expected]
    table = formula_histogram(crystals)
    assert torch.equal(table.sum(0), torch.bincount(crystals.num_atoms))
    first = structures[0].composition
    assert table[round(first.reduced_composition.num_atoms), len(structures[0])] > 0


def test_cells_are_those_that_training_makes_likely():
    table = torch.zeros(21, 21)
    table[5, 5], table[5, 10], table[5, 20] = 600, 300, 100  # ABX3
    table[7, 14] = 50
    shares = likely_units(parse_formula("BaTiO3"), table)
    assert share_out(20, shares) == {1: 12, 2: 6, 4: 2}
    assert share_out(1, shares) == {1: 1}
    assert max(shares, key=shares.__getitem__) == 1
    written = likely_units(parse_formula("Ba2Ti2O6"), table)  # never divided
    assert set(written) == {1, 2}
    assert set(likely_units(parse_formula("LiFePO4"), table)) == {2}
    assert likely_units([14] * 21, table) == {}
    # formulas like none in training: sizes of all the others
    assert set(likely_units([1, 1, 1, 2, 2, 3, 4, 5, 6, 7], table)) == {1, 2}


def model_up_to(largest: int) -> Any:
    table = torch.zeros(largest + 1, largest + 1)
    table[7, 7], table[7, 14], table[2, 2:] = 50, 50, 5
    return SimpleNamespace(size_histogram=table.sum(0), formula_histogram=table)


def test_what_the_sizes_of_training_rule_out_is_said():
    plan = of_formulas(["LiFePO4"], 20, None, model_up_to(20))
    assert set(plan.units) <= {1, 2}
    assert plan.notes == [
        "LiFePO4: formula units per cell that are tried: 1 (7 atoms), 2 (14 atoms); 3 or more"
        " (21 atoms) are ruled out, as the model knows cells of at most 20 atoms"
    ]
    assert of_formulas(["LiFePO4"], 20, None, model_up_to(28)).notes == []
    assert of_formulas(["NaCl"], 4, None, model_up_to(20)).notes == []
    made: Any = [SimpleNamespace(number=i, score=0.0, repeats=None) for i in range(20)]
    assert plan.to_manifest(made, None)["notes"] == plan.notes
    with pytest.raises(ConfigError, match="has 21 atoms, and the crystals"):
        of_formulas(["Na21"], 4, None, model_up_to(20))


def test_a_formula_is_named_in_plain_letters():
    plan = of_formulas(["CaSO4·2H2O", "Fe₂O₃"], 1, [1], model_up_to(20))
    assert plan.names() == ["CaSO4(H2O)2-1", "Fe2O3-1"]
    assert plan.atoms == [[1, 1, 1, 1, 8, 8, 8, 8, 8, 8, 16, 20], [8, 8, 8, 26, 26]]
    with pytest.raises(ConfigError, match="'Fe2O3' is given twice"):
        of_formulas(["Fe₂O₃", "Fe2 O3"], 1, None, model_up_to(20))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["-n", "1000000000000"], "one sample has at most 1,000,000"),
        (["-n", "1e12"], "valid integer"),
        (["-n", "1000000", "--formula", "NaCl", "--formula", "KCl"], "at most 1,000,000"),
        (["--num-atoms", "5,1000000000"], "a cell has at most 1,000"),
        (["--formula", "Na999999999"], "999,999,999 atoms, and a cell has at most 1,000"),
        (["--formula", "LiFePO4 BaTiO3"], "looks like 2 formulas"),
        (["--formula", "Na" * 10_000], "20,000 letters"),
    ],
)
def test_absurd_requests_are_refused_at_once(words, told, tmp_path):
    code = "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30));"
    code += "from chemeleon.cli.app import main; sys.argv[0] = 'chemeleon'; main()"
    command = [sys.executable, "-c", code, "sample", *words, "-o", str(tmp_path / "out")]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # no torch and no model; the clock would count what else the machine is at
    assert after.ru_utime - before.ru_utime < 3
    assert done.returncode == 2
    assert told in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
