"""The judge: crystals in, a report out. The protocol is that of ``docs/evaluate.md``."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chemeleon.crystals.batch import Array, Crystals
from chemeleon.data.named import find_set, split_name
from chemeleon.errors import ChemeleonError, ConfigError
from chemeleon.evaluation.collection import Collection, Structures, read_collection
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
from chemeleon.evaluation.metrics.states import add_energies, add_idealised, load_judge
from chemeleon.evaluation.metrics.statistics import evenly
from chemeleon.evaluation.reference import DISORDERED, NOVEL, load_reference
from chemeleon.evaluation.report.basis import warnings
from chemeleon.evaluation.report.comparison import Comparison, set_names
from chemeleon.evaluation.report.data import Report
from chemeleon.evaluation.settings import Settings
from chemeleon.evaluation.summary import control_row, summarise
from chemeleon.evaluation.work import Progress

if TYPE_CHECKING:
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
    bench = _Bench(settings or Settings(), progress)
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
    bench = _Bench(settings or Settings(), progress)
    read = [bench.read(source) for source in sources]  # all, before the work on the first
    names = set_names(list(map(str, sources)))
    found = {}
    for name, source, collection in zip(names, sources, read, strict=True):
        bench.judged = f"{name}: "
        found[name] = bench.judge(collection, source)
    return Comparison(found)


class _Bench:
    """Whoever judges, and what is judged against: loaded once, for one set or several.

    Attributes:
        judged: which of several sets is judged, to be said before words of progress.
    """

    judged: str = ""

    def __init__(self, settings: Settings, progress: Progress | None) -> None:
        """Check settings, then load what they name; the references wait until they are needed.

        Raises:
            ChemeleonError: for settings that do not fit, or what cannot be read.
        """
        settings.check()
        self.settings, self.progress = settings, progress
        self.control_name = _control_name(settings)
        for name in (*settings.references, self.control_name, settings.targets, settings.base):
            if name is not None:
                find_set(name)  # before the work, in case one is missing
        if settings.coverage:
            coverage.check_installed()
        self.by = None
        if settings.potential != "none":
            self.by = load_judge(settings.potential, settings.hulls, settings.device)
        self.targets, self.base = map(self._read_named, (settings.targets, settings.base))
        if self.targets is not None:
            self.targets.check(settings.on_error, str(settings.targets))

    def tell(self, word: str, share: float) -> None:
        """Say the share done of what a word names, if anybody listens."""
        if self.progress is not None:
            self.progress(f"{self.judged}{word}", share)

    def _read_named(self, name: str | None) -> Collection | None:
        if name is None:
            return None
        found, workers = find_set(name), self.settings.jobs
        return read_collection(found.path, where=found.where, workers=workers, progress=self.tell)

    def read(
        self, source: str | Path | Sequence[Structure | None], ids: Sequence[str] | None = None
    ) -> Collection:
        """Read a set that is to be judged.

        Raises:
            DataError: if it cannot be read as a whole, or does not fit the targets.
        """
        given = Path(source) if isinstance(source, str | Path) else source
        workers = self.settings.jobs
        collection = read_collection(given, ids=ids, workers=workers, progress=self.tell)
        if self.targets is not None:
            assign(collection.ids, self.targets.ids)  # says now what it would say after the work
        return collection

    @functools.cached_property
    def options(self) -> Options:
        """What metrics are told of the run, with the sets that it names."""
        settings = self.settings
        limits: dict[str, Any] = {"seconds": settings.seconds_per_pair, "workers": settings.jobs}
        limits |= {"on_error": settings.on_error, "progress": self.tell}
        names = dict.fromkeys(filter(None, [*settings.references, self.control_name]))
        sets = {name: load_reference(name, **limits) for name in names}
        return Options(
            settings,
            references=[sets[name] for name in settings.references],
            control=sets.get(self.control_name or ""),
            targets=self.targets,
            base=self.base,
            progress=self.tell,
        )

    @functools.cached_property
    def ceiling(self) -> tuple[View | None, dict[str, float]]:
        """The set to compare with, and the control row's figures."""
        compared, control = self.options.compared, self.options.control
        if compared is None:
            return None, {}
        options, crystals = replace(self.options, indexed=compared), compared.collection
        if control is None:
            # enough of the first reference for distances to it
            table = start_table(crystals)
            beside = [m for m in METRICS if any(column.histogram for column in m.shown)]
            add_columns(table, beside, crystals, options)
            return add_vectors(View(table, crystals=crystals), METRICS, options), {}
        others = [r for r in options.references if r.fingerprint != control.fingerprint]
        options = replace(options, references=others)
        rows = evenly(len(crystals), self.settings.control_energies)
        view, _, _ = self._find(crystals, options, rows)
        row = control_row(view, rows, options)
        if others:  # of one reference, ours may have more
            row |= {name: float(view.flags(name).mean()) for name in (NOVEL, DISORDERED)}
        return view, row

    def judge(
        self, collection: Collection, source: object, manifest: Mapping[str, Any] | None = None
    ) -> Report:
        """Judge a set that was read; ``source`` is where from, for the manifest."""
        ours, states, done = self._find(collection, self.options)
        control, row = self.ceiling
        result: dict[str, Any] = {
            "manifest": describe_run(source, manifest or {}, ours.table, done, self.options),
            **summarise(ours, control, row, self.options),
        }
        result["warnings"] = warnings(result["manifest"], result["headline"])
        return Report(ours.table, result, *map(Structures, states))

    def _find(
        self, crystals: Collection, options: Options, rows: NDArray[np.int64] | None = None
    ) -> tuple[View, list[Crystals[Array]], dict[str, Any]]:
        """Find everything about crystals, ours and those of the control row alike.

        Args:
            crystals: a set.
            options: of the run, with what this set is held against.
            rows: those that get energies, all by default.

        Returns:
            What is known of them; those given, relaxed and, if so asked, idealised; and what the
            manifest should say of energies and of idealising.
        """
        table = start_table(crystals)
        add_columns(table, METRICS, crystals, options)
        given, settings = crystals.crystals, self.settings
        by = self.by if rows is None or len(rows) else None
        relaxed, done = add_energies(
            table, given, by, relax_steps=settings.relax_steps, rows=rows, progress=self.tell
        )

        def add_state(prefix: str, after: Crystals[Array]) -> None:
            read = read_collection(after, workers=settings.jobs, progress=self.tell)
            add_columns(table, METRICS, read, options, prefix)

        states = [given, relaxed]
        if by is not None and settings.relax_steps:
            add_state("relaxed_", relaxed)
        if (symprec := settings.tolerance) is not None:
            ideal, said = add_idealised(
                table, given, relaxed, by, symprec, rows=rows, workers=settings.jobs
            )
            done |= said
            add_state("idealised_", ideal)
            states.append(ideal)
        return add_vectors(View(table, crystals=crystals), METRICS, options), states, done


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
