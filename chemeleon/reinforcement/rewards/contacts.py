"""Atoms no nearer than they bond: the closest contact, up to where it is near no more."""

from __future__ import annotations

import torch
from pydantic import Field

from chemeleon.config.bounds import Section
from chemeleon.crystals.soundness import MIN_CONTACT, closest_contacts
from chemeleon.reinforcement.rewards.base import Answer, Candidates, Reward


class ContactsOptions(Section):
    """Settings of `Contacts`."""

    enough: float = Field(
        default=MIN_CONTACT,
        gt=0,
        description="Share of the sum of two covalent radii from which on a distance is good.",
    )


class Contacts(Reward):
    """1 for crystals without atoms too close, else the closest contact's share of what is."""

    Options = ContactsOptions
    floor = 0.0

    def score(self, candidates: Candidates) -> Answer:
        """See `Reward`."""
        closest = torch.full((len(candidates),), torch.nan, dtype=torch.float64)
        rows = candidates.sound.nonzero().flatten()
        closest[rows] = closest_contacts(candidates.crystals.subset(rows))
        reasons = {i: p for i, p in enumerate(candidates.problems) if p is not None}
        unknown = rows[~closest[rows].isfinite()].tolist()
        reasons |= dict.fromkeys(unknown, "an element without a covalent radius")
        return Answer((closest / self.options.enough).clamp(max=1), reasons)
