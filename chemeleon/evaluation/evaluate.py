"""The judge: crystals in, a report out. The protocol is that of ``docs/evaluate.md``."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from chemeleon.data.named import NamedSet, find_set, split_name
from chemeleon.errors import ChemeleonError, ConfigError
from chemeleon.evaluation.collection import Collection, read_collection
from chemeleon.evaluation.manifest import manifest as describe_run
from chemeleon.evaluation.metrics import METRICS, coverage
from chemeleon.evaluation.metrics.base import (
    Options,
    View,
    add_columns,
    add_vectors,
    start_table,
)
from chemeleon.evaluation.metrics.csp import assign
from chemeleon.evaluation.metrics.states import (
    EnergyJudge,
    add_energies,
    add_idealised,
    load_judge,
)
from chemeleon.evaluation.metrics.statistics import evenly
from chemeleon.evaluation.origin import sample_manifest, stated, told
from chemeleon.evaluation.reference import DISORDERED, NOVEL, Reference, load_reference
from chemeleon.evaluation.report.basis import warnings
from chemeleon.evaluation.report.comparison import Comparison, set_names
from chemeleon.evaluation.report.data import Report
from chemeleon.evaluation.settings import Settings
from chemeleon.evaluation.structures import Structures
from chemeleon.evaluation.summary import control_row, summarise
from chemeleon.evaluation.work import Progress

if TYPE_CHECKING:
    import pandas
    from pymatgen.core import Structure


def evaluate(
    source: str | Path | Sequence[Structure | None],
    settings: Settings | None = None,
    *,
    ids: Sequence[str] | None = None,
    manifest: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Report:
    """Evaluate crystals; one row for each, whatever is wrong with it.

    Args:
        source: file or folder, see `data.sources`, or structures (None: asked for, not made).
        settings: how.
        ids: names of the structures.
        manifest: what is known of the origin of the crystals (model, sampler, seed).
        progress: called with a word and the share done.

    Raises:
        ConfigError: for settings that do not fit.
        DataError: if a source as a whole cannot be read.
    """
    bench = Bench.open(settings or Settings(), progress)
    return bench.judge(bench.read(source, ids), source, manifest)


def compare(
    sources: Sequence[str | Path],
    settings: Settings | None = None,
    *,
    progress: Progress | None = None,
) -> Comparison:
    """Judge several sets by the same potential, against the same references and control.

    Args:
        sources: files or folders, see `data.sources`.
        settings: how.
        progress: called with the set and a word, and the share done.

    Raises:
        ConfigError: for settings that do not fit.
        DataError: if a source as a whole cannot be read.
    """
    if isinstance(sources, str | Path) or not sources:
        raise ConfigError("a list of files or folders is compared, of one at least")
    bench = Bench.open(settings or Settings(), progress)
    read = [bench.read(source) for source in sources]  # all, before the work on the first
    names = set_names(list(map(str, sources)))
    found = {}
    for name, source, collection in zip(names, sources, read, strict=True):
        if progress is not None:
            bench.progress = lambda word, share, name=name: progress(f"{name}: {word}", share)
        found[name] = bench.judge(collection, source)
    return Comparison(found)


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

    @property
    def options(self) -> Options:
        """What metrics are told of the run."""
        return Options(
            self.settings,
            references=self.references,
            compared=self.control or next(iter(self.references), None),
            targets=self.wanted,
            base=self.base,
            energies=self.by is not None,
            progress=self.progress,
        )

    @functools.cached_property
    def ceiling(self) -> tuple[View | None, dict[str, float]]:
        """The set to compare with, and the control row's figures."""
        options, control = self.options, self.control
        if (compared := options.compared) is None:
            return None, {}
        options, crystals = replace(options, indexed=compared), compared.collection
        if control is None:
            # enough of the first reference for distances to it
            table = start_table(crystals)
            beside = [m for m in METRICS if any(column.histogram for column in m.shown)]
            add_columns(table, beside, crystals, options)
            return add_vectors(View(table, crystals=crystals), METRICS, options), {}
        others = [r for r in self.references if r.fingerprint != control.fingerprint]
        options = replace(options, references=others)
        rows = evenly(len(crystals), self.settings.control_energies)
        found = self._find(crystals, options, rows)
        row = control_row(found.view, rows, METRICS, options)
        if others:  # of one reference, ours may have more
            row |= {name: float(found.view.flags(name).mean()) for name in (NOVEL, DISORDERED)}
        return found.view, row

    def judge(
        self, collection: Collection, source: object, manifest: Mapping[str, Any] | None = None
    ) -> Report:
        """Judge a set that was read; ``source`` is where from, for the manifest."""
        settings = self.settings
        ours = self._find(collection, self.options)
        control, row = self.ceiling
        result: dict[str, Any] = {
            "manifest": {
                **stated(manifest or {}),
                **describe_run(
                    source, collection, ours.view.table, settings.matcher,
                    settings.seconds_per_pair, self.references, self.control,
                ),
                **ours.told,
                **_wanted(settings),
                **_origin(source),
            },
            **summarise(ours.view, control, row, METRICS, self.options),
        }  # fmt: skip
        result["warnings"] = warnings(result["manifest"], result["headline"])
        return Report(ours.view.table, result, ours.structures, ours.relaxed, ours.ideal)

    def _find(
        self, crystals: Collection, options: Options, rows: NDArray[np.int64] | None = None
    ) -> _Found:
        """Find everything about crystals, ours and those of the control row alike; ``rows`` get
        energies, all by default."""
        table = start_table(crystals)
        add_columns(table, METRICS, crystals, options)
        structures, settings = Structures(crystals.crystals), self.settings
        by = self.by if rows is None or len(rows) else None
        relaxed, told = add_energies(
            table, structures, by, relax_steps=settings.relax_steps, rows=rows,
            progress=self.progress,
        )  # fmt: skip
        if by is not None and settings.relax_steps:
            self._add_state(table, relaxed, options, "relaxed_")
        ideal = None
        if (symprec := settings.tolerance) is not None:
            ideal, said = add_idealised(
                table, structures, relaxed, by, symprec, rows=rows, workers=settings.jobs
            )
            told |= said
            self._add_state(table, ideal, options, "idealised_")
        view = add_vectors(View(table, crystals=crystals), METRICS, options)
        return _Found(view, structures, relaxed, ideal, told)

    def _add_state(
        self, table: pandas.DataFrame, crystals: Structures, options: Options, prefix: str
    ) -> None:
        """Add what metrics say of crystals in another state, None where there is none."""
        read = read_collection(crystals, workers=options.settings.jobs, progress=options.progress)
        add_columns(table, METRICS, read, options, prefix)


def _read(named: NamedSet, common: dict[str, Any]) -> Collection:
    return read_collection(named.path, where=named.where, **common)


class _Found(NamedTuple):
    """A set of crystals that went through everything."""

    view: View
    structures: Structures
    relaxed: Structures
    ideal: Structures | None
    told: dict[str, Any]


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


def _wanted(settings: Settings) -> dict[str, Any]:
    if not settings.wanted:
        return {}
    wanted = {name: asked._asdict() for name, asked in settings.wanted.items()}
    return {"properties": {"predictor": str(settings.predictor), "wanted": wanted}}


def _origin(given: object) -> dict[str, Any]:
    made = sample_manifest(Path(given)) if isinstance(given, str | Path) else None
    return {} if made is None else told(made)
