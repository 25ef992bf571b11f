"""The judge: crystals in, a report out. The protocol is that of ``docs/evaluate.md``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from chemeleon.errors import ChemeleonError, ConfigError, nearest
from chemeleon.evaluation import summary as figures
from chemeleon.evaluation.collection import Collection, Progress, read_collection
from chemeleon.evaluation.csp import match_targets
from chemeleon.evaluation.describe import OXIDATION_STATES, SYMPREC_ANGSTROM
from chemeleon.evaluation.energies import EnergyJudge, add_energies, load_judge
from chemeleon.evaluation.grouping import (
    Prepared,
    composition_keys,
    find_groups,
    find_known,
    prepare,
    shared,
)
from chemeleon.evaluation.matching import TOLERANCES
from chemeleon.evaluation.origin import sample_manifest, told
from chemeleon.evaluation.reference import Reference, find_source, load_reference
from chemeleon.evaluation.report_data import PackedStructures, Report
from chemeleon.evaluation.statistics import MMD_LIMIT
from chemeleon.evaluation.table import build_table, check_structures, novel_column
from chemeleon.version import __version__

if TYPE_CHECKING:
    import pandas
    from pymatgen.core import Structure

_PACKAGES = ("pymatgen", "numpy", "scipy", "gemmi", "moyopy", "smact", "torch")


@dataclass(frozen=True)
class Settings:
    """How to judge.

    Attributes:
        references: sets to be novel against: data sets (their train split), ``NAME/SPLIT`` or
            paths. The first is the training set for "unique and novel".
        control: set that passes through the same code, and whose distributions are those to
            compare with; ``auto`` is the test split of the first reference that is a data set.
        matcher: named tolerances, see `matching.TOLERANCES`.
        targets: crystals that samples should meet (crystal structure prediction).
        base: crystals of the model before fine-tuning.
        potential: judge of energies, or ``none``.
        hull: file of ``chemeleon data hull``.
        relax_steps: most steps of relaxation.
        device: torch's name, for energies.
        jobs: processes; all cores if None.
        seconds_per_pair: limit of one comparison; what has no verdict then is counted.
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

    def check(self) -> None:
        """Raise ConfigError for what cannot be done."""
        if self.matcher not in TOLERANCES:
            raise ConfigError(
                f"unknown matcher '{self.matcher}'{nearest(self.matcher, TOLERANCES)};"
                f" known: {', '.join(TOLERANCES)}"
            )
        if not self.seconds_per_pair > 0 or (self.jobs is not None and self.jobs < 1):
            raise ConfigError(
                f"seconds_per_pair={self.seconds_per_pair} and jobs={self.jobs} must be positive"
            )
        if self.relax_steps < 0:
            raise ConfigError(f"relax_steps={self.relax_steps} must not be negative")
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
        find_source(name)  # before the work, in case one is missing
    energy_judge = None
    if settings.potential != "none":
        energy_judge = load_judge(settings.potential, settings.hull, settings.device)
    common: dict[str, Any] = {"workers": settings.jobs, "progress": progress}
    given = Path(source) if isinstance(source, str | Path) else source
    collection = read_collection(given, ids=ids, **common)
    sets = {n: load_reference(n, seconds=settings.seconds_per_pair, **common) for n in names}
    references = [sets[name] for name in settings.references]
    control = sets.get(_control_name(settings) or "")
    table, side = _judge(collection, None, references, settings, progress)
    structures = PackedStructures(collection.crystals)
    relaxed, energies = _energies(table, structures, energy_judge, settings, progress)
    against, ceiling = _control(control, references, settings, progress)
    distances = {} if against is None else figures.set_distances(side, against)
    result: dict[str, Any] = {
        "manifest": {
            **_manifest(source, collection, table, settings, references, control),
            **energies,
            **_origin(given),
            **(manifest or {}),
        },
        "headline": figures.headline(table, distances, ceiling),
        "distributions": figures.distributions(side, against),
        "elements": {
            "sample": side.elements,
            "reference": {} if against is None else against.elements,
        },
        "space_groups": {
            "sample": side.space_groups,
            "reference": {} if against is None else against.space_groups,
        },
        "bins": figures.bins(table),
    }
    base = None
    if settings.base is not None:
        other = read_collection(find_source(settings.base), **common)
        base = figures.make_side(other, check_structures(other.crystals).shortest)
    novel = novel_column(settings.references[0]) if settings.references else None
    result["repetition"] = figures.repetition(table, side, base, novel)
    if settings.targets is not None:
        wanted = read_collection(find_source(settings.targets), **common)
        result["csp"] = match_targets(
            collection, wanted, jobs=settings.jobs, seconds=settings.seconds_per_pair
        )
    return Report(table, result, structures, relaxed)


def _judge(
    collection: Collection,
    prepared: Prepared | None,
    references: Sequence[Reference],
    settings: Settings,
    progress: Progress | None,
) -> tuple[pandas.DataFrame, figures.Side]:
    """Return the table of a set of crystals, and what is compared between sets."""
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
    return table, figures.make_side(collection, soundness.shortest)


def _control_name(settings: Settings) -> str | None:
    """Return the set of the control row, if there is one."""
    if settings.control != "auto":
        return None if settings.control in (None, "none") else settings.control
    for name in settings.references:
        if not Path(name).exists():
            test = f"{name.partition('/')[0]}/test"
            try:
                find_source(test)
            except ChemeleonError:
                return None
            return test
    return None


def _control(
    control: Reference | None,
    references: Sequence[Reference],
    settings: Settings,
    progress: Progress | None,
) -> tuple[figures.Side | None, dict[str, float]]:
    """Return the set to compare distributions with, and the control row's figures."""
    if control is None and references:
        first = references[0].collection
        return figures.make_side(first, check_structures(first.crystals).shortest), {}
    if control is None:
        return None, {}
    others = [r for r in references if r.fingerprint != control.fingerprint]
    table, side = _judge(control.collection, control.prepared, others, settings, progress)
    row = {name: float(flag.mean()) for name, (_, flag) in figures.flags(table).items()}
    # the best that distances between sets can be: those of two halves of the control set
    halves = figures.halve(side)
    row |= {name: value for name, (_, value) in figures.set_distances(*halves).items()}
    return side, row


def _energies(
    table: pandas.DataFrame,
    structures: PackedStructures,
    by: EnergyJudge | None,
    settings: Settings,
    progress: Progress | None,
) -> tuple[Sequence[Structure | None], dict[str, Any]]:
    if by is None:
        return [None] * len(table), {"potential": None, "hull": None, "relax_steps": 0}
    steps = settings.relax_steps
    return add_energies(table, structures, by, relax_steps=steps, progress=progress)


def _manifest(
    source: object,
    collection: Collection,
    table: pandas.DataFrame,
    settings: Settings,
    references: Sequence[Reference],
    control: Reference | None,
) -> dict[str, Any]:
    ltol, stol, angle_tol = TOLERANCES[settings.matcher]
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "source": str(source) if isinstance(source, str | Path) else "structures in memory",
        "requested": len(collection),
        "parsed": _count(table["status"] == "ok"),
        "valid": _count(table["valid_structure"] & table["valid_composition"]),
        "matcher": {
            "name": settings.matcher, "ltol": ltol, "stol": stol, "angle_tol_degree": angle_tol,
            "seconds_per_pair": settings.seconds_per_pair,
            "timed_out_pairs": _count(table["timed_out_pairs"]),
        },
        "references": [_told(r) for r in references],
        "control": None if control is None else _told(control),
        "space_groups": {"by": "moyopy", "symprec_angstrom": SYMPREC_ANGSTROM},
        "composition_validity": {"by": "smact", "oxidation_states": OXIDATION_STATES},
        "mmd_crystals": MMD_LIMIT,
        "versions": {"chemeleon": __version__, **_versions()},
    }  # fmt: skip


def _origin(given: object) -> dict[str, Any]:
    made = sample_manifest(given) if isinstance(given, Path) else None
    return {} if made is None else told(made)


def _count(column: Any) -> int:
    return int(np.asarray(column).sum())


def _told(reference: Reference) -> dict[str, Any]:
    return {
        "name": reference.name,
        "source": reference.source,
        "sha256": reference.fingerprint,
        "crystals": reference.size,
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
