"""Elements, formulas and space groups as users write them."""

from __future__ import annotations

import pytest

from chemeleon.crystals.symbols import atoms_per_unit, formula_amounts, space_group_number
from chemeleon.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "amounts"),
    [
        ("LiFePO4", {3: 1, 26: 1, 15: 1, 8: 4}),
        ("Li0.5CoO2", {3: 0.5, 27: 1, 8: 2}),
        ("Ca3(PO4)2", {20: 3, 15: 2, 8: 8}),
        ("O4Fe3", {8: 4, 26: 3}),
        ("D2O", {1: 2, 8: 1}),
        ("HDO", {1: 2, 8: 1}),
    ],
)
def test_formulas(text, amounts):
    assert formula_amounts(text) == amounts


@pytest.mark.parametrize("text", ["Fe2Xx", "", "lifepo4", "Li-Mn-O", "Li0", "Fm2O3"])
def test_what_is_no_formula_is_refused(text):
    with pytest.raises(ConfigError, match=f"'{text}' is not a formula"):
        formula_amounts(text)


def test_atoms_of_a_formula_unit():
    assert atoms_per_unit([2, 4]) == 3
    assert atoms_per_unit([0.5, 1, 2]) == 7
    assert atoms_per_unit([1 / 3, 2 / 3]) == 3
    assert atoms_per_unit([0.123457, 1]) is None


def test_space_groups():
    given = {"225": 225, "Fm-3m": 225, "P2_1/c": 14, "P21/c": 14, "P6_3/mmc": 194, "F d -3 m": 227}
    given |= {"P21/n": 14, "Pbnm": 62, "Cmca": 64, "R-3m:H": 166}
    assert {text: space_group_number(text) for text in given} == given
    for text in ("0", "231", "Fm-3k"):
        with pytest.raises(ConfigError, match=text):
            space_group_number(text)
