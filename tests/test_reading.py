"""Files that people have: read right or refused, POSCAR, extxyz, JSON and CSV; each with its input.

The files in ``reading`` are samples of kinds; the texts here are others of the same kinds.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from reading_helpers import CASES, read, read_text

from chemeleon.data.building import parse_source
from chemeleon.data.json_shapes import crystals
from chemeleon.errors import DataError

CELL = "4.2 0 0\n0 4.2 0\n0 0 4.2\n"
SALT = "0 0 0\n0 .5 .5\n.5 0 .5\n.5 .5 0\n.5 .5 .5\n.5 0 0\n0 .5 0\n0 0 .5\n"
PAIR = "0 0 0\n.5 .5 .5\n"
FRAME = '2\nLattice="4 0 0 0 4 0 0 0 4" {}\nCs 0 0 0\nCl 2 2 2\n'
POS = "Properties=species:S:1:pos:R:3"


@pytest.mark.parametrize("name", ["negative_volume", "three_scales", "positive_cartesian",
                                  "hash_names"])  # fmt: skip
def test_poscar_cases(name: str) -> None:
    found = read(CASES / "01_vasp4_poscar" / f"POSCAR.{name}")
    assert found.formulas == ["Mg4 O4"]
    assert found.ids == [f"POSCAR.{name}"]
    assert found.nearest[0] == pytest.approx(2.106, abs=2e-4)


def test_poscar_without_elements_is_refused() -> None:
    found = read(CASES / "01_vasp4_poscar" / "POSCAR.mgo_old")
    assert found.formulas == []
    assert "no line of elements: write them, such as 'Mg O', above" in found.problems[0]


GOOD_POSCARS = {
    "elements in the comment": f"Mg O\n1.0\n{CELL}4 4\nDirect\n{SALT}",
    "elements beside the atoms": f"salt\n1.0\n{CELL}1 1\nDirect\n0 0 0 Mg\n.5 .5 .5 O\n",
    "D exponents": f"x\n1.0D0\n{CELL}Mg O\n1 1\nDirect\n0.0D+00 0 0\n5.0D-01 .5 .5\n",
    "comments after numbers": f"x\n1.0 ! scale\n4.2 0 0 # a\n0 4.2 0\n0 0 4.2\nMg O ! two\n"
    f"1 1 ! counts\nDirect\n{PAIR}",
    "velocities": f"x\n1\n{CELL}Mg O\n1 1\nDirect\n{PAIR}\n0 0 0\n1 1 1\n",
    "velocities with a mode": f"x\n1\n{CELL}Mg O\n1 1\nDirect\n{PAIR}Cartesian\n0 0 0\n1 1 1\n",
    "windows": f"x\n1\n{CELL}Mg O\n1 1\nDirect\n{PAIR}".replace("\n", "\r\n"),
    "labels with hash and underscore": f"x\n1\n{CELL}Mg_pv/ab12 O_s\n1 1\nDirect\n{PAIR}",
    "a species without atoms": f"x\n1\n{CELL}Mg Ca O\n1 0 1\nDirect\n{PAIR}",
    "an element twice": f"x\n1\n{CELL}Mg O Mg\n1 1 0\nk\n0 0 0\n2.1 2.1 2.1\n",
    "volume with cartesian": f"x\n-74.088\n1 0 0\n0 1 0\n0 0 1\nMg O\n1 1\nCart\n{PAIR}",
    "selective": f"x\n1\n{CELL}Mg O\n1 1\nselective\nfractional\n0 0 0 F F F\n.5 .5 .5 T T T\n",
    "left-handed": f"x\n1\n0 4.2 0\n4.2 0 0\n0 0 4.2\nMg O\n1 1\nDirect\n{PAIR}",
    "three scales with cartesian": "x\n4.2 2.1 1\n1 0 0\n0 2 0\n0 0 4.2\nMg O\n1 1\nCart\n"
    "0 0 0\n.5 1 2.1\n",
}
BAD_POSCARS = {
    "a billion atoms": (f"x\n1\n{CELL}Mg\n1000000000\nDirect\n0 0 0\n", "over data.limits.atoms"),
    "a count of atoms in words": (f"x\n1\n{CELL}Mg O\n1 one\nDirect\n{PAIR}", "2 elements, but 1"),
    "half an atom": (f"x\n1\n{CELL}Mg O\n1 0.5\nDirect\n{PAIR}", "'0.5' is no number of atoms"),
    "minus one atom": (f"x\n1\n{CELL}Mg O\n2 -1\nDirect\n{PAIR}", "'-1' is no number of atoms"),
    "one atom missing": (f"x\n1\n{CELL}Mg O\n1 2\nDirect\n{PAIR}", "2 of 3 lines"),
    "one atom more": (f"x\n1\n{CELL}Mg O\n1 1\nDirect\n{PAIR}.2 .2 .2\n", "more lines of coord"),
    "no mode": (f"x\n1\n{CELL}Mg O\n1 1\n{PAIR}", "neither Direct nor Cartesian"),
    "no element": (f"x\n1\n{CELL}Mg Qq\n1 1\nDirect\n{PAIR}", "'Qq' is no element"),
    "a group of atoms": (f"x\n1\n{CELL}MgO\n2\nDirect\n{PAIR}", "'MgO' is no element"),
    "two scales": (f"x\n1 1\n{CELL}Mg O\n1 1\nDirect\n{PAIR}", "line 2 is no scale"),
    "scale zero": (f"x\n0\n{CELL}Mg O\n1 1\nDirect\n{PAIR}", "line 2 is no scale"),
    "flat": (f"x\n1\n1 0 0\n2 0 0\n0 0 1\nMg O\n1 1\nCart\n{PAIR}", "zero volume"),
    "nan": (f"x\n1\n{CELL}Mg O\n1 1\nDirect\n0 0 0\nnan .5 .5\n", "atom 2 has no three numbers"),
    "huge": (f"x\n1\n1e308 0 0\n0 1 0\n0 0 1\nMg O\n1 1\nDirect\n{PAIR}", ""),
    "another beside": (f"x\n1\n{CELL}Mg O\n1 1\nDirect\n0 0 0 Mg\n.5 .5 .5 S\n", "S on its"),
    "comment of too many": (f"Mg O H\n1\n{CELL}1 1\nDirect\n{PAIR}", "no line of elements"),
    "cut in the cell": ("x\n1\n4 0 0\n0 4", "line 4 has no three numbers"),
    "empty": ("", "line 2 is no scale"),
}  # fmt: skip


@pytest.mark.parametrize("name", GOOD_POSCARS)
def test_more_poscars(name: str, tmp_path: Path) -> None:
    found = read_text(tmp_path, "POSCAR", GOOD_POSCARS[name])
    assert found.problems == []
    assert found.formulas in (["Mg1 O1"], ["Mg4 O4"])
    expected = 2.1 if found.formulas == ["Mg4 O4"] else 4.2 * 0.75**0.5
    assert found.nearest[0] == pytest.approx(expected, abs=1e-4)
    said = "Mg O was taken from its first line"
    assert any(said in n for n in found.parsed.notes) == (name == "elements in the comment")


@pytest.mark.parametrize("name", BAD_POSCARS)
def test_bad_poscars_say_why(name: str, tmp_path: Path) -> None:
    text, words = BAD_POSCARS[name]
    found = read_text(tmp_path, "a.vasp", text)
    assert found.formulas == []
    assert words in found.problems[0]


def test_extxyz_cases() -> None:
    found = read(CASES / "15_extxyz" / "many_one_isotope.extxyz")
    assert found.formulas == ["Cl1 Cs1", "Cl1 Cs1", "Cs1 H1", "Cl1 Cs1", "Cl1 Cs1"]
    found = read(CASES / "15_extxyz" / "energy_keys.extxyz")
    assert found.ids == ["zz-1", "zz-2", "zz-3"]
    columns = found.parsed.columns
    assert columns["energy"].tolist() == pytest.approx([-6.5, -6.6, -6.7])
    assert columns["free_energy"].tolist() == pytest.approx([-6.6] * 3)
    assert set(columns) == {"energy", "free_energy", "band_gap", "dft_energy"}


GOOD_FRAMES = {
    "no Properties": FRAME.format(""),
    "numbers first": "2\nLattice='4 0 0 0 4 0 0 0 4' Properties=Z:I:1:pos:R:3:species:S:1\n"
    "55 0 0 0 Cs\n17 2 2 2 Cl\n",
    "positions last": '2\nProperties=forces:R:3:species:S:1:pos:R:3 Lattice="4 0 0 0 4 0 0 0 4"\n'
    "9 9 9 Cs 0 0 0\n9 9 9 Cl 2 2 2\n",
    "Fortran": FRAME.format(POS).replace("2 2 2", "2.0D0 2.0d+00 2"),
    "braces and brackets": FRAME.format(f'{POS} a={{1 2}} b=[[1, 2], [3, 4]] c="x=\\"1\\" y"'),
    "pbc with brackets": FRAME.format(f"{POS} pbc=[T, T, T]"),
    "an array as cell": FRAME.replace('"4 0 0 0 4 0 0 0 4"', '"[[4,0,0],[0,4,0],[0,0,4]]"'),
    "windows and no end": FRAME.format(POS).replace("\n", "\r\n").rstrip(),
    "capitals": FRAME.format(POS).replace("Cs", "CS").replace("Lattice", "lattice"),
}
BAD_FRAMES = {
    "no cell": ("2\n\nCs 0 0 0\nCl 2 2 2\n", "no Lattice"),
    "eight numbers": (FRAME.replace("4 0 0 0 4 0 0 0 4", "4 0 0 0 4 0 0 0"), "8 numbers"),
    "a slab": (FRAME.format(f'{POS} pbc="T T F"'), "not periodic"),
    "odd pbc": (FRAME.format(f'{POS} pbc="yes"'), "not three of T and F"),
    "a billion columns": (FRAME.format("Properties=species:S:1:pos:R:1000000000"), "columns"),
    "no positions": (FRAME.format("Properties=species:S:1:forces:R:3"), "no positions"),
    "no elements": (FRAME.format("Properties=forces:R:1:pos:R:3"), "no elements"),
    "half a triple": (FRAME.format("Properties=species:S:1:pos"), "not name:type:columns"),
    "one column more": (FRAME.format(f"{POS}:mass:R:1"), "has 4 columns; Properties names 5"),
    "one column less": (FRAME.format(POS).replace("2 2 2", "2 2 2 1"), "has 5 columns"),
    "a dummy": (FRAME.format(POS).replace("Cl", "X"), "'X' is no element"),
    "disagreement": ("1\nLattice='4 0 0 0 4 0 0 0 4' Properties=species:S:1:Z:I:1:pos:R:3\n"
                     "Cs 11 0 0 0\n", "do not agree"),
    "words": (FRAME.format(POS).replace("2 2 2", "2 2 two"), "a position is no number"),
    "nan": (FRAME.format(POS).replace("2 2 2", "2 2 nan"), "a position is no number"),
    "a key twice": (FRAME.format(f"{POS} energy=1 energy=2"), "stands twice"),
    "a billion atoms": (FRAME.format(POS).replace("2\n", "1000000000\n", 1), "limits.atoms"),
    "no atoms": ("0\nLattice='4 0 0 0 4 0 0 0 4'\n", "no atoms"),
    "flat": (FRAME.replace("4 0 0 0 4 0 0 0 4", "4 0 0 4 0 0 0 0 4"), "zero volume"),
    "cut": (FRAME.format(POS).removesuffix("Cl 2 2 2\n"), "cut short: 1 of 2"),
    "more than counted": (FRAME.format(POS) + "Cl 1 1 1\n", "after its 2 atoms stands 'Cl 1 1 1'"),
    "no count": ("two\n", "'two' is no number of atoms"),
}  # fmt: skip


@pytest.mark.parametrize("name", GOOD_FRAMES)
def test_more_frames(name: str, tmp_path: Path) -> None:
    found = read_text(tmp_path, "a.extxyz", GOOD_FRAMES[name])
    assert found.problems == []
    assert found.formulas == ["Cl1 Cs1"]
    assert found.nearest[0] == pytest.approx(4 * 0.75**0.5, abs=1e-5)


@pytest.mark.parametrize("name", BAD_FRAMES)
def test_a_bad_frame_ends_nothing(name: str, tmp_path: Path) -> None:
    text, words = BAD_FRAMES[name]
    good = FRAME.format(POS)
    found = read_text(tmp_path, "a.xyz", good + "\n" + text + good + good)
    assert found.formulas == ["Cl1 Cs1"] * 3
    assert found.ids[0] == "a-1"
    assert len(found.problems) == 1
    assert words in found.problems[0]
    assert found.parsed.total == 4


JSON_CASES = {
    "optimade.json": (["zz-1", "zz-2", "zz-3"], []),
    "rest_answer.json": (["zz-1", "zz-2", "zz-3"], ["band_gap"]),
    "jarvis.json": (["JV-0", "JV-1", "JV-2"], ["optb88vdw_bandgap"]),
    "lines.jsonl": (["zz-1", "zz-2", "zz-3"], ["band_gap"]),
    "one_computed_entry.json": (["zz-1"], ["energy", "correction"]),
}


@pytest.mark.parametrize("name", JSON_CASES)
def test_json_cases(name: str) -> None:
    ids, columns = JSON_CASES[name]
    found = read(CASES / "11_json_shapes" / name)
    assert found.ids == ids
    assert found.formulas == ["Cl1 Cs1", "Br1 Cs1", "Cs1 I1"][: len(ids)]
    assert found.nearest[0] == pytest.approx(4.123 * 0.75**0.5, abs=1e-4)
    assert set(columns) <= set(found.parsed.columns)
    assert found.problems == []


def structure(**changes: Any) -> dict[str, Any]:
    sites = [
        {"species": [{"element": e, "occu": 1}], "abc": [x, x, x], "label": e, "properties": {}}
        for e, x in (("Cs", 0), ("Cl", 0.5))
    ]
    lattice = {"matrix": [[4, 0, 0], [0, 4, 0], [0, 0, 4]], "pbc": [True, True, True]}
    return {"lattice": lattice, "sites": sites, "charge": 0, **changes}


OPTIMADE = {
    "id": "o1",
    "attributes": {
        "lattice_vectors": [[4, 0, 0], [0, 4, 0], [0, 0, 4]],
        "cartesian_site_positions": [[0, 0, 0], [2, 2, 2]],
        "species_at_sites": ["a", "b"],
        "species": [
            {"name": "a", "chemical_symbols": ["Cs"], "concentration": [1]},
            {"name": "b", "chemical_symbols": ["Cl"], "concentration": [1]},
        ],
        "_mine_gap": 2.5,
    },
}
JARVIS = {
    "jid": "j1",
    "atoms": {
        "lattice_mat": [[4, 0, 0], [0, 4, 0], [0, 0, 4]],
        "coords": [[0, 0, 0], [2, 2, 2]],
        "elements": ["Cs", "Cl"],
        "cartesian": True,
    },
}
ENTRY = {"entry_id": "e1", "energy": -6.5, "data": {"material_id": "m", "gap": 2.5}}
GOOD_JSON: dict[str, tuple[Any, list[str]]] = {
    "a structure": (structure(), ["a"]),
    "structures": ([structure(), structure()], ["a-1", "a-2"]),
    "a mapping": ({"x": structure(), "y": {"structure": structure()}}, ["x", "y"]),
    "entries": ([{**ENTRY, "structure": structure()}], ["e1"]),
    "an answer with one": ({"data": {"id": "q", "structure": structure()}, "meta": {}}, ["q"]),
    "the old interface": ({"response": [{"material_id": "r", "structure": structure()}]}, ["r"]),
    "properties of the structure": (structure(properties={"material_id": "p", "gap": 1}), ["p"]),
    "OPTIMADE, one": ({"data": OPTIMADE}, ["o1"]),
    "OPTIMADE, lines": (OPTIMADE["attributes"], ["a"]),
    "JARVIS in Cartesian": ([JARVIS], ["j1"]),
    "JARVIS alone": (JARVIS["atoms"], ["a"]),
    "pandas, split": ({"index": ["s"], "columns": ["structure", "gap"],
                       "data": [[structure(), 2.5]]}, ["s"]),
    "pandas, columns": ({"structure": {"0": structure()}, "gap": {"0": 2.5}}, ["0"]),
}  # fmt: skip


@pytest.mark.parametrize("name", GOOD_JSON)
def test_more_json(name: str, tmp_path: Path) -> None:
    value, ids = GOOD_JSON[name]
    found = read_text(tmp_path, "a.json", json.dumps(value))
    assert found.problems == []
    assert found.ids == ids
    assert found.formulas == ["Cl1 Cs1"] * len(ids)
    assert found.nearest[0] == pytest.approx(4 * 0.75**0.5, abs=1e-5)
    gaps = [v.tolist() for n, v in found.parsed.columns.items() if n in ("gap", "_mine_gap")]
    assert gaps in ([], [[1]], [[2.5]])
    assert bool(gaps) == ("gap" in json.dumps(value))


def without(item: dict[str, Any], key: str) -> dict[str, Any]:
    return {**item, "attributes": {k: v for k, v in item["attributes"].items() if k != key}}


BAD_JSON: dict[str, tuple[str, str]] = {
    "cut": (json.dumps([structure(), structure()])[:-40], "unparsable JSON"),
    "two objects without a comma": ("[{} {}]", "where a comma should be"),
    "empty": ("", "the file is empty"),
    "deep": ("[" * 100_000, "nested too deeply"),
    "deep objects": ('{"a":' * 100_000, "nested too deeply"),
    "a key twice": ('{"x": 1, "x": 2}', "stands twice"),
    "a number": ("3", "a number is no crystal"),
    "a molecule": (json.dumps({"@class": "Molecule", "sites": []}), "this is pymatgen's Molecule"),
    "an error": ('{"error": "no key"}', "a server that met an error"),
    "ASE's database": ('{"1": {}, "ids": [1], "nextid": 2}', "a database of ASE"),
    "something else": ('{"pets": 3, "cats": 2}', "the keys pets, cats"),
    "no structure": ('[{"material_id": "x", "structure": null}]', "its structure is nothing"),
    "text for a structure": ('[{"structure": "data_x"}]', "its structure is a text"),
    "a species without a name": (
        json.dumps(OPTIMADE).replace('"species_at_sites": ["a"', '"species_at_sites": ["c"'),
        "'c', no species"),
    "a site more": (json.dumps(OPTIMADE).replace('["a", "b"]', '["a", "b", "b"]'), "2 positions"),
    "words for numbers": (json.dumps(OPTIMADE).replace("[2, 2, 2]", '["2", 2, 2]'), "is no number"),
    "no species": (json.dumps(without(OPTIMADE, "species")), "species is nothing, no list"),
    "a slab": (json.dumps(without(OPTIMADE, "x")).replace('"_mine_gap": 2.5',
               '"dimension_types": [1, 1, 0]'), "periodic"),
    "half JARVIS": (json.dumps(JARVIS).replace('["Cs", "Cl"]', '["Cs"]'), "1 elements, but 2"),
    "NaN": (json.dumps(JARVIS).replace("[2, 2, 2]", "[NaN, 2, 2]"), "not finite"),
    "a huge integer": (json.dumps(JARVIS).replace("[2, 2, 2]", f"[{'9' * 5000}, 2, 2]"), ""),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_JSON)
def test_bad_json_says_why(name: str, tmp_path: Path) -> None:
    text, words = BAD_JSON[name]
    found = read_text(tmp_path, "a.json", text)
    assert len(found.formulas) == (1 if name == "cut" else 0)
    assert words in found.problems[-1]


def test_a_slab_is_refused_in_json_too() -> None:
    found = read(CASES / "11_json_shapes" / "slab_pbc.json")
    assert found.formulas == []
    assert "not periodic in three directions" in found.problems[0]


def test_a_bad_line_ends_nothing(tmp_path: Path) -> None:
    good = json.dumps({"material_id": "x", "structure": structure()})
    lines = "\n".join([good, '{"broken": ', good.replace('"x"', '"y"')])
    found = read_text(tmp_path, "a.jsonl", lines)
    assert found.ids == ["x", "y"]
    assert "unparsable JSON" in found.problems[0]


def test_a_large_list_is_read_one_by_one() -> None:
    """Its first items are there before its end has been looked at."""
    text = "[" + json.dumps(structure()) + "," + json.dumps(structure()) + ", broken"
    first = next(crystals(text))
    assert not isinstance(first.content, str)


def test_csv_cases() -> None:
    folder = CASES / "13_csv_manners"
    gaps = pytest.approx([5.1, 4.4, 3.6])
    for name in ("decimal_comma.csv", "bom.csv", "semicolons.csv"):
        found = read(folder / name)
        assert found.ids == ["zz-1", "zz-2", "zz-3"]
        assert found.parsed.columns["band_gap"].tolist() == gaps
        assert any("decimal commas were read" in note for note in found.parsed.notes)
    found = read(folder / "booleans.csv")
    assert found.parsed.columns["is_metal"].tolist() == [1, 0, 1]
    assert found.parsed.text_columns == ["spacegroup"]
    assert any(
        "column 'spacegroup' is not of numbers: 'Pm-3m' (booleans.csv, row 1)" in note
        for note in found.parsed.notes
    )


CIF = (CASES / "13_csv_manners" / "bom.csv").read_text("utf-8-sig").split('"')[1]


def table(*rows: str, header: str = "material_id,cif,gap", ending: str = "\n") -> str:
    return ending.join([header, *(row.replace("CIF", f'"{CIF}"') for row in rows), ""])


def test_more_manners_of_csv(tmp_path: Path) -> None:
    # blank lines, spaces in the header, tabs, windows, UTF-16, quotes
    found = read_text(tmp_path, "a.csv", table("x,CIF,1", "", ",,", "y,CIF,2", header=
                                              "material_id , cif,gap"))  # fmt: skip
    assert found.ids == ["x", "y"]
    assert found.parsed.total == 2
    tabs = table("x\tCIF\t1,5", header="material_id\tcif\tgap", ending="\r\n")
    assert read_text(tmp_path, "b.csv", tabs).parsed.columns["gap"].tolist() == [1.5]
    assert read_text(tmp_path, "c.csv", table("x,CIF,1").encode("utf-16")).ids == ["x"]
    found = read_text(tmp_path, "d.csv", table('"x ""1""",CIF,"2"'))
    assert found.ids == ['x "1"']
    with pytest.raises(DataError, match="two columns called 'gap'"):
        read_text(tmp_path, "e.csv", table("x,CIF,1,2", header="material_id,cif,gap,gap"))
    with pytest.raises(DataError, match="is empty"):
        read_text(tmp_path, "f.csv", "\n\n")
    with pytest.raises(DataError, match="has no column 'cif'; its columns are a, b"):
        read_text(tmp_path, "g.csv", "a,b\n1,2\n")


@pytest.mark.parametrize(("values", "read_as", "words"), [
    (["1", "n/a", "-", "", "NaN"], [1, None, None, None, None], None),
    (["1.5", "2,5", "3"], [1.5, 2.5, 3], "decimal commas"),
    (["1,234", "2,345"], None, "'1,234'"),
    (["1,234", "2,3"], [1.234, 2.3], "decimal commas"),
    (["true", "0", "FALSE"], [1, 0, 0], "true and false"),
    (["true", "2"], [None, 2], "'true' (a.csv, row 1)"),
    (["1", "1e400", "inf", "3"], [1, None, None, 3], "'1e400' (a.csv, row 2) and 1 more"),
    (["1", "1e39"], [1, None], "'1e39'"),
    (["5 eV", "6 eV"], None, "column 'gap' is not of numbers: '5 eV' (a.csv, row 1)"),
    (["1_0", "2"], [None, 2], "'1_0'"),
])  # fmt: skip
def test_columns_are_numbers_or_named(
    values: list[str], read_as: list[float | None] | None, words: str | None, tmp_path: Path
) -> None:
    rows = [f'm{i},CIF,"{value}"' for i, value in enumerate(values)]
    parsed = read_text(tmp_path, "a.csv", table(*rows)).parsed
    if read_as is None:
        assert parsed.text_columns == ["gap"]
    else:
        got = [None if n != n else pytest.approx(n) for n in parsed.columns["gap"].tolist()]
        assert got == read_as
    assert [(words or "") in note for note in parsed.notes] == ([True] if words else [])


def test_a_cell_too_long_costs_one_row(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(table("x,CIF,1", f'y,"{"a" * (17 << 20)}",1', "z,CIF,1"))
    with pytest.raises(DataError, match="a line of over 16 MiB"):
        parse_source(path)
    lines = "\n".join(["a" * 1000] * (17 << 10))
    path.write_text(table("x,CIF,1", f'y,"{lines}",1', "z,CIF,1"))
    parsed = parse_source(path, niggli=False)
    assert "x" in parsed.ids
    assert "field larger" in parsed.problems[0].reason
