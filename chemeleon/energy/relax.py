"""Relaxation of crystals, many at once, with what became of each.

Shapes: ``M`` crystals, ``S`` steps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from chemeleon.config.requests import MAX_RELAX_STEPS, check_range
from chemeleon.crystals.batch import Crystals
from chemeleon.data.crystal import structure_of
from chemeleon.energy.fire import walk
from chemeleon.energy.potential import Potential
from chemeleon.energy.usable import to_tensors
from chemeleon.errors import ConfigError

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from chemeleon.energy.usable import AnyCrystals


class Relaxed(NamedTuple):
    """One crystal's relaxation.

    Attributes:
        structure: the last geometry, coordinates within [0, 1); None if it could not be evaluated.
        steps: steps taken.
        converged: whether all forces, those on the cell too, fell to the limit.
        energies_ev: ``(steps + 1,)`` eV/atom, of the given geometry and after each step.
        fmax_ev_per_angstrom: largest force at the end; NaN if there is none.
        rmsd_angstrom: root mean square displacement of the atoms in the relaxed cell, without the
            drift of the whole crystal; NaN if there is no structure.
        reason: None, or why the relaxation could not begin or go on.
        taken_back: whether the given geometry was kept, as the relaxed one was broken (see
            `evaluation.sound.relax_soundly`; never by `relax` itself).
    """

    structure: Structure | None
    steps: int
    converged: bool
    energies_ev: np.ndarray
    fmax_ev_per_angstrom: float
    rmsd_angstrom: float
    reason: str | None
    taken_back: bool = False

    @property
    def energy_ev(self) -> float:
        """Last energy, eV/atom; NaN if there is none."""
        return float(self.energies_ev[-1]) if len(self.energies_ev) else float("nan")


def relax(
    structures: AnyCrystals,
    potential: Potential,
    steps: int = 50,
    fmax_ev_per_angstrom: float = 0.05,
    *,
    relax_cell: bool = True,
) -> list[Relaxed]:
    """Relax positions and cells by FIRE; a bad crystal gets a reason and stops nothing.

    Args:
        structures: pymatgen structures, `Crystals` or a `CrystalBatch`.
        potential: see `load_potential`.
        steps: most steps.
        fmax_ev_per_angstrom: force at which a crystal is converged and leaves the batch; 0 takes
            all steps.
        relax_cell: False keeps the lattices.

    Raises:
        ConfigError: for a negative limit, or too many steps.
    """
    check_range("steps of relaxation", steps, 0, MAX_RELAX_STEPS)
    if not fmax_ev_per_angstrom >= 0:
        raise ConfigError(f"fmax_ev_per_angstrom={fmax_ev_per_angstrom} must not be negative")
    cells, reasons = to_tensors(structures)
    good = torch.tensor([i for i, reason in enumerate(reasons) if reason is None]).long()
    start = cells.subset(good.to(cells.device)).to(potential.device)
    end = walk(start, potential, steps, fmax_ev_per_angstrom, relax_cell)
    nan = float("nan")
    found = [Relaxed(None, 0, False, np.zeros(0), nan, nan, reason) for reason in reasons]
    rmsd = _displacements(start, end.cells).tolist()
    energies = (end.energies / start.num_atoms).T.cpu().numpy()
    taken, fmax = end.steps.tolist(), end.fmax.tolist()
    inside = end.cells.with_geometry(end.cells.frac_coords % 1.0, end.cells.lattice)
    for k, (i, crystal) in enumerate(zip(good.tolist(), inside, strict=True)):
        broken = end.reasons[k] is not None and taken[k] == 0
        found[i] = Relaxed(
            None if broken else structure_of(crystal),
            taken[k],
            end.reasons[k] is None and fmax[k] <= fmax_ev_per_angstrom,
            energies[k, : taken[k] + 1],
            fmax[k],
            nan if broken else rmsd[k],
            end.reasons[k],
        )
    return found


def _displacements(start: Crystals, end: Crystals) -> torch.Tensor:
    """Return ``(M,)`` root mean square displacements, angstrom."""
    owners, counts = start.owners, start.num_atoms.double()
    moved = end.frac_coords - start.frac_coords
    mean = torch.zeros_like(start.lattice[:, 0]).index_add(0, owners, moved) / counts[:, None]
    cart = torch.einsum("ai,aij->aj", moved - mean[owners], end.lattice[owners])
    squares = torch.zeros_like(counts).index_add(0, owners, (cart * cart).sum(1))
    return (squares / counts).sqrt()
