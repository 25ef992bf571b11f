"""Which elements may occur: 1 if all atoms are of allowed elements, else 0."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field, model_validator

from chemeleon.config.bounds import Section, checked
from chemeleon.crystals.batch import MAX_ATOMIC_NUMBER
from chemeleon.crystals.ragged import reduce_atoms
from chemeleon.crystals.symbols import element_numbers
from chemeleon.reinforcement.rewards.base import Answer, Candidates, Context, Reward

Symbol = Annotated[str, checked(lambda text: element_numbers([text]))]


class ElementsOptions(Section):
    """Settings of `Elements`."""

    allow: list[Symbol] = Field(default_factory=list, description="Only these; empty is all.")
    forbid: list[Symbol] = Field(default_factory=list, description="None of these.")
    share: bool = Field(
        default=False, description="Score the share of allowed atoms instead of all or nothing."
    )

    @model_validator(mode="after")
    def _says_something(self) -> ElementsOptions:
        both = set(self.allow) & set(self.forbid)
        if both:
            raise ValueError(f"{', '.join(sorted(both))} cannot be allowed and forbidden")
        if not self.allow and not self.forbid:
            raise ValueError("name elements to allow or to forbid")
        return self


class Elements(Reward):
    """1 for crystals of allowed elements, else 0; or the share of atoms that are allowed."""

    Options = ElementsOptions
    floor = 0.0
    busy = "cpu"

    def __init__(self, options: ElementsOptions, context: Context) -> None:
        super().__init__(options, context)
        from ase.data import atomic_numbers

        good = torch.full((MAX_ATOMIC_NUMBER + 1,), float(not options.allow), dtype=torch.float64)
        good[[atomic_numbers[symbol] for symbol in options.allow]] = 1
        good[[atomic_numbers[symbol] for symbol in options.forbid]] = 0
        self.good = good

    def score(self, candidates: Candidates) -> Answer:
        """See `Reward`."""
        crystals = candidates.crystals
        share = reduce_atoms(self.good[crystals.atomic_numbers], crystals.num_atoms, "mean")
        return Answer(share if self.options.share else (share == 1).double())
