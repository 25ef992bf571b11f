"""Formulas to assignments of Wyckoff letters, and to crystals: how often the truth is there.

    python benchmarks/assignments.py "mp/train" mp/val --limit 1000 --structures

Recall at k: the share of targets whose assignment is among the first k. With ``--structures`` the
prototypes are made crystals (elements exchanged, volume scaled) and matched with the targets as
`benchmarks/csp.py` does. The number of formula units per cell is given, as it is to models that
are sampled with the atoms of a cell, unless ``--any-units`` is. Choose on val; test is for the last
run.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from csp import match

from chemeleon.crystals.assignments import assignments_of, atoms_of, key_of
from chemeleon.crystals.batch import Array, Crystals
from chemeleon.crystals.orbit_sets import write_as_orbits
from chemeleon.crystals.orbits import crystals_of, put_together
from chemeleon.data.named import find_set
from chemeleon.evaluation.metrics.csp import rate
from chemeleon.generation.prototypes import Candidate, Prototypes

KS = (1, 5, 20)


def load(name: str) -> tuple[Crystals, Crystals[Array], Array | None]:
    """Return the crystals of a set, the same as orbits, and their energies above the hull."""
    report = find_set(name).load()
    energies = report.columns.get("e_above_hull")
    orbits = write_as_orbits(report.crystals).arrays()
    return report.crystals, orbits, None if energies is None else energies.numpy()


def recall(ranks: Sequence[float]) -> dict[str, float]:
    """Return the share of targets that are among the first k, and of those found at all."""
    found = {f"recall_at_{k}": float(np.mean([rank < k for rank in ranks])) for k in KS}
    return found | {"recall": float(np.mean([rank < math.inf for rank in ranks]))}


def structures(
    prototypes: Prototypes, proposals: Sequence[Sequence[Candidate]], targets: Crystals
) -> dict[str, Any]:
    """Match the crystals of proposals with their targets."""
    wanted = list(targets)
    made = put_together([prototypes.crystal(one) for of in proposals for one in of])
    owner = [i for i, of in enumerate(proposals) for _ in of]
    pairs = [(one, wanted[i]) for one, i in zip(crystals_of(made), owner, strict=True)]
    rmse, late = match(pairs, None)
    place = np.concatenate([np.arange(len(of)) for of in proposals])
    found: dict[str, Any] = {"late": late}
    for k in KS:
        best = np.full(len(wanted), np.inf)
        np.minimum.at(best, np.array(owner)[place < k], rmse[place < k])
        found[f"match_at_{k}"] = rate(best)
    return found


def main() -> None:
    """Print one line of figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("train", help="SET of prototypes, NAME/SPLIT")
    parser.add_argument("targets", help="SET whose formulas are asked, NAME/SPLIT")
    parser.add_argument("--limit", type=int, help="only so many targets, evenly spread")
    parser.add_argument("--any-units", action="store_true", help="formula units are not given")
    parser.add_argument("--structures", action="store_true", help="match the crystals, too")
    args = parser.parse_args()
    start = time.perf_counter()
    _, orbits, energies = load(args.train)
    prototypes = Prototypes(orbits, energies)
    ready = time.perf_counter()
    crystals, targets, _ = load(args.targets)
    if args.limit and args.limit < len(crystals):
        rows = torch.linspace(0, len(crystals) - 1, args.limit).long()
        crystals, targets = crystals.subset(rows), targets.subset(rows.numpy())
    ranks, proposals = [], []
    begin = time.perf_counter()
    for truth in assignments_of(targets):
        atoms = atoms_of(truth)
        units = math.gcd(*atoms.values())
        formula = {element: count // units for element, count in atoms.items()}
        found = prototypes.propose(formula, 1000, None if args.any_units else [units])
        keys = [key_of(one.assignment) for one in found]
        ranks.append(keys.index(key_of(truth)) if key_of(truth) in keys else math.inf)
        proposals.append(found[: max(KS)])
    row: dict[str, Any] = {
        "train": args.train,
        "targets": args.targets,
        "count": len(ranks),
        "patterns": len(prototypes),
        "units_given": not args.any_units,
        **recall(ranks),
        "index_s": ready - start,
        "per_formula_s": (time.perf_counter() - begin) / len(ranks),
    }
    if args.structures:
        row |= structures(prototypes, proposals, crystals)
    print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
