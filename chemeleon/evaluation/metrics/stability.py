"""What energies say of a set of crystals, raw and relaxed: stability by both conventions.

Stable is at most 0 above the hull, metastable at most 0.1 eV/atom: SUN, MSUN (inclusive, as
MatterGen and chemeleon2 count) and MSUN without the stable ones (as LeMat-GenBench counts).

Shapes: ``C`` crystals.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from chemeleon.evaluation.metrics.base import STATES, Column, Figure, Metric, Options, View
from chemeleon.evaluation.metrics.novelty import against
from chemeleon.evaluation.metrics.sections import Shown, Table
from chemeleon.evaluation.reference import NOVEL

ABOVE = "e_above_hull_ev"  # of several hulls the highest; then each has a column ABOVE_HULL
METASTABLE_EV = 0.1
_HULL_TOLERANCE_EV = 1e-6
_HULL_STATES = {
    "ok": "judged",
    "system missing": "judged, but the hull has no phase of all its elements: likely too low",
    "element missing": "not judged: the hull has no phase with one of its elements",
    "no energy": "not judged: the potential gave no energy",
}


class Stability(Metric):
    """Shares of stable and metastable crystals, and of those that are unique and novel as well; of
    several hulls for each too. What is not judged counts as not stable.

    Relaxed ones are of the relaxed crystal, its uniqueness and novelty included.
    """

    name = "stability"
    of_energies = binned = True

    def known(self, names: Iterable[str]) -> Iterator[Column]:
        yield Column(ABOVE, "E above hull", "eV/atom", digits=3, shown=True,
                     histogram="E above hull")  # fmt: skip
        for name in names:
            if name.startswith(f"{ABOVE}_"):
                hull = name.removeprefix(f"{ABOVE}_")
                yield Column(name, f"E above hull {hull}", "eV/atom", digits=3)
        yield Column("energy_ev_per_atom", "Energy", "eV/atom", digits=3)
        yield Column("hull_state", "Hull", kind="text")

    def figures(self, crystals: View, options: Options) -> Iterator[Figure]:
        new, of = None, ""
        if "unique" in crystals and NOVEL in crystals:
            new, of = crystals.flags("unique") & crystals.flags(NOVEL), against(options)
        group, ends = crystals.state or "energy", crystals.names(ABOVE)
        for end in ends:
            hull = end.removeprefix("_")
            word = f", hull {hull}" if hull else ", every hull" if len(ends) > 1 else ""
            above = crystals.numbers(ABOVE + end)
            with np.errstate(invalid="ignore"):
                stable = above <= _HULL_TOLERANCE_EV
                below = above <= METASTABLE_EV + _HULL_TOLERANCE_EV
            if not hull or new is None:
                yield Figure(f"stable{end}", "E above hull ≤ 0", word, group, stable)
                yield Figure(f"metastable{end}", "E above hull ≤ 0.1 eV/atom", word, group, below)
            if new is not None:
                word += of
                yield Figure(f"sun{end}", "SUN", word, group, new & stable)
                yield Figure(f"msun{end}", "MSUN, E ≤ 0.1", word, group, new & below)
                if not hull:
                    label, rest = "MSUN, 0 < E ≤ 0.1", new & below & ~stable
                    yield Figure("msun_exclusive", label, word, group, rest)

    def facts(
        self, crystals: View, control: View | None, options: Options, headline: Any
    ) -> Mapping[str, Any]:
        """Return how many crystals the hull could judge, and why not the others.

        Of the states, ``ok`` and ``system missing`` have an energy above hull; the latter is
        against phases of fewer elements only, and likely too low. Neither ``no energy`` nor
        ``element missing`` means unstable, though both count as not stable.
        """
        if options.settings.potential == "none":
            return {}
        found = {}
        for view in (replace(crystals, prefix=prefix) for prefix in STATES):
            if "energy_ev_per_atom" in view:
                counts = Counter(word for word in view.words("hull_state") if word)
                found[view.state or "raw"] = {
                    "requested": len(view),
                    "with_energy": int(np.isfinite(view.numbers("energy_ev_per_atom")).sum()),
                    "hull_states": dict(sorted(counts.items())),
                }
        return {"energies": found}

    def sections(self, summary: Mapping[str, Any]) -> Iterator[Shown]:
        found = summary.get("energies") or {}
        if not found:
            return
        counts = {
            words: [part["hull_states"].get(state, 0) for part in found.values()]
            for state, words in _HULL_STATES.items()
        }
        rows = [[words, *row] for words, row in counts.items() if any(row)]
        for words, key in (("with an energy", "with_energy"), ("requested", "requested")):
            rows.append([words, *(part[key] for part in found.values())])
        header = ["Crystals", *map(str.capitalize, found)]
        lead = "What is not judged counts as not stable, which it need not be."
        rests_on = ("energy", "relaxed", "idealised")
        yield Shown("Energies", [Table("", header, rows)], lead, rests_on)


class Relaxation(Metric):
    """Shares of crystals whose relaxation converged, and of those that are idealised."""

    name = "relaxation"
    as_given = of_energies = binned = True
    shown = (
        Column("relax_steps", "Relaxation steps"),
        Column("relax_converged", "Relaxation converged", kind="flag"),
        Column("relax_taken_back", "Relaxation taken back", kind="flag"),
        Column("relax_rmsd_a", "RMSD raw to relaxed", "Å", digits=3, shown=True,
               histogram="RMSD raw to relaxed"),
        Column("idealised", "Idealised", kind="flag"),
        Column("idealise_symprec_a", "Tolerance of idealising", "Å", digits=3),
        Column("idealise_moved_a", "Longest way in idealising", "Å", digits=3),
        Column("idealise_refused", "Higher symmetry refused", kind="text"),
    )  # fmt: skip

    def figures(self, crystals: View, options: Options) -> Iterator[Figure]:
        for name, label, group in (
            ("relax_converged", "Relaxation converged", "relaxed"),
            ("idealised", "Idealised", "idealised"),
        ):
            if name in crystals:
                yield Figure(name, label, group=group, flag=crystals.flags(name))


class EnergyMeans(Metric):
    """Medians and means of energies above the hull and of relaxation, over the crystals that have
    a value."""

    name = "energy_means"
    as_given = of_energies = True

    def figures(self, crystals: View, options: Options) -> Iterator[Figure]:
        for prefix, state in STATES.items():
            label = f"E above hull{state}, eV/atom, where known"
            yield from _means(crystals, f"{prefix}{ABOVE}", label, prefix.rstrip("_") or "energy")
        yield from _means(
            crystals, "relax_rmsd_a", "RMSD raw to relaxed, Å, where relaxed", "relaxed"
        )
        yield from _means(crystals, "relax_steps", "relaxation steps, where relaxed", "relaxed")


def _means(crystals: View, name: str, label: str, group: str) -> Iterator[Figure]:
    values = crystals.numbers(name) if name in crystals else np.zeros(0)
    if not np.isfinite(values).any():
        return
    if name.endswith(ABOVE):  # a few broken crystals rule the mean
        middle = float(np.nanmedian(values))
        yield Figure(f"median_{name}", f"Median {label}", group=group, value=middle)
    yield Figure(f"mean_{name}", f"Mean {label}", group=group, value=float(np.nanmean(values)))
