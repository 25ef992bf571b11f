"""Sound crystals: 1 if the structure, and the composition too, could exist, else 0."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from chemeleon.config.bounds import Section
from chemeleon.crystals.symbols import symbol
from chemeleon.evaluation.describe import Smact
from chemeleon.evaluation.matching.grouping import composition_keys, elements_of
from chemeleon.evaluation.work import answers
from chemeleon.reinforcement.rewards.base import Answer, Candidates, Context, Reward
from chemeleon.workers import keep_workers


class ValidityOptions(Section):
    """Settings of `Validity`."""

    composition: bool = Field(
        default=True, description="Also require charge neutrality (SMACT; metals pass)."
    )


class Validity(Reward):
    """1 for crystals with valid structure and composition, else 0."""

    Options = ValidityOptions
    floor = 0.0
    busy = "cpu"

    def __init__(self, options: ValidityOptions, context: Context) -> None:
        super().__init__(options, context)
        self.seen: dict[bytes, float] = {}
        if options.composition and context.jobs != 1:
            keep_workers()

    def score(self, candidates: Candidates) -> Answer:
        """See `Reward`."""
        valid, facts = candidates.sound, {}
        if self.options.composition:
            facts["valid_composition"] = torch.from_numpy(self._compositions(candidates))
            valid = valid & facts["valid_composition"]
        return Answer(valid.double(), facts=facts)

    def _compositions(self, candidates: Candidates) -> NDArray[np.bool_]:
        """Return the verdicts on the reduced compositions, each asked for once in a run."""
        keys = composition_keys(candidates.arrays)
        new = sorted({key for key in keys if key and key not in self.seen})
        verdicts = answers(Smact([]), map(_formula, new), self.context.jobs)
        self.seen.update(zip(new, verdicts, strict=True))
        return np.array([self.seen.get(key, 0.0) == 1.0 for key in keys], dtype=bool)


def _formula(key: bytes) -> str:
    return "".join(f"{symbol(z)}{n}" for z, n in elements_of(key).items())
