"""Stable crystals: minus the energy above the hull, within limits.

Shapes: ``M`` crystals.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from contextlib import suppress

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from chemeleon.caching import cache_file, digest_of
from chemeleon.config.bounds import OpenSection
from chemeleon.crystals.batch import Crystals
from chemeleon.crystals.symbols import symbol
from chemeleon.energy.hull import Hull
from chemeleon.energy.hull_crystals import from_crystals
from chemeleon.energy.hull_sources import Ground, default_hull, find_hull, hull_for
from chemeleon.energy.potential import Potential
from chemeleon.energy.potentials import load_potential
from chemeleon.errors import ChemeleonError, DataError
from chemeleon.evaluation.matching.grouping import composition_keys, elements_of
from chemeleon.evaluation.sound import relax_soundly
from chemeleon.reinforcement.rewards.base import (
    Answer,
    Candidates,
    Context,
    Reward,
    needs_reference,
)

logger = logging.getLogger(__name__)
_load = functools.lru_cache(maxsize=1)(load_potential)  # checked, then used


class EnergyOptions(OpenSection):
    """Settings of `Energy`."""

    potential: str = Field(
        default="chgnet",
        description="chgnet[:VERSION], sevennet[:VERSION], mace[:MODEL] or package.module:thing.",
    )
    hull: str | None = Field(
        default=None,
        description="mp, mp_all (docs/energy.md), a file of `chemeleon data hull`, or a CSV (or its"
        " folder) of formation energies with elemental_references.json.gz beside it, also under the"
        " root of the data sets; default: mp for potentials whose scale of energies is known,"
        " such as chgnet and sevennet, else the training set with the same potential.",
    )
    relax_steps: int = Field(
        default=0, ge=0, description="Relax by so many steps first, positions and cells."
    )
    force_weight: float = Field(
        default=0.0,
        ge=0,
        description="Factor, in angstrom, of the largest force on an atom, eV/angstrom, which is"
        " added to the energy above hull: coordinates far from a minimum cost, too. 0.1 makes a"
        " force of 1 eV/angstrom count as 0.1 eV/atom. For crystals as decoded alone.",
    )
    lowest: float = Field(
        default=0.0, description="Energies above hull below this count as this, eV/atom."
    )
    highest: float = Field(
        default=1.0, description="Those above count as this, and so do unknown ones, eV/atom."
    )

    @model_validator(mode="after")
    def _ordered(self) -> EnergyOptions:
        if not self.lowest < self.highest:
            raise ValueError(f"lowest {self.lowest} must be below highest {self.highest}")
        if self.force_weight and self.relax_steps:
            raise ValueError(
                "force_weight is for crystals as decoded: leave it out, or relax_steps; a mix may"
                " hold two rewards `energy`"
            )
        return self


class Energy(Reward):
    """Minus the energy above hull, clamped (default 0 to 1 eV/atom); unknown ones get the worst."""

    Options = EnergyOptions
    busy = "gpu"

    def __init__(self, options: EnergyOptions, context: Context) -> None:
        super().__init__(options, context)
        self.floor = -options.highest  # type: ignore[misc]
        self.potential = _load(options.potential, context.device)
        self.ground = _ground(options, context, self.potential)
        self.judge = f"{self.potential.name} {self.potential.version}"

    @classmethod
    def problems(cls, options: EnergyOptions, context: Context) -> list[str]:
        """See `Reward`."""
        try:
            if options.hull is not None:
                find_hull(options.hull)
            potential = _load(options.potential, context.device)
        except ChemeleonError as error:
            return [str(error)]
        if options.hull is not None or default_hull(potential) is not None:
            return []
        return needs_reference(context)

    def score(self, candidates: Candidates) -> Answer:
        """See `Reward`."""
        rows = candidates.sound.nonzero().flatten()
        above = torch.full((len(candidates),), torch.nan, dtype=torch.float64)
        largest = torch.zeros_like(above)
        reasons = candidates.reasons()
        if len(rows):
            part = candidates.crystals.subset(rows)
            energies, why, part, forces = self._energies(part)
            formulas = [_amounts(key) for key in composition_keys(part.arrays())]
            crystals = list(part)
            formation, no = self.ground.formation_energies(formulas, energies, crystals)
            answer = self.ground.hull.above(formulas, formation.tolist())
            above[rows] = torch.from_numpy(answer.e_above_hull_ev)
            largest[rows] = forces
            for row, *said, state in zip(rows.tolist(), why, no, answer.states, strict=True):
                if state != "ok":
                    reasons[row] = said[0] or said[1] or f"hull: {state}"
        facts = {"e_hull": above.float()}
        weight, cost = self.options.force_weight, above
        if weight:
            facts["largest_force"] = largest.float().masked_fill(above.isnan(), torch.nan)
            cost = above + weight * largest
        limited = cost.clamp(self.options.lowest, self.options.highest)
        return Answer(-limited, reasons, facts)

    def _energies(
        self, crystals: Crystals
    ) -> tuple[Sequence[float], list[str | None], Crystals, Tensor]:
        """Return total energies, eV/atom, NaN with a reason where there is none, the crystals, and
        their largest forces, eV/angstrom, or zeros where they have no weight.

        The crystals are as they were evaluated: relaxed, if they are to be, but for those that
        relaxation would break.
        """
        largest = torch.zeros(len(crystals), dtype=torch.float64)
        if not self.options.relax_steps:
            found = self.potential.energies(crystals, forces=self.options.force_weight > 0)
            for row, forces in enumerate(found.forces or []):
                if forces is not None:
                    largest[row] = float(np.linalg.norm(forces, axis=1).max())
            return found.per_atom_ev.tolist(), found.reasons, crystals, largest
        # a hole of the potential, into which atoms fall, must not be what is learned
        moved, ends = relax_soundly(crystals, self.potential, self.options.relax_steps, 0.0)
        reasons = [end.reason for end in ends]
        return [end.energy_ev for end in ends], reasons, moved, largest


def _amounts(key: bytes) -> dict[str, float]:
    return {symbol(z): float(n) for z, n in elements_of(key).items()}


def _ground(options: EnergyOptions, context: Context, potential: Potential) -> Ground:
    known = hull_for(potential, options.hull, options.potential)
    if known is not None:
        return known
    assert context.reference is not None
    key = f"{potential.name} {potential.version} {options.relax_steps} {_digest(context.reference)}"
    path = cache_file("hulls", key, ".json.gz")
    if path.is_file():
        with suppress(DataError):  # a damaged file of the cache is made again
            return Ground(Hull.load(path), str(path), False)
    logger.warning(
        "making a hull of %d training crystals by %s; it is kept in %s",
        len(context.reference), potential.name, path,
    )  # fmt: skip
    made = from_crystals(context.reference, potential, "training set", options.relax_steps)
    made.save(path)
    return Ground(made, str(path), False)


def _digest(crystals: Crystals) -> str:
    tensors: tuple[Tensor, ...] = (
        crystals.atomic_numbers, crystals.frac_coords, crystals.lattice, crystals.num_atoms,
    )  # fmt: skip
    return digest_of(*(tensor.numpy() for tensor in tensors))
