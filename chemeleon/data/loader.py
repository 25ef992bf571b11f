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
from chemeleon.crystals.batch import CrystalBatch, Crystals
from chemeleon.crystals.random import make_keys, torch_seed
from chemeleon.errors import DataError

TOKEN_STEP = (1, 128)  # CPU, GPU: few shapes to record there, and full tiles of matrix products
PACK_BELOW = 0.95  # share of the slots; with more of them in use packing costs more than it saves
RESIDENT_BYTES = 4 << 30  # larger sets stay in main memory and are gathered there


class TrainBatch(NamedTuple):
    """What one process takes in one micro-batch.

    Attributes:
        crystals: ``B`` crystals.
        keys: ``(B,)`` random keys, one for each showing of each crystal.
        atoms: this part's fair share of the step's atoms, the denominator of per-atom means.
        size: the same for crystals.
        members: ``B``.
    """

    crystals: CrystalBatch
    keys: Tensor
    atoms: Tensor
    size: Tensor
    members: int


class Draw(NamedTuple):
    """Which crystals make a micro-batch; `gather` makes it, on the device and without waiting.

    Attributes:
        source: the whole set.
        seed: of the run.
        indices: ``(B,)`` where the set is.
        showing: ``(B,)`` number of each crystal's showing.
        atoms: see ``TrainBatch``.
        size: the same.
        width: padded number of atoms.
        tokens: number of tokens, see ``Crystals.batch``.
        members: ``B``.
    """

    source: Crystals
    seed: int
    indices: Tensor
    showing: Tensor
    atoms: Tensor
    size: Tensor
    width: int
    tokens: int | None
    members: int

    @property
    def form(self) -> tuple[object, ...]:
        """What tells batches of different shapes apart."""
        return self.members, self.width, self.tokens

    @property
    def resident(self) -> bool:
        """Whether the set is on the device."""
        return self.indices.device == self.showing.device

    def tensors(self) -> list[Tensor]:
        """All that differs between batches of one form."""
        return [self.indices, self.showing, self.atoms, self.size]

    def clone(self) -> Draw:
        """A copy with tensors of its own."""
        indices, showing, atoms, size = (t.clone() for t in self.tensors())
        return self._replace(indices=indices, showing=showing, atoms=atoms, size=size)

    def gather(self) -> TrainBatch:
        """Make the batch."""
        batch = self.source.batch(self.indices, self.width, self.tokens).to(self.showing.device)
        keys = make_keys(self.seed, self.showing)
        return TrainBatch(batch, keys, self.atoms, self.size, self.members)


class Loader:
    """Batches of one data set.

    Raises:
        DataError: if there are no crystals, or fewer than processes and micro-batches.
    """

    def __init__(
        self,
        crystals: Crystals,
        batch_size: int,
        *,
        seed: int,
        device: torch.device,
        rank: int = 0,
        world: int = 1,
        accumulation: int = 1,
        pad_to_multiple: int = 4,
    ) -> None:
        self.parts = world * accumulation
        self.rank, self.world, self.accumulation = rank, world, accumulation
        if len(crystals) < self.parts:
            raise DataError(
                f"{len(crystals)} crystals cannot be shared by {world} processes x {accumulation}"
                " accumulation steps: lower trainer.grad_accumulation or the number of processes"
            )
        self.seed, self.device, self.pad_to_multiple = seed, device, pad_to_multiple
        self.step_size = batch_size * self.parts
        self.sizes = crystals.num_atoms.cpu()  # host copy: widths must not wait for the device
        self.largest = int(self.sizes.max())
        self.crystals = crystals.to(device) if crystals.bytes() < RESIDENT_BYTES else crystals

    @classmethod
    def from_config(
        cls,
        config: StageConfig,
        crystals: Crystals,
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
            pad_to_multiple=config.data.pad_to_multiple,
        )

    def __len__(self) -> int:
        """Optimizer steps per epoch."""
        whole, rest = divmod(len(self.sizes), self.step_size)
        return whole + (rest >= self.parts)

    def width(self, sizes: Tensor) -> int:
        """Return the padded number of atoms for crystals of these sizes."""
        largest = int(sizes.max())
        return min(-(-largest // self.pad_to_multiple) * self.pad_to_multiple, self.largest)

    def tokens(self, atoms: int, slots: int) -> int | None:
        """Return how many tokens to make of a batch; None where packing saves too little."""
        step = TOKEN_STEP[self.device.type == "cuda"]
        tokens = min(-(-atoms // step) * step, slots)
        return tokens if atoms == slots or tokens < PACK_BELOW * slots else None

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[list[Draw]]:
        """Yield each optimizer step's micro-batches of this process."""
        generator = torch.Generator().manual_seed(torch_seed(self.seed, epoch, 24))
        shuffled = torch.randperm(len(self.sizes), generator=generator)
        steps = shuffled.split(self.step_size)
        steps = [step[torch.argsort(self.sizes[step], stable=True)] for step in steps]
        atoms = [float(self.sizes[step].sum()) / self.parts for step in steps]
        sizes = [len(step) / self.parts for step in steps]
        # the whole epoch at once: a copy to the device for each step would wait for it each step
        indices = torch.cat(steps)
        showing = indices.to(self.device) + epoch * len(self.sizes)
        home = indices.to(self.crystals.num_atoms.device)
        numbers = torch.tensor([atoms, sizes], device=self.device)
        mine = slice(self.rank, None, self.world)
        for step in range(first_step, len(self)):
            here = slice(step * self.step_size, (step + 1) * self.step_size)
            micro = (x[here].tensor_split(self.accumulation) for x in (indices, home, showing))
            yield [
                self._draw(a[mine], b[mine], c[mine], numbers[:, step])
                for a, b, c in zip(*micro, strict=True)
            ]

    def _draw(self, indices: Tensor, home: Tensor, showing: Tensor, numbers: Tensor) -> Draw:
        sizes = self.sizes[indices]
        width = self.width(sizes)
        tokens = self.tokens(int(sizes.sum()), len(sizes) * width)
        atoms, size = numbers.unbind()
        return Draw(self.crystals, self.seed, home, showing, atoms, size, width, tokens, len(sizes))


class EvalLoader:
    """A set in order of size, cut into batches; each process takes every ``world``-th one.

    The denominators ``atoms`` and ``size`` of its batches are those of the whole set, so that terms
    add up to the set's mean however it is cut.
    """

    def __init__(self, crystals: Crystals, batch_size: int, *, device: torch.device) -> None:
        self.crystals, self.batch_size, self.device = crystals, batch_size, device
        self.atoms = torch.tensor(float(crystals.num_atoms.sum()), device=device)
        self.size = torch.tensor(float(len(crystals)), device=device)
        self.sizes = crystals.num_atoms.cpu()
        self.order = torch.argsort(self.sizes, stable=True)

    def __iter__(self) -> Iterator[TrainBatch]:
        return self.shard(0, 1)

    def shard(self, rank: int, world: int) -> Iterator[TrainBatch]:
        """Yield this process's batches; keys depend on the crystal's place in the set alone."""
        for chunk in self.order.split(self.batch_size)[rank::world]:
            largest, smallest = (int(self.sizes[chunk[i]]) for i in (-1, 0))
            slots = len(chunk) * largest if smallest == largest else None
            batch = self.crystals.batch(chunk, largest, slots).to(self.device)
            keys = make_keys(0, chunk.to(self.device))
            yield TrainBatch(batch, keys, self.atoms, self.size, len(chunk))
