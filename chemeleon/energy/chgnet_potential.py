"""CHGNet in batches: graphs of many crystals are built at once on the device, then evaluated.

Batches are filled by bonds and angles, not by crystals. What does not fit into memory is tried
again in halves; a single crystal that does not fit has no energy, and a reason.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from chemeleon.energy.bond_graph import angle_counts, make_graph
from chemeleon.energy.cells import Cells, ranges
from chemeleon.energy.chgnet_model import MAX_ATOMIC_NUMBER, load_weights
from chemeleon.energy.neighbours import Bonds, candidate_counts, find_bonds
from chemeleon.energy.potentials import MP2020, Evaluation, Potential, empty_evaluation
from chemeleon.errors import ConfigError, nearest

MAX_CANDIDATES = 5e7  # pairs of atoms and images of one crystal; flat cells have many
MAX_ITEMS = {False: 1_000_000, True: 200_000}  # bonds and angles of one crystal; True: as below
BYTES_PER_CANDIDATE = 100
BYTES_PER_ITEM = {False: 6_000, True: 40_000}  # of a bond or angle; True: with gradients
CPU_CANDIDATES, CPU_ITEMS = 500_000, 6_000  # about the size of caches
GPU_CANDIDATES, GPU_ITEMS = 100_000_000, 1_000_000  # enough to keep any GPU busy


class CHGNetPotential(Potential):
    """Energies, forces and stresses of CHGNet; energies are on the scale of MP2020 or r2SCAN's.

    Args:
        version: of the weights in the package, 0.3.0, 0.2.0 or r2scan.
        device: where to compute.

    Raises:
        ConfigError: if the package or the version is missing.
    """

    name = "chgnet"

    def __init__(self, version: str, device: torch.device) -> None:
        self.version, self.device = version, device
        self.energy_scale = "r2SCAN" if version == "r2scan" else MP2020
        self.model = load_weights(_weight_file(version)).to(device)
        self.share = 1.0  # of the usual batch; less after memory was short

    def evaluate(self, cells: Cells, *, forces: bool = False, stresses: bool = False) -> Evaluation:
        """Evaluate crystals that `cells.check` finds nothing wrong with."""
        home = cells.numbers.device
        if home != self.device:
            cells = cells.to(self.device)
        found = empty_evaluation(cells, forces, stresses)
        candidates = candidate_counts(cells, self.model.atom_cutoff)
        unknown = count_atoms(cells, cells.numbers > MAX_ATOMIC_NUMBER)
        table = torch.stack([candidates, unknown.double()], 1).cpu()
        usable = []
        for i, (pairs, count) in enumerate(table.tolist()):
            if count:
                found.reasons[i] = f"chgnet knows no element beyond {MAX_ATOMIC_NUMBER}"
            elif pairs > MAX_CANDIDATES:
                found.reasons[i] = f"the cell is too large or too flat: {pairs:.1e} pairs of atoms"
            else:
                usable.append(i)
        chosen = torch.tensor(usable, dtype=torch.int64)
        limit = self._limit(CPU_CANDIDATES, GPU_CANDIDATES, BYTES_PER_CANDIDATE)
        waiting = [chosen[low:high] for low, high in pack(table[chosen, 0], limit)]
        while waiting:
            group = waiting.pop()
            try:
                self._group(group, cells, found)
                continue
            except RuntimeError as error:
                if not _out_of_memory(error):
                    raise
            # outside of the handler, where the traceback no longer holds the tensors
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            self.share = max(self.share / 2, 1e-3)
            if len(group) > 1:
                waiting.extend(group.chunk(2))
            else:
                found.reasons[int(group)] = "out of memory: the crystal has too many neighbours"
        if home != self.device:
            tensors = [None if t is None else t.to(home) for t in found[:3]]
            found = Evaluation(*tensors, found.reasons)  # type: ignore[arg-type]
        return found

    def _group(self, chosen: Tensor, cells: Cells, found: Evaluation) -> None:
        """List the neighbours of some crystals, and evaluate them in batches."""
        part = cells.subset(chosen.to(self.device))
        bonds = find_bonds(part, self.model.atom_cutoff)
        bonded = torch.bincount(torch.cat([bonds.first, bonds.second]), minlength=len(part.numbers))
        isolated = count_atoms(part, bonded == 0)
        items = 2 * bonds.counts + angle_counts(part, bonds, self.model.bond_cutoff)
        table = torch.stack([items, isolated, bonds.counts, part.num_atoms], 1).cpu()
        gradients = found.forces is not None or found.stresses is not None
        fits = table[:, 0] <= MAX_ITEMS[gradients]
        if not fits.all():
            for i, count in zip(chosen[~fits].tolist(), table[~fits, 0].tolist(), strict=True):
                found.reasons[i] = f"the atoms are too close: {count:,} bonds and angles"
            if fits.any():
                self._group(chosen[fits], cells, found)
            return
        limit = self._limit(CPU_ITEMS, GPU_ITEMS, BYTES_PER_ITEM[gradients])
        last_bonds, last_atoms = torch.cumsum(table[:, 2:], 0).T.tolist()
        for low, high in pack(table[:, 0].double(), limit):
            atom = last_atoms[low - 1] if low else 0
            rows = slice(last_bonds[low - 1] if low else 0, last_bonds[high - 1])
            batch = Cells(
                part.numbers[atom : last_atoms[high - 1]],
                part.frac_coords[atom : last_atoms[high - 1]],
                part.lattice[low:high],
                part.num_atoms[low:high],
            )
            own = Bonds(
                bonds.first[rows] - atom,
                bonds.second[rows] - atom,
                bonds.vectors[rows],
                bonds.counts[low:high],
            )
            self._batch(batch, own, chosen[low:high].to(self.device), cells.num_atoms, found)
        for i, count in zip(chosen.tolist(), table[:, 1].tolist(), strict=True):
            if count:
                cutoff = self.model.atom_cutoff
                found.reasons[i] = f"{count} atoms have no neighbour within {cutoff:g} A"
                found.energies[i] = torch.nan

    def _batch(
        self, cells: Cells, bonds: Bonds, where: Tensor, num_atoms: Tensor, found: Evaluation
    ) -> None:
        """Evaluate a few crystals; ``where`` are their rows among all, of ``num_atoms``."""
        graph = make_graph(cells, bonds, self.model.bond_cutoff)
        gradients = found.forces is not None or found.stresses is not None
        with torch.set_grad_enabled(gradients):
            graph.vectors.requires_grad_(gradients)
            energies = self.model(graph)
        found.energies[where] = energies.detach()
        if not gradients:
            return
        slopes = torch.autograd.grad(energies.sum(), graph.vectors)[0].double()
        if found.forces is not None:
            forces = torch.zeros_like(cells.frac_coords)
            forces.index_add_(0, graph.first, slopes).index_add_(0, graph.second, -slopes)
            starts = torch.cumsum(num_atoms, 0) - num_atoms
            found.forces[ranges(starts[where], cells.num_atoms)] = forces
        if found.stresses is not None:
            outer = graph.vectors.detach().double().unsqueeze(2) * slopes.unsqueeze(1)
            virials = torch.zeros_like(cells.lattice)
            virials.index_add_(0, graph.owners[graph.first], outer)
            found.stresses[where] = virials / cells.volumes[:, None, None]

    def _limit(self, on_cpu: int, on_gpu: int, bytes_each: int) -> float:
        if self.device.type != "cuda":
            return on_cpu * self.share
        free, _ = torch.cuda.mem_get_info(self.device)
        held = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
        return min(on_gpu, 0.5 * (free + held) / bytes_each) * self.share


def pack(costs: Tensor, limit: float) -> Iterator[tuple[int, int]]:
    """Yield (low, high) of consecutive rows whose costs sum to at most the limit, or one row."""
    low, total = 0, 0.0
    for i, cost in enumerate(costs.tolist()):
        if i > low and total + cost > limit:
            yield low, i
            low, total = i, 0.0
        total += cost
    if low < len(costs):
        yield low, len(costs)


def count_atoms(cells: Cells, flags: Tensor) -> Tensor:
    """Return ``(M,)`` how many atoms of each crystal are flagged, ``(A,)`` bool."""
    return torch.zeros_like(cells.num_atoms).index_add_(0, cells.owners, flags.long())


def _out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


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
