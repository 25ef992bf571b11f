"""Idealised crystals of a table: the highest symmetry that relaxed (or given) ones can bear.

Shapes: ``C`` crystals.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chemeleon.crystals.batch import Crystals
from chemeleon.data.parse import Crystal
from chemeleon.evaluation.idealise import Idealised, idealise, told
from chemeleon.evaluation.metrics.energies import EnergyJudge, fill_energies
from chemeleon.evaluation.structures import Structures

if TYPE_CHECKING:
    import pandas


def add_idealised(
    table: pandas.DataFrame,
    structures: Structures,
    relaxed: Structures,
    by: EnergyJudge | None,
    symprec: float,
    *,
    rows: NDArray[np.int64] | None = None,
    workers: int | None = None,
) -> tuple[Structures, dict[str, Any]]:
    """Idealise crystals and add columns; return them, and what the manifest should say.

    Args:
        table: of `energies.add_energies`, changed in place.
        structures: the crystals of the rows.
        relaxed: the same relaxed, which go before; None where there is none.
        by: judge of energies, which must not rise; None lets geometry alone decide.
        symprec: largest tolerance, angstrom.
        rows: which to idealise; all by default. Crystals with an unsound structure are left out.
        workers: processes; all cores if None.
    """
    sound = table["valid_structure"].to_numpy()
    chosen = np.flatnonzero(sound) if rows is None else rows[sound[rows]]
    given = [relaxed.crystal(row) or structures.crystal(row) for row in chosen.tolist()]
    kept = [(row, crystal) for row, crystal in zip(chosen, given, strict=True) if crystal]
    potential = None if by is None else by.potential
    known = _known(table, relaxed, [int(row) for row, _ in kept])
    crystals = [crystal for _, crystal in kept]
    ends = idealise(crystals, symprec, potential, given_ev=known, workers=workers)
    found: list[Idealised | None] = [None] * len(table)
    for (row, _), end in zip(kept, ends, strict=True):
        found[row] = end
    made: list[Crystal | None] = [None if end is None else end.crystal for end in found]
    table["idealised"] = [end is not None and end.ideal for end in found]
    for column, field in (("symprec_a", "symprec"), ("moved_a", "moved_angstrom")):
        values = [np.nan if end is None else getattr(end, field) for end in found]
        table[f"idealise_{column}"] = values
    table["idealise_refused"] = [None if end is None else end.reason for end in found]
    if by is not None:
        energies = np.array([np.nan if end is None else end.energy_ev for end in found])
        fill_energies(table, energies, lambda row: made[row], by.grounds, "idealised_")
    names = [str(table["id"].iat[row]) for row, _ in kept]
    said = told(ends, names, symprec, potential)
    del said["groups"]  # they are in the table
    return Structures(Crystals.of(made)), {"idealise": said}


def _known(table: pandas.DataFrame, relaxed: Structures, rows: Sequence[int]) -> list[float] | None:
    """Return the energies of the crystals that are idealised, None if there are none."""
    columns = [f"{state}energy_ev_per_atom" for state in ("", "relaxed_")]
    found = [table[name].to_numpy(float) if name in table else None for name in columns]
    after = [relaxed.crystal(row) is not None for row in rows]
    if found[0] is None:
        return None
    return [float(found[moved][row]) for row, moved in zip(rows, after, strict=True)]  # type: ignore[index]
