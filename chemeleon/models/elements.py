"""Element embeddings that begin where chemistry does, and the choice of a crystal's elements.

Shapes: ``B`` crystals, ``N`` padded atoms, ``E`` classes, slot = atomic number.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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


def choose_elements(logits: Tensor, mask: Tensor, penalty: float) -> Tensor:
    """Return likely atomic numbers of crystals, with a penalty on every element, ``(B, N)``.

    Atoms that choose by themselves now and then take an element that is like their neighbours'
    (four Sn and one Ge), which real crystals seldom have. Sought is the most likely assignment
    under a prior that falls by ``exp(penalty)`` with each element. Beginning with every atom's own
    choice, the element whose loss costs least is left out, and its atoms take the next best of the
    others, as long as that costs less than the penalty: greedy, so now and then the second best.

    Args:
        logits: ``(B, N, E)``; minus infinity for elements that are not allowed.
        mask: ``(B, N)`` real atoms.
        penalty: in nats; with 0 every atom chooses by itself.
    """
    if penalty == 0:
        return logits[..., 1:].argmax(-1) + 1
    score = logits.float().log_softmax(-1)
    score[..., 0] = -torch.inf
    classes = score.shape[-1]
    kept = (F.one_hot(score.argmax(-1), classes) * mask.unsqueeze(-1)).sum(1) > 0
    while True:
        best, found = score.masked_fill(~kept.unsqueeze(1), -torch.inf).topk(2, -1)
        types = found[..., 0]
        # of one element alone the second best is minus infinity, so that it is never left out
        loss = (best[..., 0] - best[..., 1]).masked_fill(~mask, 0.0).unsqueeze(-1)
        # a sum in fixed order, unlike that of scatter_add on a GPU
        costs = torch.where(F.one_hot(types, classes) > 0, loss, 0.0).sum(1)
        cost, cheapest = costs.masked_fill(~kept, torch.inf).min(1)
        leave = cost < penalty
        if not leave.any():
            return types
        kept &= ~(F.one_hot(cheapest, classes) * leave.unsqueeze(-1)).bool()
