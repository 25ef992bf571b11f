"""Relaxation of crystals that were just made, before they are ranked and written.

Shapes: ``M`` crystals.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from chemeleon.config.requests import MAX_RELAX_STEPS, check_range
from chemeleon.crystals.batch import FlatCrystals
from chemeleon.energy.potentials import Potential, load_potential
from chemeleon.energy.relax import relax
from chemeleon.errors import ConfigError

FMAX = 0.05  # eV/angstrom


class Note(NamedTuple):
    """What became of one crystal.

    Attributes:
        steps: steps taken.
        converged: whether forces fell to the limit.
        rmsd_angstrom: how far atoms moved; NaN where the crystal could not be relaxed.
        reason: None, or why it is as it was made, or could not go on.
    """

    steps: int
    converged: bool
    rmsd_angstrom: float
    reason: str | None


class Relaxer:
    """Moves atoms and cells downhill by a potential, many crystals at once."""

    def __init__(self, potential: Potential, steps: int) -> None:
        self.potential, self.steps = potential, steps

    @classmethod
    def named(
        cls, name: str, steps: int, device: torch.device | str | None = None
    ) -> Relaxer | None:
        """Return one that takes at most ``steps`` steps, or None for no steps.

        Raises:
            ConfigError: for fewer or too many, or a potential that is not known or not installed.
        """
        check_range("relax", steps, 0, MAX_RELAX_STEPS)
        if steps == 0:
            return None
        if name == "none":
            raise ConfigError("relaxation needs a potential: leave out --relax, or name chgnet")
        return cls(load_potential(name, device), steps)

    def __call__(self, crystals: FlatCrystals) -> tuple[FlatCrystals, list[Note]]:
        """Return the ``M`` crystals relaxed, and a note for each.

        One that cannot be evaluated stays as it is.
        """
        coords, lattice = crystals.frac_coords.clone(), crystals.lattice.clone()
        starts, sizes = crystals.starts.tolist(), crystals.num_atoms.tolist()
        notes = []
        for i, end in enumerate(relax(crystals, self.potential, self.steps, FMAX)):
            if end.structure is not None:
                atoms = slice(starts[i], starts[i] + sizes[i])
                coords[atoms] = torch.from_numpy(end.structure.frac_coords.copy()).to(coords)
                lattice[i] = torch.from_numpy(end.structure.lattice.matrix.copy()).to(lattice)
            notes.append(Note(end.steps, end.converged, end.rmsd_angstrom, end.reason))
        return replace(crystals, frac_coords=coords, lattice=lattice), notes

    def told(self, notes: Sequence[Note], names: Sequence[str]) -> dict[str, Any]:
        """Return what a manifest says of it."""
        moved = [note.rmsd_angstrom for note in notes if note.rmsd_angstrom >= 0]
        return {
            "potential": f"{self.potential.name} {self.potential.version}",
            "steps": self.steps,
            "fmax_ev_per_angstrom": FMAX,
            "converged": sum(note.converged for note in notes),
            "median_rmsd_angstrom": round(statistics.median(moved), 4) if moved else None,
            "failed": [
                {"id": name, "reason": note.reason}
                for name, note in zip(names, notes, strict=True)
                if note.reason is not None
            ],
        }
