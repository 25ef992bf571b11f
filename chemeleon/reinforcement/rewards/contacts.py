"""Atoms no nearer than they bond: the closest contact, up to where it is near no more."""

from __future__ import annotations

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
        closest, reasons, _ = candidates.of_sound(closest_contacts)
        unknown = (candidates.sound & ~closest.isfinite()).nonzero().flatten().tolist()
        radius = dict.fromkeys(unknown, "an element without a covalent radius")
        return Answer((closest / self.options.enough).clamp(max=1), {**reasons, **radius})
