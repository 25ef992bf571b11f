"""A report as `chemeleon evaluate` hands it over, made here from structures alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from pymatgen.core import Structure
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer


@dataclass(frozen=True)
class FakeReport:
    """The contract of report_data.Report."""

    crystals: pd.DataFrame
    summary: dict[str, Any]
    structures: list[Structure | None]
    relaxed: list[Structure | None]


def describe(structure: Structure) -> dict[str, Any]:
    """Return the columns that come from one crystal alone."""
    a, b, c, alpha, beta, gamma = structure.lattice.parameters
    distances = structure.distance_matrix + 99 * np.eye(len(structure))
    row = {
        "formula": structure.composition.formula.replace(" ", ""),
        "reduced_formula": structure.composition.reduced_formula,
        "num_atoms": len(structure),
        "num_elements": len(structure.composition),
        "density_g_cm3": float(structure.density),
        "volume_per_atom_a3": structure.volume / len(structure),
        "a": a, "b": b, "c": c, "alpha": alpha, "beta": beta, "gamma": gamma,
        "shortest_distance_a": min(distances.min(), a, b, c),
    }  # fmt: skip
    try:
        found = SpacegroupAnalyzer(structure, symprec=0.1)
        row["space_group"] = found.get_space_group_number()
        row["space_group_symbol"] = found.get_space_group_symbol()
        row["crystal_system"] = found.get_crystal_system()
    except Exception:
        row.update(space_group=np.nan, space_group_symbol=None, crystal_system=None)
    return row


def make_report(
    structures: Sequence[Structure | None],
    reference: Sequence[Structure] = (),
    relaxed: Sequence[Structure | None] | None = None,
    energies: Sequence[float] | None = None,
    ids: Sequence[str] | None = None,
    sources: Sequence[str] | None = None,
) -> FakeReport:
    """Fill every column; those that need matching or energies are drawn, not computed."""
    draw = np.random.default_rng(0)
    known = [None if s is None else describe(s) for s in structures]
    seen: dict[str, int] = {}
    rows = []
    for i, facts in enumerate(known):
        row: dict[str, Any] = {
            "id": ids[i] if ids else f"gen-{i:05d}",
            "source": sources[i] if sources else "samples.extxyz",
            "status": "ok" if facts else "failed",
            "reason": None if facts else "atoms 0 and 3 are 0.12 A apart",
            "timed_out_pairs": 0,
        }
        if facts:
            name = facts["reduced_formula"] + str(facts["space_group"])
            row |= facts
            row |= {
                "valid_structure": facts["shortest_distance_a"] > 0.5,
                "valid_composition": bool(draw.random() < 0.88),
                "unique": name not in seen,
                "group": seen.setdefault(name, len(seen)),
                "novel_train": bool(draw.random() < 0.7),
            }
            if energies is not None:
                row |= {
                    "e_above_hull_ev": energies[i] + 0.12 * draw.random(),
                    "hull_state": "known",
                }
        after = relaxed[i] if relaxed else None
        if after is not None:
            row |= {f"relaxed_{key}": value for key, value in describe(after).items()}
            row |= {
                "relax_steps": int(draw.integers(8, 120)),
                "relax_converged": bool(draw.random() < 0.95),
                "relax_rmsd_a": 0.05 + 0.1 * draw.random(),
            }
            if energies is not None:
                row |= {"relaxed_e_above_hull_ev": energies[i], "relaxed_hull_state": "known"}
        rows.append(row)
    frame = pd.DataFrame(rows)
    side = {"sample": [f for f in known if f], "reference": [describe(s) for s in reference]}
    return FakeReport(
        frame, _summary(frame, side, energies is not None), list(structures),
        list(relaxed) if relaxed else [None] * len(structures),
    )  # fmt: skip


def _summary(frame: pd.DataFrame, side: dict[str, list[dict]], energies: bool) -> dict[str, Any]:
    total = len(frame)
    figures = [
        ("valid_structure", "Valid structure", 0.999),
        ("valid_composition", "Valid composition", 0.907),
        ("unique", "Unique", 0.991),
        ("novel_train", "Novel to train", 0.964),
    ]
    headline = []
    for name, label, control in figures:
        count = int(frame[name].eq(True).sum()) if name in frame else 0
        low, high = wilson(count, total)
        group = "validity" if name.startswith("valid") else "novelty"
        entry = {"name": name, "label": label, "group": group}
        entry |= {"value": count / total, "low": low, "high": high}
        headline.append({**entry, "count": count, "of": total, "control": control})
    if energies:
        mean = float(frame["relaxed_e_above_hull_ev"].mean())
        headline.append({"name": "mean_hull", "label": "Mean energy above hull",
                         "group": "energy", "value": mean, "low": None, "high": None,
                         "count": None, "of": None, "control": 0.031,
                         "unit": "eV/atom"})  # fmt: skip
    spread = {}
    for key, label, unit in (
        ("density_g_cm3", "Density", "g/cm³"),
        ("volume_per_atom_a3", "Volume per atom", "Å³"),
        ("num_atoms", "Atoms per cell", ""),
        ("num_elements", "Elements", ""),
        ("a", "Cell length a", "Å"),
        ("gamma", "Cell angle γ", "°"),
    ):
        ours, theirs = ([row[key] for row in side[s]] for s in ("sample", "reference"))
        spread[key] = {"label": label, "unit": unit, "sample": ours, "reference": theirs,
                       "wasserstein": 0.123 if theirs else None}  # fmt: skip
    return {
        "manifest": {
            "title": "Evaluation of generated crystals",
            "source": "samples.extxyz",
            "created": "2025-01-01",
            "matcher": {"name": "pymatgen", "ltol": 0.2, "stol": 0.3,
                        "angle_tol_degree": 5},
            "references": [{"name": "train", "crystals": len(side["reference"])}],
            "versions": {"chemeleon": "0.0", "pymatgen": "2025.1"},
        },
        "headline": headline,
        "distributions": spread,
        "elements": {s: _elements(rows) for s, rows in side.items()},
        "space_groups": {
            s: dict(Counter(str(int(r["space_group"])) for r in rows if r["space_group"] > 0))
            for s, rows in side.items()
        },
        "bins": {
            "atoms": [
                {"atoms": span, "crystals": int(mask.sum()),
                 "unique": {"value": float(frame["unique"].eq(True)[mask].mean() or 0), "of": 1}}
                for span, mask in (
                    (f"{low} to {high}", frame["num_atoms"].between(low, high))
                    for low, high in ((1, 5), (6, 10), (11, 20)) if "num_atoms" in frame
                ) if mask.any()
            ]
        },
    }  # fmt: skip


def _elements(rows: list[dict]) -> dict[str, int]:
    from pymatgen.core import Composition

    return dict(Counter(e.symbol for r in rows for e in Composition(r["formula"])))


def wilson(count: int, total: int) -> tuple[float, float]:
    """95 % interval of a share."""
    z, p = 1.96, count / total
    middle = (p + z * z / 2 / total) / (1 + z * z / total)
    half = z / (1 + z * z / total) * np.sqrt(p * (1 - p) / total + z * z / 4 / total**2)
    return float(middle - half), float(middle + half)
