"""SevenNet in batches, on the project's own lists of neighbours.

Park et al., J. Chem. Theory Comput. 20, 4857 (2024). The weights and the layers are those of the
package `sevenn`; the message passing is that of `sevennet_convolution`.
"""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from chemeleon.crystals.batch import Crystals
from chemeleon.crystals.neighbours import Bonds
from chemeleon.energy.batching import BatchedPotential, Costs, Slopes
from chemeleon.energy.scales import RAW
from chemeleon.energy.sevennet_convolution import Convolution, Couplings, Neighbours
from chemeleon.errors import ConfigError, nearest


class Weights(NamedTuple):
    """Weights of the package.

    Attributes:
        file: within its folder of pretrained potentials.
        modal: which of several DFT settings is asked for, None where there is one.
    """

    file: str
    modal: str | None = None


VERSIONS = {
    "l3i5": Weights("SevenNet_l3i5/checkpoint_l3i5.pth"),
    "0": Weights("SevenNet_0__11Jul2024/checkpoint_sevennet_0.pth"),
    "mf-0": Weights("SevenNet_MF_0/checkpoint_sevennet_mf_0.pth", "PBE"),
}


class SevenNetPotential(BatchedPotential):
    """Energies, forces and stresses of SevenNet, PBE(+U) without corrections.

    Args:
        version: of the weights in the package, l3i5, 0 or mf-0 (by its PBE).
        device: where to compute.

    Raises:
        ConfigError: if the package or the version is missing.
    """

    name = "sevennet"
    energy_scale = RAW
    costs = Costs((500_000, 500_000), (30_000, 100_000), 4_000, 400_000)

    def __init__(self, version: str, device: torch.device) -> None:
        path, weights = _weight_file(version)
        net = _load(path).to(device)
        self.version, self.device, self.cutoff = version, device, float(net.cutoff)
        self.modal = None if weights.modal is None else net.modal_map[weights.modal]
        self.types = torch.full((120,), -1, dtype=torch.int64, device=device)
        self.types[list(net.type_map)] = torch.tensor(list(net.type_map.values()), device=device)
        self.known = self.types >= 0
        children = dict(net.named_children())
        for name in ("reduce_total_enegy", "force_output"):  # sums and forces are ours
            del children[name]
        self.embed = children.pop("edge_embedding")
        couplings = Couplings()
        self.layers = [
            Convolution(layer, couplings) if name.endswith("_convolution") else layer
            for name, layer in children.items()
        ]
        self.couplings = couplings.matrix((self.embed.spherical.lmax + 1) ** 2, device)

    def slopes(self, cells: Crystals, bonds: Bonds, gradients: bool) -> Slopes:
        """See `BatchedPotential`."""
        vectors = bonds.vectors.float().requires_grad_(gradients)
        sites = self._site_energies(cells, bonds, vectors)
        energies = sites.new_zeros(len(cells.num_atoms)).index_add(0, cells.owners, sites)
        slopes = torch.autograd.grad(energies.sum(), vectors)[0] if gradients else None
        return Slopes(energies, bonds.first, bonds.second, vectors, slopes)

    def _site_energies(self, cells: Crystals, bonds: Bonds, vectors: Tensor) -> Tensor:
        """Return ``(A,)`` float64, eV, differentiable in the vectors."""
        data: dict[str, Any] = {
            "x": self.types[cells.atomic_numbers],
            "edge_vec": vectors,
            "batch": cells.owners,
        }
        if self.modal is not None:
            data["modal_type"] = torch.full_like(cells.num_atoms, self.modal)
        data = self.embed(data)
        couplings = data["edge_attr"] @ self.couplings
        around = Neighbours.of(bonds, len(cells.atomic_numbers))
        for layer in self.layers:
            if isinstance(layer, Convolution):
                data["x"] = layer(data["x"], data["edge_embedding"], couplings, around)
            else:
                data = layer(data)
        return data["atomic_energy"].squeeze(1).double()


def _load(path: Path) -> Any:
    """Build the package's network; the file is the package's own, so that it may be unpickled."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        checkpoint = importlib.import_module("sevenn.checkpoint").SevenNetCheckpoint(str(path))
        net = checkpoint.build_model()
    net.set_is_batch_data(True)
    return net.eval().requires_grad_(False)


def _weight_file(version: str) -> tuple[Path, Weights]:
    spec = importlib.util.find_spec("sevenn")
    if spec is None or spec.origin is None:
        raise ConfigError(
            "the potential 'sevennet' needs a package that is not installed: pip install sevenn"
        )
    if version not in VERSIONS:
        raise ConfigError(
            f"sevennet has no weights '{version}'{nearest(version, VERSIONS)}; known:"
            f" {', '.join(VERSIONS)}"
        )
    path = Path(spec.origin).parent / "pretrained_potentials" / VERSIONS[version].file
    if not path.is_file():
        raise ConfigError(f"the installed package sevenn lacks {path}: pip install -U sevenn")
    return path, VERSIONS[version]
