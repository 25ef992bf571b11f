"""Potentials through torch-sim: the adapter against ASE and SevenNet, and what to install."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from energy_helpers import val_rows

from chemeleon.crystals.convert import to_structures
from chemeleon.energy.potentials import load_potential
from chemeleon.errors import ConfigError

CPU = torch.device("cpu")


def test_old_python_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 11, 9))
    with pytest.raises(ConfigError, match=r"'orb' needs torch-sim, which needs Python 3\.12"):
        load_potential("orb", "cpu")


@pytest.mark.parametrize("missing", ["torch-sim-atomistic", "mattersim"])
def test_missing_packages_are_named(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util as util

    monkeypatch.setattr(sys, "version_info", (3, 12, 0))
    gone = {"torch-sim-atomistic": "torch_sim", "mattersim": "mattersim"}[missing]
    monkeypatch.setattr(util, "find_spec", lambda name, *_: None if name == gone else object())
    with pytest.raises(ConfigError, match=f"pip install {missing}"):
        load_potential("mattersim", "cpu")


def test_lennard_jones_is_that_of_ase() -> None:
    models = pytest.importorskip("torch_sim.models.lennard_jones")
    from ase.calculators.lj import LennardJones

    from chemeleon.energy.ase_potential import ASEPotential
    from chemeleon.energy.torchsim_potential import TorchSimPotential

    crystals = val_rows().crystals.subset(torch.arange(10))
    net = models.LennardJonesModel(2.3, 0.1, torch.device("cpu"), cutoff=6.0, compute_stress=True)
    ours = TorchSimPotential(net, "lj", "0").energies(crystals, forces=True, stresses=True)
    # ASE shifts the energy at the cutoff, which no force or stress feels
    other = ASEPotential(LennardJones(sigma=2.3, epsilon=0.1, rc=6.0), "lj", "0", CPU)
    theirs = other.energies(crystals, forces=True, stresses=True)
    shift = 0.2 * ((2.3 / 6) ** 12 - (2.3 / 6) ** 6)  # of a pair, half of it for each of its atoms
    pairs = [len(s.get_neighbor_list(6.0)[0]) / len(s) for s in to_structures(crystals)]
    wanted = theirs.per_atom_ev + shift * np.array(pairs)
    np.testing.assert_allclose(ours.per_atom_ev, wanted, atol=1e-6)
    for a, b in zip(ours.forces or [], theirs.forces or [], strict=True):
        assert a is not None
        assert b is not None
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)
    assert ours.stresses is not None
    assert theirs.stresses is not None
    np.testing.assert_allclose(ours.stresses, theirs.stresses, rtol=1e-6, atol=1e-8)


def test_sevennet_is_ours() -> None:
    models = pytest.importorskip("torch_sim.models.sevennet")
    pytest.importorskip("sevenn")
    from chemeleon.energy.torchsim_potential import TorchSimPotential

    crystals = val_rows().crystals.subset(torch.arange(0, 9047, 1200))
    net = models.SevenNetModel("7net-l3i5", device=CPU)
    theirs = TorchSimPotential(net, "sevennet", "l3i5")
    wanted = theirs.energies(crystals, forces=True, stresses=True)
    found = load_potential("sevennet", CPU).energies(crystals, forces=True, stresses=True)
    assert wanted.reasons == found.reasons == [None] * len(crystals)
    np.testing.assert_allclose(found.per_atom_ev, wanted.per_atom_ev, atol=1e-5)
    for a, b in zip(found.forces or [], wanted.forces or [], strict=True):
        assert a is not None
        assert b is not None
        np.testing.assert_allclose(a, b, atol=1e-4)
    assert found.stresses is not None
    assert wanted.stresses is not None
    np.testing.assert_allclose(found.stresses, wanted.stresses, atol=1e-5)
