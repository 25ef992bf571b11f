"""How symmetric crystals are: P1 at two tolerances, space groups, crystal systems."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from chemeleon.config.requests import whole_number
from chemeleon.crystals.symmetry import SYMPREC, TIGHT, crystal_system, group_of
from chemeleon.evaluation.collection import Collection
from chemeleon.evaluation.metrics.base import Column, Figure, Metric, Options, View
from chemeleon.evaluation.metrics.sections import Bars, Shown
from chemeleon.evaluation.metrics.statistics import jensen_shannon, percentages

_MOST_SHOWN = 15  # space groups of either set
SYSTEMS = tuple(dict.fromkeys(map(crystal_system, range(1, 231))))


class Symmetry(Metric):
    """Share of P1 within 0.1 and 0.01 angstrom, different space groups, and the distance of the
    seven crystal systems to those of the control set.

    A crystal whose group is not found counts among the requested, and is not P1.
    """

    name = group = "symmetry"
    basis = f"By moyopy, within {SYMPREC:g} Å where nothing else is said."
    binned = True
    needs = ("space_group", "space_group_strict", "crystal_system")
    shown = (
        Column("space_group_symbol", "Space group", kind="text", shown=True),
        Column("space_group", "Space group no.", histogram="Space group number", ordered=False),
        Column("space_group_strict", f"Space group no. within {TIGHT:g} Å"),
        Column("crystal_system", "Crystal system", kind="text"),
    )

    def columns(self, crystals: Collection, options: Options) -> Mapping[str, Any]:
        kept = ("space_group", "space_group_strict", "space_group_symbol", "crystal_system")
        return crystals.table(*kept)

    def figures(self, crystals: View, options: Options) -> Iterator[Figure]:
        for name, key, symprec in (
            ("space_group", "p1", SYMPREC),
            ("space_group_strict", "p1_strict", TIGHT),
        ):
            label = f"Space group P1 within {symprec:g} Å"
            flag = crystals.numbers(name) == 1
            yield Figure(key, label, flag=flag)
        groups = crystals.numbers("space_group")
        count = len(np.unique(groups[np.isfinite(groups)])) if len(groups) else np.nan
        yield Figure("space_groups", "Different space groups", value=count)

    def distances(self, crystals: View, control: View, options: Options) -> Iterator[Figure]:
        ours, theirs = (
            np.array([side.words("crystal_system").count(name) for name in SYSTEMS], float)
            for side in (crystals, control)
        )
        value = jensen_shannon(ours, theirs)
        label = "Jensen-Shannon distance of crystal systems"
        yield Figure("jsd_crystal_systems", label, value=value)

    def facts(
        self, crystals: View, control: View | None, options: Options, headline: Any
    ) -> Mapping[str, Any]:
        theirs = {} if control is None else _counts(control)
        return {"space_groups": {"sample": _counts(crystals), "reference": theirs}}

    def sections(self, summary: Mapping[str, Any]) -> Iterator[Shown]:
        counts = summary.get("space_groups") or {}
        ours, theirs = (
            percentages({_symbol(name): n for name, n in (counts.get(side) or {}).items()})
            for side in ("sample", "reference")
        )
        sets = {"Most frequent here": ours, "Most frequent in the reference": theirs}
        parts = [
            Bars(title, sorted(by, key=lambda name: -by[name])[:_MOST_SHOWN], ours, theirs)
            for title, by in sets.items()
            if by
        ]
        yield Shown("Space groups", parts)


def _symbol(name: str) -> str:
    """Return symbol and number of a space group given by its number; other names stay."""
    number = whole_number(name) or 0
    return f"{group_of(number).symbol} ({number})" if 1 <= number <= 230 else name


def _counts(crystals: View) -> dict[str, int]:
    """Return how many crystals have each space group, by its number."""
    groups = crystals.numbers("space_group")
    numbers, counts = np.unique(groups[np.isfinite(groups)].astype(int), return_counts=True)
    return dict(zip(map(str, numbers.tolist()), counts.tolist(), strict=True))
