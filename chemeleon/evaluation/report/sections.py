"""The parts of an evaluation's report that stand above and below its table of crystals.

Each takes the summary, and gives nothing where that has none of what it shows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from chemeleon.config.requests import whole_number
from chemeleon.crystals.symmetry import group_of
from chemeleon.evaluation.metrics.base import GROUPS
from chemeleon.evaluation.metrics.csp import rates
from chemeleon.evaluation.report.basis import basis, grouped
from chemeleon.evaluation.report.figures import distributions, histogram_chart, paired_bars
from chemeleon.evaluation.report.page import (
    Section,
    card,
    definition_list,
    escape,
    interval_bar,
    number,
    table,
)
from chemeleon.evaluation.report.periodic import periodic_table, scale_bar, shares

_GROUPS = 15  # space groups shown
_ELEMENTS = 15  # with the largest change of their share
_FIGURE = ["", "Value", "95 % interval", "0 to 100 %", "Count"]  # header above `_figure`
_JUDGED = ("energy", "relaxed", "idealised")  # groups of figures
_STATES = {
    "ok": "judged",
    "system missing": "judged, but the hull has no phase of all its elements: likely too low",
    "element missing": "not judged: the hull has no phase with one of its elements",
    "no energy": "not judged: the potential gave no energy",
}


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
        body = _key("control", "tick") + body
    notices = "".join(f'<p class="warning">{escape(w)}</p>' for w in summary.get("warnings") or ())
    return Section("headline", "Headline", f'{notices}<div class="stack">{body}</div>', lead)


def _figures(entries: Sequence[Mapping[str, Any]], controlled: bool) -> str:
    rows = [_figure(entry) + [_value(entry, "control")] * controlled for entry in entries]
    return table(_FIGURE + ["Control"] * controlled, rows, "headline")


def _value(entry: Mapping[str, Any], key: str) -> str:
    value, fraction = entry.get(key), entry.get("of") is not None
    unit = "" if fraction or value is None else f" {escape(entry.get('unit') or '')}".rstrip()
    return figure_text(value, fraction) + unit


def _figure(entry: Mapping[str, Any]) -> list[str]:
    """Return a figure as cells of a table: label, value, interval, bar and count."""
    value, low, high = (entry.get(key) for key in ("value", "low", "high"))
    of, count = entry.get("of"), entry.get("count")
    fraction = of is not None and value is not None
    span = ""
    if low is not None and high is not None:
        span = f"{figure_text(low, fraction, False)} to {_value(entry, 'high')}"
    return [
        escape(entry.get("label") or entry.get("name", "")),
        f'<span class="value">{_value(entry, "value")}</span>',
        f'<span class="range">{span}</span>',
        interval_bar(float(value or 0), low, high, entry.get("control")) if fraction else "",
        f"{number(count)} of {number(of)}" if fraction and count is not None else "",
    ]


def distributions_section(summary: Mapping[str, Any]) -> Section | None:
    """A histogram for each distribution, with its Wasserstein distance."""
    cards, referenced = [], False
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
        chart = histogram_chart(bins, label, unit)
        note = escape("; ".join(text.strip() for text in notes))
        cards.append(
            f'<div class="card" data-distribution="{escape(name)}"><h3>{escape(label)}</h3>'
            f'{chart}<p class="note">{note}</p></div>'
        )
    if not cards:
        return None
    key = _key("reference") if referenced else ""
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
    parts = [card("These crystals", periodic_table(ours, top, theirs, ("ours", "reference")))]
    if theirs:
        parts.append(card("Reference", periodic_table(theirs, top, ours, ("reference", "ours"))))
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
            parts.append(card(title, bars))
    body = f'<div class="halves">{"".join(parts)}</div>'
    return Section("space-groups", "Space groups", (_key("reference") if theirs else "") + body)


def bins_section(summary: Mapping[str, Any]) -> Section | None:
    """Figures by number of atoms, number of elements and so on, a table each."""
    cards = []
    for name, entries in (summary.get("bins") or {}).items():
        if entries:
            header = list(dict.fromkeys(key for entry in entries for key in entry))
            rows = [[_bin_cell(entry.get(key)) for key in header] for entry in entries]
            words = [str(key).replace("_", " ") for key in header]
            cards.append(card(str(name).replace("_", " ").capitalize(), table(words, rows)))
    if not cards:
        return None
    return Section("bins", "Bins", f'<div class="stack">{"".join(cards)}</div>')


def energies_section(summary: Mapping[str, Any]) -> Section | None:
    """Who judged, and how many crystals the hull could place, raw beside relaxed."""
    found = summary.get("energies") or {}
    if not found:
        return None
    states = [s for s in _STATES if any(s in part["hull_states"] for part in found.values())]
    rows = []
    for state in states:
        counts = (part["hull_states"].get(state, 0) for part in found.values())
        rows.append([_STATES[state], *(number(count) for count in counts)])
    for word, key in (("with an energy", "with_energy"), ("requested", "requested")):
        rows.append([word, *(number(part[key]) for part in found.values())])
    header = ["Crystals", *(str(key).capitalize() for key in found)]
    body = f'<div class="card">{table(header, rows)}</div>'
    said = basis(summary["manifest"])
    lead = " ".join(said[group] for group in _JUDGED if group in said)
    lead += " What is not judged counts as not stable, which it need not be."
    return Section("energies", "Energies", body, lead)


def csp_section(summary: Mapping[str, Any]) -> Section | None:
    """Match rates and RMSE of crystal structure prediction, over all targets."""
    found = summary.get("csp") or {}
    if not found:
        return None
    rows = [
        [*_figure({**rate, "label": label}), escape(error)]
        for _, label, rate, error in rates(found)
    ]
    body = f'<div class="card">{table([*_FIGURE, "RMSE"], rows, "headline")}</div>'
    lead = (
        f"Of all {number(found.get('targets'))} targets; matcher {found.get('matcher')}; RMSE of"
        " those met, cRMSE of all with 0.5 for those not met, in units of (V/N)^(1/3). Pairs that"
        f" timed out: {found.get('timed_out', 0)}."
        " A valid pair is a sample and a target that CDVAE's rule passes, SMACT included; others"
        " count as not met."
    )
    metre = found.get("metre") or {}
    if metre:
        lead += f" {number(metre.get('polymorphs'))} targets share their composition with another"
        lead += f"; METRe was left out: {metre['left_out']}." if "left_out" in metre else "."
    return Section("csp", "Structure prediction", body, lead)


def repetition_section(summary: Mapping[str, Any]) -> Section | None:
    """What fine-tuning tends to spoil: frequent formulas, memorisation, elements."""
    found = summary.get("repetition") or {}
    top = found.get("top_formulas") or []
    if not top:
        return None
    facts = [
        ("the ten most frequent formulas", found.get("top_ten")),
        ("the same, base model", found.get("base_top_ten")),
        ("memorisation: duplicates of the training set", found.get("memorisation")),
    ]
    found_shares = [_figure({**part, "label": label}) for label, part in facts if part]
    rows = [[escape(entry["formula"]), number(entry["count"])] for entry in top]
    cards = [
        card("Shares", table(_FIGURE, found_shares, "headline")),
        card("Most frequent formulas", table(["Formula", "Crystals"], rows)),
    ]
    changes = _changes(found)
    if changes:
        cards.append(card("Elements that changed most against the base model", changes))
    body = f'<div class="halves">{"".join(cards)}</div>'
    return Section("repetition", "Repetition", body, "What fine-tuning for a reward may spoil.")


def _changes(found: Mapping[str, Any]) -> str:
    elements, crystals = found.get("elements") or {}, found.get("crystals") or {}
    if not elements or not all(crystals.get(side) for side in ("sample", "base")):
        return ""
    ours, base = (
        {name: 100 * count / crystals[side] for name, count in elements[side].items()}
        for side in ("sample", "base")
    )
    change = {n: abs(ours.get(n, 0.0) - base.get(n, 0.0)) for n in {*ours, *base}}
    names = sorted(change, key=lambda name: (-change[name], name))[:_ELEMENTS]
    bars = paired_bars(names, [ours.get(n, 0.0) for n in names], [base.get(n, 0.0) for n in names])
    return _key("base model") + bars


def manifest_section(summary: Mapping[str, Any]) -> Section:
    """How the figures were made."""
    body = f'<div class="card">{definition_list(summary["manifest"])}</div>'
    return Section("manifest", "Manifest", body, "What the figures above were made with.")


def _key(other: str, kind: str = "line") -> str:
    marks = f'<span><i></i>these crystals</span><span><i class="{kind}"></i>{other}</span>'
    return f'<div class="key">{marks}</div>'


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
    group = whole_number(name) or 0
    return f"{group_of(group).symbol} ({group})" if 1 <= group <= 230 else name


def _bin_cell(value: Any) -> str:
    if isinstance(value, Mapping) and "value" in value:
        return figure_text(value["value"], value.get("of") is not None)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return number(value)
    return escape("–" if value is None else value)
