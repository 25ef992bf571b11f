"""Structural checks: distances as pymatgen measures them, and reasons in words."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from conftest import demo_crystals

from chemeleon.crystals.batch import CrystalBatch
from chemeleon.crystals.soundness import shortest_distances, structural_problems


def _batch(cells: list[tuple[np.ndarray, np.ndarray]]) -> CrystalBatch:
    width = max(len(frac) for _, frac in cells)
    numbers = torch.zeros(len(cells), width, dtype=torch.int64)
    coords = torch.zeros(len(cells), width, 3, dtype=torch.float64)
    for row, (_, frac) in enumerate(cells):
        numbers[row, : len(frac)] = 6
        coords[row, : len(frac)] = torch.from_numpy(frac)
    lattice = torch.stack([torch.from_numpy(lattice) for lattice, _ in cells])
    return CrystalBatch(numbers, coords, lattice, (numbers > 0).sum(-1))


def _brute_force(lattice: np.ndarray, frac: np.ndarray, reach: int) -> float:
    images = np.stack(np.meshgrid(*[np.arange(-reach, reach + 1)] * 3), -1).reshape(-1, 3)
    delta = frac[:, None, None] - frac[None, :, None] + images
    distances = np.linalg.norm(delta @ lattice, axis=-1)
    itself = np.eye(len(frac), dtype=bool)[..., None] & (images == 0).all(-1)
    return float(distances[~itself].min())


def _random_cell(rng: np.random.Generator, atoms: int) -> tuple[np.ndarray, np.ndarray]:
    return rng.normal(0, 3, (3, 3)) + 2 * np.eye(3), rng.uniform(-2, 2, (atoms, 3))


def test_distances_equal_pymatgen() -> None:
    from pymatgen.core import Lattice, Structure

    rng = np.random.default_rng(0)
    cells = [_random_cell(rng, int(rng.integers(1, 12))) for _ in range(150)]
    found = shortest_distances(_batch(cells))
    for (lattice, frac), value in zip(cells, found.tolist(), strict=True):
        matrix = Structure(Lattice(lattice), ["C"] * len(frac), frac).distance_matrix
        # pymatgen leaves out the images of an atom itself
        own = min(Lattice(lattice).get_niggli_reduced_lattice().abc)
        between = matrix[np.triu_indices(len(frac), 1)]
        assert value == pytest.approx(min([own, *between]), abs=1e-7)


def test_distances_of_skewed_cells_equal_brute_force() -> None:
    rng = np.random.default_rng(1)
    cells, plain = [], []
    for _ in range(60):
        lattice, frac = _random_cell(rng, 4)
        lattice = np.diag(rng.uniform(3, 5, 3)) + rng.normal(0, 0.3, (3, 3))
        shear = np.eye(3)
        shear[rng.integers(1, 3), 0], shear[2, 1] = rng.integers(-9, 10), rng.integers(-9, 10)
        plain.append(_brute_force(lattice, frac % 1.0, 3))
        cells.append((shear @ lattice, frac @ np.linalg.inv(shear)))
    np.testing.assert_allclose(shortest_distances(_batch(cells)).numpy(), plain, atol=1e-7)


def test_padding_and_company_change_nothing() -> None:
    rng = np.random.default_rng(2)
    cells = [_random_cell(rng, n) for n in (1, 2, 9)]
    together = shortest_distances(_batch(cells))
    alone = torch.cat([shortest_distances(_batch([cell])) for cell in cells])
    torch.testing.assert_close(together, alone)


def test_reasons_in_words() -> None:
    cube, apart = 4.0 * np.eye(3), np.array([[0.0, 0, 0], [0.5, 0.5, 0.5]])
    flat = np.array([[4.0, 0, 0], [0, 4.0, 0], [4.0, 4.0, 1e-9]])
    needle = np.diag([0.6, 4.0, 90.0])
    leaning = np.array([[40.0, 0, 0], [40.0, 0.6, 0], [0, 0, 4.0]])
    cells = [
        (cube, apart),
        (np.full((3, 3), np.nan), apart),
        (cube, np.array([[0.0, 0, 0], [np.inf, 0.5, 0.5]])),
        (flat, apart),
        (cube, np.array([[0.0, 0, 0], [0.5, 0.5, 0.5], [0.95, 0.0, 1.0]])),
        (np.diag([0.3, 4.0, 4.0]), np.zeros((1, 3))),
        (needle, apart),
        (leaning, apart),
    ]
    assert structural_problems(_batch(cells)) == [
        None,
        "not finite",
        "not finite",
        "volume 1.6e-08 A^3",
        "atoms 0 and 2 are 0.20 A apart",
        "atom 0 is 0.30 A from its own image",
        "longest cell vector is 150 times the shortest",
        "two cell vectors are 0.86 degrees from parallel",
    ]


def test_garbage_never_raises() -> None:
    generator = torch.Generator().manual_seed(0)
    scale = torch.logspace(-30, 30, 200)[:, None, None]
    lattice = torch.randn(200, 3, 3, generator=generator) * scale
    coords = torch.randn(200, 5, 3, generator=generator) * 1e6
    numbers = torch.full((200, 5), 200)
    batch = CrystalBatch(numbers, coords, lattice, torch.full((200,), 5))
    assert all(structural_problems(batch))
    empty = CrystalBatch(numbers[:0], coords[:0], lattice[:0], torch.zeros(0, dtype=torch.int64))
    assert structural_problems(empty) == []
    assert shortest_distances(empty).shape == (0,)


def test_demo_set_is_sound_and_fast_to_check() -> None:
    crystals = demo_crystals("train")
    start = time.perf_counter()
    assert structural_problems(crystals) == [None] * len(crystals)
    assert len(crystals) / (time.perf_counter() - start) > 1000
    padded = crystals.batch(torch.arange(50))
    torch.testing.assert_close(
        shortest_distances(padded), shortest_distances(crystals.subset(torch.arange(50)))
    )
