"""Uniqueness and novelty as columns: against each reference, and against all of them joined.

``novel_REFERENCE`` is the ordered one, ``novel_disordered_REFERENCE`` that where like elements may
stand for each other (`disordered`); ``novel`` and ``novel_disordered`` hold for no reference. What
is "unique and novel" is so against all: a training set outside the first reference cannot help.

Shapes: ``C`` crystals.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from chemeleon.evaluation.collection import Collection
from chemeleon.evaluation.matching.disordered import find_alike
from chemeleon.evaluation.matching.grouping import (
    composition_keys,
    find_groups,
    find_known,
    prepare,
    shared,
)
from chemeleon.evaluation.matching.pairs import TOLERANCES
from chemeleon.evaluation.metrics.base import Column, Figure, Metric, Options, View
from chemeleon.evaluation.reference import DISORDERED, NOVEL, column_word, novel_column


class Novelty(Metric):
    """Share of crystals that are the first of those that match each other, that match none of a
    reference, and both; of relaxed and idealised ones too, found anew."""

    name = group = "novelty"
    needs = ("unique",)
    binned = True

    def known(self, names: Iterable[str]) -> Iterator[Column]:
        yield Column("unique", "Unique", kind="flag", shown=True)
        for name in names:
            if name.startswith(NOVEL):
                of = name.removeprefix(f"{NOVEL}_")
                label = f"Novel: {of}" if name != of else "Novel"
                shown = not name.startswith(DISORDERED)
                yield Column(name, label, kind="flag", shown=shown)
        yield Column("group", "Group")
        yield Column("timed_out_pairs", "Pairs timed out")

    def columns(self, crystals: Collection, options: Options) -> Mapping[str, Any]:
        """Return uniqueness and novelty: ``unique``, ``group``, ``novel...``, ``timed_out_pairs``.

        Crystals that have no relaxed form, in that state, are neither unique nor novel.
        """
        settings, given = options.settings, crystals.crystals
        tolerances = TOLERANCES[settings.matcher]
        common: dict[str, Any] = {"seconds": settings.seconds_per_pair, "workers": settings.jobs}
        common["progress"] = options.progress
        if options.indexed is not None and options.indexed.collection is crystals:
            prepared = options.indexed.prepared
        else:
            # who is alone with its composition needs no reduction
            keys = composition_keys(given)
            wanted = shared(keys, [set(r.prepared.keys) for r in options.references])
            prepared = prepare(given, wanted, **common)
        groups = find_groups(prepared, tolerances, **common)
        undecided = groups.undecided.copy()
        ordered, disordered = {}, {}
        for reference in options.references:
            known = find_known(prepared, reference.prepared, tolerances, **common)
            new = (known.match < 0) & (given.num_atoms > 0)
            other = find_alike(
                given, prepared.keys, new, reference.collection.crystals, reference.prepared.keys,
                tolerances, **common,
            )  # fmt: skip
            ordered[novel_column(reference.name)] = new
            disordered[novel_column(reference.name, DISORDERED)] = new & (other.match < 0)
            undecided += known.undecided + other.undecided
        columns: dict[str, Any] = {"unique": groups.unique, "group": groups.group}
        columns |= ordered | disordered
        if options.references:
            columns[NOVEL] = np.logical_and.reduce(list(ordered.values()))
            columns[DISORDERED] = np.logical_and.reduce(list(disordered.values()))
        columns["timed_out_pairs"] = undecided
        why = [reason and f"not compared: {reason}" for reason in prepared.reasons]
        return columns | {"reason": why}

    def figures(self, crystals: View, options: Options) -> Iterator[Figure]:
        unique = crystals.flags("unique")
        names = [column_word(reference.name) for reference in options.references]
        if not crystals.prefix:
            yield Figure("unique", "Unique", flag=unique)
            for kind, word in ((NOVEL, "Novel"), (DISORDERED, "Novel, disordered")):
                columns = {f"{kind}_{name}": name for name in names}
                if len(options.references) > 1 and kind in crystals:
                    columns[kind] = " + ".join(names)
                for column, of in columns.items():
                    yield Figure(column, f"{word}: {of}", flag=crystals.flags(column))
        if NOVEL not in crystals:
            return
        new, of = unique & crystals.flags(NOVEL), against(options)
        yield Figure("unique_novel", "Unique and novel", of, crystals.state, new)
        if not crystals.prefix:
            valid = crystals.flags("valid_structure") & crystals.flags("valid_composition")
            yield Figure("valid_unique_novel", "Valid, unique and novel", of, flag=valid & new)


def against(options: Options) -> str:
    """Return the words behind what is unique and novel, SUN and MSUN: against which sets."""
    return ": " + " + ".join(column_word(reference.name) for reference in options.references)
