"""What the flat and the padded form of many crystals have in common, see `batch`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Generic

from numpy.typing import NDArray
from typing_extensions import TypeVar

from chemeleon.errors import DataError

if TYPE_CHECKING:
    from typing import Self

    import torch
    from torch import Tensor

A = TypeVar("A", default="Tensor")
Array = NDArray[Any]


@dataclass(frozen=True)
class Form(Generic[A]):
    """What both forms of many crystals have; shapes are checked unless ``check=False``."""

    atomic_numbers: A
    frac_coords: A
    lattice: A
    num_atoms: A
    targets: dict[str, A] = field(default_factory=dict)
    sites: A | None = field(default=None, kw_only=True)
    check: bool = field(default=True, repr=False, compare=False, kw_only=True)

    def _check_shapes(self, shapes: dict[str, tuple[int, ...]]) -> None:
        given = {name: getattr(self, name) for name in shapes}
        given |= {f"targets[{name}]": value for name, value in self._targets.items()}
        for name, value in given.items():
            found, shape = tuple(value.shape), shapes.get(name, (len(self),))
            if found != shape:
                raise DataError(
                    f"{type(self).__name__}.{name} has shape {found}, expected {shape} from"
                    f" atomic_numbers {tuple(self._atoms['atomic_numbers'].shape)}"
                )

    def __len__(self) -> int:
        return self._cells["num_atoms"].shape[0]

    @property
    def _atoms(self) -> dict[str, Any]:
        """What there is of each atom."""
        given = {"atomic_numbers": self.atomic_numbers, "frac_coords": self.frac_coords}
        return given if self.sites is None else {**given, "sites": self.sites}

    @property
    def _cells(self) -> dict[str, Any]:
        return {"lattice": self.lattice, "num_atoms": self.num_atoms}

    @property
    def _targets(self) -> dict[str, Any]:
        return self.targets

    @property
    def device(self: Form[Tensor]) -> torch.device:
        """The device of the tensors."""
        return self.num_atoms.device

    @property
    def volume(self: Form[Tensor]) -> Tensor:
        """Cell volume of each crystal in cubic angstrom."""
        return self.lattice.det().abs()

    def to(self, device: torch.device | str) -> Self:
        """Return the tensors on another device."""
        return self._changed(lambda _, value: value.to(device))

    def with_geometry(self, frac_coords: A, lattice: A) -> Self:
        """Return the same atoms at other coordinates and in other cells."""
        return replace(self, frac_coords=frac_coords, lattice=lattice, check=False)

    def _changed(self, change: Callable[[str, Any], Any]) -> Any:
        """Return the same crystals in other tensors or arrays, made of name and value."""
        parts = {**self._atoms, **self._cells}
        parts = {name: change(name, value) for name, value in parts.items()}
        targets = {name: change("targets", value) for name, value in self._targets.items()}
        return replace(self, **parts, targets=targets, check=False)
