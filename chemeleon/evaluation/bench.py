"""Whoever judges, with what is judged against: loaded once, for one set of crystals or several."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from chemeleon.data.named import NamedSet, find_set, split_name
from chemeleon.errors import ChemeleonError
from chemeleon.evaluation import summary as figures
from chemeleon.evaluation.collection import Collection, Progress, read_collection
from chemeleon.evaluation.manifest import manifest as describe_run
from chemeleon.evaluation.matching.grouping import Prepared
from chemeleon.evaluation.matching.pairs import TOLERANCES
from chemeleon.evaluation.metrics import METRICS, coverage, stability
from chemeleon.evaluation.metrics.base import STATES, Figure, Options, add_columns, find_figures
from chemeleon.evaluation.metrics.bins import bins
from chemeleon.evaluation.metrics.csp import assign, match_targets
from chemeleon.evaluation.metrics.energies import EnergyJudge, add_energies, load_judge, no_energies
from chemeleon.evaluation.metrics.idealised import add_idealised
from chemeleon.evaluation.metrics.novelty import DISORDERED, NOVEL, compare, novel_column
from chemeleon.evaluation.metrics.relaxed import add_relaxed
from chemeleon.evaluation.origin import sample_manifest, stated, told
from chemeleon.evaluation.reference import Reference, load_reference
from chemeleon.evaluation.report.basis import warnings
from chemeleon.evaluation.report.data import Report
from chemeleon.evaluation.settings import Settings
from chemeleon.evaluation.structures import Structures
from chemeleon.evaluation.table import build_table, check_structures, described

if TYPE_CHECKING:
    import pandas
    from pymatgen.core import Structure


@dataclass
class Bench:
    """Whoever judges, and what is judged against: loaded once, for one set or several.

    Attributes:
        settings: how.
        by: potential and hull.
        wanted: crystals that samples should meet.
        base: crystals of the model before fine-tuning.
        progress: called with a word and the share done.
    """

    settings: Settings
    by: EnergyJudge | None
    wanted: Collection | None
    base: Collection | None
    progress: Progress | None

    @classmethod
    def open(cls, settings: Settings, progress: Progress | None = None) -> Bench:
        """Check settings, then load what they name; the references wait until they are needed.

        Raises:
            ChemeleonError: for settings that do not fit, or what cannot be read.
        """
        settings.check()
        names = [*settings.references, _control_name(settings), settings.targets, settings.base]
        for name in filter(None, names):
            find_set(name)  # before the work, in case one is missing
        if settings.coverage:
            coverage.check_installed()
        by = None
        if settings.potential != "none":
            by = load_judge(settings.potential, settings.hulls, settings.device)
        common: dict[str, Any] = {"workers": settings.jobs, "progress": progress}
        wanted, base = (
            None if name is None else _read(find_set(name), common)
            for name in (settings.targets, settings.base)
        )
        if wanted is not None:
            wanted.check(settings.on_error, str(settings.targets))
        return cls(settings, by, wanted, base, progress)

    def read(
        self, source: str | Path | Sequence[Structure | None], ids: Sequence[str] | None = None
    ) -> Collection:
        """Read a set that is to be judged.

        Raises:
            DataError: if it cannot be read as a whole, or does not fit the targets.
        """
        given = Path(source) if isinstance(source, str | Path) else source
        common: dict[str, Any] = {"workers": self.settings.jobs, "progress": self.progress}
        collection = read_collection(given, ids=ids, **common)
        if self.wanted is not None:
            assign(collection.ids, self.wanted.ids)  # says now what it would say after the work
        return collection

    @functools.cached_property
    def sets(self) -> dict[str, Reference]:
        """References and control, by their names."""
        settings = self.settings
        names = dict.fromkeys(filter(None, [*settings.references, _control_name(settings)]))
        limits: dict[str, Any] = {"seconds": settings.seconds_per_pair, "workers": settings.jobs}
        limits |= {"on_error": settings.on_error, "progress": self.progress}
        return {name: load_reference(name, **limits) for name in names}

    @property
    def references(self) -> list[Reference]:
        """The sets to be novel against."""
        return [self.sets[name] for name in self.settings.references]

    @property
    def control(self) -> Reference | None:
        """The set of the control row."""
        return self.sets.get(_control_name(self.settings) or "")

    @functools.cached_property
    def ceiling(self) -> Ceiling:
        """The set to compare with, and the control row's figures."""
        return _control(self.control, self.references, self.settings, self.by, self.progress)

    def judge(
        self, collection: Collection, source: object, manifest: Mapping[str, Any] | None = None
    ) -> Report:
        """Judge a set that was read; ``source`` is where from, for the manifest."""
        settings, progress = self.settings, self.progress
        references, control = self.references, self.control
        ours = _judge(collection, None, references, settings, self.by, None, progress)
        against, beside, row = self.ceiling
        distances = {} if against is None else figures.set_distances(ours.side, against)
        result: dict[str, Any] = {
            "manifest": {
                **stated(manifest or {}),
                **describe_run(
                    source, collection, ours.table, settings.matcher, settings.seconds_per_pair,
                    references, control,
                ),
                **ours.told,
                **_wanted(settings),
                **_origin(source),
            },
            "headline": [],
            "distributions": figures.distributions(ours.side, against),
            "elements": {
                "sample": ours.side.elements,
                "reference": {} if against is None else against.elements,
            },
            "space_groups": {
                "sample": ours.side.space_groups,
                "reference": {} if against is None else against.space_groups,
            },
            "bins": bins(ours.table, METRICS, beside, settings.options),
        }  # fmt: skip
        if self.by is not None:
            result["energies"] = stability.energy_states(ours.table)
        shares = []
        if settings.coverage:
            covered = _coverage(collection, ours.table, control, references, settings, progress)
            row = row | covered.pop("control")
            result["coverage"], shares = covered, coverage.entries(covered)
        means = stability.energy_means(ours.table)
        found = find_figures(ours.table, METRICS, beside, settings.options)
        result["headline"] = figures.headline(ours.table, found, shares, means | distances, row)
        result["warnings"] = warnings(result["manifest"], result["headline"])
        novel = novel_column(settings.references[0]) if settings.references else None
        result["repetition"] = figures.repetition(ours.table, ours.side, self.base, novel)
        if self.wanted is not None:
            result["csp"] = match_targets(
                collection, self.wanted, jobs=settings.jobs, seconds=settings.seconds_per_pair
            )
        return Report(ours.table, result, ours.structures, ours.relaxed, ours.ideal)


def _read(named: NamedSet, common: dict[str, Any]) -> Collection:
    return read_collection(named.path, where=named.where, **common)


class Ceiling(NamedTuple):
    """The set to compare with, as a side and as rows, and the control row's figures."""

    side: figures.Side | None
    table: pandas.DataFrame | None
    row: dict[str, float]


class _Judged(NamedTuple):
    """A set of crystals that went through everything."""

    table: pandas.DataFrame
    side: figures.Side
    structures: Structures
    relaxed: Structures
    ideal: Structures | None
    told: dict[str, Any]


def _judge(
    collection: Collection,
    prepared: Prepared | None,
    references: Sequence[Reference],
    settings: Settings,
    by: EnergyJudge | None,
    rows: NDArray[np.int64] | None,
    progress: Progress | None,
) -> _Judged:
    """Judge crystals, ours and those of the control row alike; ``rows`` get energies."""
    tolerances = TOLERANCES[settings.matcher]
    common: dict[str, Any] = {
        "seconds": settings.seconds_per_pair,
        "workers": settings.jobs,
        "progress": progress,
    }
    soundness = check_structures(collection.crystals)
    compared = compare(collection.crystals, prepared, references, tolerances, **common)
    table = build_table(collection, soundness, compared)
    add_columns(table, METRICS, collection, settings.options)
    structures = Structures(collection.crystals)
    found = no_energies(len(table))
    steps = settings.relax_steps
    if by is not None:
        found = add_energies(table, structures, by, relax_steps=steps, rows=rows, progress=progress)
        if steps:
            options = settings.options
            add_relaxed(table, found.relaxed, references, tolerances, options, **common)
    told, ideal = found.told, None
    if (symprec := settings.tolerance) is not None:
        ideal, said = add_idealised(
            table, structures, found.relaxed, by, symprec, rows=rows,
            workers=settings.jobs,
        )  # fmt: skip
        told = told | said
        add_relaxed(
            table, ideal, references, tolerances, settings.options, prefix="idealised_", **common
        )
    side = figures.make_side(collection, soundness.shortest, table)
    return _Judged(table, side, structures, found.relaxed, ideal, told)


def _control_name(settings: Settings) -> str | None:
    """Return the set of the control row, if there is one."""
    if settings.control != "auto":
        return None if settings.control in (None, "none") else settings.control
    for name in settings.references:
        base, _ = split_name(name)
        if not Path(base).exists():
            test = f"{base.partition('/')[0]}/test"
            try:
                find_set(test)
            except ChemeleonError:
                return None
            return test
    return None


def _control(
    control: Reference | None,
    references: Sequence[Reference],
    settings: Settings,
    by: EnergyJudge | None,
    progress: Progress | None,
) -> Ceiling:
    if control is None and references:
        first = references[0].collection
        side = figures.make_side(first, check_structures(first.crystals).shortest)
        return Ceiling(side, described(first), {})
    if control is None:
        return Ceiling(None, None, {})
    others = [r for r in references if r.fingerprint != control.fingerprint]
    total = len(control.collection)
    wanted = min(total, settings.control_energies)
    rows = np.unique(np.linspace(0, total - 1, wanted).round().astype(np.int64))
    found = _judge(
        control.collection, control.prepared, others, settings, by if len(rows) else None, rows,
        progress,
    )  # fmt: skip
    row = {name: float(flag.mean()) for name, (_, flag) in figures.flags(found.table).items()}
    row |= {
        name: Figure(name, label, flag=flag[rows]).number
        for name, (label, flag) in stability.energy_flags(found.table).items()
    }
    row |= {name: value for name, (_, value) in stability.energy_means(found.table).items()}
    if others:  # of one reference, ours may have more
        row |= {name: float(found.table[name].to_numpy().mean()) for name in (NOVEL, DISORDERED)}
    row |= _metric_values(found.table, rows, settings.options)
    # the best that distances between sets can be: those of two halves of the control set
    halves = figures.halve(found.side)
    row |= {name: value for name, (_, value) in figures.set_distances(*halves).items()}
    return Ceiling(found.side, found.table, row)


def _metric_values(
    table: pandas.DataFrame, rows: NDArray[np.int64], options: Options
) -> dict[str, float]:
    """Return the figures of the control set: distances are those of its two halves."""
    value = {}
    for part in (table, table.iloc[rows]):  # crystals in other states are those with energies
        raw = part is table
        for figure in find_figures(part, METRICS, None, options):
            if raw or any(figure.name.startswith(state) for state in STATES if state):
                value[figure.name] = figure.number
    for figure in find_figures(table.iloc[::2], METRICS, table.iloc[1::2], options):
        value.setdefault(figure.name, figure.number)
    return value


def _coverage(
    collection: Collection,
    table: pandas.DataFrame,
    control: Reference | None,
    references: Sequence[Reference],
    settings: Settings,
    progress: Progress | None,
) -> dict[str, Any]:
    common: dict[str, Any] = {"workers": settings.jobs, "progress": progress}
    target = control or references[0]
    sound = table["valid_structure"].to_numpy()
    ours = coverage.fingerprints(collection.crystals, sound, **common)
    theirs = coverage.reference_fingerprints(target, **common)
    return coverage.coverage(ours, theirs, target.name, is_control=control is not None)


def _wanted(settings: Settings) -> dict[str, Any]:
    if not settings.wanted:
        return {}
    wanted = {name: asked._asdict() for name, asked in settings.wanted.items()}
    return {"properties": {"predictor": str(settings.predictor), "wanted": wanted}}


def _origin(given: object) -> dict[str, Any]:
    made = sample_manifest(Path(given)) if isinstance(given, str | Path) else None
    return {} if made is None else told(made)
