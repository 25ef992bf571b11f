"""Potentials of other packages through torch-sim, many crystals at once.

torch-sim gives energies in eV, forces in eV/angstrom and stresses in eV/angstrom^3, with our sign.
Its cells hold the vectors as columns.

The adapter is run against torch-sim's Lennard-Jones and SevenNet models. How the models of
`FAMILIES` are made was read, not run: mace-torch 0.3.16, orb-models 0.7.0, mattersim 1.2.5,
fairchem-core 2.24.0, nequip 0.19.1. mace-torch needs e3nn 0.4.4, sevenn needs e3nn 0.5 or later, so
the two do not share an environment.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import sys
import warnings
from typing import Any, NamedTuple

import torch
from torch import Tensor

from chemeleon.crystals.batch import Crystals
from chemeleon.crystals.ragged import ranges
from chemeleon.energy.batching import halve_when_short, memory_limit, pack
from chemeleon.energy.potential import Evaluation, Potential, empty_evaluation
from chemeleon.energy.scales import OWN, RAW, RAW_MACE
from chemeleon.errors import ConfigError

NEIGHBOURS = 905.0  # in a sphere of 6 angstrom, per atom and density in 1/angstrom^3
BYTES_PER_BOND = 200_000
CPU_BONDS, GPU_BONDS = 20_000, 400_000


class Family(NamedTuple):
    """A package with models for torch-sim.

    Attributes:
        module: that must be installed.
        install: what to install.
        default: model, empty where one must be named.
        raw: models whose energies are PBE(+U) of the Materials Project, without corrections.
    """

    module: str
    install: str
    default: str
    raw: tuple[str, ...] = ()


ORB = ("orb-v2", "orb-mptraj-only-v2", "orb-v3-conservative-20-mpa", "orb-v3-conservative-inf-mpa",
       "orb-v3-direct-20-mpa", "orb-v3-direct-inf-mpa")  # fmt: skip
MATTERSIM = ("mattersim-v1.0.0-1m", "mattersim-v1.0.0-5m")
FAMILIES = {
    "mace": Family("mace", "mace-torch", "small", RAW_MACE),
    "orb": Family("orb_models", "orb-models", "orb-v3-conservative-inf-mpa", ORB),
    "mattersim": Family("mattersim", "mattersim", MATTERSIM[0], MATTERSIM),
    "fairchem": Family("fairchem", "fairchem-core", "uma-s-1p1"),
    "nequip": Family("nequip", "nequip", ""),
}


class TorchSimPotential(Potential):
    """A model of torch-sim.

    Args:
        model: a ``torch_sim`` ModelInterface; it gives forces and stresses if asked for them.
        name, version: for messages and manifests.
        energy_scale: one of `scales.SCALES`.
    """

    share: float = 1.0

    def __init__(self, model: Any, name: str, version: str, energy_scale: str = OWN) -> None:
        self.model, self.name, self.version = model, name, version
        self.device, self.energy_scale = torch.device(model.device), energy_scale

    def evaluate(
        self, cells: Crystals, *, forces: bool = False, stresses: bool = False
    ) -> Evaluation:
        """Evaluate in batches; what the model raises for one crystal becomes its reason."""
        found = empty_evaluation(cells, forces, stresses)
        costs = cells.num_atoms.double()
        if self.model.memory_scales_with != "n_atoms":
            costs = costs * cells.num_atoms / cells.volume * NEIGHBOURS
        limit = memory_limit(self.device, CPU_BONDS, GPU_BONDS, BYTES_PER_BOND) * self.share
        rows = torch.arange(len(costs))
        groups = [rows[low:high] for low, high in pack(costs.cpu(), limit)]
        halve_when_short(self, groups, lambda group: self._group(group, cells, found), found)
        return found

    def _group(self, chosen: Tensor, cells: Crystals, found: Evaluation) -> None:
        """Evaluate a batch, and its halves if the model fails, until the crystal is found."""
        where = chosen.to(cells.device)
        part = cells.subset(where)
        try:
            said = self.model(_state(part.to(self.device), self.model.dtype))
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # models raise anything
            if "can't allocate memory" in str(error):
                raise
            if len(chosen) > 1:
                for half in chosen.chunk(2):
                    self._group(half, cells, found)
                return
            text = " ".join(str(error).split())[:200]
            found.reasons[int(chosen)] = f"{self.name}: {type(error).__name__}: {text}"
            return
        found.energies[where] = said["energy"].detach().reshape(-1).to(found.energies)
        if found.forces is not None:
            atoms = ranges(cells.starts[where], part.num_atoms)
            found.forces[atoms] = said["forces"].detach().to(found.forces)
        if found.stresses is not None:
            found.stresses[where] = said["stress"].detach().to(found.stresses)


def _state(cells: Crystals, dtype: torch.dtype) -> Any:
    sim = importlib.import_module("torch_sim")
    return sim.SimState(
        positions=cells.cart_coords.to(dtype),
        masses=torch.ones(len(cells.atomic_numbers), dtype=dtype, device=cells.device),
        cell=cells.lattice.transpose(1, 2).contiguous().to(dtype),
        pbc=True,
        atomic_numbers=cells.atomic_numbers,
        system_idx=cells.owners,
    )


def available() -> bool:
    """Whether torch-sim can be used."""
    return sys.version_info >= (3, 12) and importlib.util.find_spec("torch_sim") is not None


def load_torchsim(family: str, model: str, device: torch.device) -> Potential:
    """Make a potential of another package.

    Raises:
        ConfigError: with what to install, or for a model that the package does not make.
    """
    kind = FAMILIES[family]
    if sys.version_info < (3, 12):
        raise ConfigError(f"the potential '{family}' needs torch-sim, which needs Python 3.12")
    for module, install in (("torch_sim", "torch-sim-atomistic"), (kind.module, kind.install)):
        if importlib.util.find_spec(module) is None:
            raise ConfigError(
                f"the potential '{family}' needs a package that is not installed:"
                f" pip install {install}"
            )
    model = model or kind.default
    if not model:
        raise ConfigError(f"the potential '{family}' needs a file: {family}:PATH")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = _make(family, model, device)
    except ConfigError:
        raise
    except Exception as error:  # packages raise anything
        text = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"potential '{family}:{model}': {type(error).__name__}: {text}"
        ) from error
    version = f"{model}, {kind.install} {importlib.metadata.version(kind.install)}"
    return TorchSimPotential(made, family, version, RAW if model in kind.raw else OWN)


def _make(family: str, model: str, device: torch.device) -> Any:
    load = importlib.import_module
    if family == "mace":
        net = load("mace.calculators.foundations_models").mace_mp(
            model=model, return_raw_model=True, device=device.type, default_dtype="float64"
        )
        return load("torch_sim.models.mace").MaceModel(net, device=device, dtype=torch.float64)
    if family == "orb":
        pretrained = load("orb_models.forcefield.pretrained")
        known = pretrained.ORB_PRETRAINED_MODELS
        if model not in known:
            raise ConfigError(f"potential 'orb:{model}': no such model; known: {', '.join(known)}")
        net, adapter = known[model](device=device)
        return load("torch_sim.models.orb").OrbModel(net, adapter, device=device)
    if family == "mattersim":
        potential = load("mattersim.forcefield.potential").Potential
        net = potential.from_checkpoint(load_path=model, device=str(device))
        return load("torch_sim.models.mattersim").MatterSimModel(net, device=device)
    if family == "fairchem":
        fairchem = load("torch_sim.models.fairchem").FairChemModel
        return fairchem(model=model, task_name="omat", device=device, compute_stress=True)
    nequip = load("torch_sim.models.nequip_framework").NequIPFrameworkModel
    return nequip.from_compiled_model(model, device=device)
