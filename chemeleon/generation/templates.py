"""Crystals of a training set with the elements of a formula in the place of their own.

They are scaled to the volumes of the new elements (`prototypes.Prototypes.crystal`). No model is
needed: this is the baseline of crystal structure prediction, and a good first guess.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace

import torch

from chemeleon.config.launched import Share
from chemeleon.crystals.orbits import crystals_of, put_together
from chemeleon.generation.formulas import Candidates
from chemeleon.generation.prototypes import Prototypes
from chemeleon.generation.redraw import Drawn

BATCH = 256


class Templates:
    """Makes crystals of prototypes, where a `Pipeline` makes those of a model."""

    def __init__(self, prototypes: Prototypes) -> None:
        self.prototypes = prototypes

    def stream(self, candidates: Candidates, share: Share) -> Generator[Drawn]:
        """Yield the crystals of this process, in batches."""
        mine = range(share.rank, len(candidates.atoms), share.world)
        names = candidates.names()
        for first in range(0, len(mine), BATCH):
            numbers = list(mine[first : first + BATCH])
            found = [candidates.proposals[number].prototype for number in numbers]
            made = [self.prototypes.crystal(one) for one in found if one is not None]
            crystals = crystals_of(put_together(made)).tensors()
            single = crystals.with_geometry(crystals.frac_coords.float(), crystals.lattice.float())
            ids = [names[number] for number in numbers]
            yield Drawn.unjudged(torch.tensor(numbers), replace(single, ids=ids))
