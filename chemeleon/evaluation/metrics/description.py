"""What a crystal is: formula, size, cell and density; how often each element and formula occurs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from chemeleon.evaluation.collection import Collection
from chemeleon.evaluation.metrics.base import Column, Metric, Options, View
from chemeleon.evaluation.metrics.sections import Bars, Shown, Table
from chemeleon.evaluation.metrics.statistics import percentages, share
from chemeleon.evaluation.reference import novel_column

_MOST_SHOWN = 15  # elements, those whose share changed most


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
        kept = ("formula", "reduced_formula", "num_atoms", "num_elements", *"abc")
        return crystals.table(*kept, "alpha", "beta", "gamma")

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
        return crystals.table(*(column.key for column in self.shown))


def element_counts(crystals: Collection | None) -> dict[str, int]:
    """Return how many crystals hold each element."""
    from ase.data import chemical_symbols

    if crystals is None:
        return {}
    packed = crystals.crystals
    pairs = np.unique(packed.owners * 256 + packed.atomic_numbers)
    counts = np.bincount(pairs % 256, minlength=1)
    return {chemical_symbols[z]: int(counts[z]) for z in np.flatnonzero(counts)}


class Repetition(Metric):
    """What fine-tuning towards a reward tends to spoil: the most frequent formulas and the share of
    the ten most frequent; copies of the training set, which is the first reference; elements beside
    those of the base model's crystals."""

    name = "repetition"

    def facts(
        self, crystals: View, control: View | None, options: Options, headline: Any
    ) -> Mapping[str, Any]:
        formulas = crystals.words("reduced_formula")
        top, ten = _top_ten(formulas)
        readable = crystals.table["status"].to_numpy() == "ok"
        found: dict[str, Any] = {
            "top_formulas": [{"formula": name, "count": count} for name, count in top],
            "top_ten": ten,
        }
        if options.references:
            known = readable & ~crystals.flags(novel_column(options.references[0].name))
            found["memorisation"] = share(int(known.sum()), len(known))
        if (base := options.base) is not None:
            ours, theirs = element_counts(crystals.crystals), element_counts(base)
            found["elements"] = {"sample": ours, "base": theirs}
            read = int(np.sum(base.crystals.num_atoms > 0))
            found["crystals"] = {"sample": int(readable.sum()), "base": read}
            found["base_top_ten"] = _top_ten(base.words("reduced_formula"))[1]
        return {"repetition": found}

    def sections(self, summary: Mapping[str, Any]) -> Iterator[Shown]:
        found = summary.get("repetition") or {}
        if not found.get("top_formulas"):
            return
        shares = {
            "the ten most frequent formulas": found.get("top_ten"),
            "the same, base model": found.get("base_top_ten"),
            "memorisation: duplicates of the training set": found.get("memorisation"),
        }
        rows = [[label, part] for label, part in shares.items() if part]
        top = [[entry["formula"], entry["count"]] for entry in found["top_formulas"]]
        parts: list[Table | Bars] = [
            Table("Shares", ["", "Share"], rows),
            Table("Most frequent formulas", ["Formula", "Crystals"], top),
        ]
        crystals = found.get("crystals") or {}
        if crystals.get("sample") and crystals.get("base"):
            title = "Elements that changed most against the base model"
            ours, base = (percentages(found["elements"][k], n) for k, n in crystals.items())
            change = {x: abs(ours.get(x, 0.0) - base.get(x, 0.0)) for x in {*ours, *base}}
            names = sorted(change, key=lambda x: (-change[x], x))[:_MOST_SHOWN]
            parts.append(Bars(title, names, ours, base, "base model"))
        yield Shown("Repetition", parts, "What fine-tuning for a reward may spoil.")


def _top_ten(formulas: Sequence[str | None]) -> tuple[list[tuple[str, int]], dict[str, Any]]:
    """Return the ten most frequent formulas, and their share of all crystals."""
    top = Counter(filter(None, formulas)).most_common(10)
    return top, share(sum(count for _, count in top), len(formulas))
