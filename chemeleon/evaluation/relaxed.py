"""Relaxed crystals, judged as the raw ones are: symmetry, size, uniqueness, novelty."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from chemeleon.evaluation._match_worker import Tolerances
from chemeleon.evaluation.collection import Progress, read_collection
from chemeleon.evaluation.grouping import composition_keys, find_groups, find_known, prepare, shared
from chemeleon.evaluation.reference import Reference
from chemeleon.evaluation.table import novel_column

if TYPE_CHECKING:
    import pandas
    from pymatgen.core import Structure

_WORDS = ("space_group_symbol", "crystal_system")
_NUMBERS = ("space_group", "density_g_cm3", "volume_per_atom_a3")


def add_relaxed(
    table: pandas.DataFrame,
    relaxed: Sequence[Structure | None],
    references: Sequence[Reference],
    tolerances: Tolerances,
    *,
    seconds: float,
    workers: int | None,
    progress: Progress | None = None,
) -> None:
    """Add columns ``relaxed_...``; crystals that were not relaxed are neither unique nor novel.

    Args:
        table: of `energies.add_energies`, changed in place.
        relaxed: its relaxed crystals.
        references: sets to be novel against.
        tolerances: ltol, stol, angle_tol in degrees.
        seconds: limit per pair.
        workers: processes; all cores if None.
        progress: called with a word and the share done.
    """
    common: dict[str, Any] = {"workers": workers, "progress": progress}
    collection = read_collection(relaxed, **common)
    for name in _NUMBERS:
        table[f"relaxed_{name}"] = collection.column(name)
    table["relaxed_space_group"] = table["relaxed_space_group"].astype("Int64")
    for name in _WORDS:
        table[f"relaxed_{name}"] = [word or None for word in collection.text(name)]
    keys = composition_keys(collection.crystals)
    wanted = shared(keys, [set(r.prepared.keys) for r in references])
    common["seconds"] = seconds
    prepared = prepare(collection.crystals, wanted, **common)
    groups = find_groups(prepared, tolerances, **common)
    table["relaxed_unique"], table["relaxed_group"] = groups.unique, groups.group
    undecided = groups.undecided
    for reference in references:
        known = find_known(prepared, reference.prepared, tolerances, **common)
        readable = collection.crystals.counts > 0
        table[f"relaxed_{novel_column(reference.name)}"] = (known.match < 0) & readable
        undecided = undecided + known.undecided
    table["relaxed_timed_out_pairs"] = undecided
