"""Training batches by index: seeded, sharded over processes, resumable, the same on any rank count.

One optimizer step takes ``batch_size x processes x accumulation`` crystals from the epoch's
permutation and deals them out to one part per process and micro-batch. Every process knows the
whole step, so sums are divided by the step's size without talking to the others: two processes give
the gradient of one process with the doubled batch.

With accumulation, a step's micro-batches are of like size (sorted within the step), so that little
of them is padding; what a step learns from is not changed by that. Sorting across steps was tried
and learns more slowly.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from chemeleon.config.schema import StageConfig
from chemeleon.crystals.batch import CrystalBatch, FlatCrystals
from chemeleon.crystals.random import make_keys
from chemeleon.errors import DataError

RESIDENT_BYTES = 4 << 30  # larger sets stay in main memory and are gathered there


class TrainBatch(NamedTuple):
    """What one process takes in one micro-batch.

    Attributes:
        crystals: ``B`` crystals.
        keys: ``(B,)`` random keys, one for each showing of each crystal.
        atoms: this part's fair share of the step's atoms, the denominator of per-atom means.
        size: the same for crystals.
    """

    crystals: CrystalBatch
    keys: Tensor
    atoms: float
    size: float


class Loader:
    """Batches of one data set.

    Raises:
        DataError: if there are no crystals, or fewer than processes and micro-batches.
    """

    def __init__(
        self,
        crystals: FlatCrystals,
        batch_size: int,
        *,
        seed: int,
        device: torch.device,
        rank: int = 0,
        world: int = 1,
        accumulation: int = 1,
        bucket: int = 4,
    ) -> None:
        self.parts = world * accumulation
        self.rank, self.world, self.accumulation = rank, world, accumulation
        if len(crystals) < self.parts:
            raise DataError(
                f"{len(crystals)} crystals cannot be shared by {world} processes x {accumulation}"
                " accumulation steps: lower trainer.grad_accumulation or the number of processes"
            )
        self.seed, self.device, self.bucket = seed, device, bucket
        self.step_size = batch_size * self.parts
        self.sizes = crystals.num_atoms.cpu()  # host copy: widths must not wait for the device
        self.largest = int(self.sizes.max())
        self.crystals = crystals.to(device) if crystals.bytes() < RESIDENT_BYTES else crystals

    @classmethod
    def from_config(
        cls,
        config: StageConfig,
        crystals: FlatCrystals,
        device: torch.device,
        rank: int,
        world: int,
    ) -> Loader:
        """Build with the settings of a training stage."""
        return cls(
            crystals,
            config.data.batch_size,
            seed=config.seed,
            device=device,
            rank=rank,
            world=world,
            accumulation=config.trainer.grad_accumulation,
            bucket=config.data.bucket,
        )

    def __len__(self) -> int:
        """Optimizer steps per epoch."""
        whole, rest = divmod(len(self.sizes), self.step_size)
        return whole + (rest >= self.parts)

    def width(self, sizes: Tensor) -> int:
        """Return the padded number of atoms for crystals of these sizes."""
        largest = int(sizes.max())
        return min(-(-largest // self.bucket) * self.bucket, self.largest)

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[list[TrainBatch]]:
        """Yield each optimizer step's micro-batches of this process."""
        generator = torch.Generator().manual_seed((self.seed << 24) + epoch)
        order = torch.randperm(len(self.sizes), generator=generator)
        for step in range(first_step, len(self)):
            chosen = order[step * self.step_size : (step + 1) * self.step_size]
            chosen = chosen[torch.argsort(self.sizes[chosen], stable=True)]
            atoms = float(self.sizes[chosen].sum()) / self.parts
            size = len(chosen) / self.parts
            micro = torch.tensor_split(chosen, self.accumulation)
            yield [self._gather(m[self.rank :: self.world], epoch, atoms, size) for m in micro]

    def _gather(self, indices: Tensor, epoch: int, atoms: float, size: float) -> TrainBatch:
        width = self.width(self.sizes[indices])
        home = self.crystals.num_atoms.device
        batch = self.crystals.batch(indices.to(home), width).to(self.device)
        showing = indices.to(self.device) + epoch * len(self.sizes)
        return TrainBatch(batch, make_keys(self.seed, showing), atoms, size)


class EvalLoader:
    """A set in order of size, cut into batches; each process takes every ``world``-th one.

    The denominators ``atoms`` and ``size`` of its batches are those of the whole set, so that terms
    add up to the set's mean however it is cut.
    """

    def __init__(self, crystals: FlatCrystals, batch_size: int, *, device: torch.device) -> None:
        self.crystals, self.batch_size, self.device = crystals, batch_size, device
        self.atoms, self.size = float(crystals.num_atoms.sum()), float(len(crystals))
        self.order = torch.argsort(crystals.num_atoms.cpu(), stable=True)

    def __iter__(self) -> Iterator[TrainBatch]:
        return self.shard(0, 1)

    def shard(self, rank: int, world: int) -> Iterator[TrainBatch]:
        """Yield this process's batches; keys depend on the crystal's place in the set alone."""
        for chunk in self.order.split(self.batch_size)[rank::world]:
            batch = self.crystals.batch(chunk).to(self.device)
            keys = make_keys(0, chunk.to(self.device))
            yield TrainBatch(batch, keys, self.atoms, self.size)
