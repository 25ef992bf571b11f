"""Several sets of crystals side by side: one table and one page, with intervals and the control."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from chemeleon.evaluation.metrics.base import GROUPS
from chemeleon.evaluation.report.basis import basis, grouped, made_by, side_by_side
from chemeleon.evaluation.report.data import Report, Result, figures_frame
from chemeleon.evaluation.report.page import Section, card, escape, number, page
from chemeleon.evaluation.report.sections import figures_table
from chemeleon.storage import write_text

if TYPE_CHECKING:
    import pandas

SETS = "sets"  # folder of the reports of each set


@dataclass(frozen=True)
class Comparison(Result):
    """What an evaluation of several sets found.

    Attributes:
        reports: of each set, by its name, in the order asked for.
    """

    reports: Mapping[str, Report]

    @cached_property
    def summary(self) -> dict[str, Any]:
        """The figures as JSON: ``headline`` holds one entry per figure, with all sets in it."""
        sets = {name: report.summary for name, report in self.reports.items()}
        return {
            "manifest": {
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
                "basis": _basis(sets),
                "sets": {name: found["manifest"] for name, found in sets.items()},
            },
            "headline": side_by_side(sets),
            "warnings": {name: found.get("warnings") or [] for name, found in sets.items()},
        }

    @property
    def headline(self) -> pandas.DataFrame:
        """A row for each figure: ``SET value``, ``SET low``, ``SET high``, and last ``control``."""
        return figures_frame({name: report.summary for name, report in self.reports.items()})

    def write(self, folder: Path, home: Path, *, cif: bool | None = None) -> None:
        """Write a page, ``comparison.csv``, ``summary.json`` and the report of each set."""
        for name, report in self.reports.items():
            place = folder / SETS / name
            place.mkdir(parents=True)
            report.write(place, home / SETS / name, cif=cif)
        self.write_table(folder / "comparison.csv", self.headline.reset_index())
        self.write_summary(folder)
        write_text(folder / "report.html", _page(self.summary))


def _basis(sets: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return what all sets rest on, and what was done to each of several before it was judged."""
    first, *others = sets.values()
    found = basis(first, before=not others)
    if others and "energy" in found:
        made = {name: made_by(summary["manifest"]) for name, summary in sets.items()}
        told = [f"{name}: {text}" for name, text in made.items() if text]
        found["energy"] = " ".join([found["energy"], *told])
    return found


def set_names(sources: list[str]) -> list[str]:
    """Return short names for paths, all different, that folders can have."""
    # no "..", which would lead out of the folder of the reports; a link keeps its name
    places = [Path(os.path.normpath(Path(source).absolute())) for source in sources]
    parts = [place.parts[1:] or ("root",) for place in places]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["-".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{i}-{part[-1]}" for i, part in enumerate(parts, start=1)]


def _page(summary: Mapping[str, Any]) -> str:
    sets = summary["manifest"]["sets"]
    sections = [
        Section(
            GROUPS.get(group, group.capitalize()),
            card("", figures_table(entries, list(sets))),
            summary["manifest"]["basis"].get(group, ""),
        )
        for group, entries in grouped(summary["headline"]).items()
    ]
    # where the report of each set is, and how many crystals it was asked for
    links = [
        f'<a href="./{SETS}/{quote(name)}/report.html">{escape(name)}</a>'
        f" <b>{number(found['requested'])}</b> crystals"
        for name, found in sets.items()
    ]
    return page(
        f"{len(sets)} sets of crystals side by side",
        links,
        sections,
        warnings=[f"{name}: {text}" for name, said in summary["warnings"].items() for text in said],
        lead="Bars are 95 % Wilson intervals, of all crystals requested. Where those of two sets"
        " overlap, the difference may be chance. The tick is the control: real crystals through"
        " the same code.",
    )
