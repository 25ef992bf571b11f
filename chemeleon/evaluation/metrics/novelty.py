"""Uniqueness and novelty as columns: against each reference, and against all of them joined.

``novel_REFERENCE`` is the ordered one, ``novel_disordered_REFERENCE`` that where like elements may
stand for each other (`disordered`); ``novel`` and ``novel_disordered`` hold for no reference. What
is "unique and novel" is so against all: a training set outside the first reference cannot help.

Shapes: ``C`` crystals.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from chemeleon.crystals.batch import Array, Crystals
from chemeleon.evaluation.matching.disordered import find_alike
from chemeleon.evaluation.matching.grouping import (
    Prepared,
    composition_keys,
    find_groups,
    find_known,
    prepare,
    shared,
)
from chemeleon.evaluation.matching.pairs import Tolerances

if TYPE_CHECKING:
    import pandas

    from chemeleon.evaluation.reference import Reference

NOVEL, DISORDERED = "novel", "novel_disordered"


class Compared(NamedTuple):
    """Crystals beside each other and beside references.

    Attributes:
        columns: of the per-crystal table, ``C`` values each: ``unique``, ``group``, novelties, and
            ``timed_out_pairs``.
        reasons: why a crystal could not be compared, else None.
    """

    columns: dict[str, NDArray[Any]]
    reasons: list[str | None]


def column_word(name: str) -> str:
    """Return what stands for a name or path in columns."""
    return re.sub(r"\W+", "_", name).strip("_")


def novel_column(reference: str, kind: str = NOVEL) -> str:
    """Return the column of novelty against a reference set."""
    return f"{kind}_{column_word(reference)}"


def all_columns(references: Sequence[str]) -> list[str]:
    """Return the columns of novelty; two of one name cannot stand in one table."""
    names = [novel_column(name, kind) for kind in (NOVEL, DISORDERED) for name in references]
    return [*names, NOVEL, DISORDERED] if names else []


def compare(
    crystals: Crystals[Array],
    prepared: Prepared | None,
    references: Sequence[Reference],
    tolerances: Tolerances,
    **common: Any,
) -> Compared:
    """Find which crystals are unique and which are novel.

    Args:
        crystals: as given.
        prepared: the same as the matcher compares them, if they are prepared already.
        references: sets to be novel against.
        tolerances: ltol, stol, angle_tol in degrees.
        common: ``seconds``, ``workers`` and ``progress`` of `grouping.prepare`.
    """
    if prepared is None:
        # who is alone with its composition needs no reduction
        keys = composition_keys(crystals)
        wanted = shared(keys, [set(r.prepared.keys) for r in references])
        prepared = prepare(crystals, wanted, **common)
    groups = find_groups(prepared, tolerances, **common)
    readable, undecided = crystals.num_atoms > 0, groups.undecided.copy()
    ordered, disordered = {}, {}
    for reference in references:
        known = find_known(prepared, reference.prepared, tolerances, **common)
        new = (known.match < 0) & readable
        other = find_alike(
            crystals, prepared.keys, new, reference.collection.crystals, reference.prepared.keys,
            tolerances, **common,
        )  # fmt: skip
        ordered[novel_column(reference.name)] = new
        disordered[novel_column(reference.name, DISORDERED)] = new & (other.match < 0)
        undecided += known.undecided + other.undecided
    columns: dict[str, NDArray[Any]] = {"unique": groups.unique, "group": groups.group}
    columns |= ordered | disordered
    if references:
        columns[NOVEL] = np.logical_and.reduce(list(ordered.values()))
        columns[DISORDERED] = np.logical_and.reduce(list(disordered.values()))
    return Compared(columns | {"timed_out_pairs": undecided}, prepared.reasons)


def references_of(table: pandas.DataFrame, prefix: str = "") -> list[str]:
    """Return the references that crystals of a table are novel against, as columns name them."""
    begin = f"{prefix}{NOVEL}_"
    names = [name.removeprefix(begin) for name in table.columns if name.startswith(begin)]
    spread = DISORDERED.removeprefix(f"{NOVEL}_")
    told_twice = {spread, *(f"{spread}_{name}" for name in names)}
    return [name for name in names if name not in told_twice]


def novelty_flags(table: pandas.DataFrame) -> dict[str, tuple[str, NDArray[np.bool_]]]:
    """Return novelty as counted properties: name to (label, ``(C,)`` bool)."""
    found = {}
    names = references_of(table)
    for kind, word in ((NOVEL, "Novel"), (DISORDERED, "Novel, disordered")):
        columns = {f"{kind}_{name}": name for name in names}
        if len(names) > 1:
            columns[kind] = " + ".join(names)
        found |= {c: (f"{word}: {of}", table[c].to_numpy()) for c, of in columns.items()}
    return found


def against(table: pandas.DataFrame) -> str:
    """Return the words behind what is unique and novel, SUN and MSUN: against which sets."""
    return ": " + " + ".join(references_of(table))
