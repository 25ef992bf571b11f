"""What the denoiser is told of the distances in its last estimate."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from chemeleon import api
from chemeleon.config.architecture import LDMConfig
from chemeleon.crystals.batch import LETTERS, Crystals
from chemeleon.crystals.orbit_sets import with_all_atoms, write_as_orbits
from chemeleon.crystals.random import make_keys, normal
from chemeleon.errors import CheckpointError, ConfigError
from chemeleon.generation.pipeline import Pipeline
from chemeleon.models.denoiser import LatentDiffusion
from chemeleon.models.surroundings import (
    DIRECTED,
    FEATURES,
    FIRST,
    SHELLS,
    STEP,
    Shells,
    Unfolding,
)
from chemeleon.models.vae import SPREAD_SHARE, CrystalVAE, _spread
from tests.conftest import TINY_LDM, demo_crystals
from tests.test_orbit_models import orbit_vae as orbit_vae

SEES = [
    "ldm.diffusion.prediction=v",
    "ldm.diffusion.learned_variance=false",
    "ldm.denoiser.self_conditioning=true",
    "ldm.denoiser.neighbour_layers=1",
]


@pytest.fixture(scope="module")
def crystals() -> Crystals:
    """Crystals of many space groups, of 1 to 20 atoms."""
    return demo_crystals("val").subset(torch.arange(0, 400, 7))


def test_compiled_shells_are_the_same() -> None:
    draw = torch.Generator().manual_seed(0)
    way, moves = (torch.randn(9, n, 3, generator=draw) * 4 for n in (5, 27))
    moves[:, 13] = 0  # the cell itself
    itself = torch.rand(9, 5, generator=draw) < 0.3
    shells = Shells()
    compiled = torch.compile(shells.forward, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(way, moves, itself), shells(way, moves, itself))


def expected(crystal: Crystals, owners: torch.Tensor, tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """Return counts ``(n, n, SHELLS)`` and directions of one crystal, by brute force.

    Args:
        crystal: of all atoms.
        owners: ``(A,)`` the token of each; its first atom is the one that looks around.
        tokens: ``n``.
    """
    coords, cell = crystal.frac_coords.double().numpy(), crystal.lattice[0].double().numpy()
    own = owners.numpy()
    first = np.array([np.flatnonzero(own == i)[0] for i in range(tokens)])
    steps = np.stack(np.meshgrid(*[np.arange(-6, 7)] * 3, indexing="ij"), -1).reshape(-1, 3)
    ways = coords[None, :, None] - coords[first][:, None, None] + steps
    ways = ways @ cell
    distance = np.linalg.norm(ways, axis=-1)
    centres = FIRST + STEP * np.arange(SHELLS)
    shares = np.exp(-0.5 * ((distance[..., None] - centres) / STEP) ** 2)
    shares[distance < 1e-3] = 0  # an atom and itself
    one = np.eye(tokens)[own]
    counts = np.einsum("aj,iatk->ijk", one, shares)
    units = ways / np.maximum(distance, 0.1)[..., None]
    directions = np.einsum("aj,iatk,iatx->ijkx", one, shares[..., :DIRECTED], units)
    return counts, directions


@pytest.mark.parametrize("tokens", ["atoms", "orbits"])
def test_all_atoms_around_are_seen_with_their_symmetry_images(crystals, tokens):
    unfolding = Unfolding(tokens, 20)
    given = write_as_orbits(crystals, keep=False) if tokens == "orbits" else crystals
    whole = with_all_atoms(given)
    batch = given.batch(torch.arange(len(given)))
    seen = unfolding.pairs(batch.frac_coords, batch.lattice, batch.sites, batch.mask)
    assert seen.shape == (len(given), batch.width, batch.width, FEATURES)
    far = 0
    for row in range(len(given)):
        n, one = int(given.num_atoms[row]), whole.subset(torch.tensor([row]))
        sizes = torch.ones(n, dtype=torch.long)
        if batch.sites is not None:
            sizes = unfolding.counts.long()[batch.sites[row, :n]]
        owners = torch.arange(n).repeat_interleave(sizes)
        counts, directions = expected(one, owners, n)
        near = slice(0, 8)  # up to 2.7 A: in thin cells, translations beyond the first are left out
        found = seen[row, :n, :n].double().numpy()
        off = np.abs(found[..., near] - counts[..., near]).max()
        lengths = np.linalg.norm(found[..., SHELLS:].reshape(n, n, DIRECTED, 3), axis=-1)
        off = max(off, np.abs(lengths - np.linalg.norm(directions, axis=-1)).max())
        far += off > 0.02
        assert not seen[row, n:].any()
        assert not seen[row, :, n:].any()
    assert far <= 1  # one cell of the set is thin


def test_the_table_is_exact_in_bf16_and_larger_estimates_are_cut(crystals):
    unfolding = Unfolding("orbits", 20)
    for name in ("counts", "images", "primitive", "inverse"):
        table = getattr(unfolding, name)
        assert torch.equal(table, table.bfloat16().float()), name
    orbits = write_as_orbits(crystals, keep=False).batch(torch.arange(len(crystals)))
    small = Unfolding("orbits", 3)
    given = (orbits.frac_coords, orbits.lattice, orbits.sites, orbits.mask)
    cut, whole = small.pairs(*given), unfolding.pairs(*given)
    assert cut.isfinite().all()
    few = (unfolding.counts.long()[orbits.sites] * orbits.mask).sum(1) <= 3
    assert few.any()
    assert not few.all()
    torch.testing.assert_close(cut[few], whole[few])


def test_a_decoded_crystal_is_unfolded_by_its_likeliest_letters(orbit_vae, crystals):
    vae = CrystalVAE.from_pretrained(orbit_vae)
    batch = write_as_orbits(crystals, keep=False).batch(torch.arange(9))
    z = vae.encode(batch).mean
    known = torch.arange(9) != 4
    seen = Unfolding("orbits", 20)(vae, z, batch, known)
    assert seen.types.sum(-1).allclose(torch.ones(()))
    assert not seen.pairs[4].any()
    assert seen.pairs[known].flatten(1).any(1).all()
    decoded = vae.decode(z, batch)
    assert decoded.letter_logits is not None
    allowed = decoded.letter_logits.isfinite()
    group = batch.sites[:, :1] // LETTERS  # letters of other groups cannot come
    assert allowed.gather(-1, decoded.letter_logits.argmax(-1, keepdim=True)).all()
    assert (group > 0).all()


@pytest.mark.parametrize("tokens", ["atoms", "orbits"])
def test_a_model_learns_and_samples_with_it(tokens, tiny_vae, orbit_vae, tmp_path):
    vae = orbit_vae if tokens == "orbits" else tiny_vae
    words = [*TINY_LDM, *SEES, f"ldm.vae_ckpt_path={vae}", "trainer.max_steps=12"]
    words.append(f"ldm.denoiser.space_group={str(tokens == 'orbits').lower()}")
    api.ldm_train("demo/null", words, output=tmp_path / "run")
    pipeline = Pipeline.from_pretrained(tmp_path / "run")
    looking = pipeline.model.denoiser.looking
    assert looking.out.weight.any()  # begins at 0, and has learned
    one = pipeline.generate(6, seed=3, batch_size=2)
    two = pipeline.generate(6, seed=3)
    torch.testing.assert_close(one.frac_coords, two.frac_coords, atol=1e-4, rtol=0)
    with torch.no_grad():
        looking.out.weight.zero_()
    blind = pipeline.generate(6, seed=3)
    same = len(blind.frac_coords) == len(one.frac_coords)
    assert not (same and torch.allclose(blind.frac_coords, one.frac_coords))
    again = LatentDiffusion.from_pretrained(pipeline.save_pretrained(tmp_path / "saved"))
    if tokens == "orbits":
        assert torch.equal(again.unfolding.images, pipeline.model.unfolding.images)
        assert again.unfolding.images.any()


def test_a_model_that_is_tuned_sees_as_many_atoms_as_its_new_training_set_has(tiny_vae, crystals):
    config = LDMConfig.model_validate(
        {
            "denoiser": {"width": 32, "layers": 1, "heads": 2, "mlp_ratio": 2}
            | {"self_conditioning": True, "neighbour_layers": 1},
            "diffusion": {"prediction": "v", "learned_variance": False},
        }
    )
    model = LatentDiffusion(config, CrystalVAE.from_pretrained(tiny_vae), torch.ones(3))
    assert model.unfolding is not None
    assert model.unfolding.most_atoms == 20
    whole = torch.tensor([len(crystals.frac_coords)])  # all atoms as those of one crystal
    model.count(replace(crystals, num_atoms=whole, lattice=crystals.lattice[:1]))
    assert 0 <= model.unfolding.most_atoms - int(whole) < 4


def test_atoms_are_counted_where_a_token_stands_for_several(crystals):
    orbits = write_as_orbits(crystals, keep=False)
    unfolding = Unfolding("orbits", 1)
    unfolding.fit(orbits)
    largest = int(with_all_atoms(orbits).num_atoms.max())
    assert int(orbits.num_atoms.max()) < largest
    assert 0 <= unfolding.most_atoms - largest < 4


def test_without_an_estimate_nothing_is_added(tiny_vae, tmp_path):
    words = [*TINY_LDM, *SEES, f"ldm.vae_ckpt_path={tiny_vae}", "trainer.max_steps=4"]
    api.ldm_train("demo/null", words, output=tmp_path / "run")
    model = LatentDiffusion.from_pretrained(tmp_path / "run")
    with torch.no_grad():
        model.denoiser.looking.out.bias.fill_(1.0)
        model.denoiser.head.weight.normal_()
    z, sizes = normal(make_keys(0, torch.arange(3)), (4, 8)), torch.tensor([4, 2, 3])
    z = z * (torch.arange(4) < sizes.unsqueeze(1)).unsqueeze(-1)
    t = torch.tensor([500])
    none = model(z, t, sizes).prediction
    torch.testing.assert_close(model(z, t, sizes, estimate=torch.zeros_like(z)).prediction, none)
    assert not torch.allclose(model(z, t, sizes, estimate=z).prediction, none)


def test_it_needs_an_estimate():
    words = ["ldm.denoiser.neighbour_layers=1", "ldm.vae_ckpt_path=nowhere"]
    with pytest.raises(ConfigError, match="self_conditioning=true"):
        api.ldm_train("demo/null", [*TINY_LDM, *words])


def test_noise_on_latents_is_a_share_of_their_spread(tiny_vae, crystals):
    from chemeleon.models.vae import CrystalVAE

    vae = CrystalVAE.from_pretrained(tiny_vae)
    batch = crystals.batch(torch.arange(40))
    noise = normal(make_keys(0, torch.arange(40)), (batch.width, 8))
    seen = []
    vae.decode = lambda z, _: seen.append(z)  # type: ignore[method-assign]
    vae(batch, noise)
    vae.config = vae.config.model_copy(update={"latent_noise": 0.5})
    mean, spread = vae.encode(batch).mean, _spread(vae.encode(batch).mean, batch.mask)
    torch.testing.assert_close(spread, mean[batch.mask].std(0, correction=0))
    vae.register_buffer("latent_spread", torch.ones(8))
    for _ in range(600):  # training follows the spread of many batches
        vae.latent_spread.lerp_(spread, SPREAD_SHARE)
    torch.testing.assert_close(vae.latent_spread, spread, rtol=0.05, atol=0.01)
    before = vae.latent_spread.clone()
    vae(batch, noise)
    assert torch.equal(vae.latent_spread, before)  # validation does not
    added = (seen[1] - mean)[batch.mask] / noise[batch.mask]
    assert (added >= 0.5 * before - 1e-4).all()
    torch.testing.assert_close(seen[0], vae.encode(batch).sample(noise))
    vae.train()
    vae(batch, noise)
    torch.testing.assert_close(vae.latent_spread, before.lerp(spread, SPREAD_SHARE))


@pytest.mark.parametrize(("name", "value"), [("largest", 1e9), ("counts", 2.0), ("counts", -1.0)])
def test_a_file_whose_tables_are_not_sound_is_refused(name, value, orbit_vae, tmp_path):
    words = [*TINY_LDM, *SEES, f"ldm.vae_ckpt_path={orbit_vae}", "trainer.max_steps=1"]
    api.ldm_train("demo/null", [*words, "ldm.denoiser.space_group=true"], output=tmp_path / "run")
    model = LatentDiffusion.from_pretrained(tmp_path / "run")
    getattr(model.unfolding, name).fill_(value)
    saved = model.save_pretrained(tmp_path / "saved")
    with pytest.raises(CheckpointError, match="tables of unfolding"):
        LatentDiffusion.from_pretrained(saved)
