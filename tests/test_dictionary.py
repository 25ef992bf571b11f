"""Dictionaries of structures are read by hand: nothing that a file names is imported or called."""

from __future__ import annotations

import copy
import csv
import gzip
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pymatgen.core import Lattice, Species, Structure

from chemeleon.data.limits import Limits
from chemeleon.data.parse import BadCrystalError, from_structure, parse, parse_as_given

CANARY = """from pathlib import Path
Path(__file__).with_suffix(".sang").write_text("imported")
class Bird:
    @classmethod
    def from_dict(cls, d):
        Path(__file__).with_suffix(".sang").write_text("called")
        return cls()
"""
BIRD = {"@module": "canary_of_chemeleon", "@class": "Bird", "@callable": "Bird", "data": [1]}


ROCK_SALT = [[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5],
             [0.5, 0.5, 0.5], [0, 0, 0.5], [0, 0.5, 0], [0.5, 0, 0]]  # fmt: skip
PLAIN = json.dumps(Structure(Lattice.cubic(5.6), ["Na"] * 4 + ["Cl"] * 4, ROCK_SALT).as_dict())


def plain() -> dict[str, Any]:
    return json.loads(PLAIN)


def test_equals_the_structure() -> None:
    skewed = Structure(
        Lattice([[3, 0.1, 0], [0.2, 4, -0.3], [1, 2, 5]]),
        [Species("Fe", 3, spin=5), "O2-", "D", "Fe2+"],
        [[0, 0, 0], [0.5, 0.5, 0.4], [-0.3, 1.2, 0.7], [0.2, 0.6, 0.1]],
        site_properties={"magmom": [5.0, 0.0, 0.0, 4.0], "tag": ["a", "b", None, "d"]},
        charge=2,
    )
    for structure in (Structure.from_dict(plain()), skewed):
        found = parse_as_given("dict", json.loads(json.dumps(structure.as_dict())))
        expected = from_structure(structure)
        assert found.atomic_numbers.tolist() == expected.atomic_numbers.tolist()
        np.testing.assert_array_equal(found.lattice, expected.lattice)
        np.testing.assert_array_equal(found.frac_coords, expected.frac_coords)


def changed(*path: str | int, to: Any) -> dict[str, Any]:
    """Return the dictionary with one value changed, or taken out if ``to`` is ...."""
    whole = plain()
    inner: Any = whole
    for key in path[:-1]:
        inner = inner[key]
    if to is ...:
        del inner[path[-1]]
    else:
        inner[path[-1]] = to
    return whole


GOOD: dict[str, dict[str, Any]] = {
    "only a matrix": changed("lattice", to={"matrix": plain()["lattice"]["matrix"]}),
    "flat matrix": changed("lattice", to={"matrix": [5.6, 0, 0, 0, 5.6, 0, 0, 0, 5.6]}),
    "only parameters": changed("lattice", "matrix", to=...),
    "no periods said": changed("lattice", "pbc", to=...),
    "only Cartesian": changed("sites", 0, "abc", to=...),
    "only fractional": changed("sites", 0, "xyz", to=...),
    "coordinates outside": changed("sites", 0, "abc", to=[-3.0, 0, 7]),
    "no occupancy": changed("sites", 0, "species", 0, "occu", to=...),
    "nearly full": changed("sites", 0, "species", 0, "occu", to=0.995),
    "ion": changed("sites", 0, "species", 0, "element", to="Na+"),
    "ion with spin": changed("sites", 0, "species", 0, "element", to="Na1+,spin=1"),
    "plain properties": changed("sites", 0, "properties", to={"magmom": 1, "x": {"y": [1]}}),
    "properties of a module": changed("sites", 0, "properties", to={"x": BIRD}),
    "charge": changed("charge", to=-1),
}
BAD: dict[str, tuple[Any, str]] = {
    "list": ([1], "not a structure dictionary"),
    "empty": ({}, "no lattice"),
    "molecule": (changed("lattice", to=...), "no lattice"),
    "lattice of a module": (changed("lattice", to=BIRD), "neither a matrix nor a"),
    "no sites": (changed("sites", to=...), "no list of sites"),
    "sites as words": (changed("sites", to="Na Cl"), "no list of sites"),
    "zero sites": (changed("sites", to=[]), "no atoms"),
    "slab": (changed("lattice", "pbc", to=[True, True, False]), "three directions"),
    "periods as words": (changed("lattice", "pbc", to="TTT"), "three directions"),
    "two vectors": (changed("lattice", "matrix", to=[[1, 0, 0], [0, 1, 0]]), "not 3 x 3"),
    "short vector": (changed("lattice", "matrix", 0, to=[5.6, 0]), "not 3 numbers"),
    "flat cell": (changed("lattice", to={"matrix": [[1, 0, 0], [2, 0, 0], [0, 0, 1]]}), "zero vol"),
    "infinite": (changed("lattice", "matrix", 0, 0, to=float("inf")), "not finite"),
    "huge": (changed("lattice", "matrix", 0, 0, to=10**400), "not finite"),
    "beyond float32": (
        {"lattice": {"matrix": [[1e308, 0, 0], [0, 1e308, 0], [0, 0, 1e308]]},
         "sites": [{"species": [{"element": "Na"}], "abc": [0, 0, 0]}]},
        "a cell vector is 1e+308 angstrom long"),
    "matrix against a": (changed("lattice", "a", to=5.0), "the lattice's a is 5.0"),
    "number as word": (changed("sites", 0, "abc", 0, to="0.5"), "'0.5' is no number"),
    "bool": (changed("sites", 0, "abc", 0, to=True), "'True' is no number"),
    "not a number": (changed("sites", 0, "abc", 0, to=float("nan")), "not finite"),
    "two coordinates": (changed("sites", 0, "abc", to=[0, 0]), "site 1: abc is not 3 numbers"),
    "two places": (changed("sites", 1, "abc", to=[0.1, 0.2, 0.3]), "site 2: abc and xyz"),
    "no coordinates": (
        changed("sites", 0, to={"species": [{"element": "Na", "occu": 1}]}), "no coordinates"),
    "disorder": (
        changed("sites", 0, "species",
                to=[{"element": "Na", "occu": 0.5}, {"element": "K", "occu": 0.5}]),
        "partial occupancy: site 1 holds Na:0.5, K:0.5"),
    "vacancies": (changed("sites", 0, "species", 0, "occu", to=0.5), "site 1 holds Na:0.5"),
    "no species": (changed("sites", 0, "species", to=[]), "no species"),
    "element of a module": (changed("sites", 0, "species", 0, "element", to=BIRD), "no word"),
    "dummy": (changed("sites", 0, "species", 0, "element", to="X0+"), "no element"),
    "fermium": (changed("sites", 0, "species", 0, "element", to="Fm"), "atomic number 100"),
    "on top": (
        changed("sites", 1, to=copy.deepcopy(plain()["sites"][0])), "on top of each other"),
}  # fmt: skip


@pytest.mark.parametrize("case", GOOD)
def test_good(case: str) -> None:
    found = parse("dict", GOOD[case], niggli=False)
    assert found.atomic_numbers.tolist() == [11] * 4 + [17] * 4
    np.testing.assert_allclose(found.lattice, np.eye(3) * 5.6, atol=1e-12)
    expected = np.array(ROCK_SALT)
    delta = found.frac_coords - expected
    np.testing.assert_allclose(delta - np.round(delta), 0, atol=1e-12)


@pytest.mark.parametrize("case", BAD)
def test_bad(case: str) -> None:
    content, reason = BAD[case]
    with pytest.raises(BadCrystalError) as caught:
        parse("dict", content)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_limit_of_atoms() -> None:
    with pytest.raises(BadCrystalError, match=r"data\.limits\.atoms=7"):
        parse("dict", plain(), limits=Limits(atoms=7))


# ---- a module beside the file, named in it, must stay what it is


@pytest.fixture
def sang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], bool]:
    """Put a module where it can be imported; tell whether it was."""
    (tmp_path / "canary_of_chemeleon.py").write_text(CANARY)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))  # for workers
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CHEMELEON_CACHE", str(tmp_path / "cache"))
    return lambda: (
        (tmp_path / "canary_of_chemeleon.sang").exists() or ("canary_of_chemeleon" in sys.modules)
    )


def places(item: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the structure with the module named in each place of it."""
    found = []
    for where in ("site", "species", "structure", "lattice", "self", "all"):
        whole = copy.deepcopy(item)
        if where in ("site", "all"):
            whole["sites"][0]["properties"] = {"magmom": BIRD}
        if where in ("species", "all"):
            whole["sites"][0]["species"][0]["properties"] = BIRD
        if where in ("structure", "all"):
            whole["properties"] = {"bird": BIRD}
        if where in ("lattice", "all"):
            whole["lattice"] |= {"@module": BIRD["@module"], "@class": "Bird"}
        if where in ("self", "all"):
            whole |= {"@module": BIRD["@module"], "@class": "Bird"}
        found.append(whole)
    return found


def test_the_canary_would_sing(sang: Callable[[], bool]) -> None:
    from monty.json import MontyDecoder

    MontyDecoder().process_decoded(BIRD)
    assert sang()
    sys.modules.pop("canary_of_chemeleon", None)


def test_prepare_evaluate_and_convert_import_nothing(
    tmp_path: Path, sang: Callable[[], bool]
) -> None:
    from chemeleon.data.prepare import prepare
    from chemeleon.evaluation.collection import read_collection

    items = [
        {"material_id": f"c-{i}", "structure": item, "data": BIRD, "extra": {"x": BIRD}}
        for i, item in enumerate(places(plain()))
    ]
    source = tmp_path / "birds.json"
    source.write_text(json.dumps(items))
    prepare(source, tmp_path / "out", split=(1, 0, 0))
    with gzip.open(tmp_path / "out" / "train.csv.gz", "rt") as file:
        assert len(list(csv.DictReader(file))) == len(items)
    for index, item in enumerate(places(plain())):
        (tmp_path / f"one-{index}.json").write_text(json.dumps(item))
        found = read_collection(tmp_path / f"one-{index}.json", workers=1)
        assert found.reasons == [None]
    assert not sang()


def test_what_predict_reads_imports_nothing(tmp_path: Path, sang: Callable[[], bool]) -> None:
    from chemeleon.data.building import parse_source

    source = tmp_path / "birds.json.gz"
    with gzip.open(source, "wt") as file:
        json.dump({f"c-{i}": item for i, item in enumerate(places(plain()))}, file)
    assert len(parse_source(source).num_atoms) == 6
    assert not sang()


def test_hulls_and_references_import_nothing(tmp_path: Path, sang: Callable[[], bool]) -> None:
    from chemeleon.energy.hull_tables import from_entries, read_references

    def entry(element: str, item: dict[str, Any]) -> dict[str, Any]:
        named = {"@module": BIRD["@module"], "@class": "Bird", "parameters": {"x": BIRD}}
        return {
            **named,
            "composition": {element: 1},
            "energy": -1.0,
            "data": BIRD,
            "structure": item,
        }

    items = places(plain())
    source = tmp_path / "hull.json"
    source.write_text(json.dumps([entry("Na", items[0]), entry("Cl", items[-1])]))
    assert len(from_entries(source).phases) == 2
    source.write_text(json.dumps({"Na": entry("Na", items[0]), "Cl": -1.0}))
    assert read_references(source) == {"Na": -1.0, "Cl": -1.0}
    assert not sang()


def test_folders_of_samples_import_nothing(tmp_path: Path, sang: Callable[[], bool]) -> None:
    from chemeleon.evaluation.collection import read_collection

    broken = [{"id": "c-9", "reason": "broken", "written": False, **BIRD}]
    manifest = {"requested": 7, "invalid": broken, "formats": ["json"], "seed": BIRD, "bird": BIRD}
    folder = tmp_path / "made"
    folder.mkdir()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with gzip.open(folder / "structures.json.gz", "wt") as file:
        json.dump(places(plain()), file)
    assert read_collection(folder, workers=1).reasons == [None] * 6 + ["not written: broken"]
    assert not sang()
