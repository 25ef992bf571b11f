"""What energies say of a set of crystals, raw and relaxed: stability by both conventions.

Stable is at most 0 above the hull, metastable at most 0.1 eV/atom: SUN, MSUN (inclusive, as
MatterGen and chemeleon2 count) and MSUN without the stable ones (as LeMat-GenBench counts).

Shapes: ``C`` crystals.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chemeleon.evaluation.metrics.base import STATES
from chemeleon.evaluation.metrics.novelty import NOVEL, against
from chemeleon.evaluation.report.columns import ABOVE, hulls_of

if TYPE_CHECKING:
    import pandas

_HULL_TOLERANCE_EV = 1e-6
METASTABLE_EV = 0.1
ENERGY_DISTRIBUTIONS = {
    "e_above_hull_ev": ("E above hull", "eV/atom"),
    "relaxed_e_above_hull_ev": ("E above hull, relaxed", "eV/atom"),
    "idealised_e_above_hull_ev": ("E above hull, idealised", "eV/atom"),
    "relax_rmsd_a": ("RMSD raw to relaxed", "Å"),
}


def energy_flags(table: pandas.DataFrame) -> dict[str, tuple[str, NDArray[np.bool_]]]:
    """Return the counted properties that need energies: name to (label, ``(C,)`` bool).

    Relaxed ones are of the relaxed crystal, its uniqueness and novelty included.
    """
    found: dict[str, tuple[str, NDArray[np.bool_]]] = {}
    if "relax_converged" in table:
        found["relax_converged"] = ("Relaxation converged", table["relax_converged"].to_numpy())
    if "idealised" in table:
        found["idealised"] = ("Idealised", table["idealised"].to_numpy())
    for prefix, word in STATES.items():
        new, of = None, ""
        if f"{prefix}{NOVEL}" in table:
            new = (table[f"{prefix}unique"] & table[f"{prefix}{NOVEL}"]).to_numpy()
            of = against(table)
        if prefix and new is not None:
            found[f"{prefix}unique_novel"] = (f"Unique and novel{word}{of}", new)
        above = finite_column(table, f"{prefix}{ABOVE}")
        hulls = hulls_of(list(table), prefix)
        if np.isfinite(above).any():
            word += ", every hull" if hulls else ""
            found |= _stability(above, new, prefix, word, of)
        for hull in hulls:
            above = finite_column(table, f"{prefix}{ABOVE}_{hull}")
            each = _stability(above, new, prefix, f"{STATES[prefix]}, hull {hull}", of)
            for name in ("stable", "metastable") if new is None else ("sun", "msun"):
                found[f"{prefix}{name}_{hull}"] = each[prefix + name]
    return found


def finite_column(table: pandas.DataFrame | None, name: str) -> NDArray[np.float64]:
    """Return a column with NaN for what is missing; no values if there is no such column."""
    if table is None or name not in table:
        return np.zeros(0)
    return table[name].to_numpy(dtype=float, na_value=np.nan)


def _stability(
    above: NDArray[np.float64], new: NDArray[np.bool_] | None, prefix: str, state: str, of: str
) -> dict[str, tuple[str, NDArray[np.bool_]]]:
    """Return stability by both conventions; NaN counts as not stable."""
    with np.errstate(invalid="ignore"):
        stable = above <= _HULL_TOLERANCE_EV
        below = above <= METASTABLE_EV + _HULL_TOLERANCE_EV
    found = {
        f"{prefix}stable": (f"E above hull ≤ 0{state}", stable),
        f"{prefix}metastable": (f"E above hull ≤ 0.1 eV/atom{state}", below),
    }
    if new is not None:
        found[f"{prefix}sun"] = (f"SUN{state}{of}", new & stable)
        found[f"{prefix}msun"] = (f"MSUN, E ≤ 0.1{state}{of}", new & below)
        found[f"{prefix}msun_exclusive"] = (f"MSUN, 0 < E ≤ 0.1{state}{of}", new & below & ~stable)
    return found


def energy_means(table: pandas.DataFrame) -> dict[str, tuple[str, float]]:
    """Return medians and means over the crystals that have a value: name to (label, value)."""
    labels = {
        "e_above_hull_ev": "Mean E above hull, eV/atom, where known",
        "relaxed_e_above_hull_ev": "Mean E above hull (relaxed), eV/atom, where known",
        "idealised_e_above_hull_ev": "Mean E above hull (idealised), eV/atom, where known",
        "relax_rmsd_a": "Mean RMSD raw to relaxed, Å, where relaxed",
        "relax_steps": "Mean relaxation steps, where relaxed",
    }
    found = {}
    for name, label in labels.items():
        values = finite_column(table, name)
        if np.isfinite(values).any():
            if name.endswith("hull_ev"):  # a few broken crystals rule the mean
                found[f"median_{name}"] = (
                    label.replace("Mean", "Median"),
                    float(np.nanmedian(values)),
                )
            found[f"mean_{name}"] = (label, float(np.nanmean(values)))
    return found


def energy_states(table: pandas.DataFrame) -> dict[str, Any]:
    """Return how many crystals the hull could judge, and why not the others.

    Of the states, ``ok`` and ``system missing`` have an energy above hull; the latter is against
    phases of fewer elements only, and likely too low. Neither ``no energy`` nor ``element
    missing`` means unstable, though both count as not stable.
    """
    found = {}
    for prefix in STATES:
        key = prefix.rstrip("_") or "raw"
        if f"{prefix}energy_ev_per_atom" not in table:
            continue
        energies = finite_column(table, f"{prefix}energy_ev_per_atom")
        states = Counter(table[f"{prefix}hull_state"].dropna())
        found[key] = {
            "requested": len(table),
            "with_energy": int(np.isfinite(energies).sum()),
            "hull_states": dict(sorted(states.items())),
        }
    return found
