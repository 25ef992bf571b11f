"""The per-crystal table of an evaluation: one row for each crystal that was asked for.

Shapes: ``C`` crystals.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from chemeleon.crystals.batch import Array, Crystals
from chemeleon.crystals.soundness import by_size, of_each, shortest_distances, structural_problems
from chemeleon.evaluation.collection import Collection
from chemeleon.evaluation.metrics.novelty import Compared

if TYPE_CHECKING:
    import pandas


class Soundness(NamedTuple):
    """Structural checks, see `validity`.

    Attributes:
        problems: what is wrong with each crystal, or None; None too for those without atoms.
        shortest: ``(C,)`` shortest distances, angstrom; NaN without geometry.
    """

    problems: list[str | None]
    shortest: NDArray[np.float64]


def check_structures(crystals: Crystals[Array]) -> Soundness:
    """Look for atoms too close, cells too flat and the like."""
    problems: list[str | None] = [None] * len(crystals)
    for part, flat in by_size(crystals):
        for row, problem in zip(part.tolist(), structural_problems(flat), strict=True):
            problems[row] = problem
    return Soundness(problems, of_each(shortest_distances, crystals))


def described(collection: Collection) -> pandas.DataFrame:
    """Return what is said of crystals alone, one row each."""
    import pandas

    frame = pandas.DataFrame(
        {name: [w or None for w in collection.text(name)] for name in _WORDS}
        | {name: collection.column(name) for name in _NUMBERS}
    )
    for name in ("num_atoms", "num_elements", "space_group"):
        frame[name] = frame[name].astype("Int64")
    return frame


def build_table(
    collection: Collection,
    soundness: Soundness,
    compared: Compared,
) -> pandas.DataFrame:
    """Put everything that is known into rows.

    Args:
        collection: the crystals.
        soundness: their structural checks.
        compared: their uniqueness and novelty.
    """
    import pandas

    readable = collection.crystals.num_atoms > 0
    reasons = [
        read or problem or (f"not compared: {reduced}" if reduced else None)
        for read, problem, reduced in zip(
            collection.reasons, soundness.problems, compared.reasons, strict=True
        )
    ]
    sound = np.array([problem is None for problem in soundness.problems], dtype=bool) & readable
    said = described(collection)
    table = {
        "id": collection.ids,
        "source": collection.sources,
        "status": np.where(readable, "ok", "failed"),
        "reason": reasons,
        **{name: said[name] for name in _ORDER},
        "shortest_distance_a": soundness.shortest,
        "valid_structure": sound,
        "valid_composition": collection.column("valid_composition") == 1,
        **compared.columns,
        "energy_ev_per_atom": np.nan,
        "e_above_hull_ev": np.nan,
        "hull_state": None,
    }
    return pandas.DataFrame(table)


_WORDS = ("formula", "reduced_formula", "space_group_symbol", "crystal_system")
_NUMBERS = (
    "num_atoms", "num_elements", "space_group", "density_g_cm3", "volume_per_atom_a3",
    "a", "b", "c", "alpha", "beta", "gamma",
)  # fmt: skip
_ORDER = (
    *_WORDS[:2], *_NUMBERS[:3], *_WORDS[2:], *_NUMBERS[3:],
)  # fmt: skip
