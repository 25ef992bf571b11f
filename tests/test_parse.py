"""CIF text to arrays: the same crystals as pymatgen's route, to the last axis."""

from __future__ import annotations

import csv
import warnings

import numpy as np
import pytest
import torch
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure
from pymatgen.io.cif import CifWriter
from reference import reference as recorded

from chemeleon.config.schema import DataConfig
from chemeleon.crystals import batch
from chemeleon.crystals.convert import to_structures
from chemeleon.data import parse as parsing
from chemeleon.data.cif import read_cif
from chemeleon.data.dataset import load_split
from chemeleon.data.limits import Limits
from chemeleon.data.niggli import niggli_matrix
from chemeleon.data.parse import BadCrystalError, parse, wrap_float32

pytestmark = pytest.mark.filterwarnings("ignore")


def written(count: int, symprec: float | None = None) -> list[str]:
    """Return CIF texts of crystals of mp, with their symmetry if ``symprec`` is given."""
    crystals = load_split(DataConfig(name="mp", niggli=False), "val")
    chosen = torch.arange(0, len(crystals), len(crystals) // count)[:count]
    return [str(CifWriter(s, symprec=symprec)) for s in to_structures(crystals.subset(chosen))]


def reference(text: str) -> Structure:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Structure.from_str(text, fmt="cif").get_reduced_structure()


def assert_same(text: str) -> None:
    """Compare with pymatgen: elements in order, cell from its parameters, coordinates modulo 1."""
    expected, found = reference(text), parse("cif", text)
    assert [site.specie.Z for site in expected] == found.atomic_numbers.tolist()
    cell = Lattice.from_parameters(*expected.lattice.parameters).matrix
    np.testing.assert_allclose(found.lattice, cell, atol=1e-9)
    delta = found.frac_coords - expected.frac_coords
    np.testing.assert_allclose(delta - np.round(delta), 0, atol=1e-9)
    assert found.frac_coords.min() >= 0


def spinel() -> Structure:
    species, coords = ["Mg", "Al", "O"], [[1 / 8] * 3, [1 / 2] * 3, [0.2624] * 3]
    return Structure.from_spacegroup("Fd-3m:2", Lattice.cubic(8.08), species, coords)


@pytest.mark.parametrize("symprec", [None, 0.01])
def test_equals_pymatgen_on_real_crystals(symprec: float | None) -> None:
    for text in written(100, symprec):
        assert_same(text)


def test_real_crystals_match_by_structure_matcher() -> None:
    matcher = StructureMatcher(primitive_cell=False, scale=False)
    for text in written(300):
        numbers, frac, lattice = parse("cif", text)
        found, expected = Structure(lattice, numbers, frac), reference(text)
        np.testing.assert_allclose(
            found.lattice.parameters, expected.lattice.parameters, atol=1e-4, rtol=0
        )
        # equal sites as given are equal crystals; the matcher judges the rest
        delta = found.frac_coords - expected.frac_coords
        same = np.abs(delta - np.round(delta)).max() < 1e-6
        assert same or matcher.fit(found, expected), text


def test_equals_the_published_models_batch() -> None:
    golden = np.load(recorded("golden/batch.npz"))
    with recorded("golden/structures.csv").open() as file:
        texts = [row["cif"] for row in csv.DictReader(file)]
    ends = np.cumsum(golden["num_atoms"])
    assert len(texts) == len(ends) == 16
    for text, end, count, lattice in zip(
        texts, ends, golden["num_atoms"], golden["lattices"], strict=True
    ):
        found = parse("cif", text)
        atoms = slice(end - count, end)
        assert found.atomic_numbers.tolist() == golden["atom_types"][atoms].tolist()
        np.testing.assert_allclose(found.lattice, lattice, atol=1e-5)
        delta = found.frac_coords - golden["frac_coords"][atoms]
        np.testing.assert_allclose(delta - np.round(delta), 0, atol=1e-6)


def test_symmetry_is_applied_as_pymatgen_does() -> None:
    structures = [
        spinel(),
        Structure.from_spacegroup("P6_3mc", Lattice.hexagonal(3.25, 5.2), ["Zn", "O"],
                                  [[1 / 3, 2 / 3, 0], [1 / 3, 2 / 3, 0.382]]),
        Structure.from_spacegroup("R-3c", Lattice.hexagonal(5.04, 13.75), ["Fe", "O"],
                                  [[0, 0, 0.355], [0.306, 0, 0.25]]),
    ]  # fmt: skip
    for structure in structures:
        text = str(CifWriter(structure, symprec=0.01))
        assert "y" in text.split("_symmetry_equiv_pos_as_xyz")[1]
        assert len(read_cif(text, Limits()).atomic_numbers) == len(structure)
        assert_same(text)


def test_random_cells_reduce_like_pymatgen() -> None:
    generator = np.random.default_rng(0)
    for _ in range(100):
        lattice = Lattice(generator.normal(size=(3, 3)) * 4)
        if lattice.volume < 1:
            continue
        expected = lattice.get_niggli_reduced_lattice().matrix
        np.testing.assert_allclose(niggli_matrix(lattice.matrix), expected, atol=1e-8)


def test_left_handed_cells_keep_the_crystal() -> None:
    # quartz is chiral: in a mirrored cell it must not become its mirror image
    quartz = Structure.from_spacegroup(
        "P3_121", Lattice.hexagonal(4.91, 5.40), ["Si", "O"],
        [[0.4697, 0, 1 / 3], [0.4135, 0.2669, 0.4524]],
    )  # fmt: skip
    flipped = Structure(
        quartz.lattice.matrix[[1, 0, 2]], quartz.species, quartz.frac_coords[:, [1, 0, 2]]
    )
    assert np.linalg.det(flipped.lattice.matrix) < 0
    for niggli in (True, False):
        numbers, frac, lattice = parse("dict", flipped.as_dict(), niggli)
        assert np.linalg.det(lattice) > 0
        # the triple product of three Si-Si vectors has a sign that only a mirror changes
        found = Structure(lattice, numbers, frac)
        assert _chirality(found) * _chirality(quartz) > 0


def _chirality(structure: Structure) -> float:
    total = 0.0
    for site in structure:
        if site.specie.symbol != "Si":
            continue
        near = [n for n in structure.get_neighbors(site, 3.3) if n.specie.symbol == "Si"]
        for neighbor in near:
            v = neighbor.coords - site.coords
            w = [n.coords - neighbor.coords for n in structure.get_neighbors(neighbor, 3.3)
                 if n.specie.symbol == "Si"]  # fmt: skip
            u = [n.coords - site.coords for n in near]
            total += sum(np.dot(np.cross(x, v), y) ** 3 for x in u for y in w)
    return total


def bad_cases() -> dict[str, tuple[str, str]]:
    good = str(CifWriter(Structure(Lattice.cubic(4), ["Na", "Cl"], [[0, 0, 0], [0.5] * 3])))

    def changed(old: str, new: str) -> str:
        assert old in good
        return good.replace(old, new)

    cl = "0.50000000  0.50000000  0.50000000  1"
    return {
        "empty": ("", "no CIF text"),
        "garbage": ("hello there", "unparsable CIF"),
        "no atoms": (good.split("loop_\n _atom_site")[0], "no atoms"),
        "half": (changed(cl, cl[:-1] + "0.5"), "partial occupancy: site 2 holds Cl:0.5"),
        "flat": (changed("_cell_angle_gamma   90", "_cell_angle_gamma   0"), ""),
        "thin": (changed("_cell_length_c   4.00000000", "_cell_length_c   0.00100000"), ""),
        "other": (changed("Cl  Cl", "Fm  Cl"), "the formula is Cl1 Na1"),
        "on top": (changed(cl, "0.0010 0.0 0.0 1"), "atoms 1 and 2 are on top of each other"),
        "close": (changed(cl, "0.1 0.0 0.0 1"), "atoms 1 and 2 are within 0.5 A (0.4000 A)"),
        "same place": (changed(cl, "0.0 0.0 0.0 1"), ""),
        "not finite": (changed(cl, "0.5 nan 0.5 1"), ""),
    }


@pytest.mark.parametrize("case", bad_cases())
def test_bad_crystals_say_why(case: str) -> None:
    text, reason = bad_cases()[case]
    with pytest.raises(BadCrystalError) as caught:
        parse("cif", text)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_float32_stays_below_one() -> None:
    coords = np.array([0.0, 0.5, 0.99999999, 1.0 - 1e-12, 0.9999999])
    wrapped = wrap_float32(coords)
    assert wrapped.dtype == np.float32
    assert (wrapped < 1).all()
    assert wrapped[2] == 0
    assert wrapped[4] > 0.99


def test_limits_agree_with_the_batch() -> None:
    assert parsing.MAX_ATOMIC_NUMBER == batch.MAX_ATOMIC_NUMBER
