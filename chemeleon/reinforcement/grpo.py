"""Group relative policy optimisation: advantages and the clipped loss.

Shao et al. 2024 (arXiv:2402.03300), on the steps of a reverse walk as in DDPO (Black et al. 2023,
arXiv:2305.13301). Shapes: ``M`` crystals, ``C`` pairs of a crystal and a step.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

FLAT = 1e-4  # a group whose rewards spread less than this teaches nothing


class Terms(NamedTuple):
    """What each pair ``(C,)`` contributes.

    Attributes:
        loss: what is made small.
        surrogate: clipped gain.
        kl: from the old policy to the new, k3 of Schulman's note on approximating it.
        entropy: minus the log-probability.
        ratio: of new to old probability.
        clipped: 1 where clipping holds the gain.
    """

    loss: Tensor
    surrogate: Tensor
    kl: Tensor
    entropy: Tensor
    ratio: Tensor
    clipped: Tensor


def advantages(rewards: Tensor, group_size: int) -> tuple[Tensor, Tensor]:
    """Compare each crystal with its group, whose members are adjacent.

    Args:
        rewards: ``(M,)``.
        group_size: crystals per group.

    Returns:
        ``(M,)`` (reward - mean) / (std + 1e-4), 0 in flat groups; and ``(M,)`` bool, True for
        members of flat groups.
    """
    groups = rewards.float().view(-1, group_size)
    centred = groups - groups.mean(1, keepdim=True)
    spread = groups.std(1, keepdim=True)
    flat = (spread < FLAT).expand_as(groups)
    return (centred / (spread + FLAT)).masked_fill(flat, 0).flatten(), flat.flatten()


def grpo_terms(
    new: Tensor,
    old: Tensor,
    advantage: Tensor,
    *,
    clip_ratio: float,
    kl_weight: float,
    entropy_weight: float,
) -> Terms:
    """Return the terms of every pair; arguments are log-probabilities and advantages ``(C,)``."""
    log_ratio = new - old
    ratio = torch.exp(log_ratio)
    bounded = ratio.clamp(1 - clip_ratio, 1 + clip_ratio)
    gain, limit = ratio * advantage, bounded * advantage
    surrogate = torch.minimum(gain, limit)
    kl = ratio - 1 - log_ratio
    loss = -surrogate + kl_weight * kl + entropy_weight * new
    return Terms(loss, surrogate, kl, -new, ratio, (limit < gain).to(ratio.dtype))
