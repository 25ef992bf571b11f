"""Potentials that take many crystals at once, in batches that fit into memory.

Batches are filled by what crystals cost (bonds, angles), not by crystals. What does not fit into
memory is tried again in halves; a single crystal that does not fit has no energy, and a reason.

Shapes: ``M`` crystals, ``A`` atoms, ``U`` bonds.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from chemeleon.crystals.batch import Crystals
from chemeleon.crystals.neighbours import Bonds, candidate_counts, find_bonds
from chemeleon.crystals.ragged import ranges
from chemeleon.crystals.symbols import symbol
from chemeleon.energy.potential import Evaluation, Potential, empty_evaluation

MAX_CANDIDATES = 5e7  # pairs of atoms and images of one crystal; flat cells have many
BYTES_PER_CANDIDATE = 100
CPU_CANDIDATES = 500_000  # about the size of caches
GPU_CANDIDATES = 100_000_000


class Costs(NamedTuple):
    """What the items of a potential cost: its bonds, or bonds and angles.

    Attributes:
        most: of one crystal, without gradients and with.
        bytes_each: memory of one, without gradients and with.
        cpu: of a batch on a CPU, about what caches hold.
        gpu: of a batch on a GPU, enough to keep any busy.
    """

    most: tuple[int, int]
    bytes_each: tuple[int, int]
    cpu: int
    gpu: int


class Slopes(NamedTuple):
    """Energies of a batch, and how they change with its bonds, in any order.

    Attributes:
        energies: ``(M,)`` float64, eV of the whole cell.
        first, second: ``(U,)`` int64, atoms of each bond; None as `slopes`.
        vectors: ``(U, 3)`` from first to second, angstrom.
        slopes: ``(U, 3)`` derivative of the energy by the vectors, or None if not asked for.
    """

    energies: Tensor
    first: Tensor
    second: Tensor
    vectors: Tensor
    slopes: Tensor | None


class BatchedPotential(Potential):
    """A potential whose energy is a function of the bonds within a cutoff.

    Attributes:
        cutoff: longest bond, angstrom.
        known: ``(120,)`` bool on the potential's device, by atomic number.
        costs: see `Costs`.
        lonely: whether atoms without any neighbour have an energy.
        items_are: what `items` counts, for messages.
        share: of the usual batch; less after memory was short.
    """

    cutoff: float
    known: Tensor
    costs: ClassVar[Costs]
    lonely: ClassVar[bool] = True
    items_are: ClassVar[str] = "bonds"
    share: float = 1.0

    @abstractmethod
    def slopes(self, cells: Crystals, bonds: Bonds, gradients: bool) -> Slopes:
        """Return the energies of a batch, and their slopes if `gradients`."""

    def items(self, cells: Crystals, bonds: Bonds) -> Tensor:
        """Return ``(M,)`` int64: how many items of `costs` each crystal has."""
        return bonds.counts

    def evaluate(
        self, cells: Crystals, *, forces: bool = False, stresses: bool = False
    ) -> Evaluation:
        """Evaluate crystals that `usable.check` finds nothing wrong with."""
        home = cells.device
        if home != self.device:
            cells = cells.to(self.device)
        found = empty_evaluation(cells, forces, stresses)
        candidates = candidate_counts(cells, self.cutoff)
        unknown = ~self.known[cells.atomic_numbers]
        table = torch.stack([candidates, count_atoms(cells, unknown).double()], 1).cpu()
        if table[:, 1].any():
            self._tell_unknown(cells, unknown, found)
        usable = []
        for i, (pairs, count) in enumerate(table.tolist()):
            if pairs > MAX_CANDIDATES and not count:
                found.reasons[i] = f"the cell is too large or too flat: {pairs:.1e} pairs of atoms"
            elif not count:
                usable.append(i)
        chosen = torch.tensor(usable, dtype=torch.int64)
        limit = self._limit(CPU_CANDIDATES, GPU_CANDIDATES, BYTES_PER_CANDIDATE)
        waiting = [chosen[low:high] for low, high in pack(table[chosen, 0], limit)]
        halve_when_short(self, waiting, lambda group: self._group(group, cells, found), found)
        if home != self.device:
            tensors = [None if t is None else t.to(home) for t in found[:3]]
            found = Evaluation(*tensors, found.reasons)  # type: ignore[arg-type]
        return found

    def _tell_unknown(self, cells: Crystals, unknown: Tensor, found: Evaluation) -> None:
        where = torch.nonzero(unknown).flatten()
        pairs = zip(cells.owners[where].tolist(), cells.atomic_numbers[where].tolist(), strict=True)
        for owner, number in pairs:
            found.reasons[owner] = f"{self.name} does not know the element {symbol(number)}"

    def _group(self, chosen: Tensor, cells: Crystals, found: Evaluation) -> None:
        """List the neighbours of some crystals, and evaluate them in batches."""
        part = cells.subset(chosen.to(self.device))
        bonds = find_bonds(part, self.cutoff)
        bonded = torch.zeros(len(part.atomic_numbers), dtype=torch.bool, device=self.device)
        bonded[bonds.first] = True
        bonded[bonds.second] = True
        isolated = count_atoms(part, ~bonded)
        counts = [self.items(part, bonds), isolated, bonds.counts, part.num_atoms]
        table = torch.stack(counts, 1).cpu()
        gradients = found.forces is not None or found.stresses is not None
        fits = table[:, 0] <= self.costs.most[gradients]
        if not fits.all():
            for i, count in zip(chosen[~fits].tolist(), table[~fits, 0].tolist(), strict=True):
                found.reasons[i] = f"the atoms are too close: {count:,} {self.items_are}"
            if fits.any():
                self._group(chosen[fits], cells, found)
            return
        limit = self._limit(self.costs.cpu, self.costs.gpu, self.costs.bytes_each[gradients])
        last_bonds, last_atoms = torch.cumsum(table[:, 2:], 0).T.tolist()
        for low, high in pack(table[:, 0].double(), limit):
            atom = last_atoms[low - 1] if low else 0
            rows = slice(last_bonds[low - 1] if low else 0, last_bonds[high - 1])
            batch = Crystals(
                part.atomic_numbers[atom : last_atoms[high - 1]],
                part.frac_coords[atom : last_atoms[high - 1]],
                part.lattice[low:high],
                part.num_atoms[low:high],
                check=False,
            )
            own = Bonds(
                bonds.first[rows] - atom,
                bonds.second[rows] - atom,
                bonds.vectors[rows],
                bonds.counts[low:high],
            )
            self._batch(batch, own, chosen[low:high].to(self.device), cells.num_atoms, found)
        if self.lonely:
            return
        for i, count in zip(chosen.tolist(), table[:, 1].tolist(), strict=True):
            if count:
                found.reasons[i] = f"{count} atoms have no neighbour within {self.cutoff:g} A"
                found.energies[i] = torch.nan

    def _batch(
        self, cells: Crystals, bonds: Bonds, where: Tensor, num_atoms: Tensor, found: Evaluation
    ) -> None:
        """Evaluate a few crystals; ``where`` are their rows among all, of ``num_atoms``."""
        gradients = found.forces is not None or found.stresses is not None
        with torch.set_grad_enabled(gradients):
            said = self.slopes(cells, bonds, gradients)
        found.energies[where] = said.energies.detach()
        if said.slopes is None:
            return
        slopes = said.slopes.double()
        if found.forces is not None:
            forces = torch.zeros_like(cells.frac_coords)
            forces.index_add_(0, said.first, slopes).index_add_(0, said.second, -slopes)
            starts = torch.cumsum(num_atoms, 0) - num_atoms
            found.forces[ranges(starts[where], cells.num_atoms)] = forces
        if found.stresses is not None:
            outer = said.vectors.detach().double().unsqueeze(2) * slopes.unsqueeze(1)
            virials = torch.zeros_like(cells.lattice)
            virials.index_add_(0, cells.owners[said.first], outer)
            found.stresses[where] = virials / cells.volume[:, None, None]

    def _limit(self, on_cpu: int, on_gpu: int, bytes_each: int) -> float:
        return memory_limit(self.device, on_cpu, on_gpu, bytes_each) * self.share


def memory_limit(device: torch.device, on_cpu: int, on_gpu: int, bytes_each: int) -> float:
    """Return how many items a batch may have: on GPUs what half of the free memory holds."""
    if device.type != "cuda":
        return on_cpu
    free, _ = torch.cuda.mem_get_info(device)
    held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return min(on_gpu, 0.5 * (free + held) / bytes_each)


def halve_when_short(
    potential: Any, waiting: list[Tensor], work: Callable[[Tensor], None], found: Evaluation
) -> None:
    """Do the work of all groups of rows; what does not fit into memory again in halves.

    The potential's ``share`` of the usual batch is halved with it.
    """
    while waiting:
        group = waiting.pop()
        try:
            work(group)
            continue
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
        # outside of the handler, where the traceback no longer holds the tensors
        if potential.device.type == "cuda":
            torch.cuda.empty_cache()
        potential.share = max(potential.share / 2, 1e-3)
        if len(group) > 1:
            waiting.extend(group.chunk(2))
        else:
            found.reasons[int(group)] = "out of memory: the crystal has too many neighbours"


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


def count_atoms(cells: Crystals, flags: Tensor) -> Tensor:
    """Return ``(M,)`` how many atoms of each crystal are flagged, ``(A,)`` bool."""
    return torch.zeros_like(cells.num_atoms).index_add_(0, cells.owners, flags.long())


def out_of_memory(error: RuntimeError) -> bool:
    """Whether an error says that memory was short."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
