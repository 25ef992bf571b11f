"""Time energies, relaxation and the hull; beside CHGNet's own code and pymatgen in the same run.

    python benchmarks/energy.py [--device cuda] [--crystals 1000]

Crystals are those of mp/val, repeated if more are asked for; they are Structure objects
when the clock starts. CHGNet's `predict_structure` gets its best of the batch sizes 16, 64 and 256
on a part of them. The hull is that of mp.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from pymatgen.core import Structure

from chemeleon.config.presets import load_data
from chemeleon.crystals.convert import to_structures
from chemeleon.data.dataset import LoadReport, load_report
from chemeleon.energy.potential import Potential
from chemeleon.energy.potentials import load_potential
from chemeleon.energy.relax import relax


def timed(function: Callable[[], object], device: str, repeats: int = 3) -> float:
    """Return the median seconds of some runs, after one that is not counted."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        function()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:] if repeats > 1 else times)


def line(name: str, count: int, seconds: float, note: str = "") -> None:
    """Print one row."""
    print(f"{name:<44}{count / seconds:>10.1f} /s{seconds:>10.2f} s  {note}", flush=True)


def peak(device: str) -> str:
    """Return the largest memory of the GPU since the last call."""
    if not device.startswith("cuda"):
        return ""
    used = torch.cuda.max_memory_allocated() / 2**30
    torch.cuda.reset_peak_memory_stats()
    return f"{used:.1f} GiB"


def energies(potential: Potential, crystals: list[Structure], part: int, device: str) -> None:
    """Compare structures -> energies, and with forces and stresses."""
    from chgnet.model.model import CHGNet

    package: Any = CHGNet.load(use_device=device, verbose=False)
    some = crystals[:part]
    for task, gradients in (("e", False), ("efs", True)):
        what = "energies + forces + stresses" if gradients else "energies"
        ask = {"forces": gradients, "stresses": gradients}
        peak(device)
        ours = timed(lambda ask=ask: potential.energies(crystals, **ask), device)
        line(f"ours, {what}", len(crystals), ours, peak(device))
        best, size = np.inf, 0
        for batch in (16, 64, 256):
            run = lambda t=task, b=batch: package.predict_structure(some, task=t, batch_size=b)  # noqa: E731
            seconds = timed(run, device, 1)
            best, size = min((best, size), (seconds, batch))
        line(f"CHGNet's predict_structure, {what}", part, best, f"batch {size} {peak(device)}")
        print(f"  ours is {len(crystals) / ours / (part / best):.1f} times as fast")
    theirs = np.array([x["e"].item() for x in package.predict_structure(some, task="e")])
    apart = np.abs(potential.energies(some).per_atom_ev - theirs).max()
    print(f"  largest difference of the energies {apart:.1e} eV/atom")


def relaxation(potential: Potential, crystals: list[Structure], device: str) -> None:
    """Relax shaken crystals by 50 steps, none of which leaves early."""
    generator = np.random.default_rng(0)
    shaken = []
    for crystal in crystals:
        coords = crystal.cart_coords + generator.normal(0, 0.1, (len(crystal), 3))
        shaken.append(
            Structure(crystal.lattice, crystal.species, coords, coords_are_cartesian=True)
        )
    for limit, name in ((0.0, "all 50 steps"), (0.05, "until 0.05 eV/A")):
        peak(device)
        start = time.perf_counter()
        found = relax(shaken, potential, 50, limit)
        seconds = time.perf_counter() - start
        done = sum(r.converged for r in found)
        steps = sum(r.steps for r in found) / len(found)
        note = f"{steps:.1f} steps each, {done} converged {peak(device)}"
        line(f"relaxation, positions and cell, {name}", len(found), seconds, note)


def hull(found: LoadReport, crystals: list[Structure]) -> None:
    """Ask for energies above hull, and pymatgen for some of them."""
    from pymatgen.analysis.phase_diagram import PhaseDiagram
    from pymatgen.core import Composition
    from pymatgen.entries.computed_entries import ComputedEntry

    from chemeleon.energy.compositions import formula_of, fractions
    from chemeleon.energy.hull_sources import find_hull

    start = time.perf_counter()
    made = find_hull("mp").load()
    print(f"hull of {len(made):,} phases read in {time.perf_counter() - start:.1f} s")
    names = [crystal.composition.reduced_formula for crystal in crystals]
    given = found.columns["formation_energy_per_atom"].tolist()
    start = time.perf_counter()
    answer = made.above(names, given)
    ours = time.perf_counter() - start
    line("energy above hull", len(names), ours)
    column = found.columns["e_above_hull"].numpy()
    gap = answer.e_above_hull_ev - column
    within = (np.abs(gap) <= 0.001).mean()
    print(f"  within 1 meV of e_above_hull: {within:.1%}; highest above it {gap.max():.1e} eV/atom")
    by_system: dict[frozenset[str], list[ComputedEntry]] = {}
    for phase, energy in made.phases.items():
        composition = Composition(formula_of(phase))
        entry = ComputedEntry(composition, energy * composition.num_atoms)
        by_system.setdefault(frozenset(s for s, _ in phase), []).append(entry)
    spent, worst, some = 0.0, 0.0, range(0, len(names), max(1, len(names) // 200))
    for i in some:
        symbols = {s for s, _ in fractions(names[i])}
        entries = [e for system, part in by_system.items() if system <= symbols for e in part]
        entries += [ComputedEntry(Composition(symbol), 0.0) for symbol in symbols]
        composition = Composition(names[i])
        asked = ComputedEntry(composition, given[i] * composition.num_atoms)
        start = time.perf_counter()
        theirs = PhaseDiagram(entries).get_e_above_hull(asked, allow_negative=True)
        spent += time.perf_counter() - start
        worst = max(worst, abs(theirs - answer.e_above_hull_ev[i]))
    line("pymatgen's PhaseDiagram per crystal", len(some), spent, "entries picked before")
    rate = spent / len(some) / (ours / len(names))
    print(f"  ours is {rate:.1f} times as fast; largest difference {worst:.1e} eV/atom")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--crystals", type=int, default=1000)
    parser.add_argument("--package-crystals", type=int, default=256, help="for CHGNet's own code")
    parser.add_argument("--relax", type=int, default=1000, help="crystals that are relaxed")
    words = parser.parse_args()
    warnings.simplefilter("ignore")
    found = load_report(load_data("mp"), "val")
    known = to_structures(found.crystals)
    crystals = [known[i % len(known)] for i in range(words.crystals)]
    name = torch.cuda.get_device_name() if words.device.startswith("cuda") else "CPU"
    atoms = sum(map(len, crystals)) / len(crystals)
    print(f"{name}, torch {torch.__version__}, {torch.get_num_threads()} threads,", end=" ")
    print(f"{len(crystals)} crystals of {atoms:.1f} atoms on average")
    potential = load_potential("chgnet", words.device)
    energies(potential, crystals, min(words.package_crystals, len(crystals)), words.device)
    if words.relax:
        relaxation(potential, crystals[: words.relax], words.device)
    hull(found, known)


if __name__ == "__main__":
    main()
