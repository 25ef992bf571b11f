"""How crystals are to be judged, checked before any work."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from chemeleon.config.requests import (
    MAX_CRYSTALS,
    MAX_JOBS,
    MAX_RELAX_STEPS,
    MAX_SECONDS,
    check_range,
)
from chemeleon.data.problems import OnError
from chemeleon.errors import ConfigError, nearest
from chemeleon.evaluation.idealise import asked_symprec
from chemeleon.evaluation.matching import TOLERANCES
from chemeleon.evaluation.metrics.base import Options, Predict, Wanted
from chemeleon.evaluation.novelty import all_columns


@dataclass(frozen=True)
class Settings:
    """How to judge.

    Attributes:
        references: sets to be novel against: data sets (their train split), ``NAME/SPLIT`` or
            paths, each with ``where EXPRESSION`` or without. "Unique and novel" is against all of
            them; the first is the training set of ``replay``.
        control: set that passes through the same code, and whose distributions are those to
            compare with; ``auto`` is the test split of the first reference that is a data set.
        matcher: named tolerances, see `matching.TOLERANCES`.
        targets: crystals that samples should meet (crystal structure prediction).
        base: crystals of the model before fine-tuning.
        potential: judge of energies, or ``none``.
        hull: what the energies are measured against: ``mp``, ``mp_all`` or a path, see
            ``energy.hull_sources``; of several a crystal's highest energy counts. By default
            ``mp`` where it takes the potential's energies, else none.
        relax_steps: most steps of relaxation.
        symmetrize: also idealise the relaxed crystals, or those given, see `idealise.idealise`.
        symprec: largest tolerance of that, angstrom; by default 0.3.
        device: torch's name, for energies.
        jobs: processes; all cores if None.
        seconds_per_pair: limit of one comparison; what has no verdict then is counted.
        coverage: also COV-R and COV-P, which take matminer and time.
        control_energies: crystals of the control set, evenly spread, that get energies.
        properties: name of a property to what is wanted of it.
        predictor: what predicts them, by name.
        predict: gives the properties of structures; see ``prediction.wanting``.
        on_error: how many rows of references, control and targets may be bad: ``few`` is 1 %.
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
    properties: Mapping[str, Wanted] = field(default_factory=dict)
    predictor: str | None = None
    predict: Predict | None = None
    on_error: OnError = "few"

    @property
    def options(self) -> Options:
        """What metrics are asked for."""
        return Options(self.properties, self.predict)

    @property
    def hulls(self) -> tuple[str, ...]:
        """The hulls that are named."""
        if self.hull is None or isinstance(self.hull, str | Path):
            return (str(self.hull),) if self.hull else ()
        return tuple(map(str, self.hull))

    @property
    def tolerance(self) -> float | None:
        """Largest tolerance of idealising, angstrom; None without it. Raises as `check` does."""
        return asked_symprec(self.symmetrize, self.symprec)

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
        asked_symprec(self.symmetrize, self.symprec)
        if self.coverage and not self.references and self.control in (None, "auto", "none"):
            raise ConfigError("coverage is of a set: name a --reference or a --control")
        if self.potential == "none" and (self.hulls or self.relax_steps):
            raise ConfigError("--hull and --relax need energies: name a --potential such as chgnet")
        if bool(self.properties) != (self.predict is not None):
            raise ConfigError("properties of crystals are predicted: name a --predictor")
        for name, (low, high, _) in self.properties.items():
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
