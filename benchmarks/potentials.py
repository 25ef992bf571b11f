"""Time potentials on crystals of mp/val, and compare their energies with DFT's.

    python benchmarks/potentials.py [--device cuda] [--plain] [--mae 1000] [--relax 1000]

``--plain`` keeps SevenNet's kernels out, ``--mae`` measures errors in place of times.
"""

from __future__ import annotations

import argparse
import time
import warnings
from typing import Any

import numpy as np
import torch

from chemeleon.config.presets import load_data
from chemeleon.crystals.convert import to_structures
from chemeleon.data.dataset import load_report
from chemeleon.data.parse import Crystal
from chemeleon.energy import sevennet_convolution
from chemeleon.energy.hull_sources import hull_for
from chemeleon.energy.potentials import load_potential
from chemeleon.energy.relax import relax


def timed(function, count: int, name: str) -> float:
    """Print the rate of the second of two runs."""
    spent = 0.0
    for _ in range(2):
        start = time.perf_counter()
        function()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        spent = time.perf_counter() - start
    print(f"{name:<44}{count / spent:>10.1f} /s{spent:>10.2f} s", flush=True)
    return count / spent


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--crystals", type=int, default=1000)
    parser.add_argument("--potentials", nargs="*", default=["chgnet", "sevennet"])
    parser.add_argument("--ase", type=int, default=50, help="crystals of SevenNet's own calculator")
    parser.add_argument("--relax", type=int, default=0)
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--mae", type=int, default=0)
    words = parser.parse_args()
    warnings.simplefilter("ignore")
    sevennet_convolution.HAS_TRITON &= not words.plain
    found = load_report(load_data("mp"), "val")
    total = len(found.crystals)
    rows = np.random.default_rng(0).permutation(total)[: words.mae or words.crystals]
    crystals = to_structures(found.crystals.subset(torch.from_numpy(rows)))
    for name in words.potentials:
        potential = load_potential(name, words.device)
        if words.mae:
            ground = hull_for(potential, "mp", name)
            assert ground is not None
            arrays = [Crystal(np.array(c.atomic_numbers), c.frac_coords, c.lattice.matrix)
                      for c in crystals]  # fmt: skip
            formulas = [c.composition for c in crystals]
            totals = potential.energies(crystals).per_atom_ev
            formation, _ = ground.formation_energies(formulas, totals.tolist(), arrays)
            above = ground.hull.above(formulas, formation.tolist()).e_above_hull_ev
            for values, column in (
                (formation, "formation_energy_per_atom"),
                (above, "e_above_hull"),
            ):
                error = np.nanmean(np.abs(values - found.columns[column].double().numpy()[rows]))
                print(f"{name:<12}{column:<28}MAE {error:.4f} eV/atom", flush=True)
            continue
        timed(lambda p=potential: p.energies(crystals), len(crystals), f"{name}, energies")
        timed(
            lambda p=potential: p.energies(crystals, forces=True, stresses=True),
            len(crystals),
            f"{name}, with forces",
        )
        if words.relax:
            part = crystals[: words.relax]
            timed(
                lambda p=potential, c=part: relax(c, p, 100, 0.05), len(part), f"{name}, relaxation"
            )
    if words.ase and not words.mae:
        from pymatgen.io.ase import AseAtomsAdaptor
        from sevenn.calculator import SevenNetCalculator

        own = SevenNetCalculator("7net-l3i5", device=words.device)

        def theirs() -> None:
            for crystal in crystals[: words.ase]:
                atoms: Any = AseAtomsAdaptor.get_atoms(crystal)
                atoms.calc = own
                atoms.get_forces()

        timed(theirs, words.ase, "SevenNet's own calculator, with forces")


if __name__ == "__main__":
    main()
