"""Batches: everything once per epoch, the same whoever shares the work, resumable."""

from __future__ import annotations

import pytest
import torch
from conftest import demo_crystals

from chemeleon.data.loader import EvalLoader, Loader
from chemeleon.errors import DataError

CPU = torch.device("cpu")
SET = demo_crystals("val")


def loader(batch_size: int, **options) -> Loader:
    return Loader(SET, batch_size, seed=1, device=CPU, **options)


def epoch(batches: Loader, *where: int, **options):
    return [[draw.gather() for draw in step] for step in batches.epoch(*where, **options)]


def keys_of(steps) -> list[set[int]]:
    return [{int(k) for batch in step for k in batch.keys} for step in steps]


def test_every_crystal_once_per_epoch_in_a_new_order():
    batches = loader(32)
    first, second = epoch(batches, 0), epoch(batches, 1)
    assert len(first) == len(batches) == -(-len(SET) // 32)
    keys = [int(k) for step in first for batch in step for k in batch.keys]
    assert len(set(keys)) == len(SET)
    assert set(keys).isdisjoint(int(k) for s in second for b in s for k in b.keys)
    total = sum(int(b.crystals.atomic_numbers.sum()) for s in first for b in s)
    assert total == int(SET.atomic_numbers.sum())
    assert not torch.equal(
        first[0][0].crystals.atomic_numbers, second[0][0].crystals.atomic_numbers
    )


def test_micro_batches_of_like_size_save_padding():
    def slots(batches: Loader) -> int:
        return sum(b.crystals.atomic_numbers.numel() for s in epoch(batches, 0) for b in s)

    assert slots(loader(16, accumulation=4)) < 0.75 * slots(loader(64))


def test_processes_and_micro_batches_share_what_one_process_would_take():
    whole = epoch(loader(32), 3)
    ranks = [epoch(loader(4, rank=r, world=4, accumulation=2), 3) for r in range(4)]
    assert keys_of(whole) == [set().union(*s) for s in zip(*map(keys_of, ranks), strict=True)]
    for step, shares in zip(whole, zip(*ranks, strict=True), strict=True):
        micro = [batch for share in shares for batch in share]
        assert len(micro) == 8
        assert sum(b.atoms for b in micro) == pytest.approx(float(step[0].atoms))
        assert sum(b.size for b in micro) == pytest.approx(float(step[0].size))
        assert sum(len(b.crystals) for b in micro) == len(step[0].crystals)


def test_an_epoch_can_be_entered_anywhere():
    batches = loader(32)
    assert keys_of(epoch(batches, 2))[5:] == keys_of(epoch(batches, 2, first_step=5))


def test_batches_are_padded_to_the_bucket_but_never_beyond_the_largest_crystal():
    batches = loader(16, pad_to_multiple=4)
    largest = int(SET.num_atoms.max())
    for step in epoch(batches, 0):
        width = step[0].crystals.width
        assert width == largest or width % 4 == 0
        assert width >= int(step[0].crystals.num_atoms.max())


def test_too_few_crystals_for_the_processes():
    one = SET.subset(torch.tensor([0]))
    with pytest.raises(DataError, match="number of processes"):
        Loader(one, 1, seed=0, device=CPU, world=2)
    assert len(Loader(one, 8, seed=0, device=CPU)) == 1  # a single crystal is a batch


def test_evaluation_shares_cover_the_set():
    evaluation = EvalLoader(SET, 50, device=CPU)
    keys = [int(k) for r in range(3) for b in evaluation.shard(r, 3) for k in b.keys]
    assert len(keys) == len(set(keys)) == len(SET)


def test_tokens_are_the_atoms_and_gradients_do_not_know_of_packing():
    from dataclasses import replace

    from chemeleon.config.architecture import VAEConfig
    from chemeleon.models.vae import CrystalVAE
    from chemeleon.models.vae_losses import vae_losses

    chosen = torch.arange(0, len(SET), len(SET) // 12)
    atoms, width = int(SET.num_atoms[chosen].sum()), int(SET.num_atoms[chosen].max())
    config = VAEConfig(width=32, encoder_layers=1, decoder_layers=1, heads=2, feedforward=64)
    vae = CrystalVAE(config).double()
    noise = torch.randn(len(chosen), width, 8, dtype=torch.float64)
    found = []
    for tokens in (None, atoms, atoms + 3):
        batch = SET.batch(chosen, width, tokens)
        if tokens is not None:
            assert batch.tokens is not None
            assert batch.atomic_numbers.flatten()[batch.tokens[:atoms]].min() > 0
        real = {"frac_coords": batch.frac_coords.double(), "lattice": batch.lattice.double()}
        batch = replace(batch, **real, check=False)
        vae.zero_grad()
        loss = vae_losses(vae(batch, noise), batch, config.loss, atoms, len(chosen))["loss"]
        loss.backward()
        found.append((float(loss.detach()), [p.grad.clone() for p in vae.parameters()]))
    for loss, gradients in found[1:]:
        assert loss == pytest.approx(found[0][0], rel=1e-12)
        for one, other in zip(gradients, found[0][1], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
