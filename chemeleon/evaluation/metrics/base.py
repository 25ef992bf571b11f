"""The shape of a metric: columns of each crystal, and figures of a set of them.

Ours, the control row and crystals after relaxation go through the same code: a metric sees a set
(`Collection`) or the columns of one (`View`), never which of them it is.

Shapes: ``C`` crystals.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from chemeleon.evaluation.collection import Collection
from chemeleon.evaluation.report.columns import Column

if TYPE_CHECKING:
    import pandas
    from pymatgen.core import Structure

# what a crystal went through: prefix of its columns and figures, word in labels
STATES = {"": "", "relaxed_": " (relaxed)", "idealised_": " (idealised)"}

Predict = Callable[[Sequence["Structure"]], Sequence[Mapping[str, float] | None]]


@dataclass(frozen=True)
class Figure:
    """One row of the headline: a share, by the crystals that have a property, or a value.

    Attributes:
        name: key, without the prefix of a state.
        label: for people, without the word of a state.
        group: rows of one group stand together, see `basis.GROUPS`; by default its metric's.
        flag: ``(C,)`` bool of a share.
        value: of what is no share; NaN where there is none.
        unit: of the value.
        binned: also found by size.
    """

    name: str
    label: str
    group: str = ""
    flag: NDArray[np.bool_] | None = None
    value: float = math.nan
    unit: str = ""
    binned: bool = False

    @property
    def number(self) -> float:
        """The share, NaN of no crystals, or the value."""
        if self.flag is None:
            return self.value
        return float(np.mean(self.flag)) if len(self.flag) else math.nan


class Wanted(NamedTuple):
    """From where to where a property is wanted, and its unit; a single value has equal ends."""

    low: float
    high: float
    unit: str = ""


@dataclass(frozen=True)
class Options:
    """What a run was asked for beyond its crystals.

    Attributes:
        properties: name of a property to what is wanted of it.
        predict: gives the properties of structures, None for one that it cannot take.
    """

    properties: Mapping[str, Wanted] = field(default_factory=dict)
    predict: Predict | None = None


class View(NamedTuple):
    """The columns of crystals in one state."""

    table: pandas.DataFrame
    prefix: str = ""

    def __contains__(self, name: object) -> bool:
        return f"{self.prefix}{name}" in self.table

    def __len__(self) -> int:
        return len(self.table)

    def numbers(self, name: str) -> NDArray[np.float64]:
        """Return a column of numbers, ``(C,)``, NaN where there is none."""
        return self.table[self.prefix + name].to_numpy(dtype=float, na_value=np.nan)

    def words(self, name: str) -> list[str]:
        """Return a column of text, ``C`` words, empty where there is none."""
        return [word if isinstance(word, str) else "" for word in self.table[self.prefix + name]]


class Metric:
    """What is said of crystals one by one and of a set of them.

    A metric is one file with one of these, and one line in `metrics.METRICS`. It overrides what it
    has.
    """

    name: ClassVar[str]
    group: ClassVar[str]  # of its figures, see `basis.GROUPS`
    basis: ClassVar[str]  # what they rest on, a sentence
    of_composition: ClassVar[bool] = False  # the same in every state: found once
    shown: ClassVar[tuple[Column, ...]] = ()  # of its columns, what the report's table can show

    def known(self, names: Iterable[str]) -> Iterable[Column]:
        """Return `shown`, or the like for columns that are named as the run has it.

        Args:
            names: columns of the per-crystal table.
        """
        return self.shown

    def columns(self, crystals: Collection, options: Options) -> Mapping[str, Any]:
        """Return columns of the per-crystal table, ``C`` values each; None, NaN or False where
        nothing is known."""
        return {}

    def figures(self, crystals: View, options: Options) -> Iterable[Figure]:
        """Return figures of a set."""
        return ()

    def distances(self, crystals: View, control: View) -> Iterable[Figure]:
        """Return figures of a set beside the control set."""
        return ()


def add_columns(
    table: pandas.DataFrame,
    metrics: Iterable[Metric],
    crystals: Collection,
    options: Options,
    prefix: str = "",
) -> None:
    """Add the columns of metrics to the per-crystal table, in place.

    Args:
        table: one row per crystal.
        metrics: which.
        crystals: as many.
        options: of the run.
        prefix: one of `STATES`.
    """
    for metric in metrics:
        if not (prefix and metric.of_composition):
            for name, values in metric.columns(crystals, options).items():
                table[prefix + name] = values


def states(table: pandas.DataFrame) -> list[str]:
    """Return the prefixes of the states that the crystals of a table are in."""
    return [prefix for prefix in STATES if f"{prefix}space_group" in table]


def find_figures(
    table: pandas.DataFrame,
    metrics: Sequence[Metric],
    control: pandas.DataFrame | None,
    options: Options,
) -> Iterator[Figure]:
    """Yield the figures of crystals in all their states, under the names of the headline.

    Args:
        table: one row per crystal.
        metrics: which.
        control: the same of real crystals, as they are given, for distances.
        options: of the run.
    """
    for metric in metrics:
        for prefix in [""] if metric.of_composition else states(table):
            view = View(table, prefix)
            found = list(metric.figures(view, options))
            if control is not None:
                found += metric.distances(view, View(control))
            for figure in found:
                label = figure.label + STATES[prefix]
                group = figure.group or metric.group
                yield replace(figure, name=prefix + figure.name, label=label, group=group)
