"""Element embeddings that begin where chemistry does: neighbours in the table are alike."""

from __future__ import annotations

import math

import torch
from torch import nn

from chemeleon.crystals.batch import MAX_ATOMIC_NUMBER

CLASSES = MAX_ATOMIC_NUMBER + 1  # one per element; 0 is padding
NOBLE_GASES = (0, 2, 10, 18, 36, 54, 86, 118)
SHARES = {"group": 0.6, "period": 0.3, "own": 0.1}  # of the variance at the start


def group_and_period(number: int) -> tuple[int, int]:
    """Return group (1 to 18) and period of an element; lanthanides and actinides are group 3."""
    period = next(p for p, last in enumerate(NOBLE_GASES) if number <= last)
    place = number - NOBLE_GASES[period - 1]
    length = NOBLE_GASES[period] - NOBLE_GASES[period - 1]
    if place <= 2 and number != 2:
        return place, period
    from_end = length - place  # 0 for a noble gas
    return (18 - from_end if from_end < 15 else 3), period


def element_embedding(width: int) -> nn.Embedding:
    """Return a table ``(100, width)`` of unit variance; what it learns is up to training.

    Rare elements are seen too seldom to learn all of theirs, and may lean on their neighbours.
    """
    table = nn.Embedding(CLASSES, width)
    if table.weight.is_meta:
        return table
    places = [group_and_period(z) for z in range(1, CLASSES)]
    groups = torch.tensor([0, *(group for group, _ in places)])
    periods = torch.tensor([0, *(period for _, period in places)])
    with torch.no_grad():
        table.weight.mul_(math.sqrt(SHARES["own"]))
        table.weight.add_(torch.randn(19, width)[groups] * math.sqrt(SHARES["group"]))
        table.weight.add_(torch.randn(8, width)[periods] * math.sqrt(SHARES["period"]))
    return table
