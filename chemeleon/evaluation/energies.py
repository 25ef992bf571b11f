"""Energies, energies above a hull and relaxation of the crystals of a table.

Shapes: ``C`` crystals.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from chemeleon.evaluation.collection import Progress, read_collection
from chemeleon.evaluation.report_data import PackedStructures

if TYPE_CHECKING:
    import pandas
    from pymatgen.core import Structure

    from chemeleon.energy.hull import Hull
    from chemeleon.energy.potentials import Potential

_CHUNK = 512
_OTHERS = (
    "space_group", "space_group_symbol", "crystal_system", "density_g_cm3", "volume_per_atom_a3",
)  # fmt: skip


class EnergyJudge(NamedTuple):
    """A potential and the hull that its energies are measured against."""

    potential: Potential
    hull: Hull | None
    hull_file: str | None


def load_judge(potential: str, hull: str | Path | None, device: str | None) -> EnergyJudge:
    """Load both, and make sure that they go together.

    Args:
        potential: see ``energy.potentials.load_potential``.
        hull: file of ``chemeleon data hull``; without one there are energies alone.
        device: torch's name.

    Raises:
        ChemeleonError: if one is missing, or the hull cannot take total energies.
    """
    # here: potentials need packages that an evaluation without energies can do without
    from chemeleon.energy.hull import Hull
    from chemeleon.energy.potentials import load_potential

    phases = Hull.load(hull) if hull else None
    if phases is not None:
        phases.formation_energies([], [])  # says now what it would say after the work
    return EnergyJudge(load_potential(potential, device), phases, str(hull) if hull else None)


def add_energies(
    table: pandas.DataFrame,
    structures: PackedStructures,
    by: EnergyJudge,
    *,
    relax_steps: int = 0,
    progress: Progress | None = None,
) -> tuple[list[Structure | None], dict[str, Any]]:
    """Fill the energy columns of a table; a crystal without one keeps NaN and its reason.

    Args:
        table: rows of `table.build_table`, changed in place.
        structures: the crystals of the rows.
        by: potential and hull.
        relax_steps: most steps of relaxation; 0 for none.
        progress: called with a word and the share done.

    Returns:
        Relaxed crystals (None where there is none), and what the manifest should say.
    """
    from chemeleon.energy.relax import relax

    judge, above = by.potential, by.hull
    rows = np.flatnonzero(table["valid_structure"].to_numpy())
    relaxed: list[Structure | None] = [None] * len(table)
    raw = np.full(len(table), np.nan)
    ends: dict[int, Any] = {}
    for begin in range(0, len(rows), _CHUNK):
        part = rows[begin : begin + _CHUNK].tolist()
        given = [structures[row] for row in part]
        if not relax_steps:
            found = judge.energies(given)
            raw[part], reasons = found.per_atom_ev, found.reasons
        else:
            walked = relax(given, judge, relax_steps)
            reasons = [end.reason for end in walked]
            for row, end in zip(part, walked, strict=True):
                raw[row] = end.energies_ev[0] if len(end.energies_ev) else np.nan
                relaxed[row], ends[row] = end.structure, end
        for row, reason in zip(part, reasons, strict=True):
            if reason and not table.at[row, "reason"]:
                table.at[row, "reason"] = reason
        if progress:
            progress("energies", (begin + len(part)) / len(rows))
    _fill(table, raw, above, "")
    if relax_steps:
        _add_relaxed(table, relaxed, ends, above)
    told = {
        "potential": {"name": judge.name, "version": judge.version},
        "hull": None if above is None else {"file": by.hull_file, "phases": len(above)},
        "relax_steps": relax_steps,
    }
    return relaxed, told


def _fill(table: pandas.DataFrame, energies: np.ndarray, hull: Any, prefix: str) -> None:
    table[f"{prefix}energy_ev_per_atom"] = energies
    table[f"{prefix}e_above_hull_ev"] = np.nan
    table[f"{prefix}hull_state"] = None
    if hull is None:
        return
    rows = np.flatnonzero(table["formula"].notna().to_numpy())
    formulas = table["formula"].iloc[rows].tolist()
    answer = hull.above(formulas, hull.formation_energies(formulas, energies[rows]))
    values = np.full(len(table), np.nan)
    values[rows] = answer.e_above_hull_ev
    states = np.full(len(table), None, dtype=object)
    states[rows] = answer.states
    table[f"{prefix}e_above_hull_ev"] = values
    table[f"{prefix}hull_state"] = states


def _add_relaxed(
    table: pandas.DataFrame, relaxed: Sequence[Structure | None], ends: dict[int, Any], hull: Any
) -> None:
    collection = read_collection(relaxed)
    for name in _OTHERS:
        words = name in ("space_group_symbol", "crystal_system")
        values = [w or None for w in collection.text(name)] if words else collection.column(name)
        table[f"relaxed_{name}"] = values
    last = np.array([ends[i].energy_ev if i in ends else np.nan for i in range(len(table))])
    _fill(table, last, hull, "relaxed_")
    found = [ends.get(i) for i in range(len(table))]
    table["relax_steps"] = [np.nan if end is None else end.steps for end in found]
    table["relax_converged"] = [end is not None and end.converged for end in found]
    table["relax_rmsd_a"] = [np.nan if end is None else end.rmsd_angstrom for end in found]
