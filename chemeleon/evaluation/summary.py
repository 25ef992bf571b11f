"""From the per-crystal table to figures: shares with intervals, distributions, bins.

Every share is of the crystals that were asked for. What failed counts as not having the property.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from chemeleon.crystals.soundness import MIN_DISTANCE, MIN_VOLUME
from chemeleon.evaluation.collection import Collection
from chemeleon.evaluation.metrics.base import Figure
from chemeleon.evaluation.metrics.features import composition_features, structure_features
from chemeleon.evaluation.metrics.novelty import NOVEL, against, novelty_flags
from chemeleon.evaluation.metrics.stability import ENERGY_DISTRIBUTIONS, energy_flags, finite_column
from chemeleon.evaluation.metrics.statistics import frechet, mmd, standardised, wasserstein, wilson
from chemeleon.evaluation.report.basis import group_of

if TYPE_CHECKING:
    import pandas

_VALUES_LIMIT = 10_000  # of a histogram in the summary; distances are taken over all
DISTRIBUTIONS = {
    "density_g_cm3": ("Density", "g/cm³"),
    "num_elements": ("Elements", ""),
    "num_atoms": ("Atoms per cell", ""),
    "volume_per_atom_a3": ("Volume per atom", "Å³"),
    "space_group": ("Space group number", ""),
    "shortest_distance_a": ("Shortest distance", "Å"),
    **{x: (f"Cell length {x}", "Å") for x in "abc"},
    **{x: (f"Cell angle {x}", "°") for x in ("alpha", "beta", "gamma")},
}


class Side(NamedTuple):
    """Crystals, sample or reference, as the distances between sets need them.

    Attributes:
        values: column of `DISTRIBUTIONS`, and of those of energies that are known, to ``(C,)``
            values, NaN where unknown.
        structure: ``(C, F)`` features of structure.
        composition: ``(C, G)`` features of composition.
        elements: how many crystals hold each element.
        space_groups: how many crystals have each group, by number.
    """

    values: dict[str, NDArray[np.float64]]
    structure: NDArray[np.float64]
    composition: NDArray[np.float64]
    elements: dict[str, int]
    space_groups: dict[str, int]


def make_side(
    collection: Collection,
    shortest: NDArray[np.float64],
    table: pandas.DataFrame | None = None,
) -> Side:
    """Collect what is compared between sets.

    Args:
        collection: the crystals.
        shortest: ``(C,)`` shortest distances, angstrom.
        table: rows of the crystals, for energies.
    """
    values = {
        name: shortest if name == "shortest_distance_a" else collection.column(name)
        for name in DISTRIBUTIONS
    }
    for name in ENERGY_DISTRIBUTIONS:
        found = finite_column(table, name)
        if np.isfinite(found).any():
            values[name] = found
    groups = collection.column("space_group")
    counted = Counter(groups[np.isfinite(groups)].astype(int).tolist())
    return Side(
        values,
        structure_features(collection, shortest),
        composition_features(collection),
        _elements(collection),
        {str(number): count for number, count in sorted(counted.items())},
    )


def halve(side: Side) -> tuple[Side, Side]:
    """Return the crystals of even and of odd number, without their counts."""
    one, two = (
        Side(
            {name: values[start::2] for name, values in side.values.items()},
            side.structure[start::2],
            side.composition[start::2],
            {},
            {},
        )
        for start in (0, 1)
    )
    return one, two


def _elements(collection: Collection) -> dict[str, int]:
    from ase.data import chemical_symbols

    packed = collection.crystals
    pairs = np.unique(packed.owners * 256 + packed.atomic_numbers)
    counts = np.bincount(pairs % 256, minlength=1)
    return {chemical_symbols[z]: int(counts[z]) for z in np.flatnonzero(counts)}


def flags(table: pandas.DataFrame) -> dict[str, tuple[str, NDArray[np.bool_]]]:
    """Return the properties that are counted: name to (label, ``(C,)`` bool)."""
    ok = table["status"].to_numpy() == "ok"
    volume = (table["volume_per_atom_a3"] * table["num_atoms"].astype(float)).to_numpy()
    shortest = table["shortest_distance_a"].to_numpy()
    structure = table["valid_structure"].to_numpy()
    composition = table["valid_composition"].to_numpy()
    unique = table["unique"].to_numpy()
    found = {
        "parsed": ("Parsed", ok),
        "valid_structure": ("Valid structure", structure),
        "valid_structure_cdvae": (
            "Valid structure, CDVAE rule",
            ok & (volume > MIN_VOLUME) & (shortest > MIN_DISTANCE),
        ),
        "valid_composition": ("Valid composition (SMACT)", composition),
        "valid": ("Valid, both", structure & composition),
        "unique": ("Unique", unique),
    }
    if NOVEL in table:
        found |= novelty_flags(table)
        new, of = unique & table[NOVEL].to_numpy(), against(table)
        found["unique_novel"] = (f"Unique and novel{of}", new)
        found["valid_unique_novel"] = (
            f"Valid, unique and novel{of}",
            structure & composition & new,
        )
    return found | energy_flags(table)


def headline(
    table: pandas.DataFrame,
    found: Iterable[Figure],
    shares: Sequence[tuple[str, str, dict[str, Any]]],
    values: Mapping[str, tuple[str, float]],
    control: Mapping[str, float],
) -> list[dict[str, Any]]:
    """Return the figures of the first table, with the control row's beside them.

    Args:
        table: one row per crystal.
        found: of the metrics.
        shares: (name, label, share) of further shares.
        values: name to (label, value) of figures that are no shares.
        control: name to value; what it lacks has none.
    """
    entries = [
        _entry(Figure(name, label, group_of(name), flag))
        for name, (label, flag) in flags(table).items()
    ]
    entries += map(_entry, found)
    entries += [{"name": n, "label": label, "group": group_of(n), **s} for n, label, s in shares]
    entries += [
        _entry(Figure(name, label, group_of(name), value=value))
        for name, (label, value) in values.items()
    ]
    return [{**entry, "control": finite(control.get(entry["name"]))} for entry in entries]


def _entry(figure: Figure) -> dict[str, Any]:
    entry = {"name": figure.name, "label": figure.label, "group": figure.group}
    if figure.flag is not None:
        return entry | interval(figure.flag)
    nothing = dict.fromkeys(("low", "high", "count", "of"))
    return {**entry, "value": finite(figure.value), **nothing, "unit": figure.unit}


def interval(flag: NDArray[np.bool_]) -> dict[str, Any]:
    """Return the share of the true ones as JSON, with its 95 % Wilson interval."""
    return share(int(flag.sum()), len(flag))


def share(count: int, total: int) -> dict[str, Any]:
    """Return a share as JSON, with its 95 % Wilson interval."""
    value, low, high = map(finite, wilson(count, total))
    return {"value": value, "low": low, "high": high, "count": count, "of": total}


def finite(value: float | None) -> float | None:
    """Return a number for JSON: None for NaN and infinities."""
    return None if value is None or not math.isfinite(value) else float(value)


def distributions(sample: Side, reference: Side | None) -> dict[str, dict[str, Any]]:
    """Return the values of both sides, and their Wasserstein distances."""
    found = {}
    for name, (label, unit) in (DISTRIBUTIONS | ENERGY_DISTRIBUTIONS).items():
        if name not in sample.values:
            continue
        ours, nothing = sample.values[name], np.zeros(0)
        theirs = nothing if reference is None else reference.values.get(name, nothing)
        distance = wasserstein(ours, theirs) if name != "space_group" else math.nan
        found[name] = {
            "label": label,
            "unit": unit,
            "sample": _some(ours),
            "reference": _some(theirs),
            "wasserstein": finite(distance),
        }
    return found


def _some(values: NDArray[np.float64]) -> list[float]:
    values = values[np.isfinite(values)]
    if len(values) > _VALUES_LIMIT:
        values = values[np.linspace(0, len(values) - 1, _VALUES_LIMIT).round().astype(int)]
    return [float(f"{v:.5g}") for v in values.tolist()]


def set_distances(sample: Side, reference: Side) -> dict[str, tuple[str, float]]:
    """Return the distances between two sets: name to (label, value)."""
    found = {
        "wasserstein_density": (
            "Wasserstein distance of density, g/cm³",
            wasserstein(sample.values["density_g_cm3"], reference.values["density_g_cm3"]),
        ),
        "wasserstein_elements": (
            "Wasserstein distance of the number of elements",
            wasserstein(sample.values["num_elements"], reference.values["num_elements"]),
        ),
    }
    for name in ("structure", "composition"):
        ours, theirs = standardised(getattr(sample, name), getattr(reference, name))
        found[f"frechet_{name}"] = (f"Fréchet distance of {name}", frechet(ours, theirs))
        found[f"mmd_{name}"] = (f"MMD of {name}", mmd(ours, theirs))
    return found


def repetition(
    table: pandas.DataFrame, sample: Side, base: Collection | None, first_novel: str | None
) -> dict[str, Any]:
    """Return what fine-tuning towards a reward tends to spoil.

    Args:
        table: one row per crystal.
        sample: the same crystals.
        base: crystals of the model before fine-tuning, if there are any.
        first_novel: column of novelty against the training set.

    Returns:
        ``top_formulas`` and the share of the ten most frequent, the ``replay_share`` (copies of
        training crystals, of all asked for), and the element counts beside those of the base, whose
        ``base_top_ten`` it holds too.
    """
    total = len(table)
    top = Counter(table["reduced_formula"].dropna()).most_common(10)
    found: dict[str, Any] = {
        "top_formulas": [{"formula": name, "count": count} for name, count in top],
        "top_ten": share(sum(count for _, count in top), total),
    }
    if first_novel is not None:
        known = (table["status"].to_numpy() == "ok") & ~table[first_novel].to_numpy()
        found["replay"] = share(int(np.sum(known)), total)
    if base is not None:
        found["elements"] = {"sample": sample.elements, "base": _elements(base)}
        read = int((base.crystals.num_atoms > 0).sum())
        found["crystals"] = {"sample": int(np.sum(table["status"] == "ok")), "base": read}
        counts = Counter(word for word in base.text("reduced_formula") if word).most_common(10)
        found["base_top_ten"] = share(sum(count for _, count in counts), len(base))
    return found
