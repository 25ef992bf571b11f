"""Symmetric crystals: 1 if there is more symmetry than translations, else 0."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from chemeleon.config.bounds import Section
from chemeleon.crystals.batch import Crystals
from chemeleon.crystals.symmetry import SYMPREC, space_group
from chemeleon.reinforcement.rewards.base import Answer, Candidates, Reward


class SymmetryOptions(Section):
    """Settings of `Symmetry`."""

    symprec: float = Field(default=SYMPREC, gt=0, le=1, description="Tolerance in angstrom.")


class Symmetry(Reward):
    """1 for crystals of any space group but P1, within a tolerance, else 0."""

    Options = SymmetryOptions
    floor = 0.0

    def score(self, candidates: Candidates) -> Answer:
        """See `Reward`; 0.6 ms per crystal."""
        return candidates.of_sound(self._symmetric)

    def _symmetric(self, crystals: Crystals) -> Tensor:
        groups = [space_group(*crystal, self.options.symprec) for crystal in crystals.arrays()]
        return torch.tensor([float(group is not None and group.number > 1) for group in groups])
