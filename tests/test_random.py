"""Random numbers belong to a crystal and a purpose, and look random; rotations are uniform."""

from __future__ import annotations

from unittest import mock

import pytest
import torch
from conftest import demo_crystals

from chemeleon.config.schema import AugmentConfig
from chemeleon.crystals import ragged
from chemeleon.crystals.augment import augment, jitter, random_rotations
from chemeleon.crystals.lattice import lattice_angles, lattice_lengths
from chemeleon.crystals.ragged import reduce_atoms
from chemeleon.crystals.random import fold, integers, make_keys, normal, uniform
from chemeleon.data.describe import _masses
from chemeleon.reinforcement.rewards.base import Candidates, Context
from chemeleon.reinforcement.rewards.elements import Elements, ElementsOptions

KEYS = make_keys(3, torch.arange(20_000))


def test_moments():
    z = normal(fold(KEYS, "a"), (8,))
    assert abs(z.mean()) < 0.01
    assert abs(z.std() - 1) < 0.01
    assert abs((z**4).mean() - 3) < 0.1
    u = uniform(fold(KEYS, "b"), (8,))
    assert u.min() >= 0
    assert u.max() < 1
    assert abs(u.mean() - 0.5) < 0.005
    assert abs(u.std() - 12**-0.5) < 0.005
    counts = torch.bincount(integers(fold(KEYS, "c"), 10), minlength=10)
    assert counts.min() > 1800


def test_crystals_purposes_steps_and_places_are_independent():
    one, two = normal(fold(KEYS, "a"), (2,)), normal(fold(KEYS, "b"), (2,))
    later = normal(fold(KEYS, "a", 1), (2,))
    columns = torch.cat([one, two, later, one.roll(1, 0)], dim=1)
    off = torch.corrcoef(columns.T) - torch.eye(columns.shape[1])
    assert off.abs().max() < 0.03


def test_a_number_does_not_depend_on_the_batch_or_its_padding():
    alone = normal(KEYS[7:8], (3, 4))
    padded = normal(KEYS[:10], (9, 4))
    assert torch.equal(alone[0], padded[7, :3])


def test_rotations_are_rotations_and_uniform():
    r = random_rotations(KEYS)
    assert torch.allclose(r @ r.mT, torch.eye(3).expand_as(r), atol=1e-5)
    assert torch.allclose(torch.linalg.det(r), torch.ones(len(r)), atol=1e-5)
    assert r.mean(0).abs().max() < 0.02
    # second moments of a uniform rotation: E[R_ij^2] = 1/3
    assert (r.square().mean(0) - 1 / 3).abs().max() < 0.01


def test_augmentation_keeps_the_crystal():
    crystals = demo_crystals("val")
    batch = crystals.batch(torch.arange(50))
    keys = KEYS[:50]
    other = augment(batch, keys, AugmentConfig(permute=True))
    assert torch.allclose(lattice_lengths(other.lattice), lattice_lengths(batch.lattice), atol=1e-4)
    assert torch.allclose(lattice_angles(other.lattice), lattice_angles(batch.lattice), atol=1e-3)
    assert torch.equal(other.atomic_numbers.sort(-1)[0], batch.atomic_numbers.sort(-1)[0])
    assert (other.frac_coords >= 0).all()
    assert (other.frac_coords < 1).all()
    same = augment(batch, keys, AugmentConfig(translate=False, rotate=False))
    assert torch.equal(same.frac_coords, batch.frac_coords)
    # each crystal has its own translation: differences between crystals are not shared
    only_moved = augment(batch, keys, AugmentConfig(rotate=False))
    shift = (only_moved.frac_coords - batch.frac_coords)[:, 0] % 1
    assert shift.std(0).min() > 0.2
    inside = (only_moved.frac_coords - batch.frac_coords - shift[:, None]) % 1
    inside = torch.minimum(inside, 1 - inside)[batch.mask]
    assert inside.max() < 1e-5


def test_jitter_moves_atoms_by_the_given_distance():
    batch = demo_crystals("val").batch(torch.arange(300))
    moved = jitter(batch, KEYS[:300], 0.1)
    step = (moved.frac_coords @ moved.lattice - batch.frac_coords @ batch.lattice)[batch.mask]
    assert abs(step.std() - 0.1) < 0.01
    assert jitter(batch, KEYS[:300], 0.0) is batch


@pytest.mark.parametrize("package", [False, True], ids=["torch", "torch_scatter"])
def test_ragged_reductions_equal_a_loop(package):
    if package:
        pytest.importorskip("torch_scatter")  # the extra `scatter`
    sizes = torch.tensor([3, 1, 6, 2])
    values = torch.randn(12, 5, generator=torch.Generator().manual_seed(0))
    pieces = values.split(sizes.tolist())
    expected = {
        "sum": torch.stack([p.sum(0) for p in pieces]),
        "mean": torch.stack([p.mean(0) for p in pieces]),
        "max": torch.stack([p.max(0)[0] for p in pieces]),
    }
    for name, value in expected.items():
        for dtype in (torch.float32, torch.float64):
            found = reduce_atoms(values.to(dtype), sizes, name, use_torch_scatter=package)
            torch.testing.assert_close(found, value.to(dtype))
        assert reduce_atoms(values[:, 0], sizes, name, use_torch_scatter=package).shape == (4,)


def test_with_torch_scatter_all_that_reduces_gives_the_same(monkeypatch):
    package = pytest.importorskip("torch_scatter")
    crystals = demo_crystals("val")
    used = mock.Mock(wraps=package.segment_csr)
    monkeypatch.setattr(package, "segment_csr", used)
    options = ElementsOptions(allow=["O", "Na", "Cl"], share=True)
    reward, found = Elements(options, Context(None, torch.device("cpu"))), []
    for there in (package, None):
        monkeypatch.setattr(ragged, "_torch_scatter", lambda there=there: there)
        candidates = Candidates(crystals, crystals.num_atoms * 0, [None] * len(crystals))
        found.append((_masses(crystals), reward.score(candidates).values))
        assert used.call_count == 2
    for with_it, without in zip(*found, strict=True):
        torch.testing.assert_close(with_it, without)


def test_torch_scatter_can_be_asked_for_and_is_missed(monkeypatch):
    monkeypatch.setattr(ragged, "_torch_scatter", lambda: None)
    with pytest.raises(ImportError, match=r"make setup-scatter"):
        reduce_atoms(torch.ones(2), torch.tensor([2]), use_torch_scatter=True)
