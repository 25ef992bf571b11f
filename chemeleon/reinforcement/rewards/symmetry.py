"""Symmetric crystals: 1 if there is more symmetry than translations, else 0."""

from __future__ import annotations

import torch
from pydantic import Field

from chemeleon.config.bounds import Section
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
        values = torch.full((len(candidates),), torch.nan, dtype=torch.float64)
        for row in candidates.sound.nonzero().flatten().tolist():
            found = space_group(*candidates.arrays.crystal(row), self.options.symprec)
            values[row] = float(found is not None and found.number > 1)
        reasons = {i: p for i, p in enumerate(candidates.problems) if p is not None}
        return Answer(values, reasons)
