"""Numbers that tell what is in a data set; how they are shown is the command line's business.

Shapes: ``M`` crystals, ``A`` atoms.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from chemeleon.crystals.batch import Crystals
from chemeleon.crystals.lattice import lattice_lengths, lattice_volume
from chemeleon.crystals.ragged import reduce_atoms
from chemeleon.crystals.symmetry import space_group
from chemeleon.data.selection import LoadReport

_DALTON_PER_A3_IN_G_PER_CM3 = 1.66053906660  # CODATA 2018
_BINS = 12  # of the histograms of continuous quantities


@dataclass(frozen=True)
class Histogram:
    """Counts of a quantity in bins of equal width.

    Attributes:
        name: quantity and unit.
        edges: limits of the bins, one more than counts; a whole number per bin if ``discrete``.
        counts: crystals in each bin.
        mean: mean over crystals.
        missing: crystals without a finite value.
        discrete: the bins are whole numbers.
    """

    name: str
    edges: list[float]
    counts: list[int]
    mean: float
    missing: int = 0
    discrete: bool = False


@dataclass(frozen=True)
class Description:
    """What is in one split.

    Attributes:
        elements: symbol to the number of crystals that contain it, most frequent first.
        histograms: of sizes, cells and density.
        targets: of the numeric columns.
        space_groups: symbol to number of crystals, most frequent first, of ``sampled`` crystals.
        sampled: crystals whose space group was looked for.
    """

    elements: dict[str, int]
    histograms: list[Histogram]
    targets: list[Histogram]
    space_groups: dict[str, int]
    sampled: int


def describe(found: LoadReport, *, space_group_sample: int = 500) -> Description:
    """Count and measure a set of crystals.

    Args:
        found: at least one crystal.
        space_group_sample: crystals, evenly spaced, whose space group is found (slow); 0 is none.
    """
    crystals = found.crystals
    volume = lattice_volume(crystals.lattice)
    lengths = lattice_lengths(crystals.lattice)
    contains = _contains(crystals)
    values = {
        "density (g/cm3)": _masses(crystals) / volume * _DALTON_PER_A3_IN_G_PER_CM3,
        "volume per atom (A3)": volume / crystals.num_atoms,
        **{f"cell length {axis} (A)": lengths[:, i] for i, axis in enumerate("abc")},
    }
    groups, sampled = _space_groups(crystals, space_group_sample)
    return Description(
        elements=_top_elements(contains),
        histograms=[
            _histogram("atoms per cell", crystals.num_atoms, discrete=True),
            _histogram("elements per crystal", contains.sum(1), discrete=True),
            *(_histogram(name, value) for name, value in values.items()),
        ],
        targets=[_histogram(name, value) for name, value in found.columns.items()],
        space_groups=groups,
        sampled=sampled,
    )


def _contains(crystals: Crystals) -> Tensor:
    """Return ``(M, 100)`` bool: which crystal has which element."""
    table = torch.zeros(len(crystals), 100, dtype=torch.bool)
    table[crystals.owners, crystals.atomic_numbers] = True
    return table


def _masses(crystals: Crystals) -> Tensor:
    """Return the mass of each cell in dalton, ``(M,)``."""
    from ase.data import atomic_masses

    masses = torch.from_numpy(atomic_masses).float()[crystals.atomic_numbers]
    return reduce_atoms(masses, crystals.num_atoms)


def _top_elements(contains: Tensor) -> dict[str, int]:
    from ase.data import chemical_symbols

    counts = contains.sum(0)
    order = torch.argsort(counts, descending=True, stable=True).tolist()
    return {chemical_symbols[z]: int(counts[z]) for z in order if counts[z] > 0}


def _histogram(name: str, values: Tensor, discrete: bool = False) -> Histogram:
    values = values.double()
    given = values[values.isfinite()]
    missing = len(values) - len(given)
    if len(given) == 0:
        return Histogram(name, [], [], float("nan"), missing, discrete)
    low, high = float(given.min()), float(given.max())
    if discrete:
        step = max(1, -(-int(high - low + 1) // (2 * _BINS)))  # whole numbers per bin
        edges = [low + i * step for i in range(int((high - low) // step) + 2)]
    else:
        width = (high - low) / _BINS or 1.0
        edges = [low + i * width for i in range(_BINS + 1 if high > low else 2)]
    counts, _ = np.histogram(given.numpy(), edges)
    return Histogram(name, edges, counts.tolist(), float(given.mean()), missing, discrete)


def _space_groups(crystals: Crystals, sample: int) -> tuple[dict[str, int], int]:
    wanted = min(sample, len(crystals))
    if wanted == 0:
        return {}, 0
    chosen = torch.linspace(0, len(crystals) - 1, wanted).round().long().unique()
    found: Counter[str] = Counter()
    for crystal in crystals.subset(chosen):
        group = space_group(*crystal)
        found["not found" if group is None else f"{group.symbol} ({group.number})"] += 1
    return dict(found.most_common()), len(chosen)
