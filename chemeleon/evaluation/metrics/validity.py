"""Whether crystals could be read, whether structure and composition are valid, and whether atoms
are nearer than they bond."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from chemeleon.crystals.soundness import (
    MIN_CONTACT,
    MIN_DISTANCE,
    MIN_VOLUME,
    by_size,
    closest_contacts,
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
        problems = np.full(len(crystals), None)
        for rows, part in by_size(crystals.crystals):
            problems[rows] = structural_problems(part)
        found = np.array([problem is None for problem in problems], dtype=bool)
        return {
            "reason": problems.tolist(),
            "shortest_distance_a": of_each(shortest_distances, crystals.crystals),
            "valid_structure": found & (crystals.crystals.num_atoms > 0),
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


class Contacts(Metric):
    """Smallest distance over the sum of covalent radii (Cordero et al., Dalton Trans. 2832 (2008),
    as in ``ase.data.covalent_radii``), own periodic images included."""

    name = "contacts"
    group = "validity"
    needs = ("closest_contact",)
    binned = True
    basis = f"Close: below {MIN_CONTACT:g} of the sum of covalent radii (Cordero et al. 2008)."
    shown = (Column("closest_contact", "Closest contact over sum of radii", digits=2),)

    def columns(self, crystals: Collection, options: Options) -> Mapping[str, Any]:
        return {"closest_contact": of_each(closest_contacts, crystals.crystals)}

    def figures(self, crystals: View, options: Options) -> Iterator[Figure]:
        with np.errstate(invalid="ignore"):
            close = crystals.numbers("closest_contact") < MIN_CONTACT
        label = f"A distance below {MIN_CONTACT:g} of covalent radii"
        yield Figure("close_contact", label, flag=close)
