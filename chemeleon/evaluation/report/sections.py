"""The parts of an evaluation's report that stand above and below its table of crystals.

Each takes the summary, and is empty where that has none of what it shows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from chemeleon.evaluation.metrics import METRICS
from chemeleon.evaluation.metrics.base import GROUPS
from chemeleon.evaluation.metrics.sections import Shown, Table
from chemeleon.evaluation.metrics.statistics import percentages
from chemeleon.evaluation.report.basis import basis, compared_with, grouped, side_by_side
from chemeleon.evaluation.report.figures import distributions, histogram_chart, paired_bars
from chemeleon.evaluation.report.page import (
    Section,
    card,
    cards,
    cell,
    definition_list,
    escape,
    figure_cells,
    figure_text,
    key,
    note,
    number,
    table,
)
from chemeleon.evaluation.report.periodic import periodic_table, scale_bar


def headline_section(summary: Mapping[str, Any]) -> Section:
    """One row per figure, by groups: value, 95 % interval, count, and the control's value."""
    entries = side_by_side({"Value": summary})
    said = basis(summary)
    parts = [
        card(
            GROUPS.get(group, group.capitalize()),
            note(said.get(group, "")) + figures_table(members, ["Value"]),
        )
        for group, members in grouped(entries).items()
    ]
    lead = "Shares are of all crystals requested; what failed counts as not valid."
    marks = ""
    if any(entry["control"] is not None for entry in entries):
        lead += " The control row is the reference test set through the same code."
        marks = key("control", "tick")
    return Section("Headline", marks + cards("stack", parts), lead)


def figures_table(entries: Sequence[Mapping[str, Any]], names: Sequence[str]) -> str:
    """Return a row for each entry of `side_by_side`: what sets of these names have, the control."""
    alone = len(names) == 1
    controlled = any(entry["control"] is not None for entry in entries)
    header = [*names, "95 % interval", "0 to 100 %", "Count"] if alone else names
    rows = []
    for entry in entries:
        sets = [entry["sets"].get(name, {}) for name in names]
        cells = [figure_cells(found, entry["control"]) for found in sets]
        # there is no room for the counts of several
        row = cells[0] if alone else [" ".join(parts[:-1]) for parts in cells]
        if controlled:
            first = next(iter(entry["sets"].values()))
            row.append(escape(figure_text({**first, "value": entry["control"]})))
        rows.append([escape(entry["label"]), *row])
    header = ["", *header, "Control"] if controlled else ["", *header]
    return table(header, rows, "headline" if alone else "headline compared")


def metric_sections(summary: Mapping[str, Any]) -> Iterator[Section]:
    """What metrics show beyond their figures and histograms."""
    said = basis(summary)
    for metric in METRICS:
        for shown in metric.sections(summary):
            lead = " ".join([*(said.get(group, "") for group in shown.rests_on), shown.lead])
            yield _section(shown._replace(lead=lead.strip()))


def _section(shown: Shown) -> Section:
    parts, others = [], dict[str, None]()
    for part in shown.parts:
        if isinstance(part, Table):
            rows = [[cell(value) for value in row] for row in part.rows]
            parts.append(card(part.title, table(part.header, rows)))
        else:
            parts.append(card(part.title, paired_bars(part)))
            others |= {part.others: None} if part.theirs else {}
    layout = "halves" if len(parts) > 1 else "stack"
    return Section(shown.title, "".join(map(key, others)) + cards(layout, parts), shown.lead)


def distributions_section(summary: Mapping[str, Any]) -> Section:
    """A histogram for each distribution, with its Wasserstein distance."""
    parts, referenced = [], False
    for name, label, unit, bins in distributions(summary):
        beside = bins.reference is not None
        referenced |= beside
        distance = summary["distributions"][name].get("wasserstein")
        notes = [] if distance is None else [f"Wasserstein distance {number(distance)} {unit}"]
        theirs = f", reference {bins.counts[1]:,}" if beside else ""
        notes.append(f"{bins.counts[0]:,} values{theirs}")
        if max(bins.beyond) >= 0.05:
            theirs = f" and {bins.beyond[1]:.1f} % of the reference" if beside else ""
            notes.append(f"beyond the axis {bins.beyond[0]:.1f} %{theirs}")
        said = note("; ".join(text.strip() for text in notes))
        parts.append(card(label, histogram_chart(bins, label, unit) + said))
    return Section("Distributions", key("reference") * referenced + cards("grid", parts))


def elements_section(summary: Mapping[str, Any], crystals: int) -> Section:
    """Two periodic tables side by side, on one scale."""
    counts = summary.get("elements") or {}
    ours = percentages(counts.get("sample") or {}, crystals)
    others = compared_with(summary["manifest"]).get("crystals")
    theirs = percentages(counts.get("reference") or {}, others)
    if not ours:
        return Section("Elements", "")
    top = max([*ours.values(), *theirs.values()])
    parts = [card("These crystals", periodic_table(ours, top, theirs, ("ours", "reference")))]
    if theirs:
        parts.append(card("Reference", periodic_table(theirs, top, ours, ("reference", "ours"))))
    lead = "Share of crystals that hold an element. Click one to list its crystals."
    return Section("Elements", cards("halves", parts) + scale_bar(top), lead)


def bins_section(summary: Mapping[str, Any]) -> Section:
    """Figures by number of atoms, number of elements and so on, a table each."""
    parts = []
    for name, entries in (summary.get("bins") or {}).items():
        if entries:
            header = list(dict.fromkeys(key for entry in entries for key in entry))
            rows = [[_bin_cell(entry.get(key)) for key in header] for entry in entries]
            words = [str(key).replace("_", " ") for key in header]
            parts.append(card(str(name).replace("_", " ").capitalize(), table(words, rows)))
    return Section("Bins", cards("stack", parts))


def _bin_cell(value: Any) -> str:
    """There is no room for intervals."""
    return escape(figure_text(value)) if isinstance(value, Mapping) else cell(value)


def manifest_section(summary: Mapping[str, Any]) -> Section:
    """How the figures were made."""
    body = card("", definition_list(summary["manifest"]))
    return Section("Manifest", body, "What the figures above were made with.")
