"""Well-known compounds, of their formulas alone: at which rank the right crystal is, and how fast.

    python benchmarks/compounds.py CASES --prototypes mp/train --prototypes mp_52/train
    python benchmarks/compounds.py CASES --model runs/orbits_csp --assign runs/assign --relax 0

CASES is a folder of structures called FORMULA.cif or FORMULA_name.cif; where several have one
formula, either counts. Each formula is a `chemeleon sample` of its own, so its time is that from
start to files; orbits and index of the prototypes are in the cache once they were used. A candidate
is right if it matches (`cdvae`) with an RMSE of at most .15.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from chemeleon.crystals.batch import Crystal
from chemeleon.data.named import find_set
from chemeleon.evaluation.matching.pairs import match_pairs

RMSE = 0.15  # at most, of a candidate that is right
TOP = 5


def sampled(formula: str, words: list[str]) -> tuple[list[Crystal], float]:
    """Return the candidates of a formula in their order, none if it fails, and the seconds."""
    with TemporaryDirectory() as folder:
        asked = ["sample", "--formula", formula, "-o", folder, "--format", "json", "--overwrite"]
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "chemeleon", *asked, *words],
            capture_output=True,
            text=True,
            check=False,
        )
        seconds = time.perf_counter() - start
        if done.returncode:
            print(done.stderr[-500:], file=sys.stderr)
            return [], seconds
        return list(find_set(str(Path(folder) / "structures.json.gz")).load().crystals), seconds


def distances(candidates: list[Crystal], references: list[Crystal]) -> np.ndarray:
    """Return the least RMSE of each candidate with a reference, inf where none matches."""
    found = np.full(len(candidates), np.inf)
    for reference in references:
        rows = match_pairs([(candidate, reference) for candidate in candidates], "cdvae")
        found = np.minimum(found, np.where(rows.matched, rows.rmse, np.inf))
    return found


def main() -> None:
    """Print a line of JSON for each formula and one for all of them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("cases", help="folder of structures")
    parser.add_argument("--model", default="prototypes")
    parser.add_argument("--assign", help="model of assignments")
    parser.add_argument("--prototypes", action="append", default=[], help="SET; repeatable")
    parser.add_argument("-n", type=int, default=10, help="candidates of each formula")
    parser.add_argument("--relax", type=int, default=50, help="steps")
    parser.add_argument("--rank-by", default="auto")
    args = parser.parse_args()
    words = ["--model", args.model, "-n", str(args.n), "--relax", str(args.relax)]
    words += ["--rank-by", args.rank_by, *(["--assign", args.assign] if args.assign else [])]
    words += [word for name in args.prototypes for word in ("--prototypes", name)]
    cases: dict[str, list[Crystal]] = defaultdict(list)
    crystals = find_set(args.cases).load().crystals
    for name, crystal in zip(crystals.ids, crystals, strict=True):
        cases[name.partition("_")[0]].append(crystal)
    ranks, times = [], []
    for formula, references in cases.items():
        candidates, seconds = sampled(formula, words)
        rmse = distances(candidates, references)
        right = np.flatnonzero(rmse <= RMSE)
        rank = int(right[0]) + 1 if len(right) else None
        ranks.append(rank)
        times.append(seconds)
        row = {"formula": formula, "candidates": len(candidates), "rank": rank}
        row |= {"rmse": None if rank is None else round(float(rmse[rank - 1]), 4)}
        print(json.dumps(row | {"seconds": round(seconds, 1)}), flush=True)
    total = {
        "formulas": len(ranks),
        "first": sum(rank == 1 for rank in ranks),
        f"top_{TOP}": sum(rank is not None and rank <= TOP for rank in ranks),
        "found": sum(rank is not None for rank in ranks),
        "seconds_mean": round(float(np.mean(times)), 1),
        "seconds_most": round(max(times), 1),
    }
    print(json.dumps(total | {"words": words}))


if __name__ == "__main__":
    main()
