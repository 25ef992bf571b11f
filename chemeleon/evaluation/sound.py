"""Relaxation that breaks no crystal: one that it would make unsound stays as given."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from chemeleon.crystals.batch import Crystals
from chemeleon.crystals.convert import from_structures, to_structures
from chemeleon.crystals.soundness import structural_problems
from chemeleon.energy.relax import Relaxed, relax

if TYPE_CHECKING:
    from chemeleon.energy.potential import Potential


def relax_soundly(
    crystals: Crystals, potential: Potential, steps: int, fmax_ev_per_angstrom: float = 0.05
) -> tuple[Crystals, list[Relaxed]]:
    """Relax positions and cells; a crystal that was sound and would be broken stays as given.

    Potentials have holes at short distances, into which atoms fall. A crystal that stays has its
    given energy, has moved nowhere, is not converged, and is marked as ``taken_back``; the reason
    says what was wrong. Arguments and errors as for `energy.relax.relax`.

    Returns:
        The ``M`` crystals, those that have no relaxed structure as they are, and their relaxations.
    """
    ends = relax(crystals, potential, steps, fmax_ev_per_angstrom)
    moved = {i: end.structure for i, end in enumerate(ends) if end.structure is not None}
    after = structural_problems(from_structures(list(moved.values())))
    broken = {i: why for i, why in zip(moved, after, strict=True) if why is not None}
    rows = torch.tensor(list(broken), dtype=torch.int64, device=crystals.device)
    given = to_structures(crystals.subset(rows))
    before = structural_problems(from_structures(given))
    for (i, why), structure, problem in zip(broken.items(), given, before, strict=True):
        if problem is None:
            del moved[i]
            ends[i] = ends[i]._replace(
                structure=structure,
                converged=False,
                energies_ev=ends[i].energies_ev[:1],
                fmax_ev_per_angstrom=float("nan"),
                rmsd_angstrom=0.0,
                reason=f"relaxation would break it ({why}): kept as given",
                taken_back=True,
            )
    coords, lattice = crystals.frac_coords.clone(), crystals.lattice.clone()
    starts, sizes = crystals.starts.tolist(), crystals.num_atoms.tolist()
    for i, structure in moved.items():
        atoms = slice(starts[i], starts[i] + sizes[i])
        coords[atoms] = torch.from_numpy(structure.frac_coords.copy()).to(coords)
        lattice[i] = torch.from_numpy(structure.lattice.matrix.copy()).to(lattice)
    return crystals.with_geometry(coords, lattice), ends
