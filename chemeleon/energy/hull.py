"""Energy above the convex hull of known phases, with pymatgen's answers.

All energies here are formation energies in eV/atom; the elements lie at 0. Total energies of a
potential become formation energies by the hull's elemental references (`formation_energies`).

Shapes: ``M`` crystals asked about, ``K`` phases of a hull.
"""

from __future__ import annotations

import gzip
import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from chemeleon.config.plain_json import parse_json
from chemeleon.data.files import readable, unpacked
from chemeleon.energy.compositions import Fractions, fractions
from chemeleon.energy.hull_solver import Array, lowest_energy
from chemeleon.energy.scales import MP2020, OWN, RAW
from chemeleon.errors import ConfigError, DataError

if TYPE_CHECKING:
    from chemeleon.energy.compositions import Formula
    from chemeleon.energy.potential import Potential

FORMAT = "chemeleon hull 1"
# what values of other types than expected raise
ODD = (AttributeError, KeyError, OverflowError, TypeError, ValueError)
OK, NO_ENERGY, ELEMENT_MISSING = "ok", "no energy", "element missing"


class HullAnswer(NamedTuple):
    """Answers for ``M`` crystals.

    Attributes:
        e_above_hull_ev: ``(M,)`` float64, eV/atom; negative below the hull, NaN unless ``ok``.
        states: ``ok``; ``no energy`` if none was given; ``element missing`` if the hull does not
            know an element, so that stability cannot be judged.
        system_known: ``(M,)`` bool; False if no phase of the hull has all of the elements, so that
            only phases with fewer elements compete.
    """

    e_above_hull_ev: np.ndarray
    states: list[str]
    system_known: np.ndarray


class Hull:
    """The known phases, ready for questions.

    Args:
        phases: ``(K,)`` compositions.
        formation_ev: ``(K,)`` formation energies, eV/atom. Of equal compositions the lowest counts.
        references: total energy of each element, eV/atom, or None if it is not known. An element
            that is not named is missing: it cannot be judged.
        manifest: where it comes from, see `hull_tables`.
    """

    def __init__(
        self,
        phases: Sequence[Fractions],
        formation_ev: Sequence[float],
        references: dict[str, float | None],
        manifest: dict[str, Any],
    ) -> None:
        self.references = references
        self.manifest = manifest
        self.phases: dict[Fractions, float] = {}
        for parts, energy in zip(phases, formation_ev, strict=True):
            if energy < self.phases.get(parts, np.inf):
                self.phases[parts] = float(energy)
        self._by_system: dict[tuple[str, ...], list[Fractions]] = {}
        for parts in self.phases:
            self._by_system.setdefault(_system(parts), []).append(parts)
        self._arrays: dict[tuple[str, ...], tuple[Array, Array]] = {}
        self._energies: dict[Fractions, float] = {}

    def __len__(self) -> int:
        return len(self.phases)

    def above(self, formulas: Sequence[Formula], formation_ev: Sequence[float]) -> HullAnswer:
        """Return energies above the hull.

        Args:
            formulas: ``M`` formulas or compositions.
            formation_ev: ``(M,)`` formation energies, eV/atom, NaN where there is none. Total
                energies must go through `formation_energies` first.

        Raises:
            DataError: if a formula is none.
        """
        count = len(formulas)
        above = np.full(count, np.nan)
        known = np.zeros(count, dtype=bool)
        states = []
        for i, (formula, energy) in enumerate(zip(formulas, formation_ev, strict=True)):
            parts = fractions(formula)
            known[i] = _system(parts) in self._by_system or len(parts) == 1
            if any(symbol not in self.references for symbol, _ in parts):
                known[i] = False
                states.append(ELEMENT_MISSING)
            elif not np.isfinite(energy):
                states.append(NO_ENERGY)
            else:
                above[i] = energy - self.energy(parts)
                states.append(OK)
        return HullAnswer(above, states, known)

    def formation_energies(
        self, formulas: Sequence[Formula], total_ev: Sequence[float]
    ) -> np.ndarray:
        """Turn total energies, eV/atom, into formation energies; NaN where a reference is missing.

        Raises:
            DataError: if the hull has no elemental references at all.
        """
        if all(value is None for value in self.references.values()):
            raise DataError(
                "the hull was made from formation energies alone, so total energies of a potential"
                " cannot be placed on it; make it again with elemental references:"
                " chemeleon data hull SRC --references elemental_references.json.gz"
            )
        result = np.full(len(formulas), np.nan)
        for i, (formula, total) in enumerate(zip(formulas, total_ev, strict=True)):
            parts = fractions(formula)
            values = [self.references.get(symbol) for symbol, _ in parts]
            if None not in values:
                shares = zip(values, parts, strict=True)
                result[i] = total - sum(v * share for v, (_, share) in shares if v is not None)
        return result

    @property
    def energy_scale(self) -> str:
        """On which of `scales.SCALES` its energies lie.

        Files from before hulls said so hold a potential's energies, which they name, or those of a
        table or of entries, which were the Materials Project's.
        """
        stated = self.manifest.get("energy_scale")
        return str(stated) if stated else OWN if self.manifest.get("potential") else MP2020

    def corrects(self, potential: Potential, source: str | Path, asked: str) -> bool:
        """Return whether total energies of a potential need `corrections` to lie on this hull.

        Args:
            potential: the judge.
            source: the hull's file, for the message.
            asked: the potential as the user names it.

        Raises:
            DataError: if the hull has no elemental references.
            ConfigError: if they cannot be placed on it, by corrections or without.
        """
        self.formation_energies([], [])
        made_with, used = self.manifest.get("potential"), f"{potential.name} {potential.version}"
        scale, own = self.energy_scale, potential.energy_scale
        if (made_with == used) if scale == OWN else scale == own:
            return False
        if (own, scale) == (RAW, MP2020):
            return True
        if made_with:
            wrong = f"of {made_with}, but the judge is {used}: they lie on different scales"
        elif own == OWN:
            wrong = f"on the scale '{scale}', and {used} states none that others share"
        else:
            wrong = f"on the scale '{scale}', but those of {used} are on '{own}'"
        raise ConfigError(
            f"{source} holds energies {wrong}. Make a hull of the judge's own: chemeleon data hull"
            f" mp --split all --potential {asked} -o hull.json.gz"
        )

    def energy(self, parts: Fractions) -> float:
        """Return the hull's formation energy at a composition of known elements, eV/atom."""
        if parts not in self._energies:
            target = np.array([share for _, share in parts])
            self._energies[parts] = lowest_energy(target, *self._system_arrays(parts))
        return self._energies[parts]

    def _system_arrays(self, parts: Fractions) -> tuple[Array, Array]:
        """Fractions ``(K, D)`` and energies ``(K,)`` of all phases that can take part."""
        system = _system(parts)
        if system not in self._arrays:
            place = {symbol: i for i, symbol in enumerate(system)}
            rows, energies = [], []
            for size in range(1, len(system) + 1):
                for part in itertools.combinations(system, size):
                    for phase in self._by_system.get(part, ()):
                        if self.phases[phase] < 0:  # others lose against the elements
                            row = np.zeros(len(system))
                            row[[place[symbol] for symbol, _ in phase]] = [s for _, s in phase]
                            rows.append(row)
                            energies.append(self.phases[phase])
            table = np.array(rows).reshape(-1, len(system))
            self._arrays[system] = (table, np.array(energies))
        return self._arrays[system]

    def save(self, path: str | Path) -> None:
        """Write JSON in one step, compressed if the name ends with .gz."""
        from chemeleon.energy.compositions import formula_of
        from chemeleon.storage import write_atomically

        content = {
            "format": FORMAT,
            "manifest": self.manifest,
            "references_ev": dict(sorted(self.references.items())),
            "phases": [[formula_of(p), round(e, 9)] for p, e in sorted(self.phases.items())],
        }
        path = Path(path)
        data = json.dumps(content, separators=(",", ":")).encode()
        # no time stamp: the same hull is the same file
        held = gzip.compress(data, mtime=0) if path.name.endswith(".gz") else data
        write_atomically(path, lambda beside: beside.write_bytes(held))

    @classmethod
    def load(cls, path: str | Path) -> Hull:
        """Read what `save` wrote.

        Raises:
            DataError: if the file is missing or is no hull; says how to make one.
        """
        held = read_json(path)
        if not isinstance(held, dict) or held.get("format") != FORMAT:
            raise DataError(
                f"{path} is no hull of this project; make one: chemeleon data hull SRC -o {path}"
            )
        try:
            return cls(*_content(held))
        except (DataError, *ODD) as error:
            raise DataError(f"{path} is damaged ({error!r}); make it again") from error


def _content(
    held: dict[str, Any],
) -> tuple[list[Fractions], list[float], dict[str, float | None], dict[str, Any]]:
    """Return the arguments of a `Hull` from what its file says."""
    phases = [fractions(str(formula)) for formula, _ in held["phases"]]
    energies = [finite(energy) for _, energy in held["phases"]]
    totals = held["references_ev"].items()
    references = {symbol: None if v is None else finite(v) for symbol, v in totals}
    manifest = held["manifest"] | {}
    if isinstance(manifest.get("energy_scale"), str):
        manifest["energy_scale"] = manifest["energy_scale"].lower()
    if "skipped_examples" in manifest:
        manifest["skipped_examples"] = [*map(str, manifest["skipped_examples"] or [])]
    return phases, energies, references, manifest


def finite(value: Any) -> float:
    """Return a number that can be computed with; for anything else raise one of `ODD`."""
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{number} is no energy")
    return number


def read_json(path: str | Path) -> Any:
    """Read a JSON file, compressed or not; what is no finite number in it is None.

    Raises:
        DataError: if it is missing or no JSON.
    """
    path, remedy = Path(path), "a hull is made with: chemeleon data hull SRC -o hull.json.gz"
    with readable(path, remedy), path.open("rb") as file:
        try:
            return parse_json(unpacked(file).read(), finite=True)
        except ValueError as error:
            raise DataError(f"{path} cannot be read as JSON: {error}") from error


def _system(parts: Fractions) -> tuple[str, ...]:
    return tuple(symbol for symbol, _ in parts)
