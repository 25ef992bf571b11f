"""Elements, formulas and space groups as users write them."""

from __future__ import annotations

import pytest

from chemeleon.crystals.symbols import atoms_per_unit, formula_amounts, space_group_number
from chemeleon.energy.compositions import fractions
from chemeleon.errors import ConfigError, DataError


@pytest.mark.parametrize(
    ("text", "amounts"),
    [
        ("LiFePO4", {3: 1, 26: 1, 15: 1, 8: 4}),
        ("Li0.5CoO2", {3: 0.5, 27: 1, 8: 2}),
        ("Ca3(PO4)2", {20: 3, 15: 2, 8: 8}),
        ("O4Fe3", {8: 4, 26: 3}),
        ("D2O", {1: 2, 8: 1}),
        ("HDO", {1: 2, 8: 1}),
        ("CaSO4.2H2O", {20: 1, 16: 1, 8: 6, 1: 4}),
        ("CaSO4·2H2O", {20: 1, 16: 1, 8: 6, 1: 4}),
        ("CaSO4 ⋅ 2 H2O", {20: 1, 16: 1, 8: 6, 1: 4}),
        ("CaSO4*2H2O", {20: 1, 16: 1, 8: 6, 1: 4}),
        ("CaSO4·1/2H2O", {20: 1, 16: 1, 8: 4.5, 1: 1}),
        ("CaSO4.0.5H2O", {20: 1, 16: 1, 8: 4.5, 1: 1}),
        ("Na0.3CoO2.1.3D2O", {11: 0.3, 27: 1, 8: 3.3, 1: 2.6}),
        ("Ca(OH)2.H2O", {20: 1, 8: 3, 1: 4}),
        ("MgAl2(SO4)4.22(H2O)", {12: 1, 13: 2, 16: 4, 8: 38, 1: 44}),
        ("Li0.5H2O", {3: 0.5, 1: 2, 8: 1}),  # a decimal point all the same
        ("K2O·2SiO2", {19: 2, 8: 5, 14: 2}),
        ("2CaSO4·H2O", {20: 2, 16: 2, 8: 9, 1: 2}),
        ("Fe₂O₃", {26: 2, 8: 3}),
        ("Fe_2O_3", {26: 2, 8: 3}),
        ("Fe$_{2}$O$_{3}$", {26: 2, 8: 3}),
        ("K3[Fe(CN)6]", {19: 3, 26: 1, 6: 6, 7: 6}),
        ("{[(NaCl)2]2}2", {11: 8, 17: 8}),
        ("Li4 Fe4 P4 O16", {3: 4, 26: 4, 15: 4, 8: 16}),
        ("Ca (OH)2", {20: 1, 8: 2, 1: 2}),
        ("(Li)0Na", {11: 1}),
    ],
)
def test_formulas(text, amounts):
    assert formula_amounts(text) == pytest.approx(amounts)


@pytest.mark.parametrize("text", ["Fe2Xx", "", "lifepo4", "Li-Mn-O", "Li0", "Fm2O3"])
def test_what_is_no_formula_is_refused(text):
    with pytest.raises(ConfigError, match=f"'{text}' is not a formula"):
        formula_amounts(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("LiFePO4 BaTiO3", r"looks like 2 formulas \(LiFePO4 and BaTiO3\).*--formula"),
        ("LiFePO4,BaTiO3", "looks like 2 formulas"),
        ("NaCl; KCl, RbCl", r"looks like 3 formulas \(NaCl, KCl, \.\.\.\)"),
        ("NaCl KCl", "looks like 2 formulas"),
        ("Fe3+", "crystals are neutral"),
        ("SO4^2-", "crystals are neutral"),
        ("SO4 2-", "crystals are neutral"),
        ("[Fe(CN)6]4-", "crystals are neutral"),
        ("Fe³⁺", "crystals are neutral"),
        ("Fe2O3−", "crystals are neutral"),
        ("Li-Mn-O", "'-' is not expected after 'Li'"),
        ("K2O.Al2O3", "a part that is not water is written '·'"),
        ("K2O.2SiO2", "write O0.2 for an amount, or '·'"),
        ("MoO3.H2Os", "not water"),
        ("CaSO4·", "nothing beside its dot"),
        ("CaSO4·1/0H2O", "1/0 is no number"),
        ("Na)", r"'\)' closes nothing"),
        ("(NaCl]2", "']' closes nothing"),
        ("((((Na", r"'\(' is not closed"),
        ("lifepo4", "'l' is not expected at the beginning"),
        ("Jx2", "'Jx' is the symbol of no element"),
        ("(" * 5000, "5,000 letters"),
        ("Na" + "9" * 500, "not a finite number"),
        ("Na999999999", r"requests 999,999,999 atoms, and a cell has at most 1,000"),
        ("(((Na999)999)999)999", "requests 996,005,996,001 atoms"),
    ],
)
def test_the_reason_is_said_in_few_words(text, reason):
    with pytest.raises(ConfigError, match=reason) as caught:
        formula_amounts(text)
    assert len(str(caught.value)) < 300


def test_hulls_read_formulas_in_the_same_way():
    assert fractions("CaSO4·2H2O") == fractions("CaSO4.2H2O") == fractions("CaSO6H4")
    assert fractions("Fe₂O₃") == fractions("Fe2O3")
    with pytest.raises(DataError, match="no chemical formula: it looks like 2 formulas"):
        fractions("LiFePO4 BaTiO3")


def test_atoms_of_a_formula_unit():
    assert atoms_per_unit([2, 4]) == 3
    assert atoms_per_unit([0.5, 1, 2]) == 7
    assert atoms_per_unit([1 / 3, 2 / 3]) == 3
    assert atoms_per_unit([0.123457, 1]) is None
    # fractions that no cell can have: their common denominator is 9,699,690
    assert atoms_per_unit([1 / p for p in (2, 3, 5, 7, 11, 13, 17, 19)]) is None


def test_space_groups():
    given = {"225": 225, "Fm-3m": 225, "P2_1/c": 14, "P21/c": 14, "P6_3/mmc": 194, "F d -3 m": 227}
    given |= {"P21/n": 14, "Pbnm": 62, "Cmca": 64, "R-3m:H": 166}
    assert {text: space_group_number(text) for text in given} == given
    for text in ("0", "231", "Fm-3k"):
        with pytest.raises(ConfigError, match=text):
            space_group_number(text)
