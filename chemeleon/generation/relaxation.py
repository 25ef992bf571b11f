"""Crystals that were just made are relaxed and idealised before they are ranked and written.

Shapes: ``M`` crystals.
"""

from __future__ import annotations

import importlib.util
import logging
import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from chemeleon.config.requests import MAX_RELAX_STEPS, check_range
from chemeleon.crystals.batch import Crystals
from chemeleon.crystals.lattice import wrap
from chemeleon.data.parse import BadCrystalError, Crystal, standardise
from chemeleon.energy.potential import Potential
from chemeleon.energy.potentials import load_potential
from chemeleon.energy.relax import Relaxed
from chemeleon.errors import ConfigError
from chemeleon.evaluation.idealise import Idealised, check_bounds, idealise, told
from chemeleon.evaluation.sound import relax_soundly

FMAX = 0.05  # eV/angstrom
POTENTIAL = "chgnet"  # where none is named
logger = logging.getLogger(__name__)


class Relaxer:
    """Moves atoms and cells downhill by a potential, many crystals at once."""

    def __init__(self, potential: Potential, steps: int) -> None:
        self.potential, self.steps = potential, steps

    @classmethod
    def named(
        cls, name: str | None, steps: int, device: torch.device | str | None = None
    ) -> Relaxer | None:
        """Return one that takes at most ``steps`` steps, or None for no steps; by default CHGNet.

        Raises:
            ConfigError: for fewer or too many, or a potential that is not known or not installed.
        """
        check_range("relax", steps, 0, MAX_RELAX_STEPS)
        if steps == 0:
            return None
        if name == "none":
            raise ConfigError("relaxation needs a potential: leave out --relax, or name chgnet")
        return cls(load_potential(name or POTENTIAL, device), steps)

    def __call__(self, crystals: Crystals) -> tuple[Crystals, list[Relaxed]]:
        """Return the ``M`` crystals relaxed, and what it did to each, without its structure.

        One that cannot be evaluated stays as it is, and so does a valid one that would be invalid.
        """
        relaxed, ends = relax_soundly(crystals, self.potential, self.steps, FMAX)
        return relaxed, [end._replace(structure=None) for end in ends]

    def to_manifest(self, notes: Sequence[Relaxed], names: Sequence[str]) -> dict[str, Any]:
        """Return what a manifest says of it."""
        named = list(zip(names, notes, strict=True))
        moved = [note.rmsd_angstrom for note in notes if note.rmsd_angstrom >= 0]
        return {
            "potential": f"{self.potential.name} {self.potential.version}",
            "steps": self.steps,
            "fmax_ev_per_angstrom": FMAX,
            "converged": sum(note.converged for note in notes),
            "median_rmsd_angstrom": round(statistics.median(moved), 4) if moved else None,
            "failed": [
                {"id": name, "reason": note.reason}
                for name, note in named
                if note.reason is not None and not note.taken_back
            ],
            "kept_as_given": [
                {"id": name, "reason": note.reason} for name, note in named if note.taken_back
            ],
        }


class Idealiser:
    """Gives crystals the symmetry that they almost have; see `evaluation.idealise.idealise`."""

    def __init__(self, symprec: float, potential: Potential | None) -> None:
        self.symprec, self.potential = symprec, potential

    @classmethod
    def named(
        cls,
        symprec: float | None,
        potential: str | None,
        relaxer: Relaxer | None,
        device: torch.device | str | None = None,
    ) -> Idealiser | None:
        """Return one, or None without a tolerance.

        Args:
            symprec: largest tolerance, angstrom.
            potential: judge of energies where there is no relaxer, which goes first; ``none`` lets
                geometry alone decide, None takes CHGNet where it is installed.
            relaxer: whose potential judges.
            device: torch's name.

        Raises:
            ConfigError: for a tolerance or a potential that makes no sense.
        """
        if symprec is None:
            return None
        check_bounds(symprec)
        if relaxer is not None:
            return cls(symprec, relaxer.potential)
        if potential is None and importlib.util.find_spec(POTENTIAL) is None:
            logger.warning("no energy is looked at in idealising: pip install %s", POTENTIAL)
            potential = "none"
        judge = None if potential == "none" else load_potential(potential or POTENTIAL, device)
        return cls(symprec, judge)

    def __call__(self, crystals: Crystals) -> tuple[Crystals, list[Idealised]]:
        """Return the ``M`` crystals idealised, which may have fewer atoms, and a note for each.

        The notes have them in standard cells; here they are in Niggli cells, which models that rank
        them have learned.
        """
        found = idealise(list(crystals), self.symprec, self.potential)
        cells = [_niggli(one.crystal) if one.ideal else one.crystal for one in found]
        after = Crystals.of(cells).tensors()
        single = after.frac_coords.float(), after.lattice.float()
        kept = {"targets": crystals.targets, "ids": crystals.ids}
        return replace(after, frac_coords=wrap(single[0]), lattice=single[1], **kept), found

    def to_manifest(self, notes: Sequence[Idealised], names: Sequence[str]) -> dict[str, Any]:
        """Return what a manifest says of it."""
        return told(notes, names, self.symprec, self.potential)


def _niggli(crystal: Crystal) -> Crystal:
    """Return a crystal in its Niggli cell; beyond the bounds of data sets as it is."""
    try:
        return standardise(crystal, apart=0)
    except BadCrystalError:
        return crystal
