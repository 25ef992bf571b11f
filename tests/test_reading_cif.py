"""Files that people have: each is read right, or refused with the reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cif_texts import CASES, Case, cif, formula, group, operations
from pymatgen.core import Structure

from chemeleon.data.cif import blocks
from chemeleon.data.limits import Limits
from chemeleon.data.parse import BadCrystalError, parse, parse_as_given

FILES = Path(__file__).parent / "reading"


def read(text: str) -> Structure:
    numbers, frac, lattice = parse("cif", text, niggli=False)
    return Structure(lattice, numbers.tolist(), frac)


def shortest(structure: Structure) -> float:
    return min(n.nn_distance for s in structure for n in structure.get_neighbors(s, 6))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_kinds(case: Case) -> None:
    if case.formula is not None:
        expected = sorted(case.formula.split())
        assert sorted(read(case.text).formula.split()) == expected
        return
    with pytest.raises(BadCrystalError) as caught:
        read(case.text)
    assert case.reason is not None
    assert case.reason in str(caught.value)
    assert "\n" not in str(caught.value)


ANSWERS = {
    "02_many_blocks/three_phases.cif": [("Mg4 O4", 2.106), ("Cs1 Cl1", 3.571), ("Zn4 S4", 2.342)],
    "03_group_without_ops/bismuth_rhombohedral.cif": [("Bi2", 3.073)],
    "03_group_without_ops/bismuth_rhombohedral_R.cif": [("Bi2", 3.073)],
    "03_group_without_ops/silicon_origin1.cif": [("Si8", 2.352)],
    "03_group_without_ops/silicon_origin1_S.cif": "does not say its setting",
    "03_group_without_ops/no_symmetry_at_all.cif": "the formula is Mg1 O1 (Z = 4)",
    "03_group_without_ops/perovskite_Pbnm.cif": [("Gd4 Fe4 O12", 2.000)],
    "04_short_thirds/zincite_2_digits.cif": [("Zn2 O2", 1.974)],
    "04_short_thirds/zincite_3_digits.cif": [("Zn2 O2", 1.974)],
    "04_short_thirds/zincite_5_digits.cif": [("Zn2 O2", 1.974)],
    "05_water_labels/oh_hydroxide.cif": "'OH' is no element",
    "05_water_labels/wat_label.cif": "'Wat' has no type symbol",
    "05_water_labels/ammonium.cif": "'NH4' is no element",
    "05_water_labels/unknown_coordinates.cif": "a coordinate of site 7 is not known",
    "10_encodings/bom.cif": [("Cs1 Cl1", 3.571)],
    "10_encodings/minus_sign.cif": [("Cs1 Cl1", 3.571)],
    "10_encodings/latin1.cif": [("Cs1 Cl1", 3.571)],
    "14_occupancy/dot.cif": [("Cs1 Cl1", 3.571)],
    "14_occupancy/near_one.cif": [("Cs1 Cl1", 3.571)],
}


@pytest.mark.parametrize("name", ANSWERS)
def test_files(name: str) -> None:
    text = (FILES / name).read_bytes().decode("utf-8", errors="replace")
    answer = ANSWERS[name]
    if isinstance(answer, str):
        with pytest.raises(BadCrystalError) as caught:
            read(text)
        assert answer in str(caught.value)
        return
    found = [read(block) for _, block in blocks(text)]
    assert [s.formula for s in found] == [formula for formula, _ in answer]
    for structure, (_, distance) in zip(found, answer, strict=True):
        assert shortest(structure) == pytest.approx(distance, abs=1e-3)


def test_every_block_with_atoms_or_a_cell_is_a_row() -> None:
    bad = cif(name="bad").replace("0.5 0.5 0.5", "0.5 0.5")
    powder = "data_powder\n_pd_meas_2theta_range_min 3\n"
    found = blocks("# first\ndata_global\n_x 1\n" + cif(name="a") + bad + powder + cif(name="a"))
    assert [name for name, _ in found] == ["a", "bad", "a"]
    assert read(found[0][1]) == read(found[2][1]) == read(cif())
    with pytest.raises(BadCrystalError, match="unparsable CIF"):
        read(found[1][1])
    assert [name for name, _ in blocks("data_global\n_x 1\n" + powder)] == ["global"]
    assert blocks("no blocks") == [("", "no blocks")]


def test_a_short_third_is_put_on_its_axis() -> None:
    text = (FILES / "04_short_thirds" / "zincite_2_digits.cif").read_text()
    _, frac, _ = parse("cif", text, niggli=False)
    assert {tuple(np.round(row * 3, 9)) for row in frac[:, :2]} == {(1, 2), (2, 1)}


def test_order_is_by_electronegativity_and_stable() -> None:
    sites = ("O1 O 0.5 0 0", "Na2 Na 0.5 0.5 0.5", "O2 O 0 0.5 0", "K1 K 0 0 0", "Na1 Na 0.5 0.5 0")
    numbers, frac, _ = parse("cif", cif(sites=sites), niggli=False)
    assert numbers.tolist() == [19, 11, 11, 8, 8]
    assert frac[1].tolist() == [0.5, 0.5, 0.5]
    assert frac[3].tolist() == [0.5, 0, 0]


def test_made_crystals_stay_readable_for_those_who_judge_them() -> None:
    text = cif(sites=("Na1 Na 0 0 0", "Cl1 Cl 0.05 0 0"))
    assert len(parse_as_given("cif", text).atomic_numbers) == 2
    with pytest.raises(BadCrystalError, match=r"within 0\.5 A \(0\.2000 A\)"):
        parse("cif", text)


def test_a_group_beside_written_out_atoms_must_be_theirs() -> None:
    rock_salt = ["Na 0 0 0", "Na .5 .5 0", "Na .5 0 .5", "Na 0 .5 .5",
                 "Cl .5 .5 .5", "Cl 0 0 .5", "Cl 0 .5 0", "Cl .5 0 0"]  # fmt: skip
    sites = [f"A{i} {site}" for i, site in enumerate(rock_salt)]
    identity = operations("x,y,z")
    assert len(read(cif(group("F m -3 m"), identity, sites=sites))) == 8
    with pytest.raises(BadCrystalError, match="names space group 216"):
        read(cif(group("F -4 3 m"), identity, sites=sites))


def test_limits_are_met_before_anything_is_made() -> None:
    many = operations(*(f"x+{i}/24,y+{j}/24,z" for i in range(24) for j in range(24)))
    text = cif(many, sites=("Na1 Na 0.01 0 0",), cell=(96, 96, 4, 90, 90, 90))
    for limits, words in ((Limits(operations=500), "operations"), (Limits(atoms=500), "atoms")):
        with pytest.raises(BadCrystalError, match=f"data.limits.{words}=500"):
            parse("cif", text, limits=limits)
    assert len(parse("cif", text).atomic_numbers) == 576
    with pytest.raises(BadCrystalError, match=r"2 atoms are over data\.limits\.atoms=1"):
        parse("cif", cif(), limits=Limits(atoms=1))


def test_a_formula_of_pymatgen_is_of_the_whole_cell_and_others_are_not() -> None:
    carbon = [f"C{k} C {k / 6:.6f} 0 0" for k in range(6)]
    hydrogen = [f"H{k} H {k / 6:.6f} 0.5 0" for k in range(6)]
    benzene = {"sites": [*carbon, *hydrogen], "cell": (12, 8, 8, 90, 90, 90)}
    assert len(read(cif(formula("C6 H6", 6), **benzene))) == 12
    with pytest.raises(BadCrystalError, match=r"C6 H6 \(Z = 2\)"):
        read(cif(formula("C6 H6", 2), **benzene))
