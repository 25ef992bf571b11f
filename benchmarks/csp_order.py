"""How alike crystals of one structure type look to a csp model, by the order of their atoms.

    python benchmarks/csp_order.py [mp]

For each crystal of val, its nearest one in train with the same numbers of atoms of each element in
turn: distance is the root mean square over atoms of wrapped differences of fractional coordinates,
plus 0.3 times the mean difference of the metric tensors at volume 1. Prints the shares of val with
a neighbour within some distances.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator

import torch
from torch import Tensor

from chemeleon.config.presets import load_data
from chemeleon.crystals.batch import Crystals
from chemeleon.crystals.ordering import arrange
from chemeleon.data.dataset import load_split

DISTANCES = (0.02, 0.05, 0.1, 0.2)


def rows(crystals: Crystals) -> Iterator[tuple[tuple[int, ...], Tensor, Tensor]]:
    """Yield counts of atoms, fractional coordinates and metric tensor of each crystal."""
    counts = crystals.num_atoms.tolist()
    metric = crystals.lattice @ crystals.lattice.mT
    metric = metric / torch.linalg.det(metric).clamp_min(1e-9).pow(1 / 3).view(-1, 1, 1)
    atoms = zip(
        crystals.atomic_numbers.split(counts), crystals.frac_coords.split(counts), strict=True
    )
    for (numbers, coords), cell in zip(atoms, metric.flatten(1), strict=True):
        runs = torch.unique_consecutive(numbers, return_counts=True)[1]
        yield tuple(runs.tolist()), coords, cell


def main() -> None:
    """Print one line per order."""
    data = load_data(sys.argv[1] if len(sys.argv) > 1 else "mp")
    train, val = load_split(data, "train"), load_split(data, "val")
    for order in ("number", "canonical"):
        known = defaultdict(list)
        for counts, coords, cell in rows(arrange(train, order)):
            known[counts].append((coords, cell))
        stacked = {
            c: [torch.stack(part) for part in zip(*v, strict=True)] for c, v in known.items()
        }
        nearest = []
        for counts, coords, cell in rows(arrange(val, order)):
            if counts not in stacked:
                nearest.append(torch.inf)
                continue
            others, cells = stacked[counts]
            apart = (others - coords + 0.5) % 1 - 0.5
            distance = apart.square().sum(-1).mean(-1).sqrt() + 0.3 * (cells - cell).abs().mean(-1)
            nearest.append(float(distance.min()))
        found = torch.tensor(nearest)
        shares = (f"{d:g}: {100 * float((found < d).float().mean()):.1f} %" for d in DISTANCES)
        print(f"{order:9s} within " + ", ".join(shares))


if __name__ == "__main__":
    main()
