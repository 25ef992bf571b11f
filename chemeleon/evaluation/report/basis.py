"""The figures of sets, and what they rest on: who judged, against what and by which limits; and
what to mistrust.

A figure without this is not comparable: a share of stable crystals may differ twofold by potential
and hull. So every figure belongs to a group, and the basis of each group is said beside it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from chemeleon.config.presets import RENAMED
from chemeleon.data.named import split_name
from chemeleon.energy.potentials import NAMES
from chemeleon.evaluation.metrics import METRICS
from chemeleon.evaluation.metrics.base import GROUPS
from chemeleon.evaluation.metrics.stability import METASTABLE_EV
from chemeleon.storage import at_home

_KEPT = ("value", "low", "high", "count", "of", "unit")  # of each set


def side_by_side(sets: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return all rows that tables of figures have, in the order of the set that has them first.

    Args:
        sets: summary of each set by its name.

    Returns:
        ``name``, ``label``, ``group``, ``control`` (the first set's) and ``sets``: the figure of
        each set that has it.
    """
    rows: dict[str, dict[str, Any]] = {}
    for name, summary in sets.items():
        further = (entry for metric in METRICS for entry in metric.entries(summary))
        for entry in (*(summary.get("headline") or ()), *further):
            row = {key: entry.get(key) for key in ("name", "label", "group", "control")}
            row = rows.setdefault(entry["name"], {**row, "sets": {}})
            row["sets"][name] = {key: entry.get(key) for key in _KEPT}
    return list(rows.values())


def grouped(entries: Iterable[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Return the entries of a headline by their groups, in the order of `GROUPS`."""
    found: dict[str, list[Mapping[str, Any]]] = {name: [] for name in GROUPS}
    for entry in entries:
        found.setdefault(entry["group"], []).append(entry)
    return {name: members for name, members in found.items() if members}


def basis(summary: Mapping[str, Any], *, before: bool = True) -> dict[str, str]:
    """Return what figures of a set rest on, by their group.

    Args:
        summary: of the set.
        before: also say what had been done to the crystals, see `made_by`.
    """
    found, manifest = {}, summary["manifest"]
    groups = {entry["group"] for entry in side_by_side({"": summary})}
    references = manifest.get("references") or []
    if matcher := manifest.get("matcher"):
        limits = f"ltol {matcher['ltol']}, stol {matcher['stol']}"
        limits += f", angle {matcher['angle_tol_degree']}°"
        found["novelty"] = f"Matcher {matcher['name']}: {limits}."
        if references:
            found["novelty"] += f" Novel against {' and '.join(map(_set, references))}."
        if again := manifest.get("new_to"):
            found["novelty"] += (
                f" What is in {' or '.join(again)} had been drawn again when the crystals were"
                " made, so that novelty is not the model's own."
            )
    if against := compared_with(manifest):
        found["distance"] = f"To {_set(against)}."
    if limits := manifest.get("disordered_novelty"):
        found["novelty"] += (
            " Disordered: like elements stand for each other, radii within"
            f" {100 * limits['radius_difference']:g} %, electronegativities within"
            f" {limits['electronegativity_difference']:g}."
        )
    for metric in (manifest.get("metrics") or {}).values():
        if metric["group"] in groups:
            said = found.get(metric["group"], "")
            found[metric["group"]] = f"{said} {metric['basis']}".strip()
    if asked := manifest.get("properties"):
        found["property"] = f"{found.get('property', '')} By {asked['predictor']}.".lstrip()
    judge = judged_by(manifest)
    if judge:
        limits = f"SUN: E ≤ 0, MSUN: E ≤ {METASTABLE_EV} eV/atom above the hull, unique and novel."
        made = made_by(manifest) if before else ""
        found["energy"] = f"{judge} {limits} {made}".rstrip()
        if manifest.get("relax_steps"):
            found["relaxed"] = (
                f"At most {manifest['relax_steps']} steps of relaxation by the judge itself;"
                " uniqueness and novelty are found anew."
            )
    if ideal := manifest.get("idealise"):
        rise, of = ideal["max_rise_ev_per_atom"], "given"
        energy = "" if rise is None else f" and raises no energy by more than {rise} eV/atom"
        if manifest.get("relax_steps"):
            of = "relaxed"
        found["idealised"] = (
            f"The highest symmetry within {ideal['symprec_angstrom']} Å that moves no atom by more"
            f" than {ideal['max_moved_angstrom']} Å{energy}, of the {of} crystals; uniqueness and"
            " novelty are found anew."
        )
    return found


def compared_with(manifest: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what the manifest says of the set that distributions are compared with, if any."""
    return manifest.get("control") or next(iter(manifest.get("references") or ()), {})


def judged_by(manifest: Mapping[str, Any]) -> str:
    """Return who gave energies, on which scale, and the hull that they are measured against."""
    potential, hull = manifest.get("potential"), manifest.get("hull")
    if not potential:
        return ""
    words = f"Energies by {name_of(potential)}"
    if potential.get("energy_scale"):
        words += f", scale {potential['energy_scale']}"
    if potential.get("mp2020_corrections_added"):
        words += " with the corrections of MP2020 added"
    if not hull:
        return f"{words}; no hull."
    hulls = [hull, *(manifest.get("further_hulls") or ())]
    for hull in hulls:
        made = hull.get("energies") or "unknown energies"
        words += f"; hull {hull['file']}: {hull['phases']:,} phases, {made}"
    return f"{words}; what counts must hold on every one." if len(hulls) > 1 else f"{words}."


def name_of(potential: Mapping[str, Any]) -> str:
    """Return name and version of a potential in a manifest."""
    return f"{potential.get('name', '?')} {potential.get('version', '')}".rstrip()


def warnings(manifest: Mapping[str, Any], headline: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what makes the figures of a set less than they seem.

    Args:
        manifest: of the evaluation; what a sample's manifest says of its making is in it.
        headline: its figures, with those of the control.
    """
    return [*_same_judge(manifest), *_copies(manifest), *_too_good(headline)]


def _same_judge(manifest: Mapping[str, Any]) -> Iterator[str]:
    """A judge that made, chose or taught what it judges: families share their errors."""
    if not manifest.get("potential"):
        return
    judge = name_of(manifest["potential"])
    relaxation = manifest.get("relaxation") or {}
    made = [(word, "the model was rewarded by") for word in manifest.get("rewarded_by") or ()]
    made += [(relaxation.get("potential"), "the crystals were relaxed by")]
    made += [(manifest.get("ranked_by"), "the crystals were ranked by")]
    for word, what in made:
        if word and _akin(judge, word):
            yield (
                f"{what} {word}, and {judge} judges them: the same family does not see its own"
                " errors; name another --potential"
            )


def _copies(manifest: Mapping[str, Any]) -> Iterator[str]:
    """Training sets that no reference holds: what is copied from them counts as new."""
    references = [split_name(one["name"])[0] for one in manifest.get("references") or ()]
    known = {name.partition("/")[0] for name in references}
    known |= {str(at_home(name).absolute()) for name in references}  # sets by their paths
    trained = [RENAMED.get(str(name), str(name)) for name in manifest.get("trained_on") or ()]
    missing = [name for name in trained if name not in known]
    if references and missing:
        yield (
            f"the model was trained on {' and '.join(missing)}, whose copies count as novel here:"
            f" add {' '.join(f'-r {name}' for name in missing)}"
        )


def _too_good(headline: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """More stable new crystals than the real ones that nobody has trained on; all rows at once."""
    rows = [
        f"{entry['label']} of {100 * entry['value']:.1f} % ({100 * entry['control']:.1f} %)"
        for entry in headline
        if entry["name"].rpartition("_")[2] == "sun"
        and None not in (entry.get("low"), entry.get("control"))
        and entry["low"] > entry["control"]
    ]
    if rows:
        yield (
            f"above the real crystals of the control (in brackets): {', '.join(rows)}. Phases"
            " missing from the hull, or errors of the potential, may be exploited; look before"
            " you report it"
        )


def _akin(judge: str, other: str) -> bool:
    """Tell whether two potentials, as manifests name them, are of one family.

    A family is a name that `load_potential` takes, also found in
    ``sevenn.calculator:SevenNetCalculator``; that of any other potential is its first word.
    """
    ours, theirs = (re.findall(r"[a-z0-9]+", text.lower()) for text in (judge, other))
    families = [name for name in NAMES if any(word.startswith(name) for word in ours)]
    return any(word.startswith(name) for name in families or ours[:1] for word in theirs)


def made_by(manifest: Mapping[str, Any]) -> str:
    """What had been done to the crystals before they were judged."""
    relaxation = manifest.get("relaxation") or {}
    done = []
    if relaxation.get("potential"):
        done.append(f"relaxed by {relaxation['potential']}, at most {relaxation['steps']} steps")
    if manifest.get("symmetrized"):
        done.append("idealised")
    return f"The crystals had been {' and '.join(done)} when they were made." if done else ""


def _set(reference: Mapping[str, Any]) -> str:
    return f"{reference['name']} ({reference['crystals']:,} crystals)"
