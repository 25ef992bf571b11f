"""CIFs of crystals that were made on orbits list the symmetry that these have, and nothing else."""

from __future__ import annotations

import gzip
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure
from test_orbit_models import ORBITS

import chemeleon
from chemeleon import api
from chemeleon.crystals.batch import Crystals
from chemeleon.crystals.files import cif_text
from chemeleon.crystals.orbit_sets import with_all_atoms
from chemeleon.crystals.orbits import OrbitCrystal, put_together
from chemeleon.crystals.symmetry import EXACT, group_of, space_group
from chemeleon.crystals.wyckoff import group
from chemeleon.data.crystal import structure_of
from chemeleon.data.parse import from_structure
from chemeleon.energy.relax import Relaxed
from chemeleon.generation.pipeline import Pipeline
from chemeleon.generation.relaxation import Relaxer
from chemeleon.generation.result import SampleResult
from tests.conftest import TINY_LDM, TINY_VAE

SAME = StructureMatcher(ltol=1e-3, stol=1e-3, angle_tol=0.1, scale=False, primitive_cell=False)


def said(text: str) -> int:
    """Return the number of the space group in a CIF."""
    return int(re.findall(r"_(?:space_group_IT|symmetry_Int_Tables)_number\s+(\d+)", text)[0])


def exact_group(structure: Structure) -> int:
    found = space_group(*from_structure(structure), 1e-4)
    assert found is not None
    return found.number


def decoded(number: int, letters: list[int], atoms: list[int], cell: np.ndarray) -> Structure:
    """Return a crystal of some orbits with free coordinates of chance, in single precision."""
    coords = np.random.default_rng(number).uniform(size=(len(letters), 3))
    orbits = OrbitCrystal(number, cell, np.array(atoms), np.array(letters), coords)
    exact = put_together([orbits]).tensors()
    single: Crystals = exact.with_geometry(exact.frac_coords.float(), exact.lattice.float())
    (crystal,) = with_all_atoms(single)
    return structure_of(crystal)


CELL = np.array([9.0, 10.0, 11.0, 1.4, 1.7, 1.8])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("number", [1, 2, 5, 14, 43, 62, 82, 139, 146, 166, 186, 205, 216, 225])
def test_a_cif_with_operations_is_the_crystal_that_was_decoded(number: int) -> None:
    order = np.argsort(group(number).multiplicities, kind="stable").tolist()
    structure = decoded(number, [order[0], order[-1]], [11, 8], CELL)
    text = cif_text(structure, "given")
    assert said(text) == exact_group(structure) == number
    assert text.count("\n  O  O") == 1  # of up to 48 atoms, but for P1
    read = Structure.from_str(text, fmt="cif")
    assert len(read) == len(structure)
    assert np.allclose(read.lattice.parameters, structure.lattice.parameters, atol=1e-4)
    assert SAME.fit(read, structure)
    assert exact_group(read) == number
    named = group_of(number).symbol[0] not in "FIAC"  # R has rhombohedral axes
    assert ("_space_group_name_H-M_alt" in text) == named  # no name is for other primitive axes


@pytest.mark.filterwarnings("ignore")
def test_a_supergroup_is_said_where_the_crystal_has_one() -> None:
    cases = {
        229: decoded(221, [0, 1], [26, 26], CELL),  # one element on both: half of the cell
        221: decoded(221, [0, 1], [55, 17], CELL),
        123: decoded(99, [0, 1], [55, 17], CELL),
        2: decoded(1, [0, 0], [55, 55], CELL),  # two atoms have a centre between them
    }
    cases[123].translate_sites([1], [0, 0, 0.5 - cases[123].frac_coords[1, 2]])
    cases[123].translate_sites([0], [0, 0, -cases[123].frac_coords[0, 2]])
    for number, structure in cases.items():
        text = cif_text(structure, "given")
        read = Structure.from_str(text, fmt="cif")
        assert said(text) == exact_group(structure) == exact_group(read) == number
        assert len(read) == len(structure)
        assert SAME.fit(read, structure)


@pytest.mark.filterwarnings("ignore")
def test_cells_of_several_primitive_ones_keep_their_atoms_where_operations_can_be_said() -> None:
    salt = decoded(225, [0, 1], [11, 17], CELL)
    cube = salt.to_conventional()
    text = cif_text(cube, "given")
    assert said(text) == 225
    assert "'F m -3 m'" in text
    assert len(Structure.from_str(text, fmt="cif")) == 8
    long = cube * (1, 1, 5)  # its threefold axes are none of the cell
    text = cif_text(long, "given")
    read = Structure.from_str(text, fmt="cif")
    assert said(text) == exact_group(read) == 225
    assert len(read) == 2
    assert StructureMatcher(scale=False).fit(read, long)


def test_what_has_lost_its_symmetry_does_not_say_that_it_has_it() -> None:
    perovskite = decoded(221, [0, 1, 2], [38, 22, 8], CELL)
    stretched = perovskite.copy()
    stretched.apply_strain([0, 0, 0.002])
    assert said(cif_text(stretched, "given")) == 123
    moved = stretched.copy()
    moved.translate_sites([1], [0.0, 0, 5 * EXACT], frac_coords=False)
    assert said(cif_text(moved, "given")) == 99
    moved.translate_sites([2], [0.02, 0.013, 0.017], frac_coords=False)
    text = cif_text(moved, "given")
    assert said(text) == 1
    assert SAME.fit(Structure.from_str(text, fmt="cif"), moved)
    tight = perovskite.copy()
    tight.translate_sites([1], [0, 0, 0.05 * EXACT], frac_coords=False)  # as rounding does
    assert said(cif_text(tight, "given")) == 221


@pytest.mark.filterwarnings("ignore")
def test_axes_that_are_not_those_of_the_symmetry_are_exchanged() -> None:
    skewed = Structure([[4.0, 0, 0], [350, 5, 0], [90, 300, 6]], ["Na", "Cl"], [[0] * 3, [0.5] * 3])
    text = cif_text(skewed, "given")
    read = Structure.from_str(text, fmt="cif")
    assert said(text) == exact_group(read) == 12
    assert len(read) == 2
    assert StructureMatcher(scale=False).fit(read, skewed)


def test_without_a_group_all_atoms_are_listed() -> None:
    flat = Structure(Lattice.from_parameters(500, 4, 4, 90, 90, 90), ["Na"], [[0, 0, 0]])
    text = cif_text(flat, "given")
    assert "'P 1'" in text
    assert said(text) == 1


GROUPS = ["1", "2", "14", "62", "123", "166", "186", "225"]  # of all systems


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A model that has learned lengths and angles, and may be asked for these groups."""
    folder = tmp_path_factory.mktemp("orbits")
    words = [*TINY_VAE, *ORBITS, "trainer.max_steps=150", "optim.lr=3e-3"]
    api.vae_train("demo/dng", words, output=folder / "vae")
    words = [*TINY_LDM, f"ldm.vae_ckpt_path={folder / 'vae'}", "ldm.denoiser.space_group=true"]
    api.ldm_train("demo/null", [*words, "trainer.max_steps=10"], output=folder / "run")
    pipeline = Pipeline.from_pretrained(folder / "run", "cpu")
    pipeline.model.group_histogram[list(map(int, GROUPS)), 2:4] += 1
    return pipeline.save_pretrained(folder / "ldm")


def read_back(out: Path, made: SampleResult) -> set[int]:
    """Check that CIFs are the crystals and say their groups; return these."""
    groups = set()
    for name, structure, problem in zip(made.names, made.structures, made.problems, strict=True):
        if structure is None:
            continue
        text = (out / "cif" / f"{name}.cif").read_text()
        found = space_group(*from_structure(structure), EXACT)
        assert said(text) == (1 if found is None else found.number)
        if problem is None:  # else readers may take two atoms for one
            read = Structure.from_str(text, fmt="cif")
            assert len(read) == len(structure)
            assert SAME.fit(read, structure)
            groups.add(said(text))
    return groups


@pytest.mark.filterwarnings("ignore")
def test_samples_of_a_model_on_orbits_say_their_groups(model, tmp_path) -> None:
    how = {"steps": 3, "space_group": GROUPS, "formats": ("cif", "json", "poscar")}
    made = chemeleon.sample(model, 60, output=tmp_path / "all", **how)
    assert len(read_back(tmp_path / "all", made)) > 3
    listed = json.loads(gzip.decompress((tmp_path / "all" / "structures.json.gz").read_bytes()))
    kept = {one.properties["material_id"]: one for one in made}
    for row in listed:  # other forms have the atoms as they were decoded
        name = row["properties"]["material_id"]
        assert Structure.from_dict(row) == kept[name]
        poscar = Structure.from_file(tmp_path / "all" / "poscar" / f"{name}.vasp")
        assert np.allclose(poscar.lattice.matrix, kept[name].lattice.matrix, atol=1e-9)
    whole = chemeleon.sample(model, 60, output=tmp_path / "whole", cell="conventional", **how)
    assert len(read_back(tmp_path / "whole", whole)) > 3
    assert sum(map(len, whole)) > sum(map(len, made))
    names = [f.read_text().count("name_Hall") for f in (tmp_path / "whole" / "cif").iterdir()]
    sound = sum(problem is None for problem in whole.problems)
    assert sum(names) >= sound > 0  # its axes are those of a name


@pytest.mark.filterwarnings("ignore")
def test_relaxed_samples_say_the_groups_that_are_left(model, tmp_path, monkeypatch) -> None:
    class Shaker:
        """Takes all symmetry from every other crystal."""

        def __call__(self, crystals: Crystals) -> tuple[Crystals, list[Relaxed]]:
            coords, generator = crystals.frac_coords, torch.Generator().manual_seed(0)
            ways = 0.01 * torch.randn(coords.shape, generator=generator)
            ways *= (crystals.owners % 2).unsqueeze(-1)
            nothing = Relaxed(None, 1, True, np.zeros(2), 0.0, 0.0, None)
            return replace(crystals, frac_coords=coords + ways), [nothing] * len(crystals)

        def to_manifest(self, notes: object, names: object) -> dict[str, str]:
            return {}

    monkeypatch.setattr(Relaxer, "named", lambda *_: Shaker())
    made = chemeleon.sample(
        model, 40, steps=3, space_group=GROUPS, relax=1, output=tmp_path / "out"
    )
    groups = read_back(tmp_path / "out", made)
    texts = [file.read_text() for file in sorted((tmp_path / "out" / "cif").iterdir())]
    assert 1 in groups
    assert len(groups) > 2
    assert sum(said(text) == 1 for text in texts) > len(texts) / 3
