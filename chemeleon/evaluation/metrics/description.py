"""What a crystal is: formula, size, cell and density; how often each element occurs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from chemeleon.evaluation.collection import Collection
from chemeleon.evaluation.metrics.base import Column, Metric, Options, View


class Description(Metric):
    """Formula and cell of crystals as given, and in how many of them each element occurs."""

    name = "description"
    as_given = True
    shown = (
        Column("formula", "Formula", kind="text", shown=True),
        Column("num_atoms", "Atoms", shown=True, histogram="Atoms per cell"),
        Column("num_elements", "Elements", histogram="Elements"),
        *(Column(x, x, "Å", digits=3, histogram=f"Cell length {x}") for x in "abc"),
        *(
            Column(name, letter, "°", digits=2, histogram=f"Cell angle {name}")
            for name, letter in (("alpha", "α"), ("beta", "β"), ("gamma", "γ"))
        ),
    )

    def columns(self, crystals: Collection, options: Options) -> Mapping[str, Any]:
        return {
            **{name: crystals.words(name) for name in ("formula", "reduced_formula")},
            **{name: crystals.whole(name) for name in ("num_atoms", "num_elements")},
            **{name: crystals.column(name) for name in (*"abc", "alpha", "beta", "gamma")},
        }

    def facts(
        self, crystals: View, control: View | None, options: Options, headline: Any
    ) -> Mapping[str, Any]:
        theirs = {} if control is None else element_counts(control.crystals)
        return {"elements": {"sample": element_counts(crystals.crystals), "reference": theirs}}


class Density(Metric):
    """Density and volume per atom, in every state."""

    name = "density"
    shown = (
        Column("density_g_cm3", "Density", "g/cm³", digits=2, shown=True, histogram="Density"),
        Column("volume_per_atom_a3", "Volume per atom", "Å³", digits=2,
               histogram="Volume per atom"),
    )  # fmt: skip

    def columns(self, crystals: Collection, options: Options) -> Mapping[str, Any]:
        return {column.key: crystals.column(column.key) for column in self.shown}


def element_counts(crystals: Collection | None) -> dict[str, int]:
    """Return how many crystals hold each element."""
    from ase.data import chemical_symbols

    if crystals is None:
        return {}
    packed = crystals.crystals
    pairs = np.unique(packed.owners * 256 + packed.atomic_numbers)
    counts = np.bincount(pairs % 256, minlength=1)
    return {chemical_symbols[z]: int(counts[z]) for z in np.flatnonzero(counts)}
