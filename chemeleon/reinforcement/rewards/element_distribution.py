"""Elements as frequent as in the training set: what a crystal has too much of counts against it.

The reward is the derivative of the Kullback-Leibler divergence between the elements of the update
and those of the training set by the crystal's share in the update, with the other sign.

Shapes: ``M`` crystals, ``Z`` atomic numbers.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from chemeleon.config.bounds import Section
from chemeleon.crystals.batch import MAX_ATOMIC_NUMBER, Crystals
from chemeleon.crystals.ragged import reduce_atoms
from chemeleon.reinforcement.rewards.base import (
    Answer,
    Candidates,
    Context,
    Reward,
    needs_reference,
)


class ElementDistributionOptions(Section):
    """Settings of `ElementDistribution`."""

    smoothing: float = Field(
        default=1e-3,
        gt=0,
        description="Added to the share of every element, on both sides: what is rarer than this"
        " counts little.",
    )


class ElementDistribution(Reward):
    """Minus how much more frequent a crystal's elements are than in the training set, in nats."""

    Options = ElementDistributionOptions

    def __init__(self, options: ElementDistributionOptions, context: Context) -> None:
        super().__init__(options, context)
        assert context.reference is not None
        self.wanted = shares(context.reference)

    @classmethod
    def problems(cls, options: ElementDistributionOptions, context: Context) -> list[str]:
        """See `Reward`."""
        return needs_reference(context)

    def score(self, candidates: Candidates) -> Answer:
        """See `Reward`."""
        return candidates.of_sound(self._fewness)

    def _fewness(self, crystals: Crystals) -> Tensor:
        least = self.options.smoothing
        excess = ((shares(crystals) + least) / (self.wanted + least)).log()
        return -reduce_atoms(excess[crystals.atomic_numbers], crystals.num_atoms, "mean")


def shares(crystals: Crystals) -> Tensor:
    """Return the share of each element, ``(Z,)`` float64 by atomic number: the mean over crystals
    of its share in their atoms."""
    weights = (1 / crystals.num_atoms.double()).repeat_interleave(crystals.num_atoms)
    total = torch.bincount(crystals.atomic_numbers, weights, minlength=MAX_ATOMIC_NUMBER + 1)
    return total / max(1, len(crystals))
