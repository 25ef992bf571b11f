"""Several sets of crystals side by side: one table and one page, with intervals and the control."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from chemeleon.data.tables import safe_cells
from chemeleon.evaluation.metrics.base import GROUPS
from chemeleon.evaluation.metrics.csp import rates
from chemeleon.evaluation.report.basis import basis, grouped, made_by
from chemeleon.evaluation.report.page import (
    Section,
    escape,
    facts_line,
    interval_bar,
    number,
    page,
    table,
)
from chemeleon.evaluation.report.sections import figure_text
from chemeleon.storage import REPORT_PARTS, replacing, write_text

if TYPE_CHECKING:
    import pandas

    from chemeleon.evaluation.report.data import Report

SETS = "sets"  # folder of the reports of each set
CONTROL = "control"


@dataclass(frozen=True)
class Comparison:
    """What an evaluation of several sets found.

    Attributes:
        reports: of each set, by its name, in the order asked for.
    """

    reports: Mapping[str, Report]

    @property
    def summary(self) -> dict[str, Any]:
        """The figures as JSON: ``headline`` holds one entry per figure, with all sets in it."""
        sets = {name: report.summary for name, report in self.reports.items()}
        return {
            "manifest": {
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
                "basis": _basis({name: found["manifest"] for name, found in sets.items()}),
                "sets": {name: found["manifest"] for name, found in sets.items()},
            },
            "headline": list(_side_by_side(sets)),
            "warnings": {name: found.get("warnings") or [] for name, found in sets.items()},
        }

    @property
    def headline(self) -> pandas.DataFrame:
        """A row for each figure: ``SET value``, ``SET low``, ``SET high``, and last ``control``."""
        import pandas

        rows = []
        for entry in self.summary["headline"]:
            row = {"name": entry["name"], "label": entry["label"], "group": entry["group"]}
            for name, found in entry["sets"].items():
                row |= {f"{name} {key}": found[key] for key in _KEPT}
            rows.append({**row, CONTROL: entry[CONTROL]})
        return pandas.DataFrame(rows).set_index("name")

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Write ``report.html``, ``comparison.csv``, ``summary.json`` and the report of each set.

        Args:
            folder: made if it is missing.
            overwrite: replace an earlier evaluation there.

        Raises:
            ConfigError: if the folder holds one and it may not be replaced.
        """
        with replacing(Path(folder), REPORT_PARTS, overwrite) as draft:
            self.write(draft, Path(folder))
        return Path(folder)

    def write(self, folder: Path, home: Path) -> None:
        """Write the same into a new folder that will be moved to ``home``."""
        for name, report in self.reports.items():
            place = folder / SETS / name
            place.mkdir(parents=True)
            report.write(place, home / SETS / name)
        summary = self.summary
        text = json.dumps(summary, indent=1, ensure_ascii=False, allow_nan=False)
        (folder / "summary.json").write_text(text + "\n", "utf-8", errors="backslashreplace")
        cells = safe_cells(self.headline.reset_index())
        cells.to_csv(folder / "comparison.csv", index=False, errors="backslashreplace")
        write_text(folder / "report.html", _page(summary))


_KEPT = ("value", "low", "high")


def _basis(manifests: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return what all sets rest on, and what was done to each before it was judged."""
    found = basis(next(iter(manifests.values())), before=False)
    told = [f"{name}: {text}" for name, m in manifests.items() if (text := made_by(m))]
    if "energy" in found:
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


def _side_by_side(sets: Mapping[str, Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Figures in the order of the set that has them first."""
    by_name = {
        name: {e["name"]: e for e in (*found["headline"], *_csp(found.get("csp") or {}))}
        for name, found in sets.items()
    }
    for figure in dict.fromkeys(key for found in by_name.values() for key in found):
        entries = {name: found[figure] for name, found in by_name.items() if figure in found}
        first = next(iter(entries.values()))
        kept = (*_KEPT, "count", "of")
        yield {
            "name": figure,
            "label": first["label"],
            "group": first["group"],
            "sets": {name: {key: e.get(key) for key in kept} for name, e in entries.items()},
            CONTROL: first.get(CONTROL),
        }


def _csp(found: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Return what `csp.match_targets` found as entries of a headline."""
    for name, label, rate, _ in rates(found):
        yield {"name": f"csp_{name}", "label": label, "group": "csp", **rate}
        error = "cRMSE" if "crmse" in rate else "RMSE"
        yield {
            "name": f"csp_{name}_{error.lower()}",
            "label": f"{label}, {error}",
            "group": "csp",
            "value": rate[error.lower()],
        }


def _page(summary: Mapping[str, Any]) -> str:
    names = list(summary["manifest"]["sets"])
    title = f"{len(names)} sets of crystals side by side"
    said = [
        f"<b>{escape(name)}</b>: {escape(text)}"
        for name, texts in summary["warnings"].items()
        for text in texts
    ]
    notice = "".join(f'<p class="warning">{text}</p>' for text in said)
    sections = [
        Section(
            group,
            GROUPS.get(group, group.capitalize()),
            f'<div class="card">{_table(entries, names)}</div>',
            summary["manifest"]["basis"].get(group, ""),
        )
        for group, entries in grouped(summary["headline"]).items()
    ]
    return page(
        title,
        f"<h1>{escape(title)}</h1>{_links(summary)}{notice}<p class=lead>Bars are 95 % Wilson"
        " intervals, of all crystals requested. Where those of two sets overlap, the difference may"
        " be chance. The tick is the control: real crystals through the same code.</p>",
        sections,
    )


def _links(summary: Mapping[str, Any]) -> str:
    """Where the report of each set is, and how many crystals it was asked for."""
    parts = [
        f'<a href="./{SETS}/{quote(name)}/report.html">{escape(name)}</a>'
        f" <b>{number(found['requested'])}</b> crystals"
        for name, found in summary["manifest"]["sets"].items()
    ]
    return facts_line(parts)


def _table(entries: list[Mapping[str, Any]], names: list[str]) -> str:
    rows = []
    for entry in entries:
        cells = [_cell(entry["sets"].get(name), entry[CONTROL]) for name in names]
        share = any(found["of"] is not None for found in entry["sets"].values())
        rows.append([escape(entry["label"]), *cells, figure_text(entry[CONTROL], share)])
    return table(["", *names, "Control"], rows, "headline compared")


def _cell(found: Mapping[str, Any] | None, control: float | None) -> str:
    if found is None or found["value"] is None:
        return "–"
    share = found["of"] is not None
    text = f'<span class="value">{figure_text(found["value"], share)}</span>'
    if not share or found["low"] is None:
        return text
    low, high = found["low"], found["high"]
    span = f'<span class="range">{100 * low:.1f} to {100 * high:.1f}</span>'
    return f"{text} {span}{interval_bar(found['value'], low, high, control)}"
