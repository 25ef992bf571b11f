"""States of the crystals of a table: energies of those given, relaxed ones, idealised ones.

Shapes: ``C`` crystals.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from chemeleon.crystals.batch import Array, Crystal, Crystals
from chemeleon.errors import ConfigError
from chemeleon.evaluation.idealise import idealise, told
from chemeleon.evaluation.metrics.base import add_reasons
from chemeleon.evaluation.metrics.stability import ABOVE
from chemeleon.evaluation.reference import column_word
from chemeleon.evaluation.work import Progress, in_rows

if TYPE_CHECKING:
    import pandas

    from chemeleon.energy.hull_sources import Ground
    from chemeleon.energy.potential import Potential
    from chemeleon.energy.relax import Relaxed

_CHUNK = 512
SYSTEM_MISSING = "system missing"  # judged, but against phases of fewer elements only


class EnergyJudge(NamedTuple):
    """A potential and the hulls that its energies are measured against, none or more."""

    potential: Potential
    grounds: tuple[Ground, ...]


def load_judge(potential: str, hulls: Sequence[str | Path], device: str | None) -> EnergyJudge:
    """Load them, and make sure that they go together.

    Args:
        potential: see ``energy.potentials.load_potential``.
        hulls: see ``energy.hull_sources.find_hull``; without any `default_hull` has a say, and
            potentials that it has none for give energies alone.
        device: torch's name.

    Raises:
        ChemeleonError: if one is missing, the hull cannot take total energies, or it holds those of
            another potential or scale.
    """
    # here: potentials need packages that an evaluation without energies can do without
    from chemeleon.energy.hull_sources import find_hull, hull_for
    from chemeleon.energy.potentials import load_potential

    words = {column_word(find_hull(hull).label) for hull in hulls}  # potentials load slower
    if len(words) < len(hulls):
        raise ConfigError(f"hulls are named twice, or alike: {', '.join(map(str, hulls))}")
    judge = load_potential(potential, device)
    found = [hull_for(judge, hull, potential) for hull in hulls or (None,)]
    return EnergyJudge(judge, tuple(ground for ground in found if ground is not None))


def add_energies(
    table: pandas.DataFrame,
    crystals: Crystals[Array],
    by: EnergyJudge | None,
    *,
    relax_steps: int = 0,
    rows: NDArray[np.int64] | None = None,
    progress: Progress | None = None,
) -> tuple[Crystals[Array], dict[str, Any]]:
    """Fill the energy columns of a table; a crystal without one keeps NaN and its reason.

    Args:
        table: per-crystal rows with `valid_structure`, changed in place.
        crystals: those of the rows.
        by: potential and hull; None leaves the columns empty.
        relax_steps: most steps of relaxation; 0 for none.
        rows: which to evaluate; all by default. Crystals with an unsound structure are left out.
        progress: called with a word and the share done.

    Returns:
        The relaxed crystals, of no atoms where there is none, and what the manifest should say.
    """
    from chemeleon.energy.potential import NoPotential
    from chemeleon.evaluation.sound import relax_soundly

    chosen, total = _sound(table, rows), len(table)
    potential, grounds = (NoPotential(), ()) if by is None else by
    if by is None:
        chosen, relax_steps = chosen[:0], 0
    raw = np.full(total, np.nan)
    why: list[str | None] = []
    ends: list[Relaxed] = []
    moved: list[Crystal | None] = []
    for begin in range(0, len(chosen), _CHUNK):
        part = chosen[begin : begin + _CHUNK]
        given = crystals.subset(part).tensors()
        if not relax_steps:
            found = potential.energies(given)
            raw[part] = found.per_atom_ev
            why += found.reasons
        else:
            after, walked = relax_soundly(given, potential, relax_steps)
            raw[part] = [e.energies_ev[0] if len(e.energies_ev) else np.nan for e in walked]
            why += [end.reason for end in walked]
            for end, crystal in zip(walked, after, strict=True):
                moved.append(None if end.structure is None else crystal)
                ends.append(end._replace(structure=None))  # Structures of many take gigabytes
        if progress:
            progress("energies", (begin + len(part)) / len(chosen))
    add_reasons(table, in_rows(why, chosen, total))
    fill_energies(table, raw, crystals, grounds, "")
    relaxed = Crystals.of(in_rows(moved, chosen[: len(moved)], total))
    said = _told(by) | {"relax_steps": relax_steps}
    if relax_steps:
        each = in_rows(ends, chosen, total)
        last = np.array([np.nan if end is None else end.energy_ev for end in each])
        fill_energies(table, last, relaxed, grounds, "relaxed_")
        table["relax_steps"] = [np.nan if end is None else end.steps for end in each]
        table["relax_converged"] = [end is not None and end.converged for end in each]
        table["relax_taken_back"] = [end is not None and end.taken_back for end in each]
        table["relax_rmsd_a"] = [np.nan if end is None else end.rmsd_angstrom for end in each]
        said["relax_taken_back"] = sum(end.taken_back for end in ends)
    return relaxed, said


def _sound(table: pandas.DataFrame, rows: NDArray[np.int64] | None) -> NDArray[np.int64]:
    """Return those rows, all by default, whose crystals have a sound structure."""
    sound = table["valid_structure"].to_numpy()
    return np.flatnonzero(sound) if rows is None else rows[sound[rows]]


def _told(by: EnergyJudge | None) -> dict[str, Any]:
    if by is None:
        return {"potential": None, "hull": None}
    potential = by.potential
    told: dict[str, Any] = {
        "name": potential.name,
        "version": potential.version,
        "energy_scale": potential.energy_scale,
        "mp2020_corrections_added": any(ground.corrected for ground in by.grounds),
    }
    hull, *further = map(_told_hull, by.grounds) if by.grounds else (None,)
    more = {"further_hulls": further} if further else {}
    return {"potential": told, "hull": hull, **more}


def _told_hull(ground: Ground) -> dict[str, Any]:
    kept = ("energies", "energy_scale", "source", "potential", "references_from")
    known = ground.hull
    made = {key: known.manifest[key] for key in kept if key in known.manifest}
    made["energy_scale"] = known.energy_scale
    if isinstance(made.get("references_from"), dict):
        made["references_from"] = "simple structures and the set's own, by the same potential"
    return {"file": ground.label, "phases": len(known), **made}


def fill_energies(
    table: pandas.DataFrame,
    energies: np.ndarray,
    crystals: Crystals[Array],
    grounds: Sequence[Ground],
    prefix: str,
) -> None:
    """Add energies, and how far above the hull they lie, to columns that begin with ``prefix``.

    Of several hulls the one counts that a crystal lies highest above, and one that cannot judge it
    before all others; each has a column of its own beside.

    Args:
        table: changed in place.
        energies: ``(C,)`` eV/atom, NaN where there is none.
        crystals: those of the rows, for corrections.
        grounds: the hulls; without any energies stand alone.
        prefix: one of `metrics.base.STATES`.
    """
    above = f"{prefix}{ABOVE}"
    table[f"{prefix}energy_ev_per_atom"] = energies
    table[above] = np.nan
    table[f"{prefix}hull_state"] = None
    if not grounds:
        return
    rows = np.flatnonzero(table["formula"].notna().to_numpy())
    formulas = table["formula"].iloc[rows].tolist()
    given = [crystal if len(crystal.atomic_numbers) else None for crystal in crystals.subset(rows)]
    values = np.full((len(grounds), len(table)), np.nan)
    states = np.full(values.shape, None, dtype=object)
    for i, ground in enumerate(grounds):
        formation, why = ground.formation_energies(formulas, energies[rows].tolist(), given)
        add_reasons(table, in_rows(why, rows, len(table)))
        answer = ground.hull.above(formulas, formation.tolist())
        values[i, rows] = answer.e_above_hull_ev
        states[i, rows] = [
            SYSTEM_MISSING if state == "ok" and not known else state
            for state, known in zip(answer.states, answer.system_known.tolist(), strict=True)
        ]
        if len(grounds) > 1:
            table[f"{above}_{column_word(ground.label)}"] = values[i]
    counts = np.nan_to_num(values, nan=np.inf).argmax(0), np.arange(len(table))
    table[above], table[f"{prefix}hull_state"] = values[counts], states[counts]


def add_idealised(
    table: pandas.DataFrame,
    crystals: Crystals[Array],
    relaxed: Crystals[Array],
    by: EnergyJudge | None,
    symprec: float,
    *,
    rows: NDArray[np.int64] | None = None,
    workers: int | None = None,
) -> tuple[Crystals[Array], dict[str, Any]]:
    """Idealise crystals and add columns; return them, and what the manifest should say.

    Args:
        table: of `add_energies`, changed in place.
        crystals: those of the rows.
        relaxed: the same relaxed, which go before; of no atoms where there is none.
        by: judge of energies, which must not rise; None lets geometry alone decide.
        symprec: largest tolerance, angstrom.
        rows: which to idealise; all by default. Crystals with an unsound structure are left out.
        workers: processes; all cores if None.
    """
    chosen, total = _sound(table, rows), len(table)
    is_relaxed = relaxed.num_atoms[chosen] > 0
    given = [
        (relaxed if after else crystals).crystal(row)
        for row, after in zip(chosen.tolist(), is_relaxed.tolist(), strict=True)
    ]
    known = table["energy_ev_per_atom"].to_numpy()[chosen]
    if is_relaxed.any():
        after_ev = table["relaxed_energy_ev_per_atom"].to_numpy()[chosen]
        known = np.where(is_relaxed, after_ev, known)
    potential = None if by is None else by.potential
    ends = idealise(given, symprec, potential, given_ev=known.tolist(), workers=workers)
    found = in_rows(ends, chosen, total)
    made = Crystals.of([None if end is None else end.crystal for end in found])
    table["idealised"] = [end is not None and end.ideal for end in found]
    for column, field in (("symprec_a", "symprec"), ("moved_a", "moved_angstrom")):
        values = [np.nan if end is None else getattr(end, field) for end in found]
        table[f"idealise_{column}"] = values
    table["idealise_refused"] = [None if end is None else end.reason for end in found]
    if by is not None:
        energies = np.array([np.nan if end is None else end.energy_ev for end in found])
        fill_energies(table, energies, made, by.grounds, "idealised_")
    names = table["id"].iloc[chosen].map(str).tolist()
    said = told(ends, names, symprec, potential)
    del said["groups"]  # they are in the table
    return made, {"idealise": said}
