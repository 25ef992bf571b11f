"""Formulas to assignments of Wyckoff letters, and to crystals: how often the truth is there.

    python benchmarks/assignments.py mp/val --prototypes mp/train --limit 1000 --structures
    python benchmarks/assignments.py mp/val --prototypes mp/train --model runs/assign --limit 1000

Recall at k: the share of targets whose assignment is among the first k. Lines are of each source,
and of both with several weights of the model. With ``--structures`` the prototypes are made
crystals (elements exchanged, volume scaled) and matched with the targets as `benchmarks/csp.py`
does. The number of formula units per cell is given, as it is to models that are sampled with the
atoms of a cell, unless ``--any-units`` is. Choose on val; test is for the last run.
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
from chemeleon.crystals.batch import Crystals
from chemeleon.crystals.orbit_sets import write_as_orbits
from chemeleon.crystals.orbits import Assignment, crystals_of, put_together
from chemeleon.data.named import find_set
from chemeleon.evaluation.metrics.csp import rate
from chemeleon.generation.assignments import Proposal, Proposer, load_prototypes
from chemeleon.generation.letter_search import LetterSearch
from chemeleon.generation.prototypes import Candidate, Prototypes
from chemeleon.models.assignment import AssignmentModel
from chemeleon.models.pretrained import place

KS = (1, 5, 20)
CHUNK = 50  # formulas at a time
WEIGHTS = (0.2, 0.35, 0.5, 0.65, 0.8)  # of the model beside prototypes


def recall(truth: Sequence[Assignment], found: Sequence[Sequence[Proposal]]) -> dict[str, Any]:
    """Return the share of targets whose assignment is among the first k."""
    ranks = []
    for one, of in zip(truth, found, strict=True):
        keys = [key_of(proposal.assignment) for proposal in of]
        ranks.append(keys.index(key_of(one)) if key_of(one) in keys else math.inf)
    recalls = {f"recall_at_{k}": float(np.mean([rank < k for rank in ranks])) for k in KS}
    return recalls | {"recall_at_all": float(np.mean([rank < math.inf for rank in ranks]))}


def ranked(proposals: Sequence[Proposal], weight: float) -> list[Proposal]:
    """Return proposals of both sources in the order that a weight of the model gives."""

    def chance(one: Proposal) -> float:
        share = 0.0 if one.prototype is None else one.prototype.share
        return weight * one.by_model + (1 - weight) * share

    return sorted(proposals, key=chance, reverse=True)[: max(KS)]


def structures(
    prototypes: Prototypes, proposals: Sequence[Sequence[Candidate]], targets: Crystals
) -> dict[str, Any]:
    """Match the crystals of proposals with their targets."""
    wanted = list(targets)
    made = put_together([prototypes.crystal(one) for of in proposals for one in of])
    owner = np.repeat(np.arange(len(wanted)), [len(of) for of in proposals])
    pairs = [(one, wanted[i]) for one, i in zip(crystals_of(made), owner.tolist(), strict=True)]
    rmse, late = match(pairs, None) if pairs else (np.zeros(0), 0)
    order = np.concatenate([np.arange(len(of), dtype=np.int64) for of in proposals])
    found: dict[str, Any] = {"late": late}
    for k in KS:
        best = np.full(len(wanted), np.inf)
        np.minimum.at(best, owner[order < k], rmse[order < k])
        found[f"match_at_{k}"] = rate(best)
    return found


def main() -> None:
    """Print one line of figures for each source."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("targets", help="SET whose formulas are asked, NAME/SPLIT")
    parser.add_argument("--prototypes", action="append", help="SET of prototypes; repeatable")
    parser.add_argument("--model", help="run or model folder of chemeleon assign train")
    parser.add_argument("--limit", type=int, help="only so many targets, evenly spread")
    parser.add_argument("-k", type=int, default=20, help="assignments of each formula")
    parser.add_argument("--any-units", action="store_true", help="formula units are not given")
    parser.add_argument("--structures", action="store_true", help="match prototypes' crystals")
    args = parser.parse_args()
    start = time.perf_counter()
    prototypes = load_prototypes(args.prototypes) if args.prototypes else None
    index = time.perf_counter() - start
    search = (
        LetterSearch(place(AssignmentModel.from_pretrained(args.model))) if args.model else None
    )
    crystals = find_set(args.targets).load().crystals
    targets = write_as_orbits(crystals).arrays()
    if args.limit and args.limit < len(crystals):
        rows = torch.linspace(0, len(crystals) - 1, args.limit).long()
        crystals, targets = crystals.subset(rows), targets.subset(rows.numpy())
    truth = assignments_of(targets)
    atoms = [atoms_of(one) for one in truth]
    times = [math.gcd(*one.values()) for one in atoms]
    pairs = zip(atoms, times, strict=True)
    formulas = [{element: count // n for element, count in one.items()} for one, n in pairs]
    units = None if args.any_units else [[n] for n in times]
    sources: list[tuple[str, Proposer]] = []
    if prototypes is not None:
        sources.append(("prototypes", Proposer(prototypes)))
    if search is not None:
        sources.append(("model", Proposer(None, search)))
    if prototypes is not None and search is not None:
        sources.append(("both", Proposer(prototypes, search)))
    for name, proposer in sources:
        most = args.k if name != "both" else 3 * args.k  # to be ranked by other weights, too
        begin = time.perf_counter()
        found: list[list[Proposal]] = []
        for low in range(0, len(formulas), CHUNK):
            part = slice(low, low + CHUNK)
            own = None if units is None else units[part]
            found += proposer.propose_all(formulas[part], most, units=own)
        row: dict[str, Any] = {
            "targets": args.targets,
            "count": len(truth),
            "source": name,
            "prototypes": args.prototypes,
            "model": args.model,
            "units_given": not args.any_units,
            **recall(truth, [of[: args.k] for of in found]),
            "index_s": round(index, 1),
            "per_formula_s": round((time.perf_counter() - begin) / len(truth), 4),
        }
        if args.structures and prototypes is not None and search is None:
            named = [[one.prototype for one in of if one.prototype] for of in found]
            row |= {"patterns": len(prototypes)} | structures(prototypes, named, crystals)
        if name == "both":
            row |= {
                f"weight_{w:g}": recall(truth, [ranked(of, w) for of in found]) for w in WEIGHTS
            }
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
