"""Growth of `chemeleon evaluate` in time, memory and size of what it writes, without energies.

    python benchmarks/evaluate_growth.py [--sizes 10000 50000 200000]

Crystals are those of all splits of mp, drawn with repetition, each perturbed, permuted,
shifted, rotated and half of the time in a supercell; so 200,000 of them hold about 3 copies of
each. They are judged against mp (its index is made before the clock starts), from an extxyz
to the report, each size in a process of its own, whose peak of memory is told.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from evaluate import disturbed

from chemeleon.crystals.batch import Crystals
from chemeleon.data.named import find_set
from chemeleon.evaluation.collection import read_collection
from chemeleon.evaluation.evaluate import Settings, evaluate
from chemeleon.evaluation.reference import load_reference

REFERENCE = "mp"
_PART = 2000


def write(count: int, file: Path) -> None:
    """Write disturbed crystals."""
    from ase import Atoms
    from ase.io import write as write_atoms

    rng = np.random.default_rng(0)
    splits = [f"{REFERENCE}/{split}" for split in ("train", "val", "test")]
    source = Crystals.join([read_collection(find_set(split).path).crystals for split in splits])
    with file.open("w", encoding="utf-8") as out:
        for begin in range(0, count, _PART):
            rows = rng.integers(len(source), size=min(_PART, count - begin))
            part = disturbed(source.subset(rows), rng)
            for numbers, frac, lattice in part:
                atoms = Atoms(numbers, scaled_positions=frac % 1, cell=lattice, pbc=True)
                write_atoms(out, atoms, format="extxyz")


def measure(file: Path, folder: Path, jobs: int | None) -> None:
    """Evaluate a file in this process, and print one line of JSON."""
    load_reference(REFERENCE)
    spent: dict[str, float] = {}
    last = begun = time.perf_counter()

    def progress(word: str, share: float) -> None:
        nonlocal last
        now = time.perf_counter()
        spent[word] = spent.get(word, 0.0) + now - last
        last = now

    settings = Settings(references=[REFERENCE], control="none", jobs=jobs)
    report = evaluate(file, settings, progress=progress)
    judged = time.perf_counter()
    report.save(folder)
    done = time.perf_counter()
    own, largest = (
        resource.getrusage(kind).ru_maxrss / 2**20
        for kind in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    names = ("crystals.csv", "summary.json", "report.html")
    told = {
        "seconds": done - begun,
        "seconds_saving": done - judged,
        "seconds_until": {word: round(value, 1) for word, value in spent.items()},
        "peak_gib": own,
        "peak_gib_of_one_worker": largest,
        "mib": {name: round((folder / name).stat().st_size / 2**20, 2) for name in names},
        "unique": float(np.mean(report.crystals["unique"])),
        "timed_out_pairs": int(np.sum(report.crystals["timed_out_pairs"])),
    }
    print(json.dumps(told))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 50_000, 200_000])
    parser.add_argument("--jobs", type=int, default=None)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)  # of one size, judged here
    args = parser.parse_args()
    if args.file is not None:
        measure(args.file, args.file.parent / "report", args.jobs)
        return
    for size in args.sizes:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "crystals.extxyz"
            write(size, file)
            command = [sys.executable, __file__, "--file", str(file)]
            command += [] if args.jobs is None else ["--jobs", str(args.jobs)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        print(json.dumps({"crystals": size, **json.loads(done.stdout)}, indent=1), flush=True)


if __name__ == "__main__":
    main()
