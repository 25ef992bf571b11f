"""The two forms of many crystals: flat for all that is stored or computed, padded for the models.

Shapes: ``B`` crystals in a batch, ``N`` atoms of the padded cell, ``M`` crystals in a set, ``A``
atoms in a set. Lattices are ``(., 3, 3)`` in angstrom, rows a, b, c. Atomic number 0 is padding.

torch is imported by what needs tensors: worker processes, which hold arrays, start without it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from typing_extensions import TypeVar

from chemeleon.crystals.form import A as A
from chemeleon.crystals.form import Array as Array
from chemeleon.crystals.form import Form
from chemeleon.crystals.notation import MAX_ATOMIC_NUMBER as MAX_ATOMIC_NUMBER  # class 0 is padding
from chemeleon.crystals.ragged import arange, ranges, repeat
from chemeleon.errors import DataError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

B = TypeVar("B")
LETTERS = 27  # Wyckoff letters: a to z, then A
_WHOLE = {"atomic_numbers": np.uint8, "num_atoms": np.int64, "sites": np.int64}  # in arrays


class Crystal(NamedTuple):
    """One crystal: ``atomic_numbers (N,)``, ``frac_coords (N, 3)`` and ``lattice (3, 3)``."""

    atomic_numbers: NDArray[np.int64]
    frac_coords: NDArray[np.float64]
    lattice: NDArray[np.float64]


@dataclass(frozen=True)
class CrystalBatch(Form["Tensor"]):
    """Padded crystals, as the models take them.

    Attributes:
        atomic_numbers: ``(B, N)`` int64, 0 on padded slots; real atoms come first.
        frac_coords: ``(B, N, 3)`` float, any branch (not necessarily within [0, 1)).
        lattice: ``(B, 3, 3)`` float, angstrom, rows a, b, c.
        num_atoms: ``(B,)`` int64.
        targets: property name to ``(B,)`` float; NaN where a value is missing.
        sites: ``(B, N)`` int64 of crystals written as orbits, see `Crystals`; 0 on padded slots.
        tokens: ``(T,)`` int64, where known: the slots that hold atoms, counted through the batch
            and filled up with padded slots to a round number. Models then leave out the rest.
        full: known to have no padding.

    Raises:
        DataError: if shapes or the number of real atoms do not agree (unless ``check=False``).
    """

    tokens: Tensor | None = None
    full: bool = False

    def __post_init__(self) -> None:
        if not self.check:
            return
        from torch import equal

        size, width = self.atomic_numbers.shape
        self._check_shapes(
            {"num_atoms": (size,), "frac_coords": (size, width, 3), "lattice": (size, 3, 3)}
        )
        if not equal(self.atomic_numbers > 0, self.mask):
            raise DataError(
                "CrystalBatch.atomic_numbers must be positive on the first num_atoms slots of each"
                " crystal and 0 on the padded rest"
            )

    @property
    def width(self) -> int:
        """The padded number of atoms ``N``."""
        return self.atomic_numbers.shape[1]

    @cached_property
    def mask(self) -> Tensor:
        """``(B, N)`` bool, True on real atoms."""
        return arange(self.width, self.num_atoms) < self.num_atoms.unsqueeze(-1)

    @property
    def groups(self) -> Tensor | None:
        """``(B,)`` space groups of crystals written as orbits; None for all others."""
        return None if self.sites is None else self.sites[:, 0] // LETTERS

    def to(self, device: torch.device | str) -> CrystalBatch:
        """Return the tensors on another device."""
        moved = super().to(device)
        return moved if self.tokens is None else replace(moved, tokens=self.tokens.to(device))

    def flatten(self, ids: Sequence[str] | None = None) -> Crystals:
        """Drop the padding."""
        return Crystals(
            **{name: value[self.mask] for name, value in self._atoms.items()},
            **self._cells,
            targets=dict(self.targets),
            ids=list(ids) if ids is not None else [str(i) for i in range(len(self))],
        )


@dataclass(frozen=True)
class Crystals(Form[A]):
    """Crystals of any size, atoms one after the other: tensors on a device, or numpy arrays.

    Attributes:
        atomic_numbers: ``(A,)`` int64; uint8 in arrays.
        frac_coords: ``(A, 3)`` float, any branch.
        lattice: ``(M, 3, 3)`` float, angstrom.
        num_atoms: ``(M,)`` int64; 0 in arrays for a crystal that could not be read or made.
        targets: property name to ``(M,)`` float, NaN where missing.
        sites: ``(A,)`` int64 of crystals written as orbits (`orbits`): one atom stands for each
            orbit, the cell is the conventional one, and ``LETTERS * space group + Wyckoff letter``
            says which others there are. None where all atoms are there.
        ids: ``M`` names, or none at all.

    Raises:
        DataError: if shapes and numbers of atoms do not agree (unless ``check=False``).
    """

    ids: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.check:
            return
        sizes = {name: value.shape[0] for name, value in self._atoms.items()}
        atoms, counted = sizes["atomic_numbers"], int(self._cells["num_atoms"].sum())
        self._check_shapes({"frac_coords": (atoms, 3), "lattice": (len(self), 3, 3)})
        if {counted, *sizes.values()} != {atoms} or len(self.ids) not in {0, len(self)}:
            raise DataError(
                f"flat crystals do not fit together: {len(self)} crystals, {len(self.ids)} ids,"
                f" {atoms} atoms, num_atoms sums to {counted}"
            )

    @staticmethod
    def of(crystals: Sequence[Crystal | None]) -> Crystals[Array]:
        """Put crystals into arrays, one after the other; None becomes a crystal of no atoms."""
        good = [c for c in crystals if c is not None]
        none = np.zeros((3, 3))
        numbers = [np.zeros(0, np.uint8), *(c.atomic_numbers.astype(np.uint8) for c in good)]
        coords = [np.zeros((0, 3)), *(np.asarray(c.frac_coords, float) for c in good)]
        cells = np.array([none if c is None else c.lattice for c in crystals], dtype=float)
        counts = [0 if c is None else len(c.atomic_numbers) for c in crystals]
        return Crystals(
            np.concatenate(numbers),
            np.concatenate(coords),
            cells.reshape(-1, 3, 3),
            np.array(counts, dtype=np.int64),
        )

    @staticmethod
    def join(parts: Sequence[Crystals[B]]) -> Crystals[B]:
        """Return the crystals of all parts, one part after the other.

        Targets are those that all parts have.
        """
        if not parts:
            return Crystals.of([])  # type: ignore[return-value]
        if isinstance(parts[0].num_atoms, np.ndarray):
            concatenate: Any = np.concatenate
        else:
            from torch import cat as concatenate
        arrays = [{**part._atoms, **part._cells} for part in parts]
        names = max(arrays, key=len)  # those of no crystal may lack sites
        joined = {x: concatenate([one[x] for one in arrays if x in one]) for x in names}
        named = all(part.ids or not len(part) for part in parts)
        ids = [x for part in parts for x in part.ids] if named else []
        common = [x for x in parts[0].targets if all(x in part.targets for part in parts)]
        targets = {x: concatenate([part.targets[x] for part in parts]) for x in common}
        return Crystals(**joined, targets=targets, ids=ids)

    def __iter__(self) -> Iterator[Crystal]:
        """Yield one crystal after the other, as arrays."""
        arrays = self.arrays()
        return (arrays.crystal(i) for i in range(len(arrays)))

    @cached_property
    def starts(self) -> A:
        """``(M,)`` index of each crystal's first atom."""
        counts = self._cells["num_atoms"]
        return counts.cumsum(0) - counts

    @cached_property
    def owners(self) -> A:
        """``(A,)`` int64, the crystal of each atom."""
        counts = self._cells["num_atoms"]
        return repeat(arange(len(counts), counts), counts, len(self._atoms["atomic_numbers"]))

    @property
    def cart_coords(self: Crystals[Tensor]) -> Tensor:
        """``(A, 3)`` Cartesian coordinates in angstrom."""
        from torch import einsum

        return einsum("ai,aij->aj", self.frac_coords, self.lattice[self.owners])

    def crystal(self: Crystals[Array], row: int) -> Crystal:
        """Return one of the crystals in arrays."""
        start = int(self.starts[row])
        atoms = slice(start, start + int(self.num_atoms[row]))
        numbers = self.atomic_numbers[atoms].astype(np.int64)
        return Crystal(numbers, self.frac_coords[atoms], self.lattice[row])

    def subset(self, rows: Any) -> Crystals[A]:
        """Return some crystals.

        Args:
            rows: ``(K,)`` whole numbers, in whose order they come, or ``(M,)`` bool.
        """
        num_atoms = self._cells["num_atoms"]
        if isinstance(num_atoms, np.ndarray):
            rows = np.asarray(rows)
            rows = np.flatnonzero(rows) if rows.dtype == bool else rows.astype(np.int64)
        else:
            import torch

            rows = torch.as_tensor(rows, device=num_atoms.device)
            rows = rows.nonzero().flatten() if rows.dtype == torch.bool else rows.long()
        starts: Any = self.starts
        atoms = ranges(starts[rows], num_atoms[rows])
        return Crystals(
            **{name: value[atoms] for name, value in self._atoms.items()},
            **{name: value[rows] for name, value in self._cells.items()},
            targets={name: value[rows] for name, value in self._targets.items()},
            ids=[self.ids[i] for i in rows.tolist()] if self.ids else [],
            check=False,
        )

    def cut(self, size: int) -> Iterator[Crystals[A]]:
        """Yield the crystals in parts of ``size``, as views; targets are left out."""
        first = [0, *self._cells["num_atoms"].cumsum(0).tolist()]
        for low in range(0, len(self), size):
            rows = slice(low, low + size)
            atoms = slice(first[low], first[min(low + size, len(self))])
            parts = {name: value[atoms] for name, value in self._atoms.items()}
            parts |= {name: value[rows] for name, value in self._cells.items()}
            yield Crystals(**parts, ids=self.ids[rows], check=False)

    def batch(
        self: Crystals[Tensor],
        indices: Tensor,
        pad_to: int | None = None,
        tokens: int | None = None,
    ) -> CrystalBatch:
        """Gather crystals by index into a padded batch; no Python per crystal.

        Args:
            indices: ``(B,)`` int64 on the device of the set.
            pad_to: padded number of atoms; the largest crystal of the batch if not given.
            tokens: number of tokens to make of the batch, no less than it has atoms; those of all
                slots mark a batch without padding.
        """
        import torch

        num_atoms = self.num_atoms[indices]
        width = pad_to
        if width is None:
            width = int(num_atoms.max()) if len(num_atoms) else 0
        slots = torch.arange(width, device=num_atoms.device)
        mask = slots < num_atoms.unsqueeze(-1)
        atoms = (self.starts[indices].unsqueeze(-1) + slots).masked_fill(~mask, 0)

        def padded(values: Tensor) -> Tensor:
            if not len(values):  # padded slots are taken from an atom, too
                values = values.new_zeros(1, *values.shape[1:])
            absent = ~mask.view(*mask.shape, *[1] * (values.dim() - 1))
            return values[atoms].masked_fill(absent, 0)

        full = tokens == mask.numel()
        packed = tokens is not None and not full
        return CrystalBatch(
            **{name: padded(values) for name, values in self._atoms.items()},
            lattice=self.lattice[indices],
            num_atoms=num_atoms,
            targets={name: value[indices] for name, value in self.targets.items()},
            # real slots first, in their order
            tokens=(~mask).flatten().argsort(stable=True)[:tokens] if packed else None,
            full=full,
            check=False,
        )

    def tensors(self) -> Crystals[Tensor]:
        """Return tensors with coordinates, cells and targets in float64."""
        from torch import as_tensor

        def tensor(name: str, value: Any) -> Tensor:
            found = as_tensor(value)
            return found.long() if name in _WHOLE else found.double()

        return self._changed(tensor)

    def arrays(self) -> Crystals[Array]:
        """Return numpy arrays with coordinates, cells and targets in float64."""
        if isinstance(self.num_atoms, np.ndarray):
            return self  # type: ignore[return-value]

        def array(name: str, value: Tensor) -> Array:
            found = value.detach().cpu().numpy()
            return found.astype(_WHOLE.get(name, np.float64), copy=False)

        return self._changed(array)

    def bytes(self: Crystals[Tensor]) -> int:
        """Return the size of the tensors in bytes."""
        tensors = [*self._atoms.values(), *self._cells.values(), *self.targets.values()]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
