"""The per-crystal table of an evaluation: one row for each crystal that was asked for.

Shapes: ``C`` crystals.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from chemeleon.crystals.batch import FlatCrystals
from chemeleon.evaluation.collection import Collection
from chemeleon.evaluation.grouping import Groups, Novelty, Prepared
from chemeleon.evaluation.packed import Packed
from chemeleon.evaluation.validity import shortest_distances, structural_problems

if TYPE_CHECKING:
    import pandas

_CHUNK = 512


class Soundness(NamedTuple):
    """Structural checks, see `validity`.

    Attributes:
        problems: what is wrong with each crystal, or None; None too for those without atoms.
        shortest: ``(C,)`` shortest distances, angstrom; NaN without geometry.
    """

    problems: list[str | None]
    shortest: NDArray[np.float64]


def check_structures(crystals: Packed) -> Soundness:
    """Look for atoms too close, cells too flat and the like."""
    total = len(crystals.counts)
    problems: list[str | None] = [None] * total
    shortest = np.full(total, np.nan)
    rows = np.flatnonzero(crystals.counts)
    rows = rows[np.argsort(crystals.counts[rows], kind="stable")]  # like sizes: little padding
    for begin in range(0, len(rows), _CHUNK):
        part = rows[begin : begin + _CHUNK]
        flat = flat_crystals(crystals.take(part))
        shortest[part] = shortest_distances(flat).numpy()
        for row, problem in zip(part.tolist(), structural_problems(flat), strict=True):
            problems[row] = problem
    return Soundness(problems, shortest)


def flat_crystals(crystals: Packed) -> FlatCrystals:
    """Return tensors in float64."""
    return FlatCrystals(
        torch.from_numpy(crystals.numbers.astype(np.int64)),
        torch.from_numpy(crystals.frac),
        torch.from_numpy(crystals.lattice),
        torch.from_numpy(crystals.counts),
        {},
        [str(i) for i in range(len(crystals.counts))],
    )


def novel_column(reference: str) -> str:
    """Return the column of novelty against a reference set."""
    return "novel_" + re.sub(r"\W+", "_", reference).strip("_")


def build_table(
    collection: Collection,
    soundness: Soundness,
    prepared: Prepared,
    groups: Groups,
    novelty: Mapping[str, Novelty],
) -> pandas.DataFrame:
    """Put everything that is known into rows.

    Args:
        collection: the crystals.
        soundness: their structural checks.
        prepared: their reduction, for its reasons.
        groups: uniqueness.
        novelty: by the name of the reference.
    """
    import pandas

    readable = collection.crystals.counts > 0
    reasons = [
        read or problem or (f"not compared: {reduced}" if reduced else None)
        for read, problem, reduced in zip(
            collection.reasons, soundness.problems, prepared.reasons, strict=True
        )
    ]
    sound = np.array([problem is None for problem in soundness.problems], dtype=bool) & readable
    words = {name: [w or None for w in collection.text(name)] for name in _WORDS}
    undecided = groups.undecided.copy()
    for known in novelty.values():
        undecided += known.undecided
    numbers = {name: collection.column(name) for name in _NUMBERS}
    table = {
        "id": collection.ids,
        "source": collection.sources,
        "status": np.where(readable, "ok", "failed"),
        "reason": reasons,
        "formula": words["formula"],
        "reduced_formula": words["reduced_formula"],
        "num_atoms": numbers["num_atoms"],
        "num_elements": numbers["num_elements"],
        "space_group": numbers["space_group"],
        "space_group_symbol": words["space_group_symbol"],
        "crystal_system": words["crystal_system"],
        **{name: numbers[name] for name in _NUMBERS[3:]},
        "shortest_distance_a": soundness.shortest,
        "valid_structure": sound,
        "valid_composition": collection.column("valid_composition") == 1,
        "unique": groups.unique,
        "group": groups.group,
        **{novel_column(n): (known.match < 0) & readable for n, known in novelty.items()},
        "timed_out_pairs": undecided,
        "energy_ev_per_atom": np.nan,
        "e_above_hull_ev": np.nan,
        "hull_state": None,
    }
    frame = pandas.DataFrame(table)
    for name in ("num_atoms", "num_elements", "space_group"):
        frame[name] = frame[name].astype("Int64")
    return frame


_WORDS = ("formula", "reduced_formula", "space_group_symbol", "crystal_system")
_NUMBERS = (
    "num_atoms", "num_elements", "space_group", "density_g_cm3", "volume_per_atom_a3",
    "a", "b", "c", "alpha", "beta", "gamma",
)  # fmt: skip
