"""Parts of a report that only some evaluations have: energies, prediction, repetition."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chemeleon.evaluation.metrics.csp import rates
from chemeleon.evaluation.report.basis import basis
from chemeleon.evaluation.report.figures import paired_bars
from chemeleon.evaluation.report.page import Section, escape, interval_bar, number, table

_JUDGED = ("energy", "relaxed", "idealised")  # groups of figures
_ELEMENTS = 15  # with the largest change of their share
_STATES = {
    "ok": "judged",
    "system missing": "judged, but the hull has no phase of all its elements: likely too low",
    "element missing": "not judged: the hull does not know an element",
    "no energy": "not judged: the potential gave no energy",
}


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
    rows = []
    for _, label, rate, error in rates(found):
        value, low, high = (rate.get(name) for name in ("value", "low", "high"))
        rows.append([
            escape(label),
            f'<span class="value">{_percent(value)}</span>',
            f'<span class="range">{_percent(low, False)} to {_percent(high)}</span>',
            interval_bar(float(value or 0), low, high),
            f"{number(rate.get('count'))} of {number(rate.get('of'))}",
            escape(error),
        ])  # fmt: skip
    header = ["", "Value", "95 % interval", "0 to 100 %", "Count", "RMSE"]
    body = f'<div class="card">{table(header, rows, "headline")}</div>'
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
    """What fine-tuning tends to spoil: frequent formulas, copies, elements against the base."""
    found = summary.get("repetition") or {}
    top = found.get("top_formulas") or []
    if not top:
        return None
    facts = [("the ten most frequent formulas", found.get("top_ten"))]
    if found.get("base_top_ten"):
        facts.append(("the same, base model", found["base_top_ten"]))
    if found.get("replay"):
        facts.append(("replay: crystals of the training set", found["replay"]))
    shares = [
        [escape(label), _percent(part["value"]),
         f"{_percent(part['low'], False)} to {_percent(part['high'])}",
         f"{number(part['count'])} of {number(part['of'])}"]
        for label, part in facts if part
    ]  # fmt: skip
    rows = [[escape(entry["formula"]), number(entry["count"])] for entry in top]
    cards = [
        _card("Shares", table(["", "Value", "95 % interval", "Count"], shares)),
        _card("Most frequent formulas", table(["Formula", "Crystals"], rows)),
    ]
    changes = _changes(found)
    if changes:
        cards.append(_card("Elements that changed most against the base model", changes))
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
    key = '<div class="key"><span><i></i>these crystals</span>'
    return f'{key}<span><i class="line"></i>base model</span></div>{bars}'


def _card(title: str, body: str) -> str:
    return f'<div class="card"><h3>{escape(title)}</h3>{body}</div>'


def _percent(value: float | None, sign: bool = True) -> str:
    return "–" if value is None else f"{100 * value:.1f}{' %' if sign else ''}"
