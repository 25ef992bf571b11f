"""From figures of metrics to the summary of a set: headline, distributions, figures by size.

Every share is of the crystals that were asked for. What failed counts as not having the property.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chemeleon.evaluation.metrics.base import STATES, Figure, Metric, Options, View, find_figures
from chemeleon.evaluation.metrics.stability import ABOVE
from chemeleon.evaluation.metrics.statistics import evenly, finite, wasserstein
from chemeleon.evaluation.metrics.symmetry import SYSTEMS

_VALUES_LIMIT = 10_000  # of a histogram in the summary; distances are taken over all
_ATOM_BINS = ((1, 5), (6, 10), (11, 20), (21, 50))


def summarise(
    crystals: View,
    control: View | None,
    row: Mapping[str, float],
    metrics: Sequence[Metric],
    options: Options,
) -> dict[str, Any]:
    """Return what metrics say of a set, as JSON.

    Args:
        crystals: the set.
        control: what it is compared with.
        row: figures of the control row by name; what it lacks has none.
        metrics: which.
        options: of the run.
    """
    crystals = _judged(crystals)
    found = find_figures(crystals, metrics, control, options)
    headline = [{**_entry(figure), "control": finite(row.get(figure.name))} for figure in found]
    summary = {
        "headline": headline,
        "distributions": distributions(crystals, control, metrics),
        "bins": bins(crystals, metrics, control, options),
    }
    by_name = {entry["name"]: entry for entry in headline}
    for metric in metrics:
        summary |= metric.facts(crystals, control, options, by_name)
    return summary


def control_row(
    control: View, with_energies: NDArray[np.int64], metrics: Sequence[Metric], options: Options
) -> dict[str, float]:
    """Return the figures of the control set; its distances are those of two halves of it, which is
    the best that distances between sets can be.

    Args:
        control: the set.
        with_energies: those of its crystals that got energies.
        metrics: which.
        options: of the run.
    """
    control = _judged(control)
    found = list(find_figures(control, metrics, None, options, with_energies))
    for metric in metrics:
        rows = metric.comparable(control)
        if len(rows) > 1:
            halves = control.part(rows[::2]), control.part(rows[1::2])
            found += find_figures(halves[0], [metric], halves[1], options)
    return {figure.name: figure.number for figure in reversed(found)}


def _judged(crystals: View) -> View:
    """Return crystals without those energies above hull that none of them has: a share of stable
    ones would say 0 % of what was not judged. In a bin without any, the others were judged."""
    states = [replace(crystals, prefix=prefix) for prefix in STATES]
    columns = [(view, ABOVE + end) for view in states for end in view.names(ABOVE)]
    empty = [v.prefix + name for v, name in columns if not np.isfinite(v.numbers(name)).any()]
    return replace(crystals, table=crystals.table.drop(columns=empty))


def _entry(figure: Figure) -> dict[str, Any]:
    entry = {"name": figure.name, "label": figure.label, "group": figure.group}
    if figure.flag is not None:
        return entry | figure.share
    nothing = dict.fromkeys(("low", "high", "count", "of"))
    return {**entry, "value": finite(figure.value), **nothing, "unit": figure.unit}


def distributions(
    crystals: View, control: View | None, metrics: Sequence[Metric]
) -> dict[str, dict[str, Any]]:
    """Return the values of both sets by column, and their Wasserstein distances."""
    found = {}
    for metric in metrics:
        for prefix, word in STATES.items() if metric.of_energies else [("", "")]:
            for column in (column for column in metric.known(()) if column.histogram):
                name = prefix + column.key
                ours = _values(crystals, name)
                if metric.of_energies and not len(ours):
                    continue  # nobody has this energy
                theirs = _values(control, name)
                distance = wasserstein(ours, theirs) if column.ordered else math.nan
                state = word.strip(" ()")
                found[name] = {
                    "label": f"{column.histogram}, {state}" if state else column.histogram,
                    "unit": column.unit,
                    "sample": _some(ours),
                    "reference": _some(theirs),
                    "wasserstein": finite(distance),
                }
    return found


def _values(crystals: View | None, name: str) -> NDArray[np.float64]:
    """Return the known values of a column."""
    if crystals is None or name not in crystals:
        return np.zeros(0)
    values = crystals.numbers(name)
    return values[np.isfinite(values)]


def _some(values: NDArray[np.float64]) -> list[float]:
    kept = values[evenly(len(values), _VALUES_LIMIT)]
    return [float(f"{v:.5g}") for v in kept.tolist()]


def bins(
    crystals: View, metrics: Sequence[Metric], control: View | None, options: Options
) -> dict[str, list[dict[str, Any]]]:
    """Return those figures of metrics that say so by number of atoms, by number of elements, and by
    crystal system; distances are to the crystals of the control in the same bin."""
    binned = [metric for metric in metrics if metric.binned]
    theirs = {} if control is None else _bins(control)
    result: dict[str, list[dict[str, Any]]] = {}
    for kind, rows_of in _bins(crystals).items():
        result[kind] = []
        for name, rows in rows_of.items():
            if not len(rows):
                continue
            row: dict[str, Any] = {kind: name, "crystals": len(rows)}
            beside = None if control is None else control.part(theirs[kind][name])
            for figure in find_figures(crystals.part(rows), binned, beside, options):
                if figure.flag is not None:
                    row[figure.name] = figure.share
                elif kind != "crystal_system":
                    row[figure.name] = finite(figure.value)
            result[kind].append(row)
    return result


def _bins(crystals: View) -> dict[str, dict[str, NDArray[np.int64]]]:
    """Return the rows of the crystals in each bin, by the kind of bins."""
    atoms, elements = crystals.numbers("num_atoms"), crystals.numbers("num_elements")
    system = np.array(crystals.words("crystal_system"), dtype=object)
    largest = _ATOM_BINS[-1][1]
    masks = {
        "atoms": {f"{low} to {high}": (atoms >= low) & (atoms <= high) for low, high in _ATOM_BINS}
        | {f"over {largest}": atoms > largest},
        "elements": {str(n): elements == n for n in range(1, 6)} | {"6 and more": elements >= 6},
        "crystal_system": {name: system == name for name in SYSTEMS},
    }
    return {
        kind: {name: np.flatnonzero(mask) for name, mask in named.items()}
        for kind, named in masks.items()
    }
