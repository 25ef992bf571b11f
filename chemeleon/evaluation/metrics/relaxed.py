"""Relaxed crystals, judged as the raw ones are: symmetry, size, uniqueness, novelty."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from chemeleon.evaluation.collection import Progress, read_collection
from chemeleon.evaluation.matching._match_worker import Tolerances
from chemeleon.evaluation.metrics import METRICS
from chemeleon.evaluation.metrics.base import Options, add_columns
from chemeleon.evaluation.metrics.novelty import compare
from chemeleon.evaluation.reference import Reference

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
    options: Options,
    *,
    seconds: float,
    workers: int | None,
    progress: Progress | None = None,
    prefix: str = "relaxed_",
) -> None:
    """Add columns ``relaxed_...``; crystals that were not relaxed are neither unique nor novel.

    Args:
        table: of `energies.add_energies`, changed in place.
        relaxed: its relaxed crystals.
        references: sets to be novel against.
        tolerances: ltol, stol, angle_tol in degrees.
        options: of the metrics.
        seconds: limit per pair.
        workers: processes; all cores if None.
        progress: called with a word and the share done.
        prefix: one of `metrics.base.STATES`, for crystals that went through something else.
    """
    common: dict[str, Any] = {"workers": workers, "progress": progress}
    collection = read_collection(relaxed, **common)
    for name in _NUMBERS:
        table[prefix + name] = collection.column(name)
    table[f"{prefix}space_group"] = table[f"{prefix}space_group"].astype("Int64")
    for name in _WORDS:
        table[prefix + name] = [word or None for word in collection.text(name)]
    add_columns(table, METRICS, collection, options, prefix)
    found = compare(collection.crystals, None, references, tolerances, seconds=seconds, **common)
    for name, values in found.columns.items():
        table[prefix + name] = values
