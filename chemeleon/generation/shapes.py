"""How large the crystals of a sample are, and what is known of them before they are made.

Shapes: ``B`` crystals of a batch, ``M`` of a sample, ``N`` padded atoms or orbits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Self

import torch
from torch import Tensor

from chemeleon.crystals.batch import LETTERS, MAX_ATOMIC_NUMBER, CrystalBatch
from chemeleon.crystals.canonical import standard
from chemeleon.crystals.orbits import Assignment
from chemeleon.crystals.ordering import Order, arrange_atoms
from chemeleon.crystals.random import fold, uniform
from chemeleon.errors import GenerationError
from chemeleon.generation.conditioning import unit_sizes
from chemeleon.generation.settings import Options
from chemeleon.models.denoiser import LatentDiffusion


class Shapes(NamedTuple):
    """What is known of the crystals of a sample before they are made.

    Attributes:
        sizes: ``(M,)`` numbers of atoms, or of orbits for a model on these.
        types: ``(M, N)`` atomic numbers in the order of training, 0 on padded slots; None where
            the model chooses them.
        sites: ``(M, N)`` of a model on orbits, see `Crystals`, 0 on padded slots. Where the model
            chooses the letters, they are all a.
    """

    sizes: Tensor
    types: Tensor | None = None
    sites: Tensor | None = None

    @classmethod
    def read(cls, model: LatentDiffusion, keys: Tensor, options: Options) -> Self:
        """Return what options and the training set say of the crystals with these random keys.

        Raises:
            GenerationError: if the model has not learned of such crystals.
        """
        if model.config.denoiser.space_group:
            if options.get("num_atoms") is not None:
                raise GenerationError(
                    "this model makes orbits, and the letters that it chooses say how many atoms"
                    " they have: leave out num_atoms, or use a model of tokens=atoms"
                )
            wanted, assignments = options.get("space_group"), options.get("assignments")
            if assignments is None:
                groups, sizes = draw_groups(model, keys, wanted)
                real = torch.arange(int(sizes.max())) < sizes.unsqueeze(-1)
                return cls(sizes, sites=real * groups.unsqueeze(-1) * LETTERS)
            if wanted is not None:
                raise GenerationError("assignments name the space groups: leave out space_group")
            types, sites = _orbits(assignments, len(keys))
            return cls((types > 0).sum(-1), types, sites)
        if options.get("space_group") is not None:
            raise GenerationError(
                "this model makes atoms, of any space group: leave out space_group, or use a model"
                " on orbits (docs/orbits.md); a model may have the condition space_group"
            )
        atoms = options.get("atoms")
        if atoms is None:
            return cls(_sizes(model, keys, options))
        types = _table(atoms, model.vae.config.atom_order, len(keys))
        return cls((types > 0).sum(-1), types)

    def batch(self, rows: Tensor) -> CrystalBatch:
        """Return crystals ``(B,)`` of these shapes with no geometry yet, packed."""
        sizes = self.sizes[rows]
        width = int(sizes.max())
        mask = torch.arange(width) < sizes.unsqueeze(-1)
        full = bool(mask.all())
        return CrystalBatch(
            atomic_numbers=mask.long() if self.types is None else self.types[rows, :width],
            frac_coords=torch.zeros(len(sizes), width, 3),
            lattice=torch.eye(3).expand(len(sizes), 3, 3),
            num_atoms=sizes,
            sites=None if self.sites is None else self.sites[rows, :width],
            tokens=None if full else torch.nonzero(mask.flatten()).squeeze(-1),
            full=full,
            check=False,
        )


def draw_sizes(
    model: LatentDiffusion, keys: Tensor, allowed: Sequence[int] | None = None
) -> Tensor:
    """Draw numbers of atoms ``(M,)`` from the training histogram.

    Args:
        keys: ``(M,)`` random keys.
        allowed: sizes to choose from, by their shares in the training data (evenly if none of
            them occurs there).
    """
    weights = model.size_histogram.double().cpu()
    if allowed is not None:
        largest = max(*allowed, len(weights) - 1)
        kept = weights.new_zeros(largest + 1)
        index = torch.tensor(sorted(set(allowed)))
        kept[: len(weights)] = weights
        chosen = kept[index]
        weights = kept.zero_().index_copy_(0, index, chosen if chosen.any() else chosen + 1)
    return _drawn(weights, uniform(fold(keys, "size")).double().cpu())


def draw_groups(
    model: LatentDiffusion, keys: Tensor, wanted: Sequence[int] | None = None
) -> tuple[Tensor, Tensor]:
    """Draw space groups and numbers of orbits, ``(M,)`` each, from the training histogram.

    Args:
        keys: ``(M,)`` random keys.
        wanted: space group of each crystal, or one for all; by default as in training.

    Raises:
        GenerationError: if there are others than one or ``M``, or training had no crystal of one.
    """
    weights = model.group_histogram.double().cpu()
    draws = uniform(fold(keys, "size")).double().cpu()
    if wanted is None:
        place = _drawn(weights.flatten(), draws)
        return place // weights.shape[1], place % weights.shape[1]
    if len(wanted) not in (1, len(keys)):
        raise GenerationError(f"{len(wanted)} space groups are given for {len(keys)} crystals")
    groups = torch.tensor(list(wanted)).expand(len(keys))
    sizes = torch.zeros(len(keys), dtype=torch.int64)
    for number in groups.unique().tolist():
        if number not in range(1, len(weights)) or not weights[number].any():
            raise GenerationError(
                f"no training crystal of this model has space group {number}: name another"
            )
        sizes[groups == number] = _drawn(weights[number], draws[groups == number])
    return groups, sizes


def _sizes(model: LatentDiffusion, keys: Tensor, options: Options) -> Tensor:
    """Draw numbers of atoms ``(M,)`` into which requested formulas go."""
    if (allowed := options.get("num_atoms")) is not None:
        return draw_sizes(model, keys, allowed)
    units, largest = unit_sizes(model, options), len(model.size_histogram) - 1
    units = units * len(keys) if len(units) == 1 else units
    sizes = torch.zeros(len(keys), dtype=torch.int64)
    for unit in set(units):  # a requested formula must go into its cell
        mine = torch.tensor([i for i, other in enumerate(units) if other == unit])
        allowed = None if unit is None else range(unit, max(unit, largest) + 1, unit)
        sizes[mine] = draw_sizes(model, keys[mine], allowed)
    return sizes


def _drawn(weights: Tensor, draws: Tensor) -> Tensor:
    """Return places in a list, by their weights, for uniform numbers."""
    bounds = torch.cumsum(weights / weights.sum(), 0)
    return torch.searchsorted(bounds, draws, right=True).clamp_max(len(weights) - 1)


def _table(atoms: Sequence[Sequence[int]], order: Order, num_samples: int) -> Tensor:
    """Return atomic numbers in the order of training, ``(M, most atoms)``, padded with 0."""
    if len(atoms) != num_samples:
        raise GenerationError(f"{num_samples} crystals are requested, with atoms of {len(atoms)}")
    for number, row in enumerate(atoms):
        if not row or min(row) < 1 or max(row) > MAX_ATOMIC_NUMBER:
            raise GenerationError(
                f"crystal {number}: atoms must be atomic numbers of 1 to {MAX_ATOMIC_NUMBER}, at"
                f" least one, got {list(row)}"
            )
    return _padded([arrange_atoms(row, order) for row in atoms])


def _orbits(assignments: Sequence[Assignment], num_samples: int) -> tuple[Tensor, Tensor]:
    """Return atomic numbers and sites in the order of training, ``(M, most orbits)`` each."""
    if len(assignments) != num_samples:
        raise GenerationError(
            f"{num_samples} crystals are requested, with assignments of {len(assignments)}"
        )
    for number, assignment in enumerate(assignments):
        if (problem := assignment.problem()) is not None:
            raise GenerationError(f"crystal {number}: {problem}")
    rows = [standard(assignment) for assignment in assignments]
    sites = [[row.number * LETTERS + int(letter) for letter in row.letters] for row in rows]
    return _padded([list(row.atomic_numbers) for row in rows]), _padded(sites)


def _padded(rows: Sequence[Sequence[int]]) -> Tensor:
    width = max(map(len, rows), default=0)
    return torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])
