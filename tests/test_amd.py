"""Average minimum distances in any cell, known crystals by composition, workers that wait."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import demo_crystals
from pymatgen.core import Lattice, Structure

from chemeleon import workers as pool
from chemeleon.crystals.batch import Crystals
from chemeleon.crystals.convert import from_structures
from chemeleon.evaluation.matching import amd
from chemeleon.evaluation.matching.amd import average_minimum_distances, chebyshev
from chemeleon.evaluation.matching.grouping import composition_keys, elements_of, prepare
from chemeleon.evaluation.matching.lookup import Lookup


def plain(structure: Structure, neighbours: int) -> np.ndarray:
    """The definition, by a neighbour list that is long enough."""
    radius = 3.0
    while True:
        found = structure.get_all_neighbors(radius)
        if min(map(len, found)) >= neighbours:
            rows = [sorted(n.nn_distance for n in each)[:neighbours] for each in found]
            return np.mean(rows, axis=0)
        radius *= 1.5


def odd_cells() -> list[Structure]:
    """Skewed, flat, long, sparse and dense cells, one to seven atoms."""
    rng = np.random.default_rng(5)
    cells = [
        np.array([[2.5, 0, 0], [1.2, 2.2, 0], [7.1, 1.9, 3.0]]),
        np.array([[4, 0, 0], [39.7, 4, 0], [-11, 23, 5]]),
        np.diag([3.0, 3.0, 40.0]),
        np.diag([25.0, 26.0, 2.2]),
        np.diag([12.0, 12.0, 12.0]),
        np.diag([2.1, 2.1, 2.1]),
        rng.normal(0, 4, (3, 3)),
    ]
    return [
        Structure(Lattice(cell), ["Fe"] * count, rng.random((count, 3)))
        for cell, count in zip(cells, (1, 3, 2, 7, 1, 1, 5), strict=True)
    ]


@pytest.mark.parametrize("neighbours", [1, 12, 100])
def test_distances_are_those_of_the_definition_in_any_cell(neighbours):
    structures = odd_cells()
    ours = average_minimum_distances(from_structures(structures), neighbours).numpy()
    wanted = np.stack([plain(s, neighbours) for s in structures])
    assert np.abs(ours - wanted).max() < 1e-5 * wanted.max()  # coordinates are held in float32


def test_they_do_not_depend_on_cell_origin_orientation_or_elements():
    structure = odd_cells()[6]
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    turned = Structure(
        Lattice(structure.lattice.matrix @ rotation),
        ["O"] * 5,
        (structure.frac_coords + np.array([0.3, -0.2, 7.1]))[::-1],
    )
    large = structure.copy()
    large.make_supercell([[1, 1, 0], [0, 2, 0], [0, 0, 1]])
    vectors = average_minimum_distances(from_structures([structure, turned, large]))
    assert float(chebyshev(vectors, vectors).max()) < 1e-4
    moved = structure.copy()
    moved.translate_sites([0], [0.03, 0, 0], frac_coords=False)
    both = average_minimum_distances(from_structures([structure, moved]))
    assert 0 < float(chebyshev(both[:1], both[1:])) < 0.06  # continuous: at most twice the shift


def test_batches_change_nothing(monkeypatch):
    some = demo_crystals("val").subset(torch.arange(0, 400, 40))
    together = average_minimum_distances(some, 30)
    monkeypatch.setitem(amd._CANDIDATES, "cpu", 1)
    assert torch.allclose(average_minimum_distances(some, 30), together)
    nothing = some.subset(torch.zeros(0, dtype=torch.int64))
    assert average_minimum_distances(nothing).shape == (0, 100)


def test_what_has_no_distances_is_nan_and_stops_nothing(monkeypatch):
    some = demo_crystals("val").subset(torch.arange(4))
    lattice, frac = some.lattice.clone(), some.frac_coords.clone()
    lattice[1, 2] = lattice[1, 1]  # flat
    frac[some.starts[2]] = torch.inf
    vectors = average_minimum_distances(replace(some, lattice=lattice, frac_coords=frac))
    assert vectors.isnan().all(1).tolist() == [False, True, True, False]
    assert torch.allclose(vectors[::3], average_minimum_distances(some)[::3])
    monkeypatch.setattr(amd, "MAX_CANDIDATES", 10)
    assert average_minimum_distances(some).isnan().all()


@pytest.fixture
def known() -> Crystals:
    return demo_crystals("train").subset(torch.arange(0, 600, 12))


def test_known_crystals_are_prepared_once_and_when_asked_for(known):
    lookup = Lookup(known, workers=1)
    keys = composition_keys(known.arrays())
    assert not lookup._reduced
    asked = [keys[3], keys[40]]
    found = lookup.prepared(asked)
    rows = lookup.of(asked)
    assert sorted(rows) == sorted(i for i, key in enumerate(keys) if key in asked)
    assert set(lookup._reduced) == set(rows.tolist())
    whole = prepare(known.arrays(), workers=1)
    assert found.keys == [keys[i] for i in rows]
    wanted = whole.crystals.subset(rows)
    for made, expected in zip(found.crystals, wanted, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(made, expected, strict=True))
    kept = dict(lookup._reduced)
    lookup.prepared(asked)
    assert all(lookup._reduced[i] is kept[i] for i in kept)
    assert torch.allclose(lookup.distances(rows), average_minimum_distances(known)[rows])
    assert len(lookup.prepared([b"nothing"]).keys) == 0


def test_compositions_are_reduced_and_can_be_read_back():
    pair = [[0.0] * 3, [0.5] * 3]
    one = Structure(Lattice.cubic(4), ["Na", "Cl"], pair)
    oxygen = Structure(Lattice.cubic(3), ["O", "O"], pair)
    crystals = from_structures([one, one * (2, 1, 1), oxygen])
    keys = composition_keys(crystals.arrays())
    assert keys[0] == keys[1] != keys[2]
    assert [elements_of(key) for key in keys[1:]] == [{11: 1, 17: 1}, {8: 1}]
    assert composition_keys(crystals.subset(torch.zeros(0, dtype=torch.int64)).arrays()) == []


def test_workers_wait_for_the_next_call_if_asked_to(monkeypatch):
    monkeypatch.setattr(pool, "_idle", [])
    monkeypatch.setattr(pool, "_keeping", type(pool._keeping)())
    assert list(pool.run_parallel("math:sqrt", [1.0], 1)) == [1.0]
    assert pool._idle == []
    pool.keep_workers()
    try:
        assert list(pool.run_parallel("math:sqrt", [4.0], 1)) == [2.0]
        (process,) = pool._idle
        assert list(pool.run_parallel("math:exp", [0.0, 0.0], 1)) == [1.0, 1.0]  # another function
        assert pool._idle == [process]
        with pytest.raises(RuntimeError, match="math domain error"):
            list(pool.run_parallel("math:sqrt", [-1.0], 1))
        assert pool._idle == []  # a call that fails ends its workers
        list(pool.run_parallel("math:sqrt", [1.0], 1))
        pool._idle[0].kill()
        pool._idle[0].wait()
        assert list(pool.run_parallel("math:sqrt", [9.0], 1)) == [3.0]  # a lost one is replaced
    finally:
        pool._end_idle()
