"""The parts of an evaluation's report that stand above and below its table of crystals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from chemeleon.config.requests import whole_number
from chemeleon.evaluation.report.basis import GROUPS, basis, grouped
from chemeleon.evaluation.report.figures import histogram, histogram_chart, paired_bars
from chemeleon.evaluation.report.page import (
    Section,
    definition_list,
    escape,
    interval_bar,
    number,
    table,
)
from chemeleon.evaluation.report.periodic import periodic_table, scale_bar, shares

_GROUPS = 15  # space groups shown
_KEY = (
    '<div class="key"><span><i></i>these crystals</span>'
    '<span><i class="line"></i>reference</span></div>'
)


def headline_section(summary: Mapping[str, Any]) -> Section:
    """One row per figure, by groups: value, 95 % interval, count, and the control's value."""
    entries = summary.get("headline") or []
    controlled = any(entry.get("control") is not None for entry in entries)
    said = basis(summary["manifest"])
    body = "".join(
        f'<div class="card"><h3>{escape(GROUPS.get(group, group.capitalize()))}</h3>'
        f'<p class="note">{escape(said.get(group, ""))}</p>{_figures(members, controlled)}</div>'
        for group, members in grouped(entries).items()
    )
    lead = "Shares are of all crystals requested; what failed counts as not valid."
    if controlled:
        lead += " The control row is the reference test set through the same code."
        marks = '<span><i class="tick"></i>control</span>'
        body = f'<div class="key"><span><i></i>these crystals</span>{marks}</div>{body}'
    notices = "".join(f'<p class="warning">{escape(w)}</p>' for w in summary.get("warnings") or ())
    return Section("headline", "Headline", f'{notices}<div class="stack">{body}</div>', lead)


def _figures(entries: Sequence[Mapping[str, Any]], controlled: bool) -> str:
    rows = []
    for entry in entries:
        value, low, high = (entry.get(key) for key in ("value", "low", "high"))
        of, count, control = (entry.get(key) for key in ("of", "count", "control"))
        fraction = of is not None and value is not None
        bar = interval_bar(float(value or 0), low, high, control) if fraction else ""
        unit = f" {escape(entry['unit'])}" if entry.get("unit") and not fraction else ""
        span = ""
        if low is not None and high is not None:
            span = f"{figure_text(low, fraction, False)} to {figure_text(high, fraction)}{unit}"
        counted = f"{number(count)} of {number(of)}" if fraction and count is not None else ""
        cells = [
            escape(entry.get("label") or entry.get("name", "")),
            f'<span class="value">{figure_text(value, fraction)}{unit}</span>',
            f'<span class="range">{span}</span>',
            bar,
            counted,
        ]
        if controlled:
            cells.append(figure_text(control, fraction) + (unit if control is not None else ""))
        rows.append(cells)
    header = ["", "Value", "95 % interval", "0 to 100 %", "Count"]
    return table(header + ["Control"] * controlled, rows, "headline")


def distributions_section(summary: Mapping[str, Any]) -> Section | None:
    """A histogram for each distribution, with its Wasserstein distance."""
    cards, referenced = [], False
    for name, entry in (summary.get("distributions") or {}).items():
        bins = histogram(entry.get("sample") or (), entry.get("reference") or ())
        if bins is None:
            continue
        label, unit = str(entry.get("label") or name), str(entry.get("unit") or "")
        referenced |= bins.reference is not None
        notes = []
        if entry.get("wasserstein") is not None:
            notes.append(f"Wasserstein distance {number(entry['wasserstein'])} {unit}".strip())
        counts = [f"{bins.counts[0]:,} values"]
        if bins.reference is not None:
            counts.append(f"reference {bins.counts[1]:,}")
        notes.append(", ".join(counts))
        if max(bins.beyond) >= 0.05:
            beyond = [f"{bins.beyond[0]:.1f} %"]
            if bins.reference is not None:
                beyond.append(f"{bins.beyond[1]:.1f} % of the reference")
            notes.append(f"beyond the axis {' and '.join(beyond)}")
        chart = histogram_chart(bins, label, unit)
        note = escape("; ".join(notes))
        cards.append(
            f'<div class="card" data-distribution="{escape(name)}"><h3>{escape(label)}</h3>'
            f'{chart}<p class="note">{note}</p></div>'
        )
    if not cards:
        return None
    key = _KEY if referenced else ""
    body = f'{key}<div class="grid">{"".join(cards)}</div>'
    return Section("distributions", "Distributions", body)


def elements_section(summary: Mapping[str, Any], crystals: int) -> Section | None:
    """Two periodic tables side by side, on one scale."""
    counts = summary.get("elements") or {}
    if not counts.get("sample"):
        return None
    ours = shares(counts["sample"], _crystals(summary, "sample", crystals))
    theirs = shares(counts.get("reference") or {}, _crystals(summary, "reference", 0))
    top = max([*ours.values(), *theirs.values()])
    parts = [_card("These crystals", periodic_table(ours, top, theirs, ("ours", "reference")))]
    if theirs:
        parts.append(_card("Reference", periodic_table(theirs, top, ours, ("reference", "ours"))))
    body = f'<div class="halves">{"".join(parts)}</div>{scale_bar(top)}'
    lead = "Share of crystals that hold an element. Click one to list its crystals."
    return Section("elements", "Elements", body, lead)


def space_groups_section(summary: Mapping[str, Any]) -> Section | None:
    """The most frequent space groups of ours and, beside, those of the reference."""
    counts = summary.get("space_groups") or {}
    ours, theirs = dict(counts.get("sample") or {}), dict(counts.get("reference") or {})
    if not ours:
        return None
    ours, theirs = _percent(ours), _percent(theirs)
    parts = []
    for title, by in (("Most frequent here", ours), ("Most frequent in the reference", theirs)):
        names = sorted(by, key=lambda name: -by[name])[:_GROUPS]
        if names:
            beside = [theirs.get(name, 0.0) for name in names] if theirs else None
            bars = paired_bars([_symbol(n) for n in names], [ours.get(n, 0.0) for n in names],
                               beside)  # fmt: skip
            parts.append(_card(title, bars))
    body = f'<div class="halves">{"".join(parts)}</div>'
    return Section("space-groups", "Space groups", (_KEY if theirs else "") + body)


def bins_section(summary: Mapping[str, Any]) -> Section | None:
    """Figures by number of atoms, number of elements and so on, a table each.

    A bin is a mapping, either named by its key or holding its own name first.
    """
    cards = []
    for name, bins in (summary.get("bins") or {}).items():
        if isinstance(bins, Mapping):
            entries = [{"": key, **_mapping(value)} for key, value in bins.items()]
        else:
            entries = [_mapping(value) for value in bins or ()]
        if entries:
            header = list(dict.fromkeys(key for entry in entries for key in entry))
            rows = [[_bin_cell(entry.get(key)) for key in header] for entry in entries]
            words = [str(key).replace("_", " ") for key in header]
            cards.append(_card(str(name).replace("_", " ").capitalize(), table(words, rows)))
    if not cards:
        return None
    return Section("bins", "Bins", f'<div class="stack">{"".join(cards)}</div>')


def manifest_section(summary: Mapping[str, Any]) -> Section:
    """How the figures were made."""
    body = f'<div class="card">{definition_list(summary["manifest"])}</div>'
    return Section("manifest", "Manifest", body, "What the figures above were made with.")


def _card(title: str, body: str) -> str:
    return f'<div class="card"><h3>{escape(title)}</h3>{body}</div>'


def figure_text(value: float | None, fraction: bool, sign: bool = True) -> str:
    """Return a share in per cent (without its sign if asked so), or a number; '–' for none."""
    if value is None:
        return "–"
    return f"{100 * value:.1f}{' %' if sign else ''}" if fraction else number(value)


def _crystals(summary: Mapping[str, Any], side: str, fallback: int) -> float:
    """How many crystals an element count is out of: all that have a space group or any value."""
    sizes = [len(entry.get(side) or ()) for entry in (summary.get("distributions") or {}).values()]
    counts = (summary.get("elements") or {}).get(side) or {}
    return max([fallback, *sizes, *counts.values()], default=0)


def _percent(counts: Mapping[str, float]) -> dict[str, float]:
    total = sum(counts.values()) or 1
    return {str(key): 100 * value / total for key, value in counts.items()}


def _symbol(name: str) -> str:
    """A space group by number as symbol and number; other names stay."""
    import gemmi

    if 1 <= (whole_number(name) or 0) <= 230:
        return f"{gemmi.find_spacegroup_by_number(int(name)).short_name()} ({name})"
    return name


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {"value": value}


def _bin_cell(value: Any) -> str:
    if isinstance(value, Mapping) and "value" in value:
        return figure_text(value["value"], value.get("of") is not None)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return number(value)
    return escape("–" if value is None else value)
