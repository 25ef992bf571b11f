"""Make a hull from a table of formation energies, or from pymatgen entries.

The manifest of a hull says: ``energies`` (of what kind), ``source``, ``rows`` read, ``phases``
kept, ``skipped`` with examples, ``references_from`` (where the elements' energies come from),
``potential`` (name and version, or None) and ``energy_scale`` (one of `scales.SCALES`).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from chemeleon.data.files import readable
from chemeleon.data.problems import OnError, check_reasons
from chemeleon.data.tables import column_place, open_table
from chemeleon.energy.compositions import Fractions, fractions
from chemeleon.energy.hull import ODD, Hull, finite, read_json
from chemeleon.energy.scales import MP2020
from chemeleon.errors import DataError

FORMULA_COLUMNS = ("pretty_formula", "formula", "reduced_formula", "formula_pretty", "composition")
ENERGY_COLUMNS = ("formation_energy_per_atom", "formation_energy", "e_form")
TABLE_NAMES = ("formation_energies.csv.gz", "formation_energies.csv")
REFERENCE_NAMES = ("elemental_references.json.gz", "elemental_references.json")
DFT_FORMATION = "DFT formation energy"
_EXAMPLES = 5
_REMEDY = "`chemeleon data hull` with --on-error skip makes a hull without them"


def from_table(
    path: str | Path,
    references: str | Path | None = None,
    formula_column: str | None = None,
    energy_column: str | None = None,
    on_error: OnError = "few",
    energy_scale: str = MP2020,
) -> Hull:
    """Make a hull from a CSV of formulas and formation energies, eV/atom; elements lie at 0.

    Args:
        path: CSV, compressed or not; or a folder with formation_energies.csv.gz in it.
        references: JSON of the elements' total energies (numbers in eV/atom, or pymatgen entries);
            with them, total energies of a potential can be placed on the hull. By default
            elemental_references.json.gz beside the CSV, if it is there.
        formula_column: found by its usual names if not given.
        energy_column: likewise.
        on_error: how many rows may be bad.
        energy_scale: what total energies the references and formation energies come from.

    Raises:
        DataError: if the file or a column is missing, no row is usable, or too many are bad.
    """
    path = Path(path)
    if path.is_dir():
        table = table_in(path)
        if table is None:
            raise DataError(f"{path} holds no {TABLE_NAMES[0]}; name the CSV itself")
        path = table
    beside = [path.parent / name for name in REFERENCE_NAMES]
    references = references or next((file for file in beside if file.is_file()), None)
    with readable(path, "a CSV of formation energies is needed"):
        table = open_table(path.open("rb"), str(path), formula_column)
        rows = list(table.rows)
        formulas = [formula_column] if formula_column else FORMULA_COLUMNS
        formula_at = column_place(table, formulas, "--formula-column", str(path))
        asked = [energy_column] if energy_column else ENERGY_COLUMNS
        energy_at = column_place(table, asked, "--energy-column", str(path))
    phases, energies, skipped = [], [], []
    for row in rows:
        try:
            if row.problem is not None:
                raise ValueError(row.problem)
            value = float(row.cells[energy_at])
            parts = fractions(row.cells[formula_at])
        except (DataError, ValueError) as error:
            skipped.append(f"row {row.number}: {error}")
            continue
        if value - value != 0:
            skipped.append(f"row {row.number}: energy {value}")
            continue
        phases.append(parts)
        energies.append(value)
    if not phases:
        said = f"; the first: {skipped[0]}" if skipped else ""
        raise DataError(f"{path} has no usable row{said}")
    check_reasons(skipped, len(rows), on_error, str(path), _REMEDY)
    given = read_references(references) if references else {}
    elements = sorted({symbol for parts in phases for symbol, _ in parts})
    totals: dict[str, float | None] = {symbol: given.get(symbol) for symbol in elements}
    return _hull(
        phases,
        energies,
        totals,
        skipped,
        energies_are=DFT_FORMATION,
        source=str(path),
        rows=len(rows),
        references_from=str(references) if references else "none: the elements lie at 0",
        potential=None,
        energy_scale=energy_scale,
    )


def from_entries(path: str | Path, on_error: OnError = "few", energy_scale: str = MP2020) -> Hull:
    """Make a hull from pymatgen entries (corrected total energies), a JSON list or mapping.

    The lowest entry of each element is its reference; entries with another element are skipped.

    Raises:
        DataError: if the file holds no entries, or none can be used.
    """
    held = read_json(path)
    items = list(held.values()) if isinstance(held, dict) else held
    if not isinstance(items, list) or not items:
        raise DataError(f"{path} holds no list of pymatgen entries")
    phases, totals, skipped = [], [], []
    for i, item in enumerate(items, start=1):
        try:
            parts, total = _entry(item)
        except (DataError, *ODD) as error:
            skipped.append(f"entry {i}: {error!r}")
            continue
        phases.append(parts)
        totals.append(total)
    if not phases:
        raise DataError(f"{path} holds no usable pymatgen entry; the first: {skipped[0]}")
    check_reasons(skipped, len(items), on_error, str(path), _REMEDY)
    return from_totals(
        phases,
        totals,
        {},
        skipped,
        energies_are="total energies of entries",
        source=str(path),
        rows=len(items),
        references_from="lowest entry of each element",
        potential=None,
        energy_scale=energy_scale,
    )


def read_references(path: str | Path) -> dict[str, float]:
    """Read total energies of the elements, eV/atom: numbers, or pymatgen entries, by symbol.

    Raises:
        DataError: if the file is something else.
    """
    held = read_json(path)
    try:
        return {
            str(symbol): finite(item) if isinstance(item, int | float) else _entry(item)[1]
            for symbol, item in held.items()
        }
    except ODD as error:
        raise DataError(
            f"{path} is no mapping of elements to energies or pymatgen entries ({error!r})"
        ) from error


def _entry(item: Any) -> tuple[Fractions, float]:
    """Return composition and corrected energy per atom; read by hand, so nothing in it is run."""
    amounts = {str(k).rstrip("0123456789+-."): float(v) for k, v in item["composition"].items()}
    total = finite(item["energy"]) + finite(item.get("correction") or 0.0)
    return fractions(amounts), total / sum(amounts.values())


def from_totals(
    phases: list[Fractions],
    totals: list[float],
    references: dict[str, float],
    skipped: list[str],
    **manifest: Any,
) -> Hull:
    """Make a hull of total energies, eV/atom; ``references`` may name lower ones of elements."""
    lowest = dict(references)
    for parts, total in zip(phases, totals, strict=True):
        if len(parts) == 1:
            symbol = parts[0][0]
            lowest[symbol] = min(total, lowest.get(symbol, float("inf")))
    kept, energies = [], []
    for parts, total in zip(phases, totals, strict=True):
        missing = [symbol for symbol, _ in parts if symbol not in lowest]
        if missing:
            skipped.append(f"a phase of {missing[0]}, which has no elemental reference")
            continue
        kept.append(parts)
        energies.append(total - sum(share * lowest[symbol] for symbol, share in parts))
    return _hull(kept, energies, {**lowest}, skipped, **manifest)


def _hull(
    phases: list[Fractions],
    energies: Iterable[float],
    references: dict[str, float | None],
    skipped: list[str],
    *,
    energies_are: str,
    **manifest: Any,
) -> Hull:
    counts = {
        "phases": len(set(phases)),
        "elements": len(references),
        "skipped": len(skipped),
        "skipped_examples": skipped[:_EXAMPLES],
    }
    said = {"energies": energies_are, **manifest, **counts}
    return Hull(phases, list(energies), references, said)


def table_in(folder: Path) -> Path | None:
    """Return the table of formation energies in a folder, if there is one."""
    return next((folder / name for name in TABLE_NAMES if (folder / name).is_file()), None)
