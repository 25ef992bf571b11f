"""Energies of crystals from a potential named in words: CHGNet, SevenNet, any ASE calculator.

A potential never stops at a bad crystal: that one's energy is NaN, with the reason beside it.

Shapes: ``M`` crystals, ``A`` atoms of all crystals in a row.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from chemeleon.energy.cells import Cells, to_cells
from chemeleon.energy.scales import OWN, RAW, stated_scale
from chemeleon.errors import ConfigError, nearest
from chemeleon.models.pretrained import find_device

if TYPE_CHECKING:
    from chemeleon.energy.cells import Crystals

NAMES = ("chgnet", "sevennet", "mace", "orb", "mattersim", "fairchem", "nequip", "none")
# trained on MPtrj, or on it and sAlex, whose calculations have the Materials Project's settings
RAW_MACE = ("small", "medium", "large", "small-0b", "medium-0b", "small-0b2", "medium-0b2",
            "large-0b2", "medium-0b3", "medium-mpa-0")  # fmt: skip


class Evaluation(NamedTuple):
    """What a potential says of `Cells`; tensors are on the device of the cells.

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
    def evaluate(self, cells: Cells, *, forces: bool = False, stresses: bool = False) -> Evaluation:
        """Evaluate crystals that `cells.check` finds nothing wrong with.

        Args:
            cells: on any device; the answer is on the same one.
            forces: also give forces.
            stresses: also give stresses.
        """

    def energies(
        self, crystals: Crystals, *, forces: bool = False, stresses: bool = False
    ) -> Energies:
        """Return energies per atom of structures or tensors, whatever is wrong with them.

        Args:
            crystals: pymatgen structures, `FlatCrystals` or a `CrystalBatch`.
            forces: also give forces.
            stresses: also give stresses.
        """
        cells, reasons = to_cells(crystals)
        count, device = len(reasons), cells.numbers.device
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
    def evaluated(self: Potential, cells: Cells, **asked: bool) -> Evaluation:
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

    def evaluate(self, cells: Cells, *, forces: bool = False, stresses: bool = False) -> Evaluation:
        """Return NaN for every crystal."""
        found = empty_evaluation(cells, forces, stresses)
        return found._replace(reasons=["no potential was asked for"] * len(cells.num_atoms))


def empty_evaluation(cells: Cells, forces: bool, stresses: bool) -> Evaluation:
    """Return an evaluation full of NaN, to be filled in."""
    energies = torch.full_like(cells.num_atoms, torch.nan, dtype=torch.float64)
    return Evaluation(
        energies,
        torch.full_like(cells.frac_coords, torch.nan) if forces else None,
        torch.full_like(cells.lattice, torch.nan) if stresses else None,
        [None] * len(cells.num_atoms),
    )


def load_potential(name: str, device: str | torch.device | None = None) -> Potential:
    """Make a potential by its name.

    Args:
        name: ``chgnet`` or ``chgnet:VERSION`` (0.3.0, 0.2.0, r2scan), ``sevennet`` or
            ``sevennet:VERSION`` (l3i5, 0, mf-0), ``mace``, ``orb``, ``mattersim``,
            ``fairchem`` or any of them with ``:MODEL``, ``nequip:PATH``, ``none``, or
            ``package.module:thing`` where thing is a `Potential`, an ASE calculator, or a function
            or class that makes one when called without arguments. A calculator may state the scale
            of its energies by an attribute ``energy_scale``.
        device: where to compute; CUDA if there is any by default.

    Raises:
        ConfigError: for an unknown name, or with what to install.
        GenerationError: if the device cannot be used.
    """
    place = find_device(device)
    head, _, tail = name.partition(":")
    if head == "none" and not tail:
        return NoPotential()
    if head == "chgnet":
        from chemeleon.energy.chgnet_potential import CHGNetPotential

        return CHGNetPotential(tail or "0.3.0", place)
    if head == "sevennet":
        from chemeleon.energy.sevennet_potential import SevenNetPotential

        return SevenNetPotential(tail or "l3i5", place)
    if head in ("mace", "orb", "mattersim", "fairchem", "nequip"):
        from chemeleon.energy.torchsim_potential import available, load_torchsim

        if head != "mace" or available():
            return load_torchsim(head, tail, place)
        return _load_mace(tail or "small", place)
    if not tail:
        raise ConfigError(
            f"unknown potential '{name}'{nearest(name, NAMES)}; known: {', '.join(NAMES)}, or"
            " package.module:thing for a Potential or an ASE calculator"
        )
    return _load_by_path(name, head, tail, place)


def _load_mace(model: str, device: torch.device) -> Potential:
    if importlib.util.find_spec("mace") is None:
        raise ConfigError(
            "the potential 'mace' needs a package that is not installed: pip install mace-torch"
        )
    from chemeleon.energy.ase_potential import ASEPotential

    calculators = importlib.import_module("mace.calculators")
    version = importlib.import_module("importlib.metadata").version("mace-torch")
    calculator = calculators.mace_mp(model=model, device=device.type, default_dtype="float64")
    scale = RAW if model in RAW_MACE else OWN
    return ASEPotential(calculator, "mace", f"{model}, mace-torch {version}", device, scale)


def _load_by_path(name: str, module_name: str, attribute: str, device: torch.device) -> Potential:
    from chemeleon.energy.ase_potential import ASEPotential

    thing: Any = None
    try:
        thing = importlib.import_module(module_name)
    except Exception as error:  # whatever the module does when it is imported
        raise ConfigError(
            f"potential '{name}': {type(error).__name__}: {error}; the module must be installed or"
            " lie on PYTHONPATH"
        ) from error
    try:
        for part in attribute.split("."):
            thing = getattr(thing, part)
    except AttributeError:
        known = [word for word in dir(thing) if not word.startswith("_")]
        raise ConfigError(
            f"potential '{name}': {module_name} has no '{attribute}'{nearest(attribute, known)}"
        ) from None
    if isinstance(thing, type) or not (isinstance(thing, Potential) or _calculates(thing)):
        try:
            thing = thing()
        except Exception as error:
            raise ConfigError(
                f"potential '{name}': calling it without arguments failed: {error}"
            ) from error
    if isinstance(thing, Potential):
        thing.energy_scale = stated_scale(thing, name)
        return thing
    if _calculates(thing):
        package = importlib.import_module(module_name.partition(".")[0])
        return ASEPotential(thing, name, str(getattr(package, "__version__", "unknown")), device)
    raise ConfigError(
        f"potential '{name}' is a {type(thing).__name__}; a Potential, an ASE calculator, or a"
        " function that makes one is needed"
    )


def _calculates(thing: Any) -> bool:
    return hasattr(thing, "get_property") and hasattr(thing, "calculate")
