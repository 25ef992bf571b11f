"""``report.html`` and ``summary.json`` of a flywheel: what rounds made and kept, and models."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from chemeleon.evaluation.report.page import (
    Section,
    card,
    cell,
    definition_list,
    escape,
    page,
    table,
)
from chemeleon.reinforcement.flywheel.settings import FlywheelSettings
from chemeleon.storage import write_text

if TYPE_CHECKING:
    from chemeleon.reinforcement.flywheel.start import Known

REPORT, SUMMARY = "report.html", "summary.json"
MADE = {
    "made": "made",
    "valid": "valid",
    "unique": "and unique",
    "novel": "and novel",
    "near": "and near the hull",
    "good": "and with symmetry",
    "kept": "kept, after the numbers of elements",
    "held_out": "left out as duplicates of held-out sets",
    "p1": "space group P1",
    "e_above_hull_ev": "energy above hull of valid ones, quartiles, eV/atom",
    "kept_e_above_hull_ev": "the same of those kept",
    "element_drift": "element drift from the training set",
    "kept_element_drift": "the same of those kept",
}
MODEL = {
    "made": "crystals",
    "memorisation": "memorisation: duplicates of the training set",
    "kept_again": "duplicates of kept crystals",
    "p1": "space group P1",
    "element_drift": "element drift from the training set",
}


def sentence(found: Mapping[str, Any], highest: float) -> str:
    """Return the figures of a round in a sentence."""
    count = {name: found[name]["count"] for name in ("valid", "unique", "novel", "near", "good")}
    p1 = count["near"] - count["good"]
    return (
        f"of {found['made']:,} crystals {count['valid']:,} are valid, {count['unique']:,} of these"
        f" unique, {count['novel']:,} novel, {count['near']:,} within {highest:g} eV/atom of the"
        f" hull{f', {p1:,} of these P1' if p1 else ''}; {found['kept']:,} are kept"
    )


def write_report(
    settings: FlywheelSettings,
    known: Known,
    rounds: Sequence[Mapping[str, Any]],
    probes: Sequence[Mapping[str, Any]],
    models: Sequence[str],
    kept: Sequence[str],
) -> dict[str, Any]:
    """Write both files, and return what is in the second.

    Args:
        settings: of the flywheel.
        known: the sets that crystals were held against.
        rounds: `select.figures` of each round.
        probes: what is said of the model to begin with, and of the model of each round.
        models: where these are.
        kept: the data set of each round.
    """
    summary = {
        "settings": {**settings.told(), "rounds": settings.rounds},
        "training": known.training,
        "apart": known.apart,
        "rounds": [dict(found) for found in rounds],
        "models": [{"model": m, **found} for m, found in zip(models, probes, strict=True) if found],
        "warnings": warnings(settings, known, models[-1], kept),
    }
    text = json.dumps(summary, indent=1, ensure_ascii=False, allow_nan=False)
    write_text(settings.folder / SUMMARY, text + "\n")
    write_text(settings.folder / REPORT, _page(settings, summary))
    return summary


def warnings(
    settings: FlywheelSettings, known: Known, model: str, kept: Sequence[str]
) -> list[str]:
    """Return what the figures do not say."""
    other = "chgnet" if settings.potential.startswith("sevennet") else "sevennet"
    words = " ".join(f"-r {shlex.quote(name)}" for name in (*known.training, *kept))
    found = [
        f"{settings.potential} relaxed and chose these crystals, so its energies are no judge of"
        f" them or of the models. Judge the last one by another potential: chemeleon sample --model"
        f" {model} -n 1000 -o out, then chemeleon evaluate out --potential {other} {words}"
    ]
    if known.missing:
        found.append(
            f"the model was trained on {', '.join(known.missing)}, which is not here: duplicates of"
            " these crystals count as novel"
        )
    return found


def _page(settings: FlywheelSettings, summary: Mapping[str, Any]) -> str:
    rounds, models = summary["rounds"], summary["models"]
    heads = [f"round {number}" for number in range(1, len(rounds) + 1)]
    sections = [
        Section("Rounds", card("", _table(MADE, rounds, heads)), f"Shares are of all crystals made,"
                f" with 95 % intervals. Near the hull: within {settings.highest:g} eV/atom by"
                f" {settings.potential}. Novel: in none of"
                f" {', '.join([*summary['training'], *summary['apart']])} or the sets of earlier"
                " rounds, nor with like elements in the place of its own."),
        Section("Models", card("", _table(MODEL, models, ["before", *heads])), "Crystals as"
                " generated (unrelaxed), of which none is drawn again because it is known. Element"
                " drift: total variation between the elements that these and the training crystals"
                " hold, from 0 to 1; of few crystals some of it is chance."),
        Section("Settings", card("", definition_list(summary["settings"]))),
    ]  # fmt: skip
    kept = sum(found["kept"] for found in rounds)
    facts = [f"<b>{len(rounds)}</b> rounds", f"<b>{kept:,}</b> crystals kept"]
    facts.append(f"beside <b>{escape(', '.join(summary['training']))}</b>")
    title = f"Flywheel: {settings.folder.name}"
    return page(title, facts, sections, warnings=summary["warnings"])


def _table(
    names: Mapping[str, str], columns: Sequence[Mapping[str, Any]], heads: Sequence[str]
) -> str:
    rows = [
        [escape(label), *(_cell(one.get(name)) for one in columns)] for name, label in names.items()
    ]
    return table(["", *heads[: len(columns)]], rows)


def _cell(value: Any) -> str:
    if isinstance(value, Mapping) and "value" not in value:  # quartiles
        return " / ".join(cell(part) for part in value.values()) or cell(None)
    return cell(value)
