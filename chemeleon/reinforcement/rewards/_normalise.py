"""Scaling of rewards within groups, before they are weighted and added.

Shapes: ``M`` crystals.
"""

from __future__ import annotations

import torch
from torch import Tensor

from chemeleon.config.rl import Normalise

EPSILON = 1e-4  # as published; added to what is divided by


def normalise(values: Tensor, group: Tensor, how: Normalise) -> Tensor:
    """Scale values within each group.

    Args:
        values: ``(M,)`` finite; computed in double precision.
        group: ``(M,)`` int64 number of each crystal's group, any numbers.
        how: see `RewardConfig`.

    Returns:
        ``(M,)``; zeros where ``minmax`` or ``std`` find no spread, as in a group of one.
    """
    if how == "none":
        return values
    if how == "clip":
        return values.clamp(-1, 1)
    return _scaled(values.double(), group, how).to(values.dtype)


def _scaled(values: Tensor, group: Tensor, how: Normalise) -> Tensor:
    _, index = torch.unique(group, return_inverse=True)
    groups = int(index.max()) + 1 if len(index) else 0
    if how == "minmax":
        low, high = (_reduce(values, index, groups, kind)[index] for kind in ("amin", "amax"))
        return (values - low) / (high - low + EPSILON)
    count = torch.bincount(index, minlength=groups).to(values.dtype)
    centred = values - (_reduce(values, index, groups, "sum") / count)[index]
    if how == "mean":
        return centred
    # unbiased; a group of one has no deviation
    squares = _reduce(centred.square(), index, groups, "sum")
    deviation = (squares / (count - 1).clamp_min(1)).sqrt()[index]
    return centred / (deviation + EPSILON)


def _reduce(values: Tensor, index: Tensor, groups: int, kind: str) -> Tensor:
    return values.new_zeros(groups).scatter_reduce(0, index, values, kind, include_self=False)
