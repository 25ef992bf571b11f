"""Make a hull of crystals by the energies that a potential gives them, in place of DFT's."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from chemeleon.energy.compositions import Fractions, fractions
from chemeleon.energy.hull_tables import from_totals
from chemeleon.energy.scales import OWN
from chemeleon.errors import DataError

if TYPE_CHECKING:
    from chemeleon.crystals.batch import Crystals
    from chemeleon.energy.elements import Reference
    from chemeleon.energy.hull import Hull
    from chemeleon.energy.potential import Potential


def from_crystals(
    crystals: Crystals, potential: Potential, source: str, relax_steps: int = 0
) -> Hull:
    """Make a hull of a data set's crystals with the energies of a potential.

    The elements' references are the lowest of the set's own elemental crystals and of simple
    structures relaxed by the same potential (`elements`).

    Args:
        crystals: phases.
        potential: gives energies, and forces and stresses for the elements.
        source: for the manifest.
        relax_steps: relax the phases first by at most so many steps.

    Raises:
        DataError: if the potential gives no energy at all.
    """
    from chemeleon.energy.elements import elemental_references
    from chemeleon.energy.relax import relax

    compositions = compositions_of(crystals)
    if relax_steps:
        ended = relax(crystals, potential, relax_steps)
        found, reasons = [r.energy_ev for r in ended], [r.reason for r in ended]
    else:
        answer = potential.energies(crystals)
        found, reasons = answer.per_atom_ev.tolist(), answer.reasons
    good = [i for i, reason in enumerate(reasons) if reason is None]
    names = crystals.ids or [str(i) for i in range(len(reasons))]
    skipped = [f"{names[i]}: {r}" for i, r in enumerate(reasons) if r is not None]
    if not good:
        raise DataError(f"{potential.name} gives no energy for {source}; {skipped[0]}")
    phases = [compositions[i] for i in good]
    symbols = {symbol for parts in phases for symbol, _ in parts}
    simple = elemental_references(symbols, potential)
    known = {s: found.energy_ev for s, found in simple.items() if found.energy_ev is not None}
    lowest: dict[str, tuple[float, str]] = {}
    for i in good:
        if len(compositions[i]) == 1:
            symbol = compositions[i][0][0]
            lowest[symbol] = min((found[i], names[i]), lowest.get(symbol, (float("inf"), "")))
    return from_totals(
        phases,
        [found[i] for i in good],
        known,
        skipped,
        energies_are=f"{potential.name} {potential.version} total energies",
        source=source,
        rows=len(reasons),
        references_from={s: _origin(s, lowest.get(s), found) for s, found in simple.items()},
        potential=f"{potential.name} {potential.version}",
        energy_scale=OWN,
        relax_steps=relax_steps,
    )


def _origin(symbol: str, own: tuple[float, str] | None, simple: Reference) -> str:
    """Say which crystal gives the reference of an element."""
    if own is not None and (simple.energy_ev is None or own[0] < simple.energy_ev):
        return f"{own[1]} of the set"
    return simple.shape


def compositions_of(crystals: Crystals) -> list[Fractions]:
    """Return the composition of each crystal."""
    from ase.data import chemical_symbols

    return [fractions(Counter(chemical_symbols[z] for z in c.atomic_numbers)) for c in crystals]
