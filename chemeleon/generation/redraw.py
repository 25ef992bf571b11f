"""Crystals that came out badly, or are known, are drawn again from other noise.

That is rejection sampling, in batches.

Shapes: ``M`` crystals of a sample, ``B`` of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from chemeleon.config.requests import names_of
from chemeleon.crystals.batch import Crystals
from chemeleon.crystals.random import fold
from chemeleon.crystals.soundness import close_contacts, unsound
from chemeleon.data.named import find_set
from chemeleon.errors import GenerationError
from chemeleon.evaluation.matching.lookup import Lookup
from chemeleon.workers import worker_count


class Drawn(NamedTuple):
    """A batch of crystals as they were decoded.

    Attributes:
        numbers: ``(B,)`` of the crystals, by which their random numbers are told.
        crystals: in main memory.
        redraws: ``(B,)`` int64, how often each was drawn again.
        close: ``(B,)`` bool, which have atoms nearer than they bond (`soundness.close_contacts`).
            Where nothing is drawn again nobody looks, and it is False.
        invalid: ``(B,)`` bool, the same of other faults (`soundness.unsound`).
        known: ``(B,)`` bool, which are in a set that they should be new to. Where there is none, or
            something else is wrong with a crystal, nobody looks, and it is False.
    """

    numbers: Tensor
    crystals: Crystals
    redraws: Tensor
    close: Tensor
    invalid: Tensor
    known: Tensor

    @classmethod
    def unjudged(cls, numbers: Tensor, crystals: Crystals) -> Drawn:
        """Return crystals that are kept as they come."""
        nothing = torch.zeros_like(numbers)
        return cls(numbers, crystals, nothing, *[nothing.bool()] * 3)

    def subset(self, rows: Tensor) -> Drawn:
        """Return some crystals, ``(B,)`` bool."""
        numbers, _, *said = self
        return Drawn(numbers[rows], self.crystals.subset(rows), *(value[rows] for value in said))


def load_known(names: str | Sequence[str] | None, most: int, world: int = 1) -> Lookup | None:
    """Return the crystals of data sets, to be compared with those that are made; None without sets.

    Args:
        names: see `data.named.find_set`; the train split where none is named.
        most: redraws of a crystal.
        world: processes that share the cores.

    Raises:
        DataError: if there is no such set.
        GenerationError: if nothing is drawn again.
    """
    if not names:
        return None
    if most == 0:
        raise GenerationError(
            "crystals that are not new are drawn again, but redraw is 0: say how often at most,"
            " such as 8"
        )
    crystals = Crystals.join([find_set(name).load().crystals for name in names_of(names)])
    return Lookup(crystals, workers=max(1, worker_count() // world))


class Queue:
    """Which crystals are to be made next, and which of them again.

    Crystals are redrawn once all have been drawn, so that their batches are full, too.
    """

    def __init__(self, order: Tensor, keys: Tensor, most: int, known: Lookup | None = None) -> None:
        """Begin.

        Args:
            order: numbers of the crystals to make, like sizes together.
            keys: ``(M,)`` random keys of all.
            most: redraws of a crystal, after which the last one stays.
            known: crystals that are not to be made once more.
        """
        self.left, self.keys, self.most, self.known = order, keys, most, known
        self.again: list[Tensor] = []
        self.redraws = torch.zeros(len(keys), dtype=torch.int64)

    def take(self, size: int) -> Tensor:
        """Return the numbers of the next batch, of at most ``size``; none at the end."""
        if len(self.left) == 0 and self.again:
            self.left, self.again = torch.cat(self.again), []
        # even parts, or the last one may be too small to fill the device
        even = -(-len(self.left) // max(1, -(-len(self.left) // size)))
        chosen, self.left = self.left[:even], self.left[even:]
        return chosen

    def put_back(self, chosen: Tensor) -> None:
        """Have a batch made later that could not be made."""
        self.left = torch.cat([chosen, self.left])

    def keys_of(self, chosen: Tensor) -> Tensor:
        """Return random keys of crystals, for each draw another one."""
        keys, redraws = self.keys[chosen], self.redraws[chosen]
        return torch.where(redraws > 0, fold(keys, "redraw", redraws), keys)

    def judge(self, chosen: Tensor, crystals: Crystals, device: torch.device) -> Drawn:
        """Return crystals that were made with what is wrong with them.

        Args:
            chosen: ``(B,)`` their numbers.
            crystals: in main memory.
            device: where distances are computed.
        """
        if self.most == 0:
            return Drawn.unjudged(chosen, crystals)
        there = crystals.to(device)
        faults = close_contacts(there).cpu(), unsound(there).cpu()
        return Drawn(chosen, crystals, self.redraws[chosen], *faults, torch.zeros_like(faults[0]))

    def kept(self, drawn: Drawn) -> Drawn:
        """Return what is not drawn again, and note what is."""
        bad = drawn.close | drawn.invalid
        if self.known is not None:
            known = torch.zeros_like(bad)
            known[~bad] = torch.from_numpy(self.known.holds(drawn.crystals.subset(~bad)))
            drawn = drawn._replace(known=known)
        again = (bad | drawn.known) & (drawn.redraws < self.most)
        if not again.any():
            return drawn
        numbers = drawn.numbers[again]
        self.redraws[numbers] += 1
        self.again.append(numbers)
        return drawn.subset(~again)
