"""Candidates of formulas by votes, energy and both: how often the right crystal is among the first.

    python benchmarks/ranking.py mp/val --prototypes mp/train --prototypes mp_52/train --limit 200

Candidates are crystals of prototypes, of the formula alone: the number of formula units is not
given. They are ranked as they are made, and after relaxation, by CHGNet's energy; a line of figures
for each order. Matcher `cdvae`, RMSE of the first where it matches. Choose on val.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter, defaultdict

import numpy as np
import torch

from chemeleon.crystals.batch import Crystals
from chemeleon.crystals.convert import to_structures
from chemeleon.crystals.formula import reduced
from chemeleon.crystals.orbits import crystals_of, put_together
from chemeleon.crystals.soundness import structural_problems
from chemeleon.data.named import find_set
from chemeleon.energy.potential import Potential
from chemeleon.evaluation.matching.pairs import match_pairs
from chemeleon.generation.assignments import Proposal, Proposer, load_prototypes
from chemeleon.generation.ranking import ranked
from chemeleon.generation.relaxation import Relaxer

KS = (1, 2, 3, 5, 10)
KTS = (0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2)  # eV/atom
NAMES = ("votes", "energy", *(f"both {kt:g}" for kt in KTS))


def orders(
    crystals: Crystals, proposals: list[Proposal], potential: Potential
) -> dict[str, list[int]]:
    """Return the candidates of a formula in each order."""
    energies = potential.energies(crystals).per_atom_ev.tolist()
    given = to_structures(crystals), energies, structural_problems(crystals)
    group = [range(len(crystals))]
    found = {"votes": list(group[0]), "energy": ranked(group, *given).order}
    for kt in KTS:
        found[f"both {kt:g}"] = ranked(group, *given, proposals, kt).order
    return found


def main() -> None:
    """Print a line of JSON for each order, of all targets and of the stable ones."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("targets", help="SET whose formulas are asked, NAME/SPLIT")
    parser.add_argument("--prototypes", action="append", required=True, help="SET; repeatable")
    parser.add_argument("--limit", type=int, default=200, help="targets, evenly spread")
    parser.add_argument("-n", type=int, default=10, help="candidates of each formula")
    parser.add_argument("--relax", type=int, default=50, help="steps")
    parser.add_argument("--stable", type=float, default=0.02, help="eV/atom above the hull")
    parser.add_argument("--every", type=int, default=50, help="print after so many targets")
    args = parser.parse_args()
    report = find_set(args.targets).load()
    above = report.columns.get("e_above_hull", torch.full((len(report.crystals),), torch.nan))
    rows = torch.linspace(0, len(report.crystals) - 1, args.limit).long().unique()
    rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))].tolist()
    prototypes, relaxer = load_prototypes(args.prototypes), Relaxer.named(None, max(1, args.relax))
    assert relaxer is not None
    proposer = Proposer(prototypes)
    found: dict[str, list[np.ndarray]] = defaultdict(list)
    stable, start = [], time.perf_counter()
    for done, row in enumerate(rows, 1):
        [target] = report.crystals.subset(torch.tensor([row]))
        formula, _ = reduced(Counter(target.atomic_numbers.tolist()))
        [proposals] = proposer.propose_all([formula], args.n)
        kept = [one.prototype for one in proposals if one.prototype is not None]
        stable.append(float(above[row]) <= args.stable)
        if kept:
            made = crystals_of(put_together([prototypes.crystal(one) for one in kept])).tensors()
            made = made.with_geometry(made.frac_coords.float(), made.lattice.float())
            states = {"as made": made, "relaxed": relaxer(made)[0]}
        else:
            states = dict.fromkeys(("as made", "relaxed"))
        for state, crystals in states.items():
            rmse, by = np.zeros(0), {name: list[int]() for name in NAMES}
            if crystals is not None:
                matches = match_pairs([(one, target) for one in crystals], "cdvae", 1)
                rmse = np.where(matches.matched, matches.rmse, np.inf)
                by = orders(crystals, proposals, relaxer.potential)
            for name, order in by.items():
                best = np.full(max(KS), np.inf)
                best[: len(order)] = rmse[order][: max(KS)]
                found[f"{state}, {name}"].append(np.minimum.accumulate(best))
        if done % args.every and done < len(rows):
            continue
        for name, best in found.items():
            table, line = np.array(best), {"order": name, "count": done}
            for which, own in (("all", np.ones(done, bool)), ("stable", np.array(stable))):
                first = table[own, 0]
                rates = [round(100 * float(np.isfinite(table[own, k - 1]).mean()), 1) for k in KS]
                mean = float(first[np.isfinite(first)].mean())
                line[which] = {"count": int(own.sum()), "at": rates, "rmse": round(mean, 4)}
            print(json.dumps(line), flush=True)
        print(json.dumps({"count": done, "seconds": round(time.perf_counter() - start)}))


if __name__ == "__main__":
    main()
