"""SevenNet here gives the answers of its own calculator, in any batch."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch
from energy_helpers import rocksalt_cube, val_rows, various
from pymatgen.core import Lattice, Structure

from chemeleon.crystals.convert import to_structures
from chemeleon.crystals.neighbours import Bonds
from chemeleon.energy.potentials import load_potential
from chemeleon.energy.scales import RAW
from chemeleon.energy.sevennet_convolution import Convolution, Neighbours, _Fused
from chemeleon.errors import ConfigError

pytest.importorskip("sevenn")
PACKAGE = {"l3i5": ("7net-l3i5", None), "0": ("7net-0", None), "mf-0": ("7net-mf-0", "PBE")}


def crystals() -> list[Structure]:
    """Of one atom, long and thin, of one element, with isolated atoms, big, and real ones."""
    thin = Structure(Lattice.orthorhombic(2.8, 2.9, 31), ["Cu", "O"], [[0, 0, 0], [0.5, 0.5, 0.06]])
    lonely = Structure(Lattice.cubic(12), ["Na"], [[0, 0, 0]])
    big = rocksalt_cube().make_supercell([2, 2, 1], in_place=False).perturb(0.1)
    real = to_structures(val_rows().crystals.subset(torch.arange(0, 9047, 1000)))
    return [*various(), thin, lonely, big, *real]


@pytest.mark.parametrize(
    ("version", "few"),
    [("l3i5", True), *(pytest.param(v, False, marks=pytest.mark.slow) for v in PACKAGE)],
)
def test_answers_are_those_of_the_packages_calculator(version, few):
    from pymatgen.io.ase import AseAtomsAdaptor
    from sevenn.calculator import SevenNetCalculator

    chosen = crystals() if version == "l3i5" else various()
    chosen = chosen[::4] if few else chosen
    potential = load_potential(f"sevennet:{version}", "cpu")
    assert potential.energy_scale == RAW
    found = potential.energies(chosen, forces=True, stresses=True)
    np.testing.assert_allclose(potential.energies(chosen).per_atom_ev, found.per_atom_ev, atol=1e-6)
    name, modal = PACKAGE[version]
    calculator = SevenNetCalculator(name, device="cpu", modal=modal)
    for i, crystal in enumerate(chosen):
        atoms = AseAtomsAdaptor.get_atoms(crystal)
        atoms.calc = calculator
        wanted = atoms.get_potential_energy() / len(atoms)
        assert found.per_atom_ev[i] == pytest.approx(wanted, abs=1e-5), crystal.formula
        if len(crystal) == 1 and crystal.volume > 1000:
            continue  # without any bond the package has no forces
        np.testing.assert_allclose(found.forces[i], atoms.get_forces(), atol=1e-4)
        np.testing.assert_allclose(found.stresses[i], atoms.get_stress(voigt=False), atol=1e-5)


def test_kernels_give_the_plain_sums():
    """On a GPU, or without one under TRITON_INTERPRET=1."""
    pytest.importorskip("triton")
    import os

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not os.environ.get("TRITON_INTERPRET"):
        pytest.skip("needs a GPU or TRITON_INTERPRET=1")
    potential = load_potential("sevennet", device)
    layer = [x for x in potential.layers if isinstance(x, Convolution)][1]
    first, second = torch.tensor([[0, 0, 1, 2], [1, 0, 2, 2]], device=device)
    bonds = Bonds(first, second, torch.zeros(4, 3, device=device), torch.tensor([4]))
    around = Neighbours.of(bonds, 3)
    widths = (
        max(p.given + p.channels * p.inner for p in layer.paths),
        sum(p.channels for p in layer.paths),
        potential.couplings.shape[1],
    )
    rows = (3, 4, 4)
    given = [
        torch.randn(n, w, device=device).requires_grad_() for n, w in zip(rows, widths, strict=True)
    ]
    plain, fused = layer.plain(*given, around), _Fused.apply(*given, layer, around)
    torch.testing.assert_close(fused, plain, atol=1e-4, rtol=1e-5)
    slope = torch.randn_like(plain)
    for a, b in zip(
        torch.autograd.grad((fused * slope).sum(), given),
        torch.autograd.grad((plain * slope).sum(), given),
        strict=True,
    ):
        torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-4)


def test_what_is_missing_is_told(monkeypatch):
    with pytest.raises(ConfigError, match="l3i5, 0, mf-0"):
        load_potential("sevennet:l3i6", "cpu")
    francium = Structure(Lattice.cubic(5), ["Fr"], [[0, 0, 0]])
    found = load_potential("sevennet", "cpu").energies([francium, *various()[:1]])
    assert found.reasons == ["sevennet does not know the element Fr", None]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install sevenn"):
        load_potential("sevennet", "cpu")
