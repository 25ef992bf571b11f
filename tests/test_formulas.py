"""Formulas: how they are read, and which cells are likely for them."""

from __future__ import annotations

import pytest
import torch

from chemeleon.crystals.convert import to_structures
from chemeleon.crystals.formula import formula_histogram, formula_units, likely_units, parse_formula
from chemeleon.crystals.prototypes import demo_crystals
from chemeleon.errors import ConfigError
from chemeleon.formulas import share_out


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
