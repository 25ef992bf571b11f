"""Relaxation finds the minimum that is there, and keeps an account of every crystal."""

from __future__ import annotations

import numpy as np
import pytest
from energy_helpers import FailsOnGold, rocksalt, various
from pymatgen.core import Lattice, Structure

from chemeleon.energy.potentials import load_potential
from chemeleon.energy.relax import relax
from chemeleon.errors import ConfigError


@pytest.fixture(scope="module")
def chgnet():
    return load_potential("chgnet", "cpu")


def test_perturbed_rocksalt_returns_to_the_minimum(chgnet):
    (reference,) = relax([rocksalt()], chgnet, 200, 0.005)
    assert reference.converged
    start = rocksalt(6.0)
    start.translate_sites([1], [0.12, -0.1, 0.07], frac_coords=False)
    start.apply_strain([0.03, -0.02, 0.01])
    (found,) = relax([start], chgnet, 300, 0.005)
    assert found.converged
    assert found.fmax_ev_per_angstrom <= 0.005
    assert found.energy_ev == pytest.approx(reference.energy_ev, abs=5e-4)
    assert found.structure.volume == pytest.approx(reference.structure.volume, rel=0.01)
    assert found.structure.get_distance(0, 1) == pytest.approx(
        reference.structure.get_distance(0, 1), abs=0.02
    )
    assert found.energies_ev[0] > found.energy_ev + 0.005
    assert len(found.energies_ev) == found.steps + 1
    assert 0.01 < found.rmsd_angstrom < 0.3


def test_the_energies_are_those_that_ase_reaches(chgnet):
    from ase.filters import UnitCellFilter
    from ase.optimize import FIRE
    from chgnet.model import CHGNet
    from chgnet.model.dynamics import CHGNetCalculator
    from pymatgen.io.ase import AseAtomsAdaptor

    strained = rocksalt(4.1, "Mg", "O")
    strained.apply_strain([0.02, -0.02, 0.0])
    crystals = [rocksalt(5.9), strained]
    package = CHGNet.load(use_device="cpu", verbose=False)
    ours = relax(crystals, chgnet, 200, 0.02)
    for crystal, found in zip(crystals, ours, strict=True):
        atoms = AseAtomsAdaptor.get_atoms(crystal)
        atoms.calc = CHGNetCalculator(package, use_device="cpu")
        FIRE(UnitCellFilter(atoms), logfile=None).run(fmax=0.02, steps=200)
        theirs = atoms.get_potential_energy() / len(atoms)
        assert found.converged
        assert found.energy_ev == pytest.approx(theirs, abs=3e-3)


def test_steps_are_bounded_and_crystals_leave_on_their_own(chgnet):
    far, near = rocksalt(6.4), relax([rocksalt()], chgnet, 200, 0.02)[0].structure
    slow, quick = relax([far, near], chgnet, 3, 0.05)
    assert (slow.steps, slow.converged, len(slow.energies_ev)) == (3, False, 4)
    assert (quick.steps, quick.converged, len(quick.energies_ev)) == (0, True, 1)
    assert slow.energy_ev < slow.energies_ev[0]
    (alone,) = relax([far], chgnet, 3, 0.05)
    np.testing.assert_allclose(alone.energies_ev, slow.energies_ev, atol=1e-5)
    (still,) = relax([far], chgnet, 0)
    assert (still.steps, still.rmsd_angstrom) == (0, 0.0)


def test_a_fixed_cell_stays(chgnet):
    start = various()[1]
    (found,) = relax([start], chgnet, 10, 0.0, relax_cell=False)
    np.testing.assert_allclose(found.structure.lattice.matrix, start.lattice.matrix)
    assert found.steps == 10
    assert found.energy_ev < found.energies_ev[0]


def test_bad_crystals_get_reasons(chgnet):
    lone = Structure(Lattice.cubic(20), ["Na"], [[0, 0, 0]])
    nan = Structure(Lattice.cubic(3.0), ["Na"], [[np.nan, 0, 0]])
    found = relax([nan, rocksalt(), lone], chgnet, 2, 0.0)
    assert [r.structure is None for r in found] == [True, False, True]
    assert "not finite" in found[0].reason
    assert "no neighbour" in found[2].reason
    assert not found[2].converged
    assert np.isnan(found[2].energy_ev)
    assert found[1].steps == 2
    assert relax([], chgnet) == []


def test_any_calculator_relaxes():
    from chemeleon.energy.ase_potential import ASEPotential

    potential = ASEPotential(FailsOnGold(epsilon=0.1, sigma=2.3, rc=6.0), "lj", "1", _cpu())
    copper = Structure(
        Lattice.cubic(3.6), ["Cu"] * 4, [[0] * 3, [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]
    )
    gold = rocksalt(5.0, "Au", "Cl")
    found = relax([copper.perturb(0.05), gold], potential, 200, 0.01)
    assert found[0].converged
    assert "no parameters for Au" in found[1].reason


def test_useless_limits_are_refused(chgnet):
    with pytest.raises(ConfigError, match="must be from 0 to 10,000, got -1"):
        relax([rocksalt()], chgnet, -1)


def _cpu():
    import torch

    return torch.device("cpu")
