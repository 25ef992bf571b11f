"""The two forms of many crystals: flat for storage, padded for the models.

Shapes: ``B`` crystals in a batch, ``N`` atoms of the padded cell, ``M`` crystals in a set, ``A``
atoms in a set. Lattices are ``(., 3, 3)`` in angstrom, rows a, b, c. Atomic number 0 is padding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from chemeleon.crystals.lattice import lattice_angles, lattice_lengths, lattice_volume
from chemeleon.crystals.notation import MAX_ATOMIC_NUMBER as MAX_ATOMIC_NUMBER  # class 0 is padding
from chemeleon.errors import DataError


@dataclass(frozen=True)
class CrystalBatch:
    """Padded crystals, as the models take them.

    Attributes:
        atomic_numbers: ``(B, N)`` int64, 0 on padded slots; real atoms come first.
        frac_coords: ``(B, N, 3)`` float, any branch (not necessarily within [0, 1)).
        lattice: ``(B, 3, 3)`` float, angstrom, rows a, b, c.
        num_atoms: ``(B,)`` int64.
        targets: property name to ``(B,)`` float; NaN where a value is missing.
        tokens: ``(T,)`` int64, where known: the slots that hold atoms, counted through the batch
            and filled up with padded slots to a round number. Models then leave out the rest.
        full: known to have no padding.

    Raises:
        DataError: if shapes or the number of real atoms do not agree (unless ``check=False``).
    """

    atomic_numbers: Tensor
    frac_coords: Tensor
    lattice: Tensor
    num_atoms: Tensor
    targets: dict[str, Tensor] = field(default_factory=dict)
    tokens: Tensor | None = None
    full: bool = False
    check: bool = field(default=True, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.check:
            return
        size, width = self.atomic_numbers.shape
        expected = {
            "frac_coords": (size, width, 3),
            "lattice": (size, 3, 3),
            "num_atoms": (size,),
            **{f"targets[{name}]": (size,) for name in self.targets},
        }
        given = {
            "frac_coords": self.frac_coords,
            "lattice": self.lattice,
            "num_atoms": self.num_atoms,
            **{f"targets[{name}]": value for name, value in self.targets.items()},
        }
        for name, shape in expected.items():
            if tuple(given[name].shape) != shape:
                raise DataError(
                    f"CrystalBatch.{name} has shape {tuple(given[name].shape)}, expected {shape}"
                    f" from atomic_numbers {(size, width)}"
                )
        if not torch.equal(self.atomic_numbers > 0, self.mask):
            raise DataError(
                "CrystalBatch.atomic_numbers must be positive on the first num_atoms slots of each"
                " crystal and 0 on the padded rest"
            )

    def __len__(self) -> int:
        return self.atomic_numbers.shape[0]

    @property
    def width(self) -> int:
        """The padded number of atoms ``N``."""
        return self.atomic_numbers.shape[1]

    @property
    def device(self) -> torch.device:
        """The device of the tensors."""
        return self.atomic_numbers.device

    @cached_property
    def mask(self) -> Tensor:
        """``(B, N)`` bool, True on real atoms."""
        slots = torch.arange(self.width, device=self.num_atoms.device)
        return slots < self.num_atoms.unsqueeze(-1)

    @property
    def cart_coords(self) -> Tensor:
        """``(B, N, 3)`` Cartesian coordinates in angstrom."""
        return self.frac_coords @ self.lattice

    @property
    def lengths(self) -> Tensor:
        """``(B, 3)`` cell lengths in angstrom."""
        return lattice_lengths(self.lattice)

    @property
    def angles(self) -> Tensor:
        """``(B, 3)`` cell angles in radian."""
        return lattice_angles(self.lattice)

    @property
    def volume(self) -> Tensor:
        """``(B,)`` cell volume in cubic angstrom."""
        return lattice_volume(self.lattice)

    def to(self, device: torch.device | str) -> CrystalBatch:
        """Return the batch on another device."""
        return CrystalBatch(
            self.atomic_numbers.to(device),
            self.frac_coords.to(device),
            self.lattice.to(device),
            self.num_atoms.to(device),
            {name: value.to(device) for name, value in self.targets.items()},
            None if self.tokens is None else self.tokens.to(device),
            self.full,
            check=False,
        )

    def with_geometry(self, frac_coords: Tensor, lattice: Tensor) -> CrystalBatch:
        """Return the same atoms at other coordinates and in other cells."""
        return replace(self, frac_coords=frac_coords, lattice=lattice, check=False)

    def flatten(self, ids: Sequence[str] | None = None) -> FlatCrystals:
        """Drop the padding."""
        return FlatCrystals(
            atomic_numbers=self.atomic_numbers[self.mask],
            frac_coords=self.frac_coords[self.mask],
            lattice=self.lattice,
            num_atoms=self.num_atoms,
            targets=dict(self.targets),
            ids=list(ids) if ids is not None else [str(i) for i in range(len(self))],
        )


@dataclass(frozen=True)
class FlatCrystals:
    """A set of crystals as flat tensors: what is cached on disk and kept on the device.

    Attributes:
        atomic_numbers: ``(A,)`` int64.
        frac_coords: ``(A, 3)`` float32, in [0, 1).
        lattice: ``(M, 3, 3)`` float32, angstrom.
        num_atoms: ``(M,)`` int64.
        targets: property name to ``(M,)`` float32, NaN where missing.
        ids: ``M`` names.
    """

    atomic_numbers: Tensor
    frac_coords: Tensor
    lattice: Tensor
    num_atoms: Tensor
    targets: dict[str, Tensor]
    ids: list[str]

    def __post_init__(self) -> None:
        crystals, atoms = self.num_atoms.shape[0], self.atomic_numbers.shape[0]
        consistent = (
            self.frac_coords.shape == (atoms, 3)
            and self.lattice.shape == (crystals, 3, 3)
            and len(self.ids) == crystals
            and all(value.shape == (crystals,) for value in self.targets.values())
            and int(self.num_atoms.sum()) == atoms
        )
        if not consistent:
            raise DataError(
                f"flat crystals do not fit together: {crystals} crystals, {len(self.ids)} ids,"
                f" {atoms} atoms, num_atoms sums to {int(self.num_atoms.sum())}"
            )

    def __len__(self) -> int:
        return self.num_atoms.shape[0]

    @cached_property
    def starts(self) -> Tensor:
        """``(M,)`` index of each crystal's first atom."""
        return torch.cumsum(self.num_atoms, 0) - self.num_atoms

    def batch(
        self, indices: Tensor, pad_to: int | None = None, tokens: int | None = None
    ) -> CrystalBatch:
        """Gather crystals by index into a padded batch; no Python per crystal.

        Args:
            indices: ``(B,)`` int64 on the device of the set.
            pad_to: padded number of atoms; the largest crystal of the batch if not given.
            tokens: number of tokens to make of the batch, no less than it has atoms; those of all
                slots mark a batch without padding.
        """
        num_atoms = self.num_atoms[indices]
        width = int(num_atoms.max()) if pad_to is None else pad_to
        slots = torch.arange(width, device=num_atoms.device)
        mask = slots < num_atoms.unsqueeze(-1)
        atoms = (self.starts[indices].unsqueeze(-1) + slots).masked_fill(~mask, 0)
        full = tokens == mask.numel()
        packed = tokens is not None and not full
        return CrystalBatch(
            atomic_numbers=self.atomic_numbers[atoms].masked_fill(~mask, 0),
            frac_coords=self.frac_coords[atoms].masked_fill(~mask.unsqueeze(-1), 0.0),
            lattice=self.lattice[indices],
            num_atoms=num_atoms,
            targets={name: value[indices] for name, value in self.targets.items()},
            # real slots first, in their order
            tokens=(~mask).flatten().argsort(stable=True)[:tokens] if packed else None,
            full=full,
            check=False,
        )

    @classmethod
    def join(cls, parts: Sequence[FlatCrystals]) -> FlatCrystals:
        """Return the crystals of all parts, one part after the other; targets are left out."""
        return cls(
            atomic_numbers=torch.cat([part.atomic_numbers for part in parts]),
            frac_coords=torch.cat([part.frac_coords for part in parts]),
            lattice=torch.cat([part.lattice for part in parts]),
            num_atoms=torch.cat([part.num_atoms for part in parts]),
            targets={},
            ids=[name for part in parts for name in part.ids],
        )

    def cut(self, size: int) -> Iterator[FlatCrystals]:
        """Yield the crystals in parts of ``size``, as views; targets are left out."""
        counts = self.num_atoms.split(size)
        atoms = [int(part.sum()) for part in counts]
        tensors = zip(
            self.atomic_numbers.split(atoms),
            self.frac_coords.split(atoms),
            self.lattice.split(size),
            counts,
            strict=True,
        )
        for i, (numbers, coords, lattice, count) in enumerate(tensors):
            names = self.ids[i * size : (i + 1) * size]
            yield FlatCrystals(numbers, coords, lattice, count, {}, names)

    def subset(self, indices: Tensor) -> FlatCrystals:
        """Return the crystals at ``indices`` ``(K,)``, in that order."""
        counts = self.num_atoms[indices]
        starts = torch.repeat_interleave(self.starts[indices], counts)
        within = torch.arange(int(counts.sum())) - torch.repeat_interleave(
            torch.cumsum(counts, 0) - counts, counts
        )
        atoms = starts + within
        return FlatCrystals(
            atomic_numbers=self.atomic_numbers[atoms],
            frac_coords=self.frac_coords[atoms],
            lattice=self.lattice[indices],
            num_atoms=counts,
            targets={name: value[indices] for name, value in self.targets.items()},
            ids=[self.ids[i] for i in indices.tolist()],
        )

    def to(self, device: torch.device | str) -> FlatCrystals:
        """Return the set on another device."""
        return FlatCrystals(
            self.atomic_numbers.to(device),
            self.frac_coords.to(device),
            self.lattice.to(device),
            self.num_atoms.to(device),
            {name: value.to(device) for name, value in self.targets.items()},
            self.ids,
        )

    def bytes(self) -> int:
        """Return the size of the tensors in bytes."""
        tensors = [self.atomic_numbers, self.frac_coords, self.lattice, self.num_atoms]
        return sum(t.numel() * t.element_size() for t in [*tensors, *self.targets.values()])
