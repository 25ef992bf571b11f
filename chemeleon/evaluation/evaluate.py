"""The judge: crystals in, a report out. The protocol is that of ``docs/evaluate.md``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from chemeleon.config.requests import (
    MAX_CRYSTALS,
    MAX_JOBS,
    MAX_RELAX_STEPS,
    MAX_SECONDS,
    check_range,
)
from chemeleon.data.named import NamedSet, find_set, split_name
from chemeleon.data.problems import OnError
from chemeleon.errors import ChemeleonError, ConfigError, nearest
from chemeleon.evaluation import coverage, stability
from chemeleon.evaluation import summary as figures
from chemeleon.evaluation.basis import warnings
from chemeleon.evaluation.collection import Collection, Progress, read_collection
from chemeleon.evaluation.csp import assign, match_targets
from chemeleon.evaluation.energies import EnergyJudge, add_energies, load_judge, no_energies
from chemeleon.evaluation.grouping import (
    Prepared,
    composition_keys,
    find_groups,
    find_known,
    prepare,
    shared,
)
from chemeleon.evaluation.manifest import manifest as describe_run
from chemeleon.evaluation.matching import TOLERANCES
from chemeleon.evaluation.origin import sample_manifest, told
from chemeleon.evaluation.reference import Reference, load_reference
from chemeleon.evaluation.relaxed import add_relaxed
from chemeleon.evaluation.report_data import PackedStructures, Report
from chemeleon.evaluation.table import build_table, check_structures, novel_column

if TYPE_CHECKING:
    import pandas
    from pymatgen.core import Structure


@dataclass(frozen=True)
class Settings:
    """How to judge.

    Attributes:
        references: sets to be novel against: data sets (their train split), ``NAME/SPLIT`` or
            paths, each with ``where EXPRESSION`` or without. The first is the training set for
            "unique and novel".
        control: set that passes through the same code, and whose distributions are those to
            compare with; ``auto`` is the test split of the first reference that is a data set.
        matcher: named tolerances, see `matching.TOLERANCES`.
        targets: crystals that samples should meet (crystal structure prediction).
        base: crystals of the model before fine-tuning.
        potential: judge of energies, or ``none``.
        hull: what the energies are measured against: ``mp``, ``mp_all`` or a path, see
            ``energy.hull_sources``; by default ``mp`` for CHGNet, else none.
        relax_steps: most steps of relaxation.
        device: torch's name, for energies.
        jobs: processes; all cores if None.
        seconds_per_pair: limit of one comparison; what has no verdict then is counted.
        coverage: also COV-R and COV-P, which take matminer and time.
        control_energies: crystals of the control set, evenly spread, that get energies.
        on_error: how many rows of references, control and targets may be bad: ``few`` is 1 %.
    """

    references: Sequence[str] = ()
    control: str | None = "auto"
    matcher: str = "pymatgen"
    targets: str | None = None
    base: str | None = None
    potential: str = "none"
    hull: str | None = None
    relax_steps: int = 0
    device: str | None = None
    jobs: int | None = None
    seconds_per_pair: float = 10.0
    coverage: bool = False
    control_energies: int = 1000
    on_error: OnError = "few"

    def check(self) -> None:
        """Raise ConfigError for what cannot be done."""
        if self.matcher not in TOLERANCES:
            raise ConfigError(
                f"unknown matcher '{self.matcher}'{nearest(self.matcher, TOLERANCES)};"
                f" known: {', '.join(TOLERANCES)}"
            )
        if not self.seconds_per_pair > 0:
            raise ConfigError(f"seconds_per_pair={self.seconds_per_pair} must be positive")
        check_range("seconds_per_pair", self.seconds_per_pair, 0, MAX_SECONDS)
        if self.jobs is not None:
            check_range("jobs", self.jobs, 1, MAX_JOBS)
        check_range("relax_steps", self.relax_steps, 0, MAX_RELAX_STEPS)
        check_range("control_energies", self.control_energies, 0, MAX_CRYSTALS)
        if self.coverage and not self.references and self.control in (None, "auto", "none"):
            raise ConfigError("coverage is of a set: name a --reference or a --control")
        if self.potential == "none" and (self.hull or self.relax_steps):
            raise ConfigError("--hull and --relax need energies: name a --potential such as chgnet")
        columns = [novel_column(name) for name in self.references]
        if len(set(columns)) < len(columns):
            raise ConfigError(f"references are named twice: {', '.join(self.references)}")


def evaluate(
    source: str | Path | Sequence[Structure | None],
    settings: Settings | None = None,
    *,
    ids: Sequence[str] | None = None,
    manifest: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Report:
    """Judge crystals; one row for each, whatever is wrong with it.

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
    settings = settings or Settings()
    settings.check()
    names = dict.fromkeys([*settings.references, *filter(None, [_control_name(settings)])])
    for name in filter(None, [*names, settings.targets, settings.base]):
        find_set(name)  # before the work, in case one is missing
    if settings.coverage:
        coverage.check_installed()
    by = None
    if settings.potential != "none":
        by = load_judge(settings.potential, settings.hull, settings.device)
    common: dict[str, Any] = {"workers": settings.jobs, "progress": progress}
    given = Path(source) if isinstance(source, str | Path) else source
    collection = read_collection(given, ids=ids, **common)
    wanted = None
    if settings.targets is not None:
        wanted = _read(find_set(settings.targets), common)
        wanted.check(settings.on_error, settings.targets)
        assign(collection.ids, wanted.ids)  # says now what it would say after the work
    limits: dict[str, Any] = {"seconds": settings.seconds_per_pair, "on_error": settings.on_error}
    sets = {n: load_reference(n, **limits, **common) for n in names}
    references = [sets[name] for name in settings.references]
    control = sets.get(_control_name(settings) or "")
    ours = _judge(collection, None, references, settings, by, None, progress)
    against, ceiling = _control(control, references, settings, by, progress)
    distances = {} if against is None else figures.set_distances(ours.side, against)
    result: dict[str, Any] = {
        "manifest": {
            **describe_run(
                source, collection, ours.table, settings.matcher, settings.seconds_per_pair,
                references, control,
            ),
            **ours.told,
            **_origin(given),
            **(manifest or {}),
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
        "bins": figures.bins(ours.table),
    }  # fmt: skip
    if by is not None:
        result["energies"] = stability.energy_states(ours.table)
    shares = []
    if settings.coverage:
        found = _coverage(collection, ours.table, control, references, settings, progress)
        ceiling |= found.pop("control")
        result["coverage"], shares = found, coverage.entries(found)
    means = stability.energy_means(ours.table)
    result["headline"] = figures.headline(ours.table, shares, means | distances, ceiling)
    result["warnings"] = warnings(result["manifest"], result["headline"])
    base = None
    if settings.base is not None:
        base = _read(find_set(settings.base), common)
    novel = novel_column(settings.references[0]) if settings.references else None
    result["repetition"] = figures.repetition(ours.table, ours.side, base, novel)
    if wanted is not None:
        result["csp"] = match_targets(
            collection, wanted, jobs=settings.jobs, seconds=settings.seconds_per_pair
        )
    return Report(ours.table, result, ours.structures, ours.relaxed)


def _read(named: NamedSet, common: dict[str, Any]) -> Collection:
    return read_collection(named.path, where=named.where, **common)


class _Judged(NamedTuple):
    """A set of crystals that went through everything."""

    table: pandas.DataFrame
    side: figures.Side
    structures: PackedStructures
    relaxed: PackedStructures
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
    if prepared is None:
        # who is alone with its composition needs no reduction
        keys = composition_keys(collection.crystals)
        wanted = shared(keys, [set(r.prepared.keys) for r in references])
        prepared = prepare(collection.crystals, wanted, **common)
    soundness = check_structures(collection.crystals)
    groups = find_groups(prepared, tolerances, **common)
    novelty = {r.name: find_known(prepared, r.prepared, tolerances, **common) for r in references}
    table = build_table(collection, soundness, prepared, groups, novelty)
    structures = PackedStructures(collection.crystals)
    found = no_energies(len(table))
    steps = settings.relax_steps
    if by is not None:
        found = add_energies(table, structures, by, relax_steps=steps, rows=rows, progress=progress)
        if steps:
            add_relaxed(table, found.relaxed, references, tolerances, **common)
    side = figures.make_side(collection, soundness.shortest, table)
    return _Judged(table, side, structures, found.relaxed, found.told)


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
) -> tuple[figures.Side | None, dict[str, float]]:
    """Return the set to compare distributions with, and the control row's figures."""
    if control is None and references:
        first = references[0].collection
        return figures.make_side(first, check_structures(first.crystals).shortest), {}
    if control is None:
        return None, {}
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
        name: float(flag[rows].mean())
        for name, (_, flag) in stability.energy_flags(found.table).items()
    }
    row |= {name: value for name, (_, value) in stability.energy_means(found.table).items()}
    # the best that distances between sets can be: those of two halves of the control set
    halves = figures.halve(found.side)
    row |= {name: value for name, (_, value) in figures.set_distances(*halves).items()}
    return found.side, row


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


def _origin(given: object) -> dict[str, Any]:
    made = sample_manifest(given) if isinstance(given, Path) else None
    return {} if made is None else told(made)
