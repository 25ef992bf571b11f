"""Figures by number of atoms, by number of elements, and by crystal system."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chemeleon.evaluation.metrics.base import Metric, Options, find_figures
from chemeleon.evaluation.metrics.symmetry import SYSTEMS
from chemeleon.evaluation.summary import finite, flags, share

if TYPE_CHECKING:
    import pandas

_ATOM_BINS = ((1, 5), (6, 10), (11, 20), (21, 50))


def bins(
    table: pandas.DataFrame,
    metrics: Sequence[Metric],
    control: pandas.DataFrame | None,
    options: Options,
) -> dict[str, list[dict[str, Any]]]:
    """Return the counted properties, and those figures of metrics that say so, by bins.

    Args:
        table: one row per crystal.
        metrics: which.
        control: rows of the control set, of which those of the same bin are compared with.
        options: of the metrics.
    """
    shown = {name: flag for name, (_, flag) in flags(table).items() if name != "parsed"}
    theirs = {} if control is None else _masks(control)
    result: dict[str, list[dict[str, Any]]] = {}
    for kind, masks in _masks(table).items():
        rows = []
        for name, mask in masks.items():
            count = int(mask.sum())
            if count == 0:
                continue
            row: dict[str, Any] = {kind: name, "crystals": count}
            row |= {key: share(int((flag & mask).sum()), count) for key, flag in shown.items()}
            beside = None if control is None else control.iloc[np.flatnonzero(theirs[kind][name])]
            part = table.iloc[np.flatnonzero(mask)]
            for figure in find_figures(part, metrics, beside, options):
                if not figure.binned:
                    continue
                if figure.flag is not None:
                    row[figure.name] = share(int(figure.flag.sum()), count)
                elif kind != "crystal_system":
                    row[figure.name] = finite(figure.value)
            rows.append(row)
        result[kind] = rows
    return result


def _masks(table: pandas.DataFrame) -> dict[str, dict[str, NDArray[np.bool_]]]:
    """Return which crystals are in each bin, by the kind of bins."""
    atoms = table["num_atoms"].to_numpy(dtype=float, na_value=np.nan)
    elements = table["num_elements"].to_numpy(dtype=float, na_value=np.nan)
    system = table["crystal_system"].to_numpy(dtype=object)
    largest = _ATOM_BINS[-1][1]
    return {
        "atoms": {f"{low} to {high}": (atoms >= low) & (atoms <= high) for low, high in _ATOM_BINS}
        | {f"over {largest}": atoms > largest},
        "elements": {str(n): elements == n for n in range(1, 6)} | {"6 and more": elements >= 6},
        "crystal_system": {name: system == name for name in SYSTEMS},
    }
