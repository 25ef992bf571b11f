"""Which of the crystals that were made and judged are kept, and what is said of them all.

Tables are crystals.csv of an evaluation, a row for each crystal that was requested.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chemeleon.evaluation.metrics.base import View
from chemeleon.evaluation.metrics.stability import ABOVE
from chemeleon.evaluation.metrics.statistics import finite, share
from chemeleon.evaluation.reference import DISORDERED, NOVEL, novel_column
from chemeleon.reinforcement.notes import drift

if TYPE_CHECKING:
    import pandas

VALID = ("valid_structure", "valid_composition")
Flags = NDArray[np.bool_]


def read_table(folder: Path) -> pandas.DataFrame:
    """Return the per-crystal table of an evaluation; flags are empty where there is no verdict."""
    import pandas

    return pandas.read_csv(folder / "crystals.csv", keep_default_na=False, na_values=[""])


def funnel(judged: pandas.DataFrame, highest: float, allow_p1: bool) -> dict[str, Flags]:
    """Return which rows pass each step of the choice and all those before it, as flags ``(C,)``.

    Args:
        judged: crystals that were evaluated with energies against all that they must not be in.
        highest: energy above hull, eV/atom.
        allow_p1: also take crystals of space group 1.
    """
    valid = _all(judged, VALID)
    unique = valid & _all(judged, ["unique"])
    # nor with like elements in the place of theirs
    novel = unique & _all(judged, [NOVEL, DISORDERED])
    near = novel & (numbers(judged, ABOVE) <= highest)
    good = near if allow_p1 else near & (numbers(judged, "space_group") > 1)
    return {"valid": valid, "unique": unique, "novel": novel, "near": near, "good": good}


def select(judged: pandas.DataFrame, good: Flags, sizes: Mapping[int, int]) -> pandas.DataFrame:
    """Return the rows to keep, in their order: of those with a number of elements no more than its
    share of the training set times all good ones, or models make ever more elements.

    Args:
        judged: all that were made.
        good: which passed all steps of `funnel`.
        sizes: how many training crystals have each number of elements.
    """
    rows = judged.loc[good]
    total = sum(sizes.values())
    most = {n: round(len(rows) * count / total) for n, count in sizes.items()}
    place = rows.groupby("num_elements").cumcount()
    return rows.loc[place < rows["num_elements"].map(most).fillna(0)]


def figures(
    judged: pandas.DataFrame,
    kept: pandas.DataFrame,
    apart: Sequence[str],
    elements: Mapping[str, int],
    steps: Mapping[str, Flags],
) -> dict[str, Any]:
    """Return what is said of the crystals of a round, as JSON.

    Args:
        judged: all that were made.
        kept: those that are kept.
        apart: names of the held-out sets.
        elements: how many training crystals hold each element.
        steps: of `funnel`.
    """
    held_out = steps["unique"] & known_to(judged, apart)
    return {
        "made": len(judged),
        **{name: share_of(rows) for name, rows in steps.items()},
        "held_out": int(held_out.sum()),
        "kept": len(kept),
        "e_above_hull_ev": _quartiles(numbers(judged, ABOVE)[steps["valid"]]),
        "kept_e_above_hull_ev": _quartiles(numbers(kept, ABOVE)),
        "p1": share_of(numbers(judged, "space_group") == 1),
        "element_drift": finite(drift(elements, held_by(judged))),
        "kept_element_drift": finite(drift(elements, held_by(kept))),
    }


def share_of(flags: Flags) -> dict[str, Any]:
    """Return the share of crystals with a flag ``(C,)`` as JSON, with its 95 % interval."""
    return share(int(flags.sum()), len(flags))


def known_to(judged: pandas.DataFrame, names: Sequence[str]) -> Flags:
    """Return which crystals match one of some sets, as flags ``(C,)``."""
    readable = (judged["status"] == "ok").to_numpy(bool)
    return readable & ~_all(judged, [novel_column(name) for name in names])


def numbers(judged: pandas.DataFrame, name: str) -> NDArray[np.float64]:
    """Return a column of numbers, ``(C,)``, NaN where there is none."""
    return View(judged).numbers(name)


def held_by(rows: pandas.DataFrame) -> Counter[str]:
    """Return how many crystals hold each element."""
    from pymatgen.core import Composition

    formulas = [text for text in rows["reduced_formula"] if isinstance(text, str) and text]
    return Counter(element.symbol for text in formulas for element in Composition(text))


def _all(judged: pandas.DataFrame, names: Sequence[str]) -> Flags:
    flags = (judged[[*names]] == True).to_numpy(bool)  # noqa: E712
    return np.logical_and.reduce(flags, axis=1)


def _quartiles(values: NDArray[np.float64]) -> dict[str, float]:
    found = values[np.isfinite(values)]
    cuts = {"lower": 0.25, "median": 0.5, "upper": 0.75} if len(found) else {}
    return {name: float(np.quantile(found, share)) for name, share in cuts.items()}
