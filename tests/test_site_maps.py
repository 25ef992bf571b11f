"""Maps that are left out because atoms cannot meet change no verdict, and save most of the work."""

from __future__ import annotations

import numpy as np
import pytest

from chemeleon.crystals.batch import Crystals
from chemeleon.data.parse import Crystal
from chemeleon.evaluation.matching import verdicts
from chemeleon.evaluation.matching.grouping import find_groups, prepare
from chemeleon.evaluation.matching.pairs import TOLERANCES


@pytest.mark.parametrize(("noise", "groups"), [(0.05, 1), (0.7, None), (5.0, 8)])
def test_groups_in_one_lattice_are_those_of_all_maps(noise, groups, monkeypatch):
    rng = np.random.default_rng(7)
    numbers = np.array([11, 11, 17, 17, 17, 17, 8, 8, 8, 8])
    frac, lattice = rng.random((10, 3)), np.diag([5.0, 5.2, 7.0])
    crystals = [
        Crystal(numbers, frac + rng.normal(0, noise, (10, 3)) / [5.0, 5.2, 7.0], lattice)
        for _ in range(8)
    ]
    prepared = prepare(Crystals.of(crystals), workers=1)
    asked = []

    def counted(*words):
        asked.append(words)
        return fits(*words)

    fits = verdicts.fits
    monkeypatch.setattr(verdicts, "fits", counted)
    ours = find_groups(prepared, TOLERANCES["pymatgen"], workers=1).group.tolist()
    few = len(asked)
    every = lambda first, others, cells, maps, stol: np.ones(len(maps.owner), bool)  # noqa: E731
    monkeypatch.setattr(verdicts, "maps_that_fit", every)
    assert find_groups(prepared, TOLERANCES["pymatgen"], workers=1).group.tolist() == ours
    if groups is not None:
        assert len(set(ours)) == groups
    if noise == 5.0:
        assert few < (len(asked) - few) / 4
