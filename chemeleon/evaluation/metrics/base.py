"""The shape of a metric: columns of each crystal, and figures of a set of them.

Ours, the control row and crystals after relaxation go through the same code: a metric sees a set
(`Collection`) or what is known of one (`View`), never which of them it is.

Shapes: ``C`` crystals.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from chemeleon.evaluation.collection import Collection
from chemeleon.evaluation.metrics.sections import Shown
from chemeleon.evaluation.metrics.statistics import share
from chemeleon.evaluation.settings import Settings
from chemeleon.evaluation.work import Progress

if TYPE_CHECKING:
    import pandas

    from chemeleon.evaluation.reference import Reference

# what a crystal went through: prefix of its columns and figures, word in labels
STATES = {"": "", "relaxed_": " (relaxed)", "idealised_": " (idealised)"}
# which figures stand together, and how their groups are headed
GROUPS = {
    "csp": "Structure prediction",
    "validity": "Validity",
    "novelty": "Uniqueness and novelty",
    "energy": "Energy, as given",
    "relaxed": "Relaxed",
    "idealised": "Idealised",
    "symmetry": "Symmetry",
    "property": "Properties",
    "supply": "Elements",
    "distance": "Distance to the reference",
}


class Column(NamedTuple):
    """One column of the per-crystal table, as a report shows it.

    Attributes:
        key: name in the table.
        label: for people.
        unit: of its numbers.
        kind: text, number or flag.
        digits: decimals.
        shown: from the start; the others can be switched on.
        histogram: title of its distribution beside that of the reference; none if empty.
        ordered: numbers that have distances, and are no names.
    """

    key: str
    label: str
    unit: str = ""
    kind: str = "number"
    digits: int = 0
    shown: bool = False
    histogram: str = ""
    ordered: bool = True


@dataclass(frozen=True)
class Figure:
    """One row of the headline: a share, by the crystals that have a property, or a value.

    Attributes:
        name: key, without the prefix of a state.
        label: for people, without the word of a state.
        tail: what of it comes behind that word.
        group: one of `GROUPS`; by default its metric's.
        flag: bool of a share, one for each crystal that it is of.
        value: of what is no share; NaN where there is none.
        unit: of the value.
    """

    name: str
    label: str
    tail: str = ""
    group: str = ""
    flag: NDArray[np.bool_] | None = None
    value: float = math.nan
    unit: str = ""

    @property
    def number(self) -> float:
        """The share, NaN of no crystals, or the value."""
        if self.flag is None:
            return self.value
        return float(np.mean(self.flag)) if len(self.flag) else math.nan

    @property
    def share(self) -> dict[str, Any]:
        """The share as JSON, with its interval."""
        assert self.flag is not None
        return share(int(self.flag.sum()), len(self.flag))


@dataclass(frozen=True)
class Options:
    """What a run was asked for beyond its crystals, and what they are held against.

    Attributes:
        settings: how to judge.
        references: sets to be novel against.
        control: the set of the control row.
        indexed: the set that is judged, if it is a reference itself, with what is known of it.
        targets: crystals that samples should meet.
        base: crystals of the model before fine-tuning.
        progress: called with a word and the share done.
    """

    settings: Settings = field(default_factory=Settings)
    references: Sequence[Reference] = ()
    control: Reference | None = None
    indexed: Reference | None = None
    targets: Collection | None = None
    base: Collection | None = None
    progress: Progress | None = None

    @property
    def compared(self) -> Reference | None:
        """The set that distances are to."""
        return self.control or next(iter(self.references), None)


@dataclass(frozen=True)
class View:
    """What is known of crystals in one state.

    Attributes:
        table: one row per crystal, with the columns of all states.
        prefix: of the state, one of `STATES`.
        crystals: as given.
        vectors: name of a metric to its `Metric.vectors`.
    """

    table: pandas.DataFrame
    prefix: str = ""
    crystals: Collection | None = None
    vectors: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)

    def __contains__(self, name: object) -> bool:
        return f"{self.prefix}{name}" in self.table

    def __len__(self) -> int:
        return len(self.table)

    @property
    def state(self) -> str:
        """Name of the state, empty for crystals as given."""
        return self.prefix.rstrip("_")

    def names(self, begin: str) -> list[str]:
        """Return what follows in the columns that begin so."""
        begin = self.prefix + begin
        return [n.removeprefix(begin) for n in map(str, self.table) if n.startswith(begin)]

    def numbers(self, name: str) -> NDArray[np.float64]:
        """Return a column of numbers, ``(C,)``, NaN where there is none."""
        return self.table[self.prefix + name].to_numpy(dtype=float, na_value=np.nan)

    def flags(self, name: str) -> NDArray[np.bool_]:
        """Return a column of flags, ``(C,)``."""
        return self.table[self.prefix + name].to_numpy(dtype=bool)

    def words(self, name: str) -> list[str]:
        """Return a column of text, ``C`` words, empty where there is none."""
        return [word if isinstance(word, str) else "" for word in self.table[self.prefix + name]]

    def part(self, rows: NDArray[np.int64]) -> View:
        """Return the same of some crystals."""
        crystals = self.crystals and self.crystals.take(rows, 0)
        vectors = {name: values[rows] for name, values in self.vectors.items()}
        return View(self.table.iloc[rows], self.prefix, crystals, vectors)


class Metric:
    """What is said of crystals one by one and of a set of them.

    A metric is one file with one of these, and one line in `metrics.METRICS`. It overrides what it
    has.
    """

    name: ClassVar[str]
    group: ClassVar[str] = ""  # of its figures, one of `GROUPS`
    basis: ClassVar[str] = ""  # what they rest on, a sentence
    needs: ClassVar[tuple[str, ...]] = ()  # columns without which there are no figures
    as_given: ClassVar[bool] = False  # said of crystals as they are given, in no other state
    of_energies: ClassVar[bool] = False  # in the control row, of the crystals that get energies
    binned: ClassVar[bool] = False  # its figures are also found by size
    shown: ClassVar[tuple[Column, ...]] = ()  # of its columns, what the report's table can show

    def known(self, names: Iterable[str]) -> Iterable[Column]:
        """Return `shown`, or the like for columns that are named as the run has it.

        Args:
            names: columns of the per-crystal table.
        """
        return self.shown

    def columns(self, crystals: Collection, options: Options) -> Mapping[str, Any]:
        """Return columns of the per-crystal table, ``C`` values each; None, NaN or False where
        nothing is known. Of ``reason``, what is wrong with each crystal, the first is kept."""
        return {}

    def vectors(self, crystals: View, options: Options) -> NDArray[np.float64] | None:
        """Return what distances between sets need and is slow to find, ``(C, F)``, or None."""
        return None

    def figures(self, crystals: View, options: Options) -> Iterable[Figure]:
        """Return figures of a set."""
        return ()

    def distances(self, crystals: View, control: View, options: Options) -> Iterable[Figure]:
        """Return figures of a set beside the control set."""
        return ()

    def facts(
        self,
        crystals: View,
        control: View | None,
        options: Options,
        headline: Mapping[str, Mapping[str, Any]],
    ) -> Mapping[str, Any]:
        """Return what else the summary holds, as JSON by its keys.

        Args:
            crystals: the set.
            control: the one that it is compared with.
            options: of the run.
            headline: figures of the set by name, with those of the control.
        """
        return {}

    def entries(self, summary: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
        """Return rows that stand in tables as those of the headline do, made of `facts`."""
        return ()

    def sections(self, summary: Mapping[str, Any]) -> Iterable[Shown]:
        """Return sections of the report, made of `facts`; those without parts are left out."""
        return ()


def start_table(crystals: Collection) -> pandas.DataFrame:
    """Return the per-crystal table before anything is found: a row for each that was requested."""
    import pandas

    readable = crystals.crystals.num_atoms > 0
    return pandas.DataFrame(
        {
            "id": crystals.ids,
            "source": crystals.sources,
            "status": np.where(readable, "ok", "failed"),
            "reason": crystals.reasons,
        }
    )


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
        if not (prefix and metric.as_given):
            for name, values in metric.columns(crystals, options).items():
                if name != "reason":
                    table[prefix + name] = values
                elif not prefix:
                    add_reasons(table, values)


def add_reasons(table: pandas.DataFrame, why: Sequence[str | None]) -> None:
    """Say what is wrong with crystals of which nothing is said yet."""
    said = [word if isinstance(word, str) else None for word in table["reason"]]
    table["reason"] = [first or second for first, second in zip(said, why, strict=True)]


def add_vectors(crystals: View, metrics: Iterable[Metric], options: Options) -> View:
    """Return crystals with what distances between sets need."""
    found = {metric.name: metric.vectors(crystals, options) for metric in metrics}
    vectors = {name: values for name, values in found.items() if values is not None}
    return replace(crystals, vectors=vectors)


def find_figures(
    crystals: View,
    metrics: Sequence[Metric],
    control: View | None,
    options: Options,
    with_energies: NDArray[np.int64] | None = None,
) -> Iterator[Figure]:
    """Yield the figures of crystals in all their states, under the names of the headline.

    Args:
        crystals: one row per crystal.
        metrics: which.
        control: the same of real crystals, as they are given, for distances.
        options: of the run.
        with_energies: of which of the crystals figures are that need energies, as those of other
            states do; of all by default.
    """
    few = crystals if with_energies is None else crystals.part(with_energies)
    for metric in metrics:
        for prefix, word in STATES.items():
            if prefix and (metric.as_given or f"{prefix}space_group" not in crystals.table):
                continue
            view = replace(few if prefix or metric.of_energies else crystals, prefix=prefix)
            if not all(name in view for name in metric.needs):
                continue
            found = list(metric.figures(view, options))
            if control is not None:
                found += metric.distances(view, control, options)
            for figure in found:
                label = f"{figure.label}{word}{figure.tail}"
                group = figure.group or metric.group
                yield replace(figure, name=prefix + figure.name, label=label, group=group)
