"""Speed and exactness of `chemeleon evaluate`'s matching, beside pymatgen's plain double loop.

    python benchmarks/evaluate.py mp --matcher pymatgen      # 1,000 crystals, 13,875 references
    python benchmarks/evaluate.py carbon                     # one formula, many crystals

The plain loop is ``StructureMatcher.fit`` for every pair i < j and every (crystal, reference), on
as many processes; it is timed on a part of the crystals (``--plain``) in the same run and scaled
up by the number of pairs. "All pairs" is that loop, which is wanted 8 times as slow as ours; "same
composition only" is a better one that skips what cannot match. All verdicts are compared with ours.
With ``--reduced`` the plain loop is given reduced crystals and skips that step in ``fit``; the
time of reducing them is not counted for it.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import numpy as np

from chemeleon.crystals.batch import Array, Crystals
from chemeleon.data.named import find_set
from chemeleon.evaluation.collection import read_collection
from chemeleon.evaluation.matching.grouping import (
    composition_keys,
    find_groups,
    find_known,
    prepare,
    shared,
)
from chemeleon.evaluation.matching.pairs import TOLERANCES
from chemeleon.evaluation.reference import load_reference
from chemeleon.workers import run_parallel, worker_count


def plain_chunk(
    job: tuple[Crystals[Array], Crystals[Array], list[tuple[int, int]], Any, bool],
) -> np.ndarray:
    """Return the verdicts of pairs of crystals, straight from pymatgen."""
    import warnings

    from pymatgen.analysis.structure_matcher import StructureMatcher
    from pymatgen.core import Structure

    warnings.simplefilter("ignore")
    ours, theirs, pairs, tolerances, reduced = job
    ltol, stol, angle = tolerances
    matcher = StructureMatcher(ltol=ltol, stol=stol, angle_tol=angle)
    made: dict[tuple[int, int], Any] = {}

    def structure(side: int, row: int) -> Any:
        if (side, row) not in made:
            numbers, frac, lattice = (ours, theirs)[side].crystal(row)
            made[side, row] = Structure(lattice, numbers.tolist(), frac)
        return made[side, row]

    return np.array(
        [
            matcher.fit(structure(0, i), structure(1, j), skip_structure_reduction=reduced)
            for i, j in pairs
        ],
        dtype=bool,
    )


def plain(
    ours: Crystals[Array],
    theirs: Crystals[Array],
    pairs: np.ndarray,
    tolerances: Any,
    reduced: bool = False,
) -> np.ndarray:
    """Return all verdicts, computed on all cores."""
    chunks = np.array_split(pairs, max(1, min(len(pairs), 4 * worker_count())))
    jobs = [
        (ours, theirs, [tuple(p) for p in chunk.tolist()], tolerances, reduced) for chunk in chunks
    ]
    function = "evaluate:plain_chunk"
    return np.concatenate(list(run_parallel(function, jobs, worker_count())))


def disturbed(crystals: Crystals[Array], rng: np.random.Generator) -> Crystals[Array]:
    """Return each crystal perturbed, with supercell, rotation, permutation and shift."""
    made = []
    for numbers, frac, lattice in crystals:
        axis = int(rng.integers(4))
        if axis < 3 and len(numbers) <= 20:  # a supercell of two
            shift = np.eye(3)[axis]
            frac = np.concatenate([frac, frac + shift]) / (1 + shift)
            numbers, lattice = np.tile(numbers, 2), lattice * (1 + shift)[:, None]
        rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        noise = rng.normal(size=frac.shape)
        noise *= rng.uniform(0.02, 0.3) / np.linalg.norm(noise, axis=1, keepdims=True)
        order = rng.permutation(len(numbers))
        frac = (frac + noise @ np.linalg.inv(lattice) + rng.random(3))[order]
        rotation *= np.sign(np.linalg.det(rotation))
        made.append((numbers[order], frac, lattice @ rotation))
    from chemeleon.data.parse import Crystal

    return Crystals.of([Crystal(*crystal) for crystal in made])


def compare(
    crystals: Crystals[Array],
    reference: str,
    matcher: str,
    plain_rows: int,
    rng: np.random.Generator,
    reduced: bool = False,
) -> dict[str, Any]:
    """Time ours on everything and the plain loop on some rows; count disagreements."""
    tolerances = TOLERANCES[matcher]
    clock = time.perf_counter()
    known = load_reference(reference)
    indexing = time.perf_counter() - clock
    clock = time.perf_counter()
    keys = composition_keys(crystals)
    prepared = prepare(crystals, shared(keys, [set(known.prepared.keys)]))
    reducing = time.perf_counter() - clock
    groups = find_groups(prepared, tolerances)
    novelty = find_known(prepared, known.prepared, tolerances)
    ours = time.perf_counter() - clock
    total, refs = len(crystals), len(known.prepared.keys)
    pairs_all = total * (total - 1) // 2 + total * refs

    # what could match at all, from raw compositions: all of these verdicts are compared
    rows = np.sort(rng.permutation(total)[:plain_rows])
    place: dict[bytes, list[int]] = {}
    for j, key in enumerate(known.prepared.keys):
        place.setdefault(key, []).append(j)
    same = [(i, j) for i in range(total) for j in range(i + 1, total) if keys[i] == keys[j]]
    same = [p for p in same if p[0] in set(rows.tolist())]
    against = [(i, j) for i in rows.tolist() for j in place.get(keys[i], [])]
    raw = known.collection.crystals
    if reduced:
        crystals, raw = prepared.crystals, known.prepared.crystals
    clock = time.perf_counter()
    inside = plain(
        crystals, crystals, np.array(same, dtype=int).reshape(-1, 2), tolerances, reduced
    )
    outside = plain(crystals, raw, np.array(against, dtype=int).reshape(-1, 2), tolerances, reduced)
    alike = time.perf_counter() - clock

    # and the pairs of different composition, which the plain loop asks for too
    unlike = np.stack([rng.integers(total, size=4000), rng.integers(refs, size=4000)], 1)
    unlike = np.array([p for p in unlike.tolist() if keys[p[0]] != known.prepared.keys[p[1]]])
    clock = time.perf_counter()
    if len(unlike):
        assert not plain(crystals, raw, unlike.reshape(-1, 2), tolerances, reduced).any()
    each = (time.perf_counter() - clock) / max(len(unlike), 1)
    everyone = plain_rows / total
    alike_all = alike / everyone
    plain_all = alike_all + each * (pairs_all - (len(same) + len(against)) / everyone)

    met = np.zeros(total, dtype=bool)
    for (i, _), verdict in zip(against, outside.tolist(), strict=True):
        met[i] |= verdict
    wrong_novel = int((met[rows] != (novelty.match[rows] >= 0)).sum())
    group = groups.group
    joined = [pair for pair, verdict in zip(same, inside.tolist(), strict=True) if verdict]
    wrong_unique = sum(group[i] != group[j] for i, j in joined)
    if plain_rows >= total:
        parent = np.arange(total)
        for i, j in joined:
            parent[parent == max(parent[i], parent[j])] = min(parent[i], parent[j])
        wrong_unique = int((parent != group).sum())
    return {
        "matcher": matcher, "crystals": total, "references": refs, "pairs": pairs_all,
        "unique": float(groups.unique.mean()), "novel": float((novelty.match < 0).mean()),
        "undecided": int(groups.undecided.sum() + novelty.undecided.sum()),
        "seconds": {"index": indexing, "reduce": reducing, "ours": ours,
                    "plain, same composition only": alike_all, "plain, all pairs": plain_all},
        "faster than plain": plain_all / ours,
        "faster than plain within compositions": alike_all / ours,
        "compared": {"crystals": plain_rows, "pairs": len(same) + len(against)},
        "disagreements": {"novelty": wrong_novel, "uniqueness": int(wrong_unique)},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("what", choices=("mp", "carbon"))
    parser.add_argument("--matcher", default="pymatgen", choices=TOLERANCES)
    parser.add_argument("--crystals", type=int, default=1000)
    parser.add_argument("--plain", type=int, default=None, help="crystals of the plain loop")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reduced", action="store_true", help="plain loop of reduced crystals")
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    if args.what == "mp":
        test = read_collection(find_set("mp/test").path).crystals
        half = test.subset(rng.permutation(len(test))[: args.crystals // 2])
        crystals = Crystals.join([half, disturbed(half, rng)])
        result = compare(
            crystals,
            "mp",
            args.matcher,
            args.plain or len(crystals),
            rng,
            args.reduced,
        )
    else:
        val = read_collection(find_set("carbon_24/val").path).crystals
        crystals = val.subset(rng.permutation(len(val))[: args.crystals])
        result = compare(crystals, "carbon_24", args.matcher, args.plain or 5, rng, args.reduced)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
