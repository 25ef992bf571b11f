"""The embedded demo data set: well-known structure prototypes decorated with real elements.

Each prototype is given by its conventional axes, the Niggli cell in terms of them, and its sites.
A decoration supplies the elements and, from tabulated radii, the size of the cell; each decorated
crystal appears in a few strained variants. Strains keep the Bravais type (one factor for a, one
for c), because lower ones would flip a crystal between Niggli cells of nearly the same lattice.

The crystals are plausible, not measured: lengths follow from radii and are within some per cent.
"""

from __future__ import annotations

from functools import cache
from math import sqrt
from typing import Literal

import numpy as np
import torch

from chemeleon.crystals.batch import Crystals
from chemeleon.crystals.lattice import lattice_angles, lattice_from_parameters, lattice_lengths
from chemeleon.crystals.prototype_table import PROTOTYPES, Prototype
from chemeleon.errors import DataError

SEED = 20
STRAIN, MAX_STRAIN = 0.01, 0.02
U_JITTER = 0.002
SPLIT_ENDS = {"train": (0.0, 0.8), "val": (0.8, 0.9), "test": (0.9, 1.0)}
DALTON_PER_CUBIC_ANGSTROM = 1.66053906660  # in g/cm3 (CODATA 2018)


def _strains(generator: np.random.Generator, count: int) -> np.ndarray:
    return 1 + np.clip(generator.normal(0, STRAIN, count), -MAX_STRAIN, MAX_STRAIN)


def _build(
    prototype: Prototype, generator: np.random.Generator
) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray]:
    """Return ids, ``(K, n)`` atomic numbers, ``(K, n, 3)`` coordinates, ``(K, 3, 3)`` cells."""
    from ase.data import atomic_numbers

    chosen = list(prototype.decorations())
    if len(chosen) > prototype.limit:
        kept = generator.permutation(len(chosen))[: prototype.limit]
        chosen = [chosen[i] for i in sorted(kept)]
    rows = [row for row in chosen for _ in range(prototype.variants)]
    cubic = all(shape.c_over_a == 1.0 for _, shape in rows)
    along_a = _strains(generator, len(rows))
    along_c = along_a if cubic else _strains(generator, len(rows))
    shifts = np.clip(generator.normal(0, U_JITTER, len(rows)), -2 * U_JITTER, 2 * U_JITTER)

    axes = np.array([[1, 0, 0], [-0.5, sqrt(0.75), 0], [0, 0, 1]]) if prototype.hexagonal else None
    transform = np.array(prototype.cell)
    inverse = np.linalg.inv(transform)
    ids, numbers, coords, cells = [], [], [], []
    for i, (elements, shape) in enumerate(rows):
        a = shape.a * along_a[i]
        c = shape.a * shape.c_over_a * along_c[i]
        cells.append(transform @ (np.diag([a, a, c]) @ (np.eye(3) if axes is None else axes)))
        sites = prototype.sites(shape.u + shifts[i])
        coords.append(np.array([site[1:] for site in sites]) @ inverse)
        numbers.append([atomic_numbers[elements[site[0]]] for site in sites])
        variant = i % prototype.variants
        ids.append(f"demo-{prototype.name}-{prototype.formula(elements)}-{variant}")
    return ids, np.array(numbers), np.array(coords), np.array(cells)


@cache
def _all_crystals() -> Crystals:
    from ase.data import atomic_masses

    generator = np.random.Generator(np.random.PCG64(SEED))
    ids, numbers, coords, cells, counts, masses = [], [], [], [], [], []
    for prototype in PROTOTYPES:
        names, z, frac, lattice = _build(prototype, generator)
        ids += names
        numbers.append(z.ravel())
        coords.append(frac.reshape(-1, 3))
        cells.append(lattice)
        counts.append(np.full(len(z), z.shape[1]))
        masses.append(atomic_masses[z].sum(1))
    lattice = np.concatenate(cells)
    num_atoms = np.concatenate(counts)
    volume = np.abs(np.linalg.det(lattice))
    exact = torch.from_numpy(lattice)
    rebuilt = lattice_from_parameters(lattice_lengths(exact), lattice_angles(exact))
    # rounding first keeps -1e-17 from becoming 1.0 in float32
    wrapped = np.round(np.concatenate(coords), 7) % 1.0
    targets = {
        "density": np.concatenate(masses) / volume * DALTON_PER_CUBIC_ANGSTROM,
        "volume_per_atom": volume / num_atoms,
    }
    return Crystals(
        atomic_numbers=torch.from_numpy(np.concatenate(numbers)).long(),
        frac_coords=torch.from_numpy(wrapped).float(),
        lattice=rebuilt.float(),
        num_atoms=torch.from_numpy(num_atoms).long(),
        targets={name: torch.from_numpy(value).float() for name, value in targets.items()},
        ids=ids,
    )


def demo_crystals(split: Literal["train", "val", "test"]) -> Crystals:
    """Make one split of the demo data set; the same on every machine.

    Args:
        split: ``train``, ``val`` or ``test``, about 80, 10 and 10 per cent.

    Returns:
        Niggli-reduced crystals of 1-14 atoms with targets ``density`` (g/cm3) and
        ``volume_per_atom`` (cubic angstrom).

    Raises:
        DataError: for another split.
    """
    if split not in SPLIT_ENDS:
        raise DataError(f"the demo set has no split '{split}'; it has train, val and test")
    crystals = _all_crystals()
    order = np.random.Generator(np.random.PCG64(SEED + 1)).permutation(len(crystals))
    start, end = (round(share * len(crystals)) for share in SPLIT_ENDS[split])
    return crystals.subset(torch.from_numpy(np.sort(order[start:end])))
