"""Crystals are given the symmetry that they almost have, and files that say it are read back."""

from __future__ import annotations

import io
import json
from pathlib import Path

import ase.io
import gemmi
import numpy as np
import pytest
import torch
from energy_helpers import rocksalt_cube
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure
from pymatgen.io.ase import AseAtomsAdaptor
from pymatgen.io.cif import CifParser
from pymatgen.io.vasp import Poscar
from typer.testing import CliRunner

import chemeleon
from chemeleon.cli.app import app
from chemeleon.crystals.batch import Crystals
from chemeleon.crystals.convert import from_structures, to_structures
from chemeleon.crystals.files import _named, cif_text, write_structures
from chemeleon.crystals.idealise import Exact
from chemeleon.crystals.symmetry import Cell, in_cell, operations, space_group
from chemeleon.data.crystal import Crystal
from chemeleon.data.parse import parse_as_given
from chemeleon.energy.potential import Evaluation, Potential
from chemeleon.errors import ConfigError
from chemeleon.evaluation.idealise import Idealised, idealise, structure_of
from chemeleon.generation.relaxation import Idealiser

SAME = StructureMatcher(ltol=1e-4, stol=1e-4, angle_tol=1e-2, scale=False)
THIRD = 1 / 3
IDEALS = {
    225: rocksalt_cube(),
    221: Structure(
        Lattice.cubic(3.9), ["Sr", "Ti", *["O"] * 3],
        [[0, 0, 0], [0.5] * 3, [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]],
    ),
    186: Structure(
        Lattice.hexagonal(3.25, 5.2), ["Zn", "Zn", "O", "O"],
        [[THIRD, 2 * THIRD, 0], [2 * THIRD, THIRD, 0.5], [THIRD, 2 * THIRD, 0.382],
         [2 * THIRD, THIRD, 0.882]],
    ),
    14: Structure(  # baddeleyite
        Lattice.monoclinic(5.15, 5.21, 5.32, 99.2), ["Zr"] * 4 + ["O"] * 8,
        [[x, y, z] if s == 0 else [-x, y + 0.5, 0.5 - z] if s == 1 else [-x, -y, -z] if s == 2
         else [x, 0.5 - y, z + 0.5]
         for x, y, z in ([0.275, 0.04, 0.208], [0.07, 0.33, 0.345], [0.45, 0.757, 0.479])
         for s in range(4)],
    ),
    166: Structure(  # Bi2Te3 in its rhombohedral cell
        Lattice.from_parameters(10.45, 10.45, 10.45, 24.2, 24.2, 24.2), ["Bi", "Bi", *["Te"] * 3],
        [[0.4] * 3, [0.6] * 3, [0] * 3, [0.212] * 3, [0.788] * 3],
    ),
    1: Structure(
        Lattice.from_parameters(4.1, 5.3, 6.7, 83, 97, 105), ["Li", "Fe", "P", "O"],
        [[0.02, 0.03, 0.01], [0.5, 0.57, 0.21], [0.23, 0.11, 0.61], [0.77, 0.81, 0.44]],
    ),
}  # fmt: skip


def crystal(structure: Structure) -> Crystal:
    numbers = np.array(structure.atomic_numbers)
    return Crystal(numbers, structure.frac_coords, structure.lattice.matrix)


def shaken(structure: Structure, angstrom: float = 0.03, strain: float = 0.004) -> Structure:
    rng = np.random.default_rng(7)
    moved = structure.copy()
    for i in range(len(moved)):
        way = rng.normal(size=3)
        moved.translate_sites([i], angstrom * way / np.linalg.norm(way), frac_coords=False)
    moved.apply_strain(rng.uniform(-strain, strain, 3))
    return moved


def number(structure: Structure | None, symprec: float) -> int:
    assert structure is not None
    found = space_group(*crystal(structure), symprec)
    assert found is not None
    return found.number


@pytest.fixture(scope="module", params=IDEALS, ids=[f"group {n}" for n in IDEALS])
def case(request: pytest.FixtureRequest) -> tuple[int, Structure, Idealised]:
    start = shaken(IDEALS[request.param])
    (found,) = chemeleon.symmetrize([start])
    return request.param, start, found


def test_shaken_crystals_get_their_group_back(case: tuple[int, Structure, Idealised]) -> None:
    group, start, found = case
    assert number(start, 1e-3) == 1
    assert found.before == 1
    assert found.after == group
    assert found.ideal == (group != 1)
    whole, small = found.structure("conventional"), found.structure()
    for one in (whole, small):
        assert one is not None
        for symprec in (0.01, 1e-4):
            assert number(one, symprec) == group
        assert one.composition.reduced_formula == start.composition.reduced_formula
        assert one.volume / len(one) == pytest.approx(start.volume / len(start), rel=1e-3)
        assert StructureMatcher(scale=False).fit(one, IDEALS[group])
    if group == 1:
        assert np.array_equal(found.crystal.frac_coords, start.frac_coords)
        return
    assert 0.005 < found.moved_angstrom < 0.05
    assert 0 < found.strain < 0.02
    assert small is not None
    assert whole is not None
    assert len(whole) == {225: 8, 221: 5, 186: 4, 14: 12, 166: 15}[group]
    assert len(small) == {225: 2, 221: 5, 186: 4, 14: 12, 166: 5}[group]
    assert found.cells == len(start) // len(small)


READERS = {
    "own": lambda text: structure_of(parse_as_given("cif", text)),
    "pymatgen": lambda text: CifParser.from_str(text).parse_structures(primitive=False)[0],
    "ase": lambda text: AseAtomsAdaptor.get_structure(ase.io.read(io.StringIO(text), format="cif")),
    "gemmi": lambda text: _gemmi(text),
}


def _gemmi(text: str) -> Structure:
    small = gemmi.make_small_structure_from_block(gemmi.cif.read_string(text).sole_block())
    sites = small.get_all_unit_cell_sites()
    lattice = Lattice.from_parameters(*small.cell.parameters)
    return Structure(lattice, [s.element.name for s in sites], [s.fract.tolist() for s in sites])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("cell", ["primitive", "conventional"])
def test_cifs_with_operations_are_read_back(
    case: tuple[int, Structure, Idealised], cell: Cell, reader: str
) -> None:
    group, _, found = case
    structure = found.structure(cell)
    assert structure is not None
    text = cif_text(structure, cell)
    assert f"_space_group_IT_number  {group}\n" in text
    named = cell == "conventional" or group != 225  # there is no name for those axes
    assert ("_space_group_name_H-M_alt" in text) == ("_space_group_name_Hall" in text) == named
    assert text.count("'\n") - 2 * named - 1 == len(operations(group, cell == "primitive")[0])
    sites = text.partition("_atom_site_occupancy\n")[2].splitlines()
    assert len(sites) == {225: 2, 221: 3, 186: 2, 14: 3, 166: 3, 1: 4}[group]
    read = READERS[reader](text)
    assert len(read) == len(structure)
    assert SAME.fit(read, structure)
    assert number(read, 1e-4) == group


def test_all_groups_have_operations_with_names() -> None:
    nothing = crystal(IDEALS[1])
    for group in range(1, 231):
        triplets, names = _named(Exact(nothing, group, *operations(group, False)))
        assert len(names) == 2
        assert len(triplets) == len(set(triplets)) == len(operations(group, False)[0])
        small, _ = _named(Exact(nothing, group, *operations(group, True)))
        assert gemmi.GroupOps([gemmi.Op(t) for t in small]).cen_ops == [[0, 0, 0]]


def test_bounds_decide() -> None:
    given = crystal(shaken(IDEALS[221], 0.12, 0.0))
    (free,) = idealise([given], 0.5)
    assert free.after == 221
    assert free.moved_angstrom > 0.08
    (held,) = idealise([given], 0.5, max_moved_angstrom=0.5 * free.moved_angstrom)
    assert held.after != 221
    assert held.moved_angstrom <= 0.5 * free.moved_angstrom
    (stiff,) = idealise([crystal(shaken(IDEALS[221], 0.0, 0.02))], 0.5, max_strain=0.001)
    assert stiff.after != 221
    (near,) = idealise([given], 0.02)
    assert near.after == 1
    for bad in ({"symprec": 0.0}, {"symprec": 5.0}, {"max_strain": -1.0}):
        with pytest.raises(ConfigError, match=next(iter(bad))):
            idealise([given], **bad)


class Judge(Potential):
    """Asks 20 meV/atom of crystals that have one of the groups it hates."""

    name, version, device = "judge", "1", torch.device("cpu")

    def __init__(self, hated: set[int]) -> None:
        self.hated, self.calls = hated, 0

    def evaluate(
        self, cells: Crystals, *, forces: bool = False, stresses: bool = False
    ) -> Evaluation:
        self.calls += 1
        energies, at = [], 0
        for count, lattice in zip(cells.num_atoms.tolist(), cells.lattice, strict=True):
            part = slice(at, at + count)
            found = space_group(cells.atomic_numbers[part], cells.frac_coords[part], lattice, 1e-3)
            energies.append(count * (0.02 if found and found.number in self.hated else 0.0))
            at += count
        return Evaluation(torch.tensor(energies).double(), None, None, [None] * len(energies))


def test_a_group_that_costs_energy_is_refused_and_the_next_lower_one_tried() -> None:
    tetragonal = IDEALS[221].copy()
    tetragonal.apply_strain([0, 0, 0.03])  # 123 exactly, 221 within a larger tolerance
    given = [crystal(shaken(tetragonal, 0.01, 0.0)), crystal(shaken(IDEALS[225], 0.02))]
    assert [one.after for one in idealise(given, 0.5, Judge(set()))] == [221, 225]
    judge = Judge({221})
    first, second = idealise(given, 0.5, judge)
    assert (first.after, second.after) == (123, 225)
    assert first.ideal
    assert first.reason == "Pm-3m refused: the energy rises by 0.020 eV/atom"
    assert first.rise_ev == 0.0
    assert judge.calls == 3  # the given ones, all first candidates, the ones after a refusal
    (stays,) = idealise(given[:1], 0.5, Judge({221, 123}), max_rise_ev=0.005)
    assert stays.after not in (221, 123)
    (bears,) = idealise(given[:1], 0.5, Judge({221}), max_rise_ev=0.03)
    assert bears.after == 221


def test_broken_crystals_stay_as_they_are(tmp_path: Path) -> None:
    close = Structure(Lattice.cubic(4), ["Na", "Na"], [[0, 0, 0], [0.05, 0, 0]])
    nowhere = Structure(np.eye(3) * 4, ["C"], [[0, np.nan, 0]])
    for one, given in zip(idealise([crystal(close), crystal(nowhere)]), (close, nowhere),
                          strict=True):  # fmt: skip
        assert not one.ideal
        assert np.array_equal(one.crystal.frac_coords, given.frac_coords, equal_nan=True)
        assert np.array_equal(one.crystal.lattice, given.lattice.matrix)
    disordered = Structure(Lattice.cubic(4), [{"Na": 0.5, "K": 0.5}], [[0, 0, 0]])
    found = chemeleon.symmetrize([disordered, IDEALS[221]])
    assert found[0].structure() is None
    assert "Na" in str(found[0].reason)
    assert found[1].after == 221


def test_many_crystals_by_processes_are_those_of_one() -> None:
    given = [crystal(shaken(IDEALS[group])) for group in IDEALS] * 40
    one, two = idealise(given, workers=1), idealise(given, workers=2)
    for a, b in zip(one, two, strict=True):
        assert a.after == b.after
        assert np.array_equal(a.crystal.frac_coords, b.crystal.frac_coords)


def test_a_cell_is_chosen_without_moving_atoms() -> None:
    start = shaken(IDEALS[225].get_primitive_structure(), 0.01, 0.0)
    whole = structure_of(Crystal(*in_cell(*crystal(start), "conventional")))
    assert len(whole) == 8
    assert whole.lattice.abc == pytest.approx((5.64,) * 3, rel=1e-3)
    assert SAME.fit(whole, start)
    back = structure_of(Crystal(*in_cell(*crystal(whole), "primitive")))
    assert len(back) == 2
    assert SAME.fit(back, start)


def test_idealised_crystals_are_ranked_in_the_cells_that_models_know() -> None:
    rutile = Structure.from_spacegroup(
        "P4_2/mnm", Lattice.tetragonal(4.59, 2.96), ["Ti", "O"], [[0, 0, 0], [0.305, 0.305, 0]]
    )
    shaken = rutile.get_reduced_structure("niggli")
    assert shaken.lattice.a < 3
    rng = np.random.default_rng(2)
    for i in range(len(shaken)):
        shaken.translate_sites([i], rng.normal(0, 0.02, 3), frac_coords=False)
    given = from_structures([shaken])
    after, (note,) = Idealiser(0.3, None)(given)
    assert note.after == 136
    assert torch.allclose(after.lattice.norm(dim=2), given.lattice.norm(dim=2), atol=1e-4)
    written = note.structure()
    assert written is not None
    assert SAME.fit(to_structures(after)[0], written)
    huge = Structure(Lattice.cubic(2e6), ["Na"], [[0.5] * 3])  # no data set holds it
    after, (far,) = Idealiser(0.3, None)(from_structures([huge]))
    assert far.ideal
    assert after.lattice.flatten().max() == 2e6
    assert written.lattice.abc == pytest.approx((4.59, 4.59, 2.96), abs=1e-4)


def test_poscars_are_read_back(tmp_path: Path) -> None:
    order = [2, 0, 3, 1, 4]  # O Sr O Ti O
    mixed = Structure.from_sites([IDEALS[221][i] for i in order])
    files = write_structures([mixed, shaken(IDEALS[14])], tmp_path, ["poscar"], ["one", "two"])
    assert [f.relative_to(tmp_path).as_posix() for f in files] == [
        "poscar/one.vasp", "poscar/two.vasp"
    ]  # fmt: skip
    text = files[0].read_text()
    assert text.startswith("one\n")
    assert text.splitlines()[5:8] == ["O Sr Ti", "3 1 1", "direct"]
    for file, given in zip(files, [mixed, shaken(IDEALS[14])], strict=True):
        ours = structure_of(parse_as_given("poscar", file.read_text()))
        for read in (ours, Poscar.from_file(file).structure):
            assert read.composition == given.composition
            assert SAME.fit(read, given)


def test_sample_symmetrizes_and_writes_what_it_says(tmp_path: Path) -> None:
    words = ["sample", "-n", "12", "--steps", "20", "--potential", "none", "--symmetrize",
             "--format", "cif,poscar,json"]  # fmt: skip
    for name, more in (("plain", []), ("primitive", ["--cell", "primitive"])):
        answer = CliRunner().invoke(app, [*words, *more, "-o", str(tmp_path / name)])
        assert answer.exit_code == 0, answer.output
    told = json.loads((tmp_path / "plain" / "manifest.json").read_text())["symmetrization"]
    assert told["max_rise_ev_per_atom"] is told["potential"] is None
    assert told["symprec_angstrom"] == 0.3
    assert told["p1"]["after"] < told["p1"]["before"]
    assert told["idealised"] + told["as_given"] == len(told["groups"]) == 12
    for name, words_of_group in told["groups"].items():
        after = words_of_group.split(" -> ")[1]
        for folder in ("plain", "primitive"):
            for file in (f"cif/{name}.cif", f"poscar/{name}.vasp"):
                text = (tmp_path / folder / file).read_text()
                read = parse_as_given("cif" if file.endswith("cif") else "poscar", text)
                found = space_group(*read, 0.01)
                assert found is not None
                assert found.symbol == after, (folder, file)
    conventional, primitive = (
        sum((tmp_path / folder / "cif" / f"{n}.cif").read_text().count("name_Hall")
            for n in told["groups"])
        for folder in ("plain", "primitive")
    )  # fmt: skip
    assert conventional == told["idealised"] > primitive
    for bad in (["--symprec", "0.2"], ["--symmetrize", "--symprec", "9"], ["--cell", "big"]):
        answer = CliRunner().invoke(app, ["sample", "-n", "1", *bad, "-o", str(tmp_path / "no")])
        assert isinstance(answer.exception, ConfigError)
        assert not (tmp_path / "no").exists()
