"""How symmetric crystals are: P1 at two tolerances, space groups, crystal systems."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from chemeleon.crystals.symmetry import SYMPREC, TIGHT, crystal_system
from chemeleon.evaluation.collection import Collection
from chemeleon.evaluation.metrics.base import Figure, Metric, Options, View
from chemeleon.evaluation.metrics.statistics import jensen_shannon
from chemeleon.evaluation.report.columns import Column

SYSTEMS = tuple(dict.fromkeys(map(crystal_system, range(1, 231))))


class Symmetry(Metric):
    """Share of P1 within 0.1 and 0.01 angstrom, different space groups, and the distance of the
    seven crystal systems to those of the control set.

    A crystal whose group is not found counts among the requested, and is not P1.
    """

    name = group = "symmetry"
    basis = f"By moyopy, within {SYMPREC:g} Å where nothing else is said."
    shown = (Column("space_group_strict", f"Space group no. within {TIGHT:g} Å"),)

    def columns(self, crystals: Collection, options: Options) -> Mapping[str, Any]:
        import pandas

        found = pandas.array(crystals.column("space_group_strict"), dtype="Int64")
        return {"space_group_strict": found}

    def figures(self, crystals: View, options: Options) -> Iterator[Figure]:
        for name, key, symprec in (
            ("space_group", "p1", SYMPREC),
            ("space_group_strict", "p1_strict", TIGHT),
        ):
            label = f"Space group P1 within {symprec:g} Å"
            flag = crystals.numbers(name) == 1
            yield Figure(key, label, flag=flag, binned=True)
        groups = crystals.numbers("space_group")
        count = len(np.unique(groups[np.isfinite(groups)])) if len(groups) else np.nan
        yield Figure("space_groups", "Different space groups", value=count, binned=True)

    def distances(self, crystals: View, control: View) -> Iterator[Figure]:
        ours, theirs = (
            np.array([side.words("crystal_system").count(name) for name in SYSTEMS], float)
            for side in (crystals, control)
        )
        value = jensen_shannon(ours, theirs)
        label = "Jensen-Shannon distance of crystal systems"
        yield Figure("jsd_crystal_systems", label, value=value, binned=True)
