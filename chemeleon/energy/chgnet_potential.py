"""CHGNet in batches: graphs of many crystals are built at once on the device, then evaluated."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from torch import Tensor

from chemeleon.crystals.batch import Crystals
from chemeleon.crystals.neighbours import Bonds
from chemeleon.energy.batching import BatchedPotential, Costs, Slopes
from chemeleon.energy.bond_graph import angle_counts, make_graph
from chemeleon.energy.chgnet_model import MAX_ATOMIC_NUMBER, load_weights
from chemeleon.energy.scales import MP2020, OWN
from chemeleon.errors import ConfigError, nearest


class CHGNetPotential(BatchedPotential):
    """Energies, forces and stresses of CHGNet; those of ``r2scan`` are on no known scale.

    Args:
        version: of the weights in the package, 0.3.0, 0.2.0 or r2scan.
        device: where to compute.

    Raises:
        ConfigError: if the package or the version is missing.
    """

    name = "chgnet"
    costs = Costs((1_000_000, 200_000), (6_000, 40_000), 6_000, 1_000_000)
    lonely = False
    items_are = "bonds and angles"

    def __init__(self, version: str, device: torch.device) -> None:
        self.version, self.device = version, device
        self.energy_scale = OWN if version == "r2scan" else MP2020
        self.model = load_weights(_weight_file(version)).to(device)
        self.cutoff = self.model.atom_cutoff
        self.known = torch.arange(120, device=device) <= MAX_ATOMIC_NUMBER

    def items(self, cells: Crystals, bonds: Bonds) -> Tensor:
        """See `BatchedPotential`."""
        return 2 * bonds.counts + angle_counts(cells, bonds, self.model.bond_cutoff)

    def slopes(self, cells: Crystals, bonds: Bonds, gradients: bool) -> Slopes:
        """See `BatchedPotential`."""
        graph = make_graph(cells, bonds, self.model.bond_cutoff)
        graph.vectors.requires_grad_(gradients)
        energies = self.model(graph)
        slopes = torch.autograd.grad(energies.sum(), graph.vectors)[0] if gradients else None
        return Slopes(energies, graph.first, graph.second, graph.vectors, slopes)


def _weight_file(version: str) -> Path:
    spec = importlib.util.find_spec("chgnet")  # found, not imported: only its weights are used
    if spec is None or spec.origin is None:
        raise ConfigError(
            "the potential 'chgnet' needs a package that is not installed: pip install chgnet."
            " There is no wheel of it for Python 3.13 and later: there it is built from source,"
            " which takes a C compiler; or use Python 3.11 or 3.12"
        )
    folder = Path(spec.origin).parent / "pretrained"
    known = sorted(path.name for path in folder.iterdir() if any(path.glob("*.pth.tar")))
    if version not in known:
        raise ConfigError(
            f"chgnet has no weights '{version}'{nearest(version, known)}; known: {', '.join(known)}"
        )
    return next((folder / version).glob("*.pth.tar"))
