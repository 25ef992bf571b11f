"""Whether crystals could be read, and whether structure and composition are valid."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from chemeleon.crystals.soundness import (
    MIN_DISTANCE,
    MIN_VOLUME,
    by_size,
    of_each,
    shortest_distances,
    structural_problems,
)
from chemeleon.evaluation.collection import Collection
from chemeleon.evaluation.describe import OXIDATION_STATES
from chemeleon.evaluation.metrics.base import Column, Figure, Metric, Options, View


class Reading(Metric):
    """Share of the requested crystals that could be read."""

    name = "reading"
    group = "validity"
    as_given = True
    needs = ("status",)

    def figures(self, crystals: View, options: Options) -> Iterator[Figure]:
        yield Figure("parsed", "Parsed", flag=crystals.table["status"].to_numpy() == "ok")


class Validity(Metric):
    """Structures without atoms too close, cells too flat and the like (`crystals.soundness`), the
    same by CDVAE's rule (Xie et al., arXiv:2110.06197), and compositions by SMACT."""

    name = group = "validity"
    basis = (
        f"Distances over {MIN_DISTANCE} Å, volume over {MIN_VOLUME} Å³; composition by SMACT,"
        f" oxidation states {OXIDATION_STATES}."
    )
    needs = ("valid_structure", "shortest_distance_a")
    as_given = binned = True
    shown = (
        Column("shortest_distance_a", "Shortest distance", "Å", digits=2,
               histogram="Shortest distance"),
        Column("valid_structure", "Valid structure", kind="flag", shown=True),
        Column("valid_composition", "Valid composition", kind="flag", shown=True),
    )  # fmt: skip

    def columns(self, crystals: Collection, options: Options) -> Mapping[str, Any]:
        problems: list[str | None] = [None] * len(crystals)
        sound = np.zeros(len(crystals), dtype=bool)
        for rows, part in by_size(crystals.crystals):
            for row, problem in zip(rows.tolist(), structural_problems(part), strict=True):
                problems[row], sound[row] = problem, problem is None
        return {
            "reason": problems,
            "shortest_distance_a": of_each(shortest_distances, crystals.crystals),
            "valid_structure": sound,
            "valid_composition": crystals.column("valid_composition") == 1,
        }

    def figures(self, crystals: View, options: Options) -> Iterator[Figure]:
        structure, composition = (
            crystals.flags(f"valid_{name}") for name in ("structure", "composition")
        )
        yield Figure("valid_structure", "Valid structure", flag=structure)
        with np.errstate(invalid="ignore"):
            volume = crystals.numbers("volume_per_atom_a3") * crystals.numbers("num_atoms")
            apart = crystals.numbers("shortest_distance_a") > MIN_DISTANCE
            plain = (volume > MIN_VOLUME) & apart
        yield Figure("valid_structure_cdvae", "Valid structure, CDVAE rule", flag=plain)
        yield Figure("valid_composition", "Valid composition (SMACT)", flag=composition)
        yield Figure("valid", "Valid, both", flag=structure & composition)
