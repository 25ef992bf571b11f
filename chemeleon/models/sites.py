"""What models know of space groups when their tokens are orbits.

Shapes: ``B`` crystals, ``N`` padded orbits, ``D`` width, ``S`` sites: all Wyckoff letters of all
space groups, numbered as in `Crystals.sites`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chemeleon.crystals.batch import LETTERS
from chemeleon.crystals.symbols import SPACE_GROUPS
from chemeleon.crystals.wyckoff import group

GROUP_CLASSES = SPACE_GROUPS + 1  # 0 is padding
FACTS = 13  # of a site: the map onto its points (9 + 3), and its atoms in the conventional cell
_KEYS = 64


class SiteEncoder(nn.Module):
    """Embeds space groups and Wyckoff positions.

    A position is known by its letter and by the points that belong to it, so that what is learnt of
    one group serves others, too.
    """

    facts: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.groups = nn.Embedding(GROUP_CLASSES, width)
        self.letters = nn.Embedding(LETTERS, width)
        self.position = nn.Sequential(
            nn.Linear(FACTS, width), nn.SiLU(), nn.Linear(width, width, bias=False)
        )
        self.register_buffer("facts", torch.zeros(GROUP_CLASSES * LETTERS, FACTS))
        if not self.facts.is_meta:
            self.facts.copy_(site_facts())

    def multiplicity(self, sites: Tensor) -> Tensor:
        """Return the atoms of orbits in the conventional cell, as floats; 0 where there is none."""
        return self.facts[sites, -1].float()

    def embed(self, sites: Tensor) -> Tensor:
        """Return what orbits are made of, ``(..., D)``."""
        facts = self.facts[sites].to(self.letters.weight.dtype)
        facts = torch.cat([facts[..., :-1], torch.log1p(facts[..., -1:])], -1)
        return self.position(facts) + self.letters(sites % LETTERS)

    def of_group(self, sites: Tensor) -> Tensor:
        """Return the space groups of crystals for all of their tokens, ``(B, 1, D)``."""
        return self.groups(sites[:, :1] // LETTERS)

    def fixed(self, sites: Tensor) -> tuple[Tensor, Tensor]:
        """Return which coordinates are the same on all points of a site, and what they are.

        Returns:
            ``(..., 3)`` bool, and ``(..., 3)`` fractional coordinates that mean nothing elsewhere.
        """
        facts = self.facts[sites]
        return (facts[..., :9].unflatten(-1, (3, 3)) == 0).all(-1), facts[..., 9:12].float()


class SiteChooser(SiteEncoder):
    """Also tells the letters of a group apart, for orbits whose letters a model chooses."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.key = nn.Linear(width, _KEYS, bias=False)
        self.query = nn.Linear(width, _KEYS)

    def choose(self, logits: Tensor, mask: Tensor, sites: Tensor) -> Tensor:
        """Return the likeliest sites, ``(B, N)``; a point that nothing can move is taken once.

        Of tokens that want the same point the likeliest has it; others take their next best.

        Args:
            logits: ``(B, N, 27)`` of `logits`.
            mask: ``(B, N)`` real tokens.
            sites: ``(B, N)``; only their space groups are read.
        """
        known = _all_of_group(sites)
        single = (self.facts[known, :9] == 0).all(-1).unsqueeze(1)  # (B, 1, 27)
        score = logits.log_softmax(-1)
        while True:
            letters = score.argmax(-1)
            wants = (F.one_hot(letters, LETTERS) > 0) & mask.unsqueeze(-1) & single
            claims = score.masked_fill(~wants, -torch.inf)
            best = F.one_hot(claims.argmax(1), len(mask[0])).mT > 0  # (B, N, 27)
            lost = wants & ~best
            if not lost.any():
                return known.gather(1, letters).masked_fill(~mask, 0)
            score = score.masked_fill(lost, -torch.inf)

    def logits(self, features: Tensor, sites: Tensor) -> Tensor:
        """Return the letters that tokens may have, ``(B, N, 27)``; minus infinity for others'.

        Args:
            features: ``(B, N, D)`` of the decoder.
            sites: ``(B, N)``; only their space groups are read.
        """
        known = _all_of_group(sites)
        keys = self.key(self.embed(known))
        found = self.query(features) @ keys.mT * _KEYS**-0.5
        absent = self.multiplicity(known) == 0
        return found.float().masked_fill(absent.unsqueeze(1), -torch.inf)


def _all_of_group(sites: Tensor) -> Tensor:
    """Return all sites of the space groups of ``(B, N)`` sites, ``(B, 27)``."""
    return sites[:, :1] // LETTERS * LETTERS + torch.arange(LETTERS, device=sites.device)


def site_facts() -> Tensor:
    """Return what is known of all sites, ``(S, 13)``; all 0 for letters that a group has not."""
    facts = torch.zeros(GROUP_CLASSES, LETTERS, FACTS)
    facts[0, 0, -1] = 1  # padding has a letter
    for number in range(1, GROUP_CLASSES):
        table = group(number)
        for letter, place in enumerate(table.places):
            project = torch.from_numpy(place.project.rotations).flatten()
            shift = torch.from_numpy(place.project.shifts)
            atoms = torch.tensor([float(len(place.images.shifts) * len(table.centring))])
            facts[number, letter] = torch.cat([project, shift, atoms])
    return facts.flatten(0, 1)
