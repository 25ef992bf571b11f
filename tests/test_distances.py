"""The closest atoms of a crystal: exact in any cell, and light for many atoms."""

from __future__ import annotations

import itertools
import time
import tracemalloc

import numpy as np
import pytest

from chemeleon.data.distances import closest_pair
from chemeleon.data.niggli import niggli_matrix


def by_force(frac: np.ndarray, lattice: np.ndarray) -> float:
    """Return the shortest distance over many images, an atom's own too."""
    steps = np.array(list(itertools.product(range(-4, 5), repeat=3)))
    frac = frac - np.floor(frac)
    best = np.inf
    for i, j in itertools.combinations_with_replacement(range(len(frac)), 2):
        vectors = (frac[j] - frac[i] + steps) @ lattice
        squared = (vectors * vectors).sum(1)
        if i == j:
            squared[(steps == 0).all(1)] = np.inf
        best = min(best, squared.min())
    return float(best) ** 0.5


def test_equals_brute_force_in_any_cell() -> None:
    generator = np.random.default_rng(0)
    met = own = 0
    for trial in range(200):
        reduced = niggli_matrix(generator.normal(size=(3, 3)) * generator.uniform(0.5, 2))
        frac = generator.normal(size=(int(generator.integers(1, 7)), 3))
        expected = by_force(frac, reduced)
        skew = np.eye(3, dtype=int)
        if trial % 2:  # the same lattice by other vectors
            skew[2, :2] = generator.integers(-5, 6, 2)
            skew[1, 0] = generator.integers(-5, 6)
        lattice = skew @ reduced
        found = closest_pair(frac @ np.linalg.inv(skew), lattice, 0.5)
        assert (found is not None) == (expected <= 0.5), trial
        if found is not None:
            met += 1
            own += found[0] == found[1]
            if found[0] != found[1]:
                assert found[2] >= expected - 1e-9
    assert met > 40
    assert own > 10


@pytest.mark.parametrize("count", [8, 200])
def test_says_which_atoms(count: int) -> None:
    grid = np.array(list(itertools.product(np.arange(6) / 6, repeat=3)))[:count]
    lattice = np.diag([12.0, 13.0, 14.0])
    assert closest_pair(grid, lattice, 0.5) is None
    grid[5] = grid[2] + [3 - 0.01, -1, 0.01]  # in another cell
    i, j, distance = closest_pair(grid, lattice, 0.5) or (0, 0, 0.0)
    assert (i, j) == (2, 5)
    assert distance == pytest.approx(np.hypot(0.12, 0.14))
    grid[5] = grid[2]
    assert closest_pair(grid, lattice, 0.01) == (2, 5, 0.0)


def test_across_the_faces() -> None:
    lattice = np.diag([40.0, 40.0, 40.0])
    for count in (2, 100):
        frac = np.concatenate([[[0.999, 0.5, 0.5], [0.001, 0.5, 0.5]], np.linspace(
            [0.1, 0.1, 0.1], [0.1, 0.9, 0.1], count)[: count - 2]])  # fmt: skip
        found = closest_pair(frac, lattice, 0.5)
        assert found is not None
        assert found[2] == pytest.approx(0.08)


def test_three_thousand_atoms_are_quick_and_light() -> None:
    grid = np.array(list(itertools.product(np.arange(15) / 15, repeat=3)))[:3000]
    lattice = np.eye(3) * 40.0
    closest_pair(grid, lattice, 0.5)  # imports
    start = time.process_time()
    assert closest_pair(grid, lattice, 0.5) is None
    assert time.process_time() - start < 0.1
    tracemalloc.start()
    closest_pair(grid, lattice, 0.5)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10e6  # all pairs would take 500 MB


def test_a_needle_of_a_cell_is_reduced_in_little_memory() -> None:
    tracemalloc.start()
    start = time.process_time()
    reduced = niggli_matrix(np.diag([1.0, 1.0, 1e5]))
    assert time.process_time() - start < 2
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()
    assert sorted(np.linalg.norm(reduced, axis=1)) == pytest.approx([1, 1, 1e5])
