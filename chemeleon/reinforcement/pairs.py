"""Micro-batches of reinforcement learning: pairs of a crystal and a step, all of one shape.

Shapes: ``C`` pairs of a micro-batch (a crystal and a step of its walk, or a crystal and a noise
level), ``N`` padded atoms.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from chemeleon.reinforcement.rollout import Policy, Rollout


class Piece(NamedTuple):
    """A micro-batch that can be recorded.

    Attributes:
        values: tensors by name, first axis ``C`` (but for ``slots``).
        width: ``N``.
        full: there is no padding.
        members: new crystals that are counted with it.
    """

    values: dict[str, Tensor]
    width: int
    full: bool
    members: int

    @property
    def form(self) -> tuple[object, ...]:
        """What tells batches of different shapes apart."""
        return self.width, self.full, *((k, v.shape) for k, v in self.values.items())

    @property
    def mask(self) -> Tensor:
        """``(C, N)`` bool, True on real atoms."""
        sizes = self.values["num_atoms"]
        return torch.arange(self.width, device=sizes.device) < sizes.unsqueeze(-1)

    @property
    def resident(self) -> bool:
        """All of it is on the device."""
        return True

    def tensors(self) -> list[Tensor]:
        """All that differs between batches of one form."""
        return list(self.values.values())

    def clone(self) -> Piece:
        """A copy with tensors of its own."""
        return self._replace(values={k: v.clone() for k, v in self.values.items()})


def cut(
    rollout: Rollout, policy: Policy, members: Tensor, rows: list[int], most: int
) -> list[tuple[Piece, Tensor, Tensor, Tensor]]:
    """Pair the crystals ``members`` with all ``rows``, at most ``most`` at a time.

    Returns:
        The inputs of each micro-batch, and ``(C,)`` on the device: its crystals, its rows and
        1, or 0 where a pair only fills up the shape.
    """
    parts = members.tensor_split(-(-len(members) // most))
    pieces = []
    device = policy.device
    for part in parts:
        count = -(-len(rows) // max(1, most // len(part)))
        each = -(-len(rows) // count)
        index = rollout.prompts.crystals[part].repeat(each)
        batch = policy.shapes(index, rollout.width)
        inputs, crystals = policy.inputs(batch), part.repeat(each).to(device)
        filled = rows + rows[-1:] * (count * each - len(rows))
        real = [1.0] * len(rows) + [0.0] * (len(filled) - len(rows))
        for begin in range(0, len(filled), each):
            numbers = torch.tensor(filled[begin : begin + each])
            weights = torch.tensor(real[begin : begin + each])
            piece = Piece(inputs, rollout.width, batch.full, 0)
            pieces.append(
                (
                    piece,
                    crystals,
                    numbers.repeat_interleave(len(part)).to(device),
                    weights.repeat_interleave(len(part)).to(device),
                )
            )
    return pieces
