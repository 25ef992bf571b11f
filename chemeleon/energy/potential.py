"""What a potential is: a function from crystals to energies, forces and stresses.

It never stops at a bad crystal: that one's energy is NaN, with the reason beside it.

Shapes: ``M`` crystals, ``A`` atoms of all crystals in a row.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from chemeleon.crystals.batch import Crystals
from chemeleon.energy.scales import OWN
from chemeleon.energy.usable import to_tensors

if TYPE_CHECKING:
    from chemeleon.energy.usable import AnyCrystals


class Evaluation(NamedTuple):
    """What a potential says of `Crystals`; tensors are on the device of the cells.

    Attributes:
        energies: ``(M,)`` float64, eV of the whole cell; NaN where there is none.
        forces: ``(A, 3)`` float64, eV/angstrom, or None if not asked for.
        stresses: ``(M, 3, 3)`` float64, eV/angstrom^3, derivative of the energy by strain over
            volume, or None.
        reasons: for each crystal None, or why it has no energy.
    """

    energies: Tensor
    forces: Tensor | None
    stresses: Tensor | None
    reasons: list[str | None]


class Energies(NamedTuple):
    """Energies of ``M`` crystals.

    Attributes:
        per_atom_ev: ``(M,)`` float64, eV/atom; NaN where there is none.
        reasons: for each crystal None, or why it has no energy.
        forces: for each crystal ``(n, 3)`` eV/angstrom or None; None if not asked for.
        stresses: ``(M, 3, 3)`` eV/angstrom^3 with NaN; None if not asked for.
    """

    per_atom_ev: np.ndarray
    reasons: list[str | None]
    forces: list[np.ndarray | None] | None = None
    stresses: np.ndarray | None = None


class Potential(ABC):
    """A function from crystals to energies.

    Attributes:
        name: as `load_potential` takes it, without version.
        version: of the weights or of the package, for manifests.
        device: where it computes.
        energy_scale: what its total energies can be compared with, one of `scales.SCALES`.
    """

    name: str
    version: str
    device: torch.device
    energy_scale: str = OWN

    def __init_subclass__(cls, **words: Any) -> None:
        super().__init_subclass__(**words)
        if "evaluate" in vars(cls):
            cls.evaluate = _in_full_precision(cls.evaluate)  # type: ignore[method-assign]

    @abstractmethod
    def evaluate(
        self, cells: Crystals, *, forces: bool = False, stresses: bool = False
    ) -> Evaluation:
        """Evaluate crystals that `usable.check` finds nothing wrong with.

        Args:
            cells: on any device; the answer is on the same one.
            forces: also give forces.
            stresses: also give stresses.
        """

    def energies(
        self, crystals: AnyCrystals, *, forces: bool = False, stresses: bool = False
    ) -> Energies:
        """Return energies per atom of structures or tensors, whatever is wrong with them.

        Args:
            crystals: pymatgen structures, `Crystals` or a `CrystalBatch`.
            forces: also give forces.
            stresses: also give stresses.
        """
        cells, reasons = to_tensors(crystals)
        count, device = len(reasons), cells.device
        rows = [i for i, reason in enumerate(reasons) if reason is None]
        good = torch.tensor(rows, dtype=torch.int64, device=device)
        usable = cells if len(good) == count else cells.subset(good)
        found = self.evaluate(usable, forces=forces, stresses=stresses)
        per_atom = np.full(count, np.nan)
        where = good.cpu().numpy()
        per_atom[where] = (found.energies / usable.num_atoms).cpu().numpy()
        for i, reason in zip(where.tolist(), found.reasons, strict=True):
            reasons[i] = reason
            if reason is None and not np.isfinite(per_atom[i]):
                reasons[i], per_atom[i] = "the potential gave no finite energy", np.nan
        split: list[np.ndarray | None] = [None] * count
        tensors = None
        if found.forces is not None:
            parts = np.split(found.forces.cpu().numpy(), np.cumsum(usable.num_atoms.cpu())[:-1])
            for i, part in zip(where.tolist(), parts, strict=False):
                split[i] = part if reasons[i] is None else None
        if found.stresses is not None:
            tensors = np.full((count, 3, 3), np.nan)
            tensors[where] = found.stresses.cpu().numpy()
        return Energies(per_atom, reasons, split if forces else None, tensors)


def _in_full_precision(evaluate: Callable[..., Evaluation]) -> Callable[..., Evaluation]:
    """Keep what training sets for the process (TF32, autocast) away from energies.

    With TF32 those of CHGNet move by up to 8e-4 eV/atom. Autocast is switched by its flag: to leave
    its context would throw away the rounded weights of all threads, while another one, which makes
    the next crystals, replays a graph that reads them.
    """

    @functools.wraps(evaluate)
    def evaluated(self: Potential, cells: Crystals, **asked: bool) -> Evaluation:
        before = torch.get_float32_matmul_precision()
        kind = self.device.type
        rounded = torch.is_autocast_enabled(kind)
        torch.set_float32_matmul_precision("highest")
        torch.set_autocast_enabled(kind, False)
        try:
            return evaluate(self, cells, **asked)
        finally:
            torch.set_autocast_enabled(kind, rounded)
            torch.set_float32_matmul_precision(before)

    return evaluated


class NoPotential(Potential):
    """Gives no energies; for runs that do not want any."""

    name, version, device = "none", "0", torch.device("cpu")

    def evaluate(
        self, cells: Crystals, *, forces: bool = False, stresses: bool = False
    ) -> Evaluation:
        """Return NaN for every crystal."""
        found = empty_evaluation(cells, forces, stresses)
        return found._replace(reasons=["no potential was requested"] * len(cells.num_atoms))


def empty_evaluation(cells: Crystals, forces: bool, stresses: bool) -> Evaluation:
    """Return an evaluation full of NaN, to be filled in."""
    energies = torch.full_like(cells.num_atoms, torch.nan, dtype=torch.float64)
    return Evaluation(
        energies,
        torch.full_like(cells.frac_coords, torch.nan) if forces else None,
        torch.full_like(cells.lattice, torch.nan) if stresses else None,
        [None] * len(cells.num_atoms),
    )
