"""How crystals are to be evaluated, checked before any work."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from chemeleon.config.requests import (
    MAX_CRYSTALS,
    MAX_JOBS,
    MAX_RELAX_STEPS,
    MAX_SECONDS,
    check_range,
)
from chemeleon.data.problems import OnError
from chemeleon.errors import ConfigError, nearest

if TYPE_CHECKING:
    from pymatgen.core import Structure

Predict = Callable[[Sequence["Structure"]], Sequence[Mapping[str, float] | None]]

REPORT_PARTS = (
    "summary.json",
    "crystals.csv",
    "comparison.csv",
    "sets",
    "cif",
    "report.html",
    "figures",
    "relaxed.extxyz",
)


class Wanted(NamedTuple):
    """From where to where a property is wanted, and its unit; a single value has equal ends."""

    low: float
    high: float
    unit: str = ""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to evaluate crystals.

    Attributes:
        references: sets to be novel against: data sets (their train split), ``NAME/SPLIT`` or
            paths, each with ``where EXPRESSION`` or without. "Unique and novel" is against all of
            them; the first is the training set: its duplicates are ``memorisation``.
        control: set that passes through the same code, and whose distributions are those to
            compare with: a data set or path, auto (the test split of the first reference that is a
            data set) or none.
        matcher: named tolerances: pymatgen, cdvae or lemat; see `matching.TOLERANCES`.
        targets: crystals that samples should meet, for crystal structure prediction.
        base: crystals of the model before fine-tuning, to compare elements with.
        potential: judge of energies: chgnet, chgnet:0.2.0, mace, pkg:thing or another, or none; see
            `energy.potentials.load_potential`.
        hull: what the energies are measured against: ``mp``, ``mp_all``, or a file of ``chemeleon
            data hull``; of several a crystal's highest energy above hull counts, and SUN and MSUN
            are given for each. By default ``mp`` where it takes the energies, else none.
        relax_steps: most steps of relaxation; 0 is none.
        symmetrize: also idealise the relaxed crystals (or those given), and evaluate them again;
            see `idealise.idealise`.
        symprec: largest tolerance of that, angstrom; by default 0.3.
        device: torch's name, for energies, such as cpu or cuda; by default a GPU if there is one.
        jobs: processes; by default all cores.
        seconds_per_pair: limit of one comparison, in seconds of processor time; what has no verdict
            then is counted.
        coverage: also COV-R and COV-P, which take matminer and time.
        control_energies: crystals of the control set, evenly spread, that get energies too.
        properties: name of a property to the target interval, or to a target value.
        predictor: what predicts them: run or model folder, ``hub:NAME`` or ``shipped:NAME``.
        on_error: bad rows of references, control and targets: few (up to 1 % may be left out), skip
            (any number) or fail; those that are evaluated keep their rows.
        wanted: the properties with their units, which ``prediction.wanting`` sets.
        predict: gives the properties of structures; set by it, too.
    """

    references: Sequence[str] = ()
    control: str | None = "auto"
    matcher: str = "pymatgen"
    targets: str | None = None
    base: str | None = None
    potential: str = "none"
    hull: str | Path | Sequence[str | Path] | None = None
    relax_steps: int = 0
    symmetrize: bool = False
    symprec: float | None = None
    device: str | None = None
    jobs: int | None = None
    seconds_per_pair: float = 10.0
    coverage: bool = False
    control_energies: int = 1000
    properties: Mapping[str, float | tuple[float, float]] | None = None
    predictor: str | Path | None = None
    on_error: OnError = "few"
    wanted: Mapping[str, Wanted] = field(default_factory=dict)
    predict: Predict | None = None

    @property
    def hulls(self) -> tuple[str, ...]:
        """The hulls that are named."""
        if self.hull is None or isinstance(self.hull, str | Path):
            return (str(self.hull),) if self.hull else ()
        return tuple(map(str, self.hull))

    @property
    def tolerance(self) -> float | None:
        """Largest tolerance of idealising, angstrom; None without it. Raises as `check` does."""
        from chemeleon.evaluation.idealise import asked_symprec

        return asked_symprec(self.symmetrize, self.symprec)

    def check(self) -> None:
        """Raise ConfigError for what cannot be done."""
        from chemeleon.evaluation.matching.pairs import TOLERANCES
        from chemeleon.evaluation.reference import all_columns

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
        _ = self.tolerance
        no_control = self.control in (None, "none") or (
            self.control == "auto" and not self.references
        )
        if self.coverage and no_control and not self.references:
            raise ConfigError("coverage is of a set: name a --reference or a --control")
        if self.potential == "none" and (self.hulls or self.relax_steps):
            raise ConfigError("--hull and --relax need energies: name a --potential such as chgnet")
        if self.control_energies not in (0, type(self).control_energies):
            if self.potential == "none":
                raise ConfigError("control_energies needs energies: name a --potential like chgnet")
            if no_control:
                raise ConfigError("control_energies are of a control set: name a --control")
        if self.on_error != "few" and no_control and not (self.references or self.targets):
            raise ConfigError(
                "on_error is for rows of references, control and targets, none of which is named"
            )
        if bool(self.properties) != (self.predict is not None):
            raise ConfigError("properties of crystals are predicted: name a --predictor")
        for name, (low, high, _) in self.wanted.items():
            if not (math.isfinite(low) and math.isfinite(high) and low <= high):
                raise ConfigError(
                    f"property {name}: {low:g}..{high:g} is no interval, lower end first"
                )
        columns = all_columns(self.references)
        if len(set(columns)) < len(columns):
            raise ConfigError(
                "references are named twice, or like each other's columns: "
                + ", ".join(self.references)
            )


@dataclass(frozen=True, kw_only=True)
class WrittenSettings(Settings):
    """An evaluation that may be written.

    Attributes:
        output: folder to write to; nothing is written if None.
        overwrite: replace an earlier evaluation there.
        progress: called with a word and the share done of what it names.
    """

    output: str | Path | None = None
    overwrite: bool = False
    progress: Callable[[str, float], None] | None = None


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings(WrittenSettings):
    """What `evaluate` takes.

    Attributes:
        source: file or folder of crystals, or pymatgen structures (None: requested, not generated).
        ids: names of structures.
        manifest: what is known of the origin of the crystals.
    """

    source: str | Path | Sequence[Structure | None] = field(kw_only=False)
    ids: Sequence[str] | None = None
    manifest: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class CompareSettings(WrittenSettings):
    """What `compare` takes.

    Attributes:
        sources: files or folders of crystals. In the folder that is written, each has its own
            report in ``sets/NAME``, beside a table and a page of all.
    """

    sources: Sequence[str | Path] = field(kw_only=False)
