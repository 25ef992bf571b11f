"""Crystals given the highest symmetry that they almost have, if that costs them nothing.

Shapes: ``M`` crystals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from chemeleon.config.requests import check_range
from chemeleon.crystals.batch import Crystals
from chemeleon.crystals.idealise import Bounds, Candidate, candidates
from chemeleon.crystals.soundness import structural_problems
from chemeleon.crystals.symmetry import TIGHT, Cell, group_of, in_cell
from chemeleon.data.crystal import Crystal, structure_of
from chemeleon.errors import ConfigError
from chemeleon.evaluation.work import Each, answers

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from chemeleon.energy.potential import Potential

DEFAULT_SYMPREC = 0.3  # angstrom; docs/sample.md says what others give
MOST_SYMPREC = 1.0
MAX_MOVED_ANGSTROM = 0.3
MAX_STRAIN = 0.05
MAX_RISE_EV = 0.005  # per atom


@dataclass(frozen=True)
class Candidates(Each):
    """The group of crystals and what they could be idealised to, see `crystals.idealise`."""

    bounds: Bounds
    size = 50

    def lost(self, reason: str) -> tuple[int | None, list[Candidate]]:
        return None, []

    def answer(self, item: Crystal) -> tuple[int | None, list[Candidate]]:
        return candidates(item, self.bounds)


class Idealised(NamedTuple):
    """One crystal after it.

    Attributes:
        crystal: atomic numbers, fractional coordinates and lattice: those of the standard primitive
            cell, exactly symmetric, or as given.
        ideal: whether it is exactly symmetric.
        before: number of the space group of the given crystal at 0.01 angstrom, None without one.
        after: the same of this crystal.
        symprec: at which the given crystal has the group, angstrom; NaN if it stays as given.
        moved_angstrom: the longest way of an atom.
        strain: largest relative change of a length.
        rise_ev: by which the energy rose, eV/atom; NaN without energies.
        cells: primitive cells that the given cell held; 1 if it stays.
        energy_ev: energy of this crystal, eV/atom; NaN without energies.
        reason: why a higher symmetry was refused, None if none was.
    """

    crystal: Crystal
    ideal: bool
    before: int | None
    after: int | None
    symprec: float = np.nan
    moved_angstrom: float = 0.0
    strain: float = 0.0
    rise_ev: float = np.nan
    cells: int = 1
    energy_ev: float = np.nan
    reason: str | None = None

    def structure(self, cell: Cell = "primitive") -> Structure | None:
        """Return it in a standard cell; what is not symmetric stays as given, no atoms are None."""
        arrays = self.crystal
        if len(arrays.atomic_numbers) == 0:
            return None
        if self.ideal and cell == "conventional":
            arrays = in_cell(*arrays, cell, TIGHT)
        return structure_of(arrays)


def idealise(
    crystals: Sequence[Crystal],
    symprec: float = DEFAULT_SYMPREC,
    potential: Potential | None = None,
    *,
    max_moved_angstrom: float = MAX_MOVED_ANGSTROM,
    max_strain: float = MAX_STRAIN,
    max_rise_ev: float = MAX_RISE_EV,
    given_ev: Sequence[float] | None = None,
    workers: int | None = None,
) -> list[Idealised]:
    """Give each crystal the highest symmetry within a tolerance that it can bear.

    Tolerances are tried from the largest down to 0.01 angstrom. A group is refused, and the next
    lower one tried, if an atom moves too far (without the shift of the whole crystal), a length
    changes too much, atoms come too close, or the energy rises too much. Crystals with an unsound
    structure stay as they are.

    Args:
        crystals: atomic numbers, fractional coordinates and lattice of each.
        symprec: largest tolerance, angstrom.
        potential: judge of the energies; without one only geometry decides.
        max_moved_angstrom: longest way of an atom.
        max_strain: largest relative change of a length.
        max_rise_ev: of the energy, eV/atom.
        given_ev: energies of the given crystals, eV/atom, where they are known; else they are
            found first.
        workers: processes; all cores if None.

    Raises:
        ConfigError: for a tolerance or a bound that makes no sense.
    """
    check_bounds(symprec, max_moved_angstrom, max_strain, max_rise_ev)
    bounds = Bounds(symprec, max_moved_angstrom, max_strain)
    rows = [i for i, problem in enumerate(_problems(crystals)) if problem is None]
    sound = [crystals[i] for i in rows]
    known = _energies(sound, potential) if given_ev is None else [given_ev[i] for i in rows]
    found = [Idealised(crystal, False, None, None) for crystal in crystals]
    choices: dict[int, list[Candidate]] = {}
    searched = answers(Candidates([], bounds), sound, workers)
    for i, energy, (group, some) in zip(rows, known, searched, strict=True):
        choices[i] = some
        found[i] = found[i]._replace(before=group, after=group, energy_ev=energy)
    for level in range(max(map(len, choices.values()), default=0)):
        tried = [i for i in rows if len(choices[i]) > level and not found[i].ideal]
        arrays = [choices[i][level].crystal for i in tried]
        judged = zip(tried, _problems(arrays), _energies(arrays, potential), strict=True)
        for i, problem, energy in judged:
            found[i] = _judged(found[i], choices[i][level], problem, energy, max_rise_ev)
    return found


def symmetrize(
    structures: str | Path | Sequence[Structure],
    symprec: float | None = None,
    *,
    potential: str = "none",
    device: str | None = None,
    jobs: int | None = None,
    **bounds: float,
) -> list[Idealised]:
    """Give crystals the highest symmetry that they almost have.

    Args:
        structures: pymatgen structures, or a file or folder of crystals.
        symprec: largest tolerance, angstrom; by default 0.3.
        potential: judge of the energies, which must not rise, or ``none``: geometry alone decides.
        device: torch's name, for energies.
        jobs: processes; all cores if None.
        bounds: ``max_moved_angstrom``, ``max_strain`` and ``max_rise_ev`` of
            `idealise`.

    Returns:
        One entry per crystal, in order: ``.structure()``, or ``.structure("conventional")``, and
        the groups before and after. What cannot be read has no structure, but a reason.

    Raises:
        ChemeleonError: one of its subclasses, saying what to do.
    """
    from chemeleon.energy.potentials import load_potential
    from chemeleon.evaluation.collection import read_collection

    chosen = DEFAULT_SYMPREC if symprec is None else symprec
    check_bounds(chosen, **bounds)
    judge = None if potential == "none" else load_potential(potential, device)
    source = Path(structures) if isinstance(structures, str) else structures
    collection = read_collection(source, workers=jobs)
    options: dict[str, Any] = {"workers": jobs, **bounds}
    found = idealise(list(collection.crystals), chosen, judge, **options)
    return [
        one if reason is None else one._replace(reason=reason)
        for one, reason in zip(found, collection.reasons, strict=True)
    ]


def asked_symprec(symmetrize: bool, symprec: float | None) -> float | None:
    """Return the largest tolerance of idealising, angstrom; None where it is not asked for.

    Raises:
        ConfigError: for a tolerance that makes no sense, or without idealising.
    """
    if not symmetrize and symprec is not None:
        raise ConfigError("symprec is the tolerance of symmetrize, which is not requested")
    if not symmetrize:
        return None
    chosen = DEFAULT_SYMPREC if symprec is None else symprec
    check_bounds(chosen)
    return chosen


def check_bounds(
    symprec: float,
    max_moved_angstrom: float = MAX_MOVED_ANGSTROM,
    max_strain: float = MAX_STRAIN,
    max_rise_ev: float = MAX_RISE_EV,
) -> None:
    """Raise ConfigError for a tolerance or a bound that makes no sense."""
    check_range("symprec", symprec, TIGHT, MOST_SYMPREC)
    check_range("max_moved_angstrom", max_moved_angstrom, 0, MOST_SYMPREC)
    check_range("max_strain", max_strain, 0, 0.5)
    check_range("max_rise_ev", max_rise_ev, 0, 10)


def told(
    found: Sequence[Idealised], names: Sequence[str], symprec: float, potential: Potential | None
) -> dict[str, Any]:
    """Return what a manifest says of it: settings, counts, and the group before and after."""
    symbols = [(_symbol(one.before), _symbol(one.after)) for one in found]
    return {
        "by": f"moyopy {version('moyopy')}",
        "symprec_angstrom": symprec,
        "max_moved_angstrom": MAX_MOVED_ANGSTROM,
        "max_strain": MAX_STRAIN,
        "max_rise_ev_per_atom": None if potential is None else MAX_RISE_EV,
        "potential": None if potential is None else f"{potential.name} {potential.version}",
        "idealised": sum(one.ideal for one in found),
        "as_given": sum(not one.ideal for one in found),
        "refused_a_higher_group": sum(one.reason is not None for one in found),
        "smaller_cells": [n for n, one in zip(names, found, strict=True) if one.cells > 1],
        "groups_at_angstrom": TIGHT,
        "p1": {
            "before": sum(one.before == 1 for one in found),
            "after": sum(one.after == 1 for one in found),
        },
        "groups": {n: " -> ".join(pair) for n, pair in zip(names, symbols, strict=True)},
    }


def in_standard_cell(structure: Structure, cell: Cell, symprec: float) -> Structure:
    """Return a crystal in a standard cell of its group, as exact as it was; see `in_cell`."""
    numbers = np.array(structure.atomic_numbers)
    found = in_cell(numbers, structure.frac_coords, structure.lattice.matrix, cell, symprec)
    shaped = structure_of(found)
    shaped.properties = structure.properties
    return shaped


def _judged(
    given: Idealised, to: Candidate, problem: str | None, energy: float, max_rise_ev: float
) -> Idealised:
    """Return the crystal at its candidate, or as it was with the reason why it stays there."""
    rise = energy - given.energy_ev  # NaN without an energy of the given crystal
    if problem is None and np.isfinite(given.energy_ev) and not rise <= max_rise_ev:
        problem = f"the energy rises by {rise:.3f} eV/atom"
    if problem is not None:
        why = given.reason or f"{group_of(to.number).symbol} refused: {problem}"
        return given._replace(reason=why)
    return given._replace(
        crystal=to.crystal,
        ideal=True,
        after=to.number,
        symprec=to.symprec,
        moved_angstrom=to.moved_angstrom,
        strain=to.strain,
        rise_ev=rise,
        cells=to.cells,
        energy_ev=energy,
    )


def _energies(crystals: Sequence[Crystal], potential: Potential | None) -> list[float]:
    if potential is None or not crystals:
        return [np.nan] * len(crystals)
    return potential.energies(Crystals.of(crystals).tensors()).per_atom_ev.tolist()


def _problems(crystals: Sequence[Crystal]) -> list[str | None]:
    return structural_problems(Crystals.of(crystals).tensors())


def _symbol(number: int | None) -> str:
    return "-" if number is None else group_of(number).symbol
