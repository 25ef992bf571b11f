"""Energies, forces and stresses are those of the potential's own package, whatever comes along."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from energy_helpers import rocksalt, val_rows, various
from pymatgen.core import Lattice, Structure

from chemeleon.crystals.convert import from_structures, to_structures
from chemeleon.crystals.neighbours import find_bonds
from chemeleon.energy import batching
from chemeleon.energy.bond_graph import angle_counts, make_graph
from chemeleon.energy.potential import Potential, empty_evaluation
from chemeleon.energy.potentials import load_potential
from chemeleon.energy.usable import to_tensors
from chemeleon.errors import ConfigError

EV_PER_A3_IN_GPA = 160.21766208  # the package's constant


@pytest.fixture(scope="module")
def chgnet():
    return load_potential("chgnet", "cpu")


@pytest.fixture(scope="module")
def package():
    from chgnet.model import CHGNet

    return CHGNet.load(use_device="cpu", verbose=False)


def test_neighbours_are_pymatgens():
    crystals = various()
    cells, _ = to_tensors(crystals)
    bonds = find_bonds(cells, 6.0)
    start = torch.cumsum(cells.num_atoms, 0) - cells.num_atoms
    for i, structure in enumerate(crystals):
        own = cells.owners[bonds.first] == i
        assert int(own.sum()) == int(bonds.counts[i])
        first, second = ((x[own] - start[i]).numpy() for x in (bonds.first, bonds.second))
        length = bonds.vectors[own].norm(dim=1).numpy()
        ours = _sorted(
            np.concatenate([first, second]), np.concatenate([second, first]), np.tile(length, 2)
        )
        centre, other, _, distance = structure.get_neighbor_list(6.0)
        np.testing.assert_allclose(ours, _sorted(centre, other, distance), atol=1e-6)


def _sorted(first: np.ndarray, second: np.ndarray, length: np.ndarray) -> np.ndarray:
    table = np.stack([first, second, length], 1)
    return table[np.lexsort((length.round(5), second, first))]


def test_angles_are_ordered_pairs_of_short_bonds_at_an_atom(package):
    crystals = various()
    cells, _ = to_tensors(crystals)
    bonds = find_bonds(cells, 6.0)
    wanted = [len(package.graph_converter(s).bond_graph) for s in crystals]
    assert angle_counts(cells, bonds, 3.0).tolist() == wanted
    assert make_graph(cells, bonds, 3.0).angle_bonds.shape[1] == sum(wanted)


def test_chgnet_gives_the_answers_of_its_package(chgnet, package):
    crystals = various()
    ours = chgnet.energies(crystals, forces=True, stresses=True)
    assert ours.reasons == [None] * len(crystals)
    for i, theirs in enumerate(package.predict_structure(crystals, task="efs")):
        assert ours.per_atom_ev[i] == pytest.approx(theirs["e"].item(), abs=2e-5)
        scale = max(1.0, np.abs(theirs["f"]).max())
        np.testing.assert_allclose(ours.forces[i], theirs["f"], atol=1e-4 * scale)
        stress = theirs["s"] / EV_PER_A3_IN_GPA
        np.testing.assert_allclose(ours.stresses[i], stress, atol=1e-4 * max(1, abs(stress).max()))


def test_old_weights_give_the_packages_answer_for_one_crystal_alone():
    from chgnet.model import CHGNet

    # with 0.2.0 the package's own answer for the sparse crystal depends on what else is in a batch
    package = CHGNet.load(model_name="0.2.0", use_device="cpu", verbose=False)
    theirs = [package.predict_structure(s, task="e")["e"].item() for s in various()]
    old = load_potential("chgnet:0.2.0", "cpu")
    np.testing.assert_allclose(old.energies(various()).per_atom_ev, theirs, atol=2e-5)
    assert old.version == "0.2.0"


def test_forces_and_stress_are_slopes_of_the_energy(chgnet):
    crystal = various()[1]
    found = chgnet.energies([crystal], forces=True, stresses=True)
    step = 0.01
    moved = []
    for sign in (1, -1):
        shifted, strained = crystal.copy(), crystal.copy()
        shifted.translate_sites([0], [sign * step, 0, 0], frac_coords=False, to_unit_cell=False)
        strain = np.eye(3)
        strain[0, 0] += sign * step / 10
        strained.lattice = Lattice(crystal.lattice.matrix @ strain)
        moved.append(chgnet.energies([shifted, strained]).per_atom_ev * len(crystal))
    slope = (moved[0] - moved[1]) / (2 * np.array([step, step / 10]))
    assert found.forces[0][0, 0] == pytest.approx(-slope[0], rel=0.02, abs=0.02)
    assert found.stresses[0][0, 0] * crystal.volume == pytest.approx(slope[1], rel=0.02, abs=0.1)


def test_energies_do_not_depend_on_the_batch_or_the_form(chgnet, monkeypatch):
    crystals = various()
    whole = chgnet.energies(crystals).per_atom_ev
    alone = [chgnet.energies([s]).per_atom_ev[0] for s in crystals]
    np.testing.assert_allclose(whole, alone, atol=2e-6)
    flat = from_structures(crystals)
    np.testing.assert_allclose(chgnet.energies(flat).per_atom_ev, whole, atol=1e-5)
    batch = flat.batch(torch.arange(len(crystals)))
    np.testing.assert_allclose(chgnet.energies(batch).per_atom_ev, whole, atol=1e-5)
    monkeypatch.setattr(type(chgnet), "costs", chgnet.costs._replace(cpu=1))
    monkeypatch.setattr(batching, "CPU_CANDIDATES", 1)
    np.testing.assert_allclose(chgnet.energies(crystals).per_atom_ev, whole, atol=2e-6)


def test_short_memory_is_met_by_halves(monkeypatch):
    potential = load_potential("chgnet", "cpu")
    crystals = [*(rocksalt(a) for a in (5.5, 5.6, 5.7, 5.8)), various()[6]]
    wanted = potential.energies(crystals, forces=True)
    bonds = find_bonds(to_tensors(crystals)[0], 6.0).counts.tolist()
    limit = sum(bonds[:3])
    assert bonds[0] < limit < bonds[4]
    seen = []

    class Small(type(potential.model)):
        def forward(self, graph):
            seen.append(len(graph.first))
            if seen[-1] > limit:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().forward(graph)

    monkeypatch.setattr(type(potential), "costs", potential.costs._replace(cpu=10**9))
    potential.model.__class__ = Small
    found = potential.energies(crystals, forces=True)
    assert seen[0] == sum(bonds)
    np.testing.assert_allclose(found.per_atom_ev[:4], wanted.per_atom_ev[:4], atol=2e-6)
    np.testing.assert_allclose(found.forces[3], wanted.forces[3], atol=1e-5)
    assert found.reasons[:4] == [None] * 4
    assert "out of memory" in found.reasons[4]


def test_bad_crystals_get_reasons_and_stop_nothing(chgnet):
    good = rocksalt()
    flat = Structure(Lattice.cubic(3.0), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    nan = Structure(Lattice.cubic(3.0), ["Na"], [[np.nan, 0, 0]])
    cases = {
        "volume": (
            Structure(Lattice([[3, 0, 0], [0, 3, 0], [3, 3, 1e-5]]), ["Na"], [[0] * 3]),
            "A^3",
        ),
        "nan": (nan, "not finite"),
        "needle": (
            Structure(
                Lattice([[0.02, 0, 0], [0, 0.02, 0], [0, 0, 1e4]]), ["Na"] * 2, [[0] * 3] * 2
            ),
            "too close",
        ),
        "disorder": (
            Structure(Lattice.cubic(3), [{"Na": 0.5, "K": 0.5}], [[0] * 3]),
            "partial occupancy",
        ),
        "element": (Structure(Lattice.cubic(3.5), ["Cm"], [[0] * 3]), "the element Cm"),
        "dummy": (Structure(Lattice.cubic(3.5), ["X"], [[0] * 3]), "X"),
        "isolated": (Structure(Lattice.cubic(20), ["Na"], [[0] * 3]), "no neighbour"),
        "nothing": (None, "no crystal"),
        "same place": (Structure(Lattice.cubic(4), ["Na", "Cl"], [[0] * 3] * 2), "finite"),
    }
    crystals = [good, *(crystal for crystal, _ in cases.values()), flat]
    found = chgnet.energies(crystals, forces=True, stresses=True)
    alone = chgnet.energies([good, flat], forces=True).per_atom_ev
    np.testing.assert_allclose(found.per_atom_ev[[0, -1]], alone, atol=2e-6)
    for i, (name, (_, words)) in enumerate(cases.items(), start=1):
        assert words in (found.reasons[i] or ""), (name, found.reasons[i])
        assert np.isnan(found.per_atom_ev[i]), name
    assert len(chgnet.energies([]).per_atom_ev) == 0
    assert np.isnan(chgnet.energies([nan]).per_atom_ev).all()


def test_any_ase_calculator_by_name():
    from ase.calculators.lj import LennardJones
    from pymatgen.io.ase import AseAtomsAdaptor

    potential = load_potential("energy_helpers:lennard_jones")
    crystal = various()[1]
    found = potential.energies([crystal], forces=True, stresses=True)
    atoms = AseAtomsAdaptor.get_atoms(crystal)
    atoms.calc = LennardJones(epsilon=0.1, sigma=2.3, rc=6.0, smooth=True)
    assert found.per_atom_ev[0] == pytest.approx(atoms.get_potential_energy() / len(atoms))
    np.testing.assert_allclose(found.forces[0], atoms.get_forces(), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(found.stresses[0], atoms.get_stress(voigt=False), atol=1e-9)
    gold = load_potential("energy_helpers:FailsOnGold")
    found = gold.energies([crystal, rocksalt(5.0, "Au", "Cl"), crystal])
    assert "no parameters for Au" in found.reasons[1]
    assert np.isnan(found.per_atom_ev).tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("chgnt", "did you mean 'chgnet'"),
        ("chgnet:0.9", "0.3.0"),
        ("energy_helpers:lenard_jones", "did you mean 'lennard_jones'"),
        ("no_such_module:thing", "No module named"),
        ("energy_helpers:MP", "not callable"),
    ],
)
def test_wrong_names_are_told(name, words):
    with pytest.raises(ConfigError, match=words):
        load_potential(name)


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install mace-torch"):
        load_potential("mace")
    with pytest.raises(ConfigError, match="pip install chgnet"):
        load_potential("chgnet")


def test_no_potential_gives_no_energy():
    found = load_potential("none").energies([rocksalt()])
    assert np.isnan(found.per_atom_ev).all()
    assert found.reasons == ["no potential was requested"]


@pytest.mark.slow
def test_chgnet_agrees_on_real_crystals(chgnet, package):
    crystals = to_structures(val_rows().crystals.subset(torch.arange(0, 9047, 180)))
    theirs = [p["e"].item() for p in package.predict_structure(crystals, task="e")]
    np.testing.assert_allclose(chgnet.energies(crystals).per_atom_ev, theirs, atol=1e-4)


@pytest.mark.gpu
def test_gpu_gives_the_cpus_answers(chgnet):
    on_gpu = load_potential("chgnet", "cuda").energies(various(), forces=True, stresses=True)
    on_cpu = chgnet.energies(various(), forces=True, stresses=True)
    np.testing.assert_allclose(on_gpu.per_atom_ev, on_cpu.per_atom_ev, atol=1e-4)
    for a, b in zip(on_gpu.forces, on_cpu.forces, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-3 * max(1, np.abs(b).max()))


def test_an_evaluation_leaves_the_rounded_weights_of_other_threads_alone(monkeypatch):
    """Crystals are made by a thread whose recorded graph reads them: 40 % came out broken."""
    cleared = []
    monkeypatch.setattr(torch, "clear_autocast_cache", lambda: cleared.append(True))
    seen = []

    class Watching(Potential):
        name, version, device = "watching", "0", torch.device("cpu")

        def evaluate(self, cells, *, forces=False, stresses=False):
            seen.append((torch.is_autocast_enabled("cpu"), torch.get_float32_matmul_precision()))
            return empty_evaluation(cells, forces, stresses)

    crystal = Structure(Lattice.cubic(4.0), ["Cs", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    Watching().energies([crystal])
    assert not cleared
    with torch.autocast("cpu", torch.bfloat16):
        Watching().energies([crystal])
        assert torch.is_autocast_enabled("cpu")
        assert not cleared
    assert seen == [(False, "highest")] * 2
