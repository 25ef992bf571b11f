"""Crystals written as orbits and read back: how many return, how large they are, how long it takes.

    python benchmarks/orbits.py mp/train mp/val mp/test [--limit 2000] [--jobs 1]

A crystal returns if pymatgen's matcher finds it again (ltol 0.1, stol 0.1, angle 3 degrees) and if
it has the space group that it had, both at ``--symprec``. Times are those of one process, with the
tables of the groups that it meets, without reading and matching.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from chemeleon.crystals.batch import LETTERS, Array, Crystal, Crystals
from chemeleon.crystals.canonical import orbits_of
from chemeleon.crystals.orbits import crystals_of, put_together
from chemeleon.crystals.symmetry import SYMPREC, TIGHT, space_group
from chemeleon.crystals.wyckoff import group
from chemeleon.data.named import find_set
from chemeleon.evaluation.matching.pairs import MatchPairs
from chemeleon.evaluation.matching.verdicts import fits
from chemeleon.workers import run_parallel, worker_count

TOLERANCES = (0.1, 0.1, 3.0)  # ltol, stol, angle in degrees
MATCHER = MatchPairs([], TOLERANCES, seconds=20.0)
CHUNK = 250


class Found(NamedTuple):
    """What was seen of some crystals."""

    orbits: Crystals[Array]
    atoms: Array
    failures: list[tuple[int, str]]
    strict: Array
    seconds: tuple[float, float]


def _number(crystal: Crystal, symprec: float) -> int:
    found = space_group(*crystal, symprec)
    return 0 if found is None else found.number


def _failure(given: Crystal, back: Crystal, symprec: float) -> str | None:
    """Return why a crystal does not count as the same, or None."""
    if not len(back.atomic_numbers):
        return "no space group"
    before, after = _number(given, symprec), _number(back, symprec)
    sizes = f"{len(given.atomic_numbers)} -> {len(back.atomic_numbers)} atoms"
    if before != after:
        return f"group {before} -> {after}, {sizes}"
    if len(given.atomic_numbers) == len(back.atomic_numbers) and fits(given, back, TOLERANCES):
        return None  # most crystals need not be reduced to be recognised
    answer = MATCHER.answer((given, back))
    if answer.rmse is None:
        return f"no match in group {before}, {sizes}: {answer.reason or 'too far'}"
    return None


def look(job: tuple[Crystals[Array], float]) -> Found:
    """Write some crystals as orbits, read them back and compare."""
    crystals, symprec = job
    start = time.perf_counter()
    orbits = put_together([orbits_of(crystal, symprec) for crystal in crystals])
    middle = time.perf_counter()
    back = crystals_of(orbits)
    seconds = middle - start, time.perf_counter() - middle
    reasons = [_failure(one, two, symprec) for one, two in zip(crystals, back, strict=True)]
    failures = [(row, reason) for row, reason in enumerate(reasons) if reason is not None]
    strict = np.array([_number(crystal, TIGHT) for crystal in crystals])
    return Found(orbits, np.asarray(back.num_atoms), failures, strict, seconds)


def report(parts: Sequence[Found]) -> dict[str, Any]:
    """Return the figures of a set."""
    written = Crystals.join([part.orbits for part in parts])
    assert written.sites is not None
    groups, letters = np.divmod(written.sites, LETTERS)
    orbits = written.num_atoms
    numbers = np.zeros(len(written), np.int64)
    numbers[written.owners] = groups
    atoms = np.concatenate([part.atoms for part in parts])
    strict = np.concatenate([part.strict for part in parts])
    total, failed = len(numbers), sum(len(part.failures) for part in parts)
    kinds, counts = np.unique(written.sites, return_counts=True)
    free = sum(
        int(group(kind // LETTERS).places[kind % LETTERS].free.sum()) * count
        for kind, count in zip(kinds.tolist(), counts.tolist(), strict=True)
    )
    whole = len(letters)
    to, back = np.array([part.seconds for part in parts]).sum(0) / total * 1e3
    return {
        "crystals": total,
        "returned": total - failed,
        "returned_percent": round(100 * (1 - failed / total), 3),
        "atoms_mean": round(float(atoms.mean()), 2),
        "orbits_mean": round(float(orbits.mean()), 2),
        "orbits_quantiles_50_90_99": np.quantile(orbits, [0.5, 0.9, 0.99]).tolist(),
        "orbits_most": int(orbits.max()),
        "at_most_16_orbits_percent": round(100 * float((orbits <= 16).mean()), 2),
        "orbits_per_letter_percent": {
            chr(ord("a") + letter) if letter < 26 else "A": round(100 * count / whole, 1)
            for letter, count in enumerate(np.bincount(letters).tolist())
        },
        "free_coordinates_per_orbit": round(free / whole, 2),
        "space_groups": len(np.unique(numbers)),
        "p1_percent": round(100 * float((numbers == 1).mean()), 2),
        f"p1_percent_at_{TIGHT:g}": round(100 * float((strict == 1).mean()), 2),
        f"other_group_at_{TIGHT:g}_percent": round(100 * float((strict != numbers).mean()), 2),
        "ms_to_orbits": round(float(to), 3),
        "ms_to_crystal": round(float(back), 3),
    }


def main() -> None:
    """Print one line of figures per set, after the crystals that do not return."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("sets", nargs="+", metavar="SET", help="NAME/SPLIT, or a file")
    parser.add_argument("--limit", type=int, help="crystals of each set, drawn with seed 0")
    parser.add_argument("--symprec", type=float, default=SYMPREC, help="angstrom")
    parser.add_argument("--jobs", type=int, default=worker_count(), help="processes")
    args = parser.parse_args()
    for name in args.sets:
        found = find_set(name)
        config = found.config.model_copy(update={"niggli": False})
        crystals = found._replace(config=config).load().crystals.arrays()
        if args.limit and args.limit < len(crystals):
            rows = np.random.default_rng(0).permutation(len(crystals))[: args.limit]
            crystals = crystals.subset(np.sort(rows))
        jobs = ((part, args.symprec) for part in crystals.cut(CHUNK))
        one = args.jobs == 1
        parts = []
        for found in map(look, jobs) if one else run_parallel("orbits:look", jobs, args.jobs):
            for row, reason in found.failures:
                print(f"{crystals.ids[len(parts) * CHUNK + row]}: {reason}", flush=True)
            parts.append(found)
        print(json.dumps({"set": name} | report(parts)), flush=True)


if __name__ == "__main__":
    main()
