"""Structures and files to tensors and back."""

from __future__ import annotations

import gc
import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import demo_crystals
from pymatgen.core import Lattice, PeriodicSite, Structure
from pymatgen.io.cif import CifWriter
from reading_helpers import read

from chemeleon.crystals.batch import Crystals
from chemeleon.crystals.convert import from_structures, to_structures
from chemeleon.crystals.files import cif_text, write_structures
from chemeleon.crystals.lattice import wrap
from chemeleon.errors import DataError

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def structures() -> list[Structure]:
    triclinic = Lattice.from_parameters(4.1, 5.2, 6.3, 77, 88, 99)
    return [
        Structure(Lattice.cubic(4.2), ["Na", "Cl"], [[0, 0, 0], [0.5] * 3]),
        Structure(triclinic, ["Fe", "O", "Li"], [[0.1, 0.2, 0.3], [0.4, 0.55, 0.6], [0.9] * 3]),
        Structure(Lattice.hexagonal(3, 5), ["C"], [[0.25, 0.75, 0.125]]),
    ]


def same(found: Structure, expected: Structure) -> None:
    assert [s.specie.Z for s in found] == [s.specie.Z for s in expected]
    np.testing.assert_allclose(found.lattice.parameters, expected.lattice.parameters, atol=1e-4)
    delta = found.frac_coords - expected.frac_coords
    np.testing.assert_allclose(delta - np.round(delta), 0, atol=1e-6)


def test_structures_round_trip(structures: list[Structure]) -> None:
    flat = from_structures(structures, ["a", "b", "c"], {"gap": [1.0, float("nan"), 2.0]})
    assert flat.num_atoms.tolist() == [2, 3, 1]
    assert flat.lattice.dtype == flat.frac_coords.dtype == torch.float32
    back = to_structures(flat)
    for found, expected in zip(back, structures, strict=True):
        same(found, expected)
    assert back[0].properties == {"material_id": "a", "gap": 1.0}
    padded = to_structures(flat.batch(torch.tensor([2, 0])))
    same(padded[0], structures[2])
    same(padded[1], structures[0])


def test_sites_are_as_pymatgen_makes_them(structures: list[Structure]) -> None:
    """Sites are copied, not constructed; nothing may be missing, or shared by two of them."""
    assert gc.isenabled()
    for found, expected in zip(to_structures(from_structures(structures)), structures, strict=True):
        for site, other in zip(found, expected, strict=True):
            plain = PeriodicSite(other.species, other.frac_coords, other.lattice)
            assert vars(site).keys() == vars(plain).keys()
            assert site.label == plain.label
        np.testing.assert_allclose(found.cart_coords, expected.cart_coords, atol=1e-5)
        assert Structure.from_dict(found.as_dict()) == found.copy() == found
        found[0].properties["spin"] = 1
        assert all("spin" not in site.properties for site in found[1:])
    again = to_structures(from_structures(structures[:1] * 2))
    again[0].translate_sites([0], [0.5, 0, 0])
    same(again[1], structures[0])
    assert gc.isenabled()


def test_coordinates_are_wrapped_below_one() -> None:
    awkward = [[-1e-9, 1.0, 0.99999999], [2.5, -0.25, -1e-17]]
    flat = from_structures([Structure(Lattice.cubic(9), ["H", "H"], awkward)])
    assert (flat.frac_coords >= 0).all()
    assert (flat.frac_coords < 1).all()
    assert flat.frac_coords[1].tolist() == [0.5, 0.75, 0.0]
    assert wrap(torch.tensor([-1e-9, -0.25])).tolist() == [0.0, 0.75]


def test_disorder_names_crystal_and_site() -> None:
    mixed = Structure(Lattice.cubic(4), ["O", {"Fe": 0.5, "Ni": 0.5}], [[0] * 3, [0.5] * 3])
    with pytest.raises(DataError, match=r"crystal alloy is disordered: site 2 holds Fe:0\.5"):
        from_structures([mixed], ["alloy"])
    heavy = Structure(Lattice.cubic(4), ["Fm"], [[0] * 3])
    with pytest.raises(DataError, match="crystal 0, site 1: Fm has atomic number 100"):
        from_structures([heavy])


@pytest.mark.parametrize("kind", ["cif", "extxyz", "json"])
def test_written_files_are_read_back(
    structures: list[Structure], tmp_path: Path, kind: str
) -> None:
    structures[0].properties = {"energy_per_atom": -1.5}
    written = write_structures(structures, tmp_path, [kind], ["x1", "x2", "x3"])
    names = {
        "cif": ["cif/x1.cif", "cif/x2.cif", "cif/x3.cif"],
        "extxyz": ["structures.extxyz"],
        "json": ["structures.json.gz"],
    }
    assert [p.relative_to(tmp_path).as_posix() for p in written] == names[kind]
    parsed = read(tmp_path / "cif" if kind == "cif" else written[0]).parsed
    found = to_structures(parsed.crystals())
    by_formula = {s.composition: s for s in found}
    for expected in structures:  # CIF readers sort the atoms by electronegativity
        same(
            by_formula[expected.composition].get_sorted_structure(), expected.get_sorted_structure()
        )


def test_cif_is_that_of_pymatgen(structures: list[Structure]) -> None:
    """To the byte: what reads one reads the other, and files stay comparable with older ones."""
    skew = Lattice.from_parameters(3.1, 1234.5, 27.9, 61.5, 118.2, 75.3)
    at = [-1e-9, 0.999999999, -0.25, 999.123456785, -1000, 0.5]
    places = [at[i : i + 3] for i in range(4)]
    units = range(1, 84, 3)  # formulas of one line, of two, and of several
    made = [Structure(skew, [*range(1, n), 8], [[0.1] * 3] * n) for n in units]
    made += [Structure(skew, names, places) for names in (["O"] * 4, ["Li", "Fe", "P", "O"])]
    made += [Structure(skew, [name], [[0, 0.5, 1]]) for name in ("O", "Xe", "Cl")]  # as O2, Cl2
    made += to_structures(demo_crystals("val"))[:100] + structures
    texts = [(cif_text(structure), str(CifWriter(structure))) for structure in made]
    assert [ours for ours, _ in texts] == [theirs for _, theirs in texts]
    assert any("\n;\n" in ours for ours, _ in texts)
    assert any("_chemical_formula_sum\n'" in ours for ours, _ in texts)


def test_names_and_formats_are_checked(structures: list[Structure], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="unknown format pdb; known are cif, extxyz, json"):
        write_structures(structures, tmp_path, ["pdb"])
    with pytest.raises(DataError, match="is no name for a file"):
        write_structures(structures[:1], tmp_path, ["cif"], ["../outside"])
    assert [p.name for p in write_structures(structures, tmp_path)] == [
        "00000.cif",
        "00001.cif",
        "00002.cif",
    ]


def test_reading_other_files(structures: list[Structure], tmp_path: Path) -> None:
    (tmp_path / "POSCAR").write_text(structures[1].to(fmt="poscar"))
    with gzip.open(tmp_path / "one.json.gz", "wt") as file:
        json.dump({"structure": structures[2].as_dict()}, file)
    for name, expected in (("POSCAR", structures[1]), ("one.json.gz", structures[2])):
        (found,) = to_structures(read(tmp_path / name).parsed.crystals())
        same(found, expected)


def test_crystals_without_names_are_arrays_tensors_and_structures() -> None:
    named = demo_crystals("val").subset([3, 1, 4])
    again = Crystals.of([*named, None])
    assert again.num_atoms.tolist() == [*named.num_atoms.tolist(), 0]
    picked = Crystals.join([again, again]).subset(np.array([True, False] * 4)).tensors()
    assert torch.equal(picked.owners, torch.repeat_interleave(picked.num_atoms))
    expected = to_structures(named.subset([0, 2, 0, 2]))
    for one, other in zip(to_structures(picked), expected, strict=True):
        assert one.properties == {}
        other.properties = {}
        assert one == other


def test_a_batch_of_crystals_without_atoms() -> None:
    nothing = Crystals.of([None, None]).tensors()
    assert nothing.batch(torch.arange(2)).atomic_numbers.shape == (2, 0)
    padded = nothing.batch(torch.tensor([1, 0]), pad_to=3)
    assert padded.atomic_numbers.tolist() == [[0, 0, 0]] * 2
    assert not padded.mask.any()
    assert len(nothing.batch(torch.arange(0))) == 0
