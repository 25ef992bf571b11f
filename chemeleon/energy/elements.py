"""Elemental reference energies of a potential, without any data: simple structures, relaxed.

Each element is tried as ASE's tabulated ground state, and as fcc, bcc, hcp, simple cubic and
diamond; those that ASE knows as molecules (H, N, O, F) as dimers on an fcc lattice alone, as
potentials may have deep false minima at dense packings of them (CHGNet 0.2.0: 3.4 and 3.7 eV/atom
too low for O and F). The lowest energy counts, but not of a crystal that collapsed.
Elements with complicated ground states (B, P, S, Mn, Ga, ...) come out too high, so that formation
energies with them come out too low; `docs/energy.md` has the measured errors.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from chemeleon.energy.potential import Potential
from chemeleon.energy.relax import relax

if TYPE_CHECKING:
    from pymatgen.core import Structure

_SHAPES = ("fcc", "bcc", "hcp", "sc", "diamond")
_SCALES = np.geomspace(0.85, 1.4, 12)
_LEAST_VOLUME = 4.0  # cubic angstrom per atom; diamond has 5.7
_LEAST_DISTANCE = 1.6  # angstrom, of neighbours in the simple shapes; H and He have small radii
# edge of the conventional cell over the distance of neighbours
_EDGE = {"fcc": 2**0.5, "bcc": 2 / 3**0.5, "hcp": 1.0, "sc": 1.0, "diamond": 4 / 3**0.5}


class Reference(NamedTuple):
    """The best elemental crystal found.

    Attributes:
        energy_ev: eV/atom, or None if no structure could be evaluated.
        shape: which structure, such as ``bcc``.
    """

    energy_ev: float | None
    shape: str


def elemental_references(
    symbols: Iterable[str], potential: Potential, steps: int = 50
) -> dict[str, Reference]:
    """Relax simple structures of each element and keep the lowest energies.

    Sizes of the simple shapes are scanned first, and only the best two are relaxed.

    Args:
        symbols: elements.
        potential: gives energies, forces and stresses.
        steps: most steps of a relaxation.
    """
    tried: list[tuple[str, str, Structure]] = []
    scanned: list[tuple[str, str, Structure]] = []
    for symbol in sorted(set(symbols)):
        for shape, structure in prototypes(symbol):
            if shape not in _SHAPES:
                tried.append((symbol, shape, structure))
                continue
            for scale in _SCALES:
                sized = structure.copy()
                sized.scale_lattice(structure.volume * scale**3)
                if sized.volume >= _LEAST_VOLUME * len(sized):
                    scanned.append((symbol, shape, sized))
    energies = potential.energies([structure for *_, structure in scanned]).per_atom_ev
    chosen: dict[str, dict[str, Structure]] = {}
    for i in np.argsort(energies):  # NaN comes last
        symbol, shape, structure = scanned[i]
        best_shapes = chosen.setdefault(symbol, {})
        if np.isfinite(energies[i]) and shape not in best_shapes and len(best_shapes) < 2:
            best_shapes[shape] = structure
    tried += [(s, shape, sized) for s, found in chosen.items() for shape, sized in found.items()]
    relaxed = relax([structure for *_, structure in tried], potential, steps)
    best = {symbol: Reference(None, "none") for symbol, *_ in tried}
    for (symbol, shape, _), end in zip(tried, relaxed, strict=True):
        known = best[symbol].energy_ev
        crystal = end.structure
        if crystal is None or crystal.volume < _LEAST_VOLUME * len(crystal):
            continue
        if end.reason is None and (known is None or end.energy_ev < known):
            best[symbol] = Reference(end.energy_ev, shape)
    return best


def prototypes(symbol: str) -> list[tuple[str, Structure]]:
    """Return named simple crystals of an element, sized by tabulated values or covalent radii."""
    from ase import Atoms
    from ase.build import bulk
    from ase.data import atomic_numbers, covalent_radii, reference_states
    from pymatgen.io.ase import AseAtomsAdaptor

    number = atomic_numbers[symbol]
    state = reference_states[number] or {}
    distance = max(2 * covalent_radii[number], _LEAST_DISTANCE)
    made: list[tuple[str, Any]] = []
    if state.get("symmetry") not in (*_SHAPES, "diatom", "atom", None):
        # some are tabulated, but not as a crystal that ASE can build
        with contextlib.suppress(ValueError, RuntimeError, KeyError, TypeError):
            made.append((f"tabulated {state.get('symmetry')}", bulk(symbol)))
    for shape in () if state.get("symmetry") == "diatom" else _SHAPES:
        more = {"covera": (8 / 3) ** 0.5} if shape == "hcp" else {}
        made.append((shape, bulk(symbol, shape, a=distance * _EDGE[shape], **more)))
    if state.get("symmetry") == "diatom":
        edge = 2.6 * distance + 2.5  # room for a turned molecule
        lattice = edge / 2 * np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]])
        half = state["d"] / 2 * np.ones(3) / 3**0.5
        made.append(("dimers", Atoms([symbol] * 2, [-half, half], cell=lattice, pbc=True)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [(name, AseAtomsAdaptor.get_structure(atoms)) for name, atoms in made]
