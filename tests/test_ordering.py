"""The order in which models see the atoms of a crystal."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import torch
from conftest import demo_crystals

from chemeleon.config.schema import AugmentConfig
from chemeleon.crystals.augment import augment
from chemeleon.crystals.batch import Crystals
from chemeleon.crystals.formula import formula_units
from chemeleon.crystals.ordering import Order, arrange, arrange_atoms
from chemeleon.crystals.random import make_keys
from chemeleon.evaluation.matching.pairs import match_pairs


def split(crystals: Crystals) -> list[list[int]]:
    """Return the atomic numbers of each crystal."""
    parts = crystals.atomic_numbers.split(crystals.num_atoms.tolist())
    return [part.tolist() for part in parts]


def test_atoms_are_brought_into_order_of_element_and_keep_theirs_within():
    crystals = demo_crystals("val")
    ordered = arrange(crystals, "number")
    assert torch.equal(ordered.num_atoms, crystals.num_atoms)
    moved = 0
    for i, (before, after) in enumerate(zip(split(crystals), split(ordered), strict=True)):
        places = sorted(range(len(before)), key=lambda k, z=before: z[k])
        start = int(crystals.starts[i])
        assert after == [before[k] for k in places]
        expected = crystals.frac_coords[start : start + len(before)][places]
        assert torch.equal(ordered.frac_coords[start : start + len(before)], expected)
        moved += places != list(range(len(before)))
    assert moved > 10


def test_canonical_crystals_are_the_same_crystals_in_one_form():
    crystals = demo_crystals("val").subset(torch.arange(0, 404, 5))
    once = arrange(crystals, "canonical")
    assert split(once) == [arrange_atoms(row, "canonical") for row in split(crystals)]
    arrays = [list(c) for c in (once, crystals)]
    found = match_pairs(list(zip(*arrays, strict=True)))
    assert found.matched.all()
    assert found.rmse.max() < 1e-4
    assert (once.frac_coords[once.starts] == 0).all()
    # another origin and another order of atoms in the file change nothing
    batch = crystals.batch(torch.arange(len(crystals)))
    settings = AugmentConfig(translate=True, rotate=False, permute=True)
    other = augment(batch, make_keys(3, torch.arange(len(crystals))), settings).flatten()
    again = arrange(replace(other, ids=crystals.ids), "canonical")
    assert torch.equal(again.atomic_numbers, once.atomic_numbers)
    apart = ((again.frac_coords - once.frac_coords + 0.5) % 1 - 0.5).abs().amax(1)
    worst = torch.stack([part.max() for part in apart.split(crystals.num_atoms.tolist())])
    assert (worst < 1e-4).float().mean() > 0.95  # but for coordinates on the border of two bins


def test_large_sets_are_ordered_and_counted_in_parts(monkeypatch):
    crystals = demo_crystals("val")
    whole = [arrange(crystals, order) for order in get_args(Order)]
    counted = formula_units(crystals)
    monkeypatch.setattr("chemeleon.crystals.ordering.CHUNK", 100)
    monkeypatch.setattr("chemeleon.crystals.formula.CHUNK", 100)
    parts = [arrange(crystals, order) for order in get_args(Order)]
    for one, other in zip(whole, parts, strict=True):
        assert torch.equal(one.atomic_numbers, other.atomic_numbers)
        assert torch.equal(one.frac_coords, other.frac_coords)
        assert other.targets is crystals.targets
        assert other.ids == crystals.ids
    assert torch.equal(formula_units(crystals), counted)
    parts = list(crystals.cut(100))
    assert [len(part) for part in parts] == [100] * (len(crystals) // 100) + [len(crystals) % 100]
    joined = Crystals.join(parts)
    assert torch.equal(joined.lattice, crystals.lattice)
    assert joined.ids == crystals.ids
