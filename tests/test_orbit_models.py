"""Models whose tokens are orbits: what they make has the space group that was asked for."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import chemeleon
from chemeleon import api
from chemeleon.cli.app import app
from chemeleon.crystals.batch import LETTERS, Array, Crystal, Crystals
from chemeleon.crystals.orbit_sets import with_all_atoms, write_as_orbits
from chemeleon.crystals.symmetry import operations, space_group
from chemeleon.crystals.wyckoff import group
from chemeleon.errors import ChemeleonError, ConfigError, DataError, GenerationError
from chemeleon.generation.pipeline import Pipeline
from chemeleon.generation.shapes import draw_groups
from chemeleon.models.denoiser import LatentDiffusion
from chemeleon.models.sites import SiteChooser
from chemeleon.models.vae import CrystalVAE
from chemeleon.reinforcement.rewards._vae import features_of, mean_element
from tests.conftest import TINY_LDM, TINY_VAE, demo_crystals

FORM = ["data.augment={rotate: false, translate: false}"]
ORBITS = [*FORM, "vae.tokens=orbits", "vae.atom_order=file"]


@pytest.fixture(scope="module")
def crystals() -> Crystals:
    """Some crystals of the demo set."""
    return demo_crystals("val").subset(torch.arange(0, 400, 10))


@pytest.fixture(scope="module")
def orbit_vae(tmp_path_factory) -> Path:
    """A run folder of a VAE on orbits after a few steps."""
    folder = tmp_path_factory.mktemp("orbits") / "vae"
    api.vae_train("demo/dng", [*TINY_VAE, *ORBITS, "trainer.max_steps=40"], output=folder)
    return folder


@pytest.fixture(scope="module")
def orbit_ldm(orbit_vae, tmp_path_factory) -> Path:
    """A run folder of latent diffusion on it."""
    folder = tmp_path_factory.mktemp("orbits") / "ldm"
    words = [f"ldm.vae_ckpt_path={orbit_vae}", "ldm.denoiser.space_group=true"]
    api.ldm_train("demo/null", [*TINY_LDM, *words, "trainer.max_steps=10"], output=folder)
    return folder


def assert_symmetric(crystal: Crystal, number: int) -> None:
    """Check that all operations of a group map a crystal in its primitive cell onto itself."""
    numbers, coords, lattice = crystal
    metric = lattice @ lattice.T
    for rotation, shift in zip(*operations(number, primitive=True), strict=True):
        np.testing.assert_allclose(rotation.T @ metric @ rotation, metric, atol=1e-3)
        moved = coords @ rotation.T + shift
        ways = moved[:, None] - coords
        near = np.abs(ways - np.round(ways)).max(-1) < 1e-4
        assert (near.sum(1) >= 1).all()
        assert (numbers[near.argmax(1)] == numbers).all()


def test_sets_are_written_once_and_come_back(crystals, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("CHEMELEON_CACHE", str(tmp_path))
    monkeypatch.setattr("chemeleon.crystals.orbit_sets._LONG", len(crystals))
    orbits = write_as_orbits(crystals)
    assert caplog.messages == [
        f"{len(crystals)} crystals are written as orbits, once: that takes minutes"
    ]
    assert orbits.ids == crystals.ids
    assert orbits.targets == crystals.targets
    assert int(orbits.num_atoms.sum()) < int(crystals.num_atoms.sum())
    with monkeypatch.context() as patch:
        patch.setattr("chemeleon.crystals.orbit_sets.in_orbits", None)  # not made again
        again = write_as_orbits(crystals)
    assert len(caplog.messages) == 1
    assert torch.equal(again.sites, orbits.sites)
    assert torch.equal(again.frac_coords, orbits.frac_coords)
    back = with_all_atoms(orbits)
    for whole, given in zip(back, crystals, strict=True):
        assert space_group(*whole, 0.01).number == space_group(*given, 0.1).number
    assert with_all_atoms(crystals) is crystals


def test_a_damaged_cache_is_made_again(crystals, tmp_path, monkeypatch):
    monkeypatch.setenv("CHEMELEON_CACHE", str(tmp_path))
    few = crystals.subset(torch.arange(3))
    orbits = write_as_orbits(few)
    (file,) = (tmp_path / "orbits").iterdir()
    file.write_bytes(file.read_bytes()[:200])
    assert torch.equal(write_as_orbits(few).sites, orbits.sites)


def test_a_flat_crystal_is_named(crystals):
    flat = crystals.subset(torch.arange(2))
    lattice = flat.lattice.clone()
    lattice[1, 2] = 0
    with pytest.raises(DataError, match=f"1 of 2 crystals.*{flat.ids[1]}"):
        write_as_orbits(replace(flat, lattice=lattice))


def test_sites_go_where_their_orbits_go(crystals):
    orbits = write_as_orbits(crystals)
    rows = torch.tensor([5, 0, 7])
    chosen = orbits.subset(rows)
    batch = orbits.batch(rows)
    assert torch.equal(batch.flatten().sites, chosen.sites)
    assert torch.equal(batch.groups, chosen.sites[chosen.starts] // LETTERS)
    assert not batch.sites[~batch.mask].any()
    parts = list(orbits.cut(7))
    assert torch.equal(Crystals.join(parts).sites, orbits.sites)
    arrays: Crystals[Array] = orbits.arrays()
    assert torch.equal(arrays.tensors().sites, orbits.sites)
    with pytest.raises(DataError):
        replace(orbits, sites=orbits.sites[1:], check=True)


def test_points_that_cannot_move_are_taken_once():
    torch.manual_seed(0)
    encoder = SiteChooser(8)
    sites = torch.tensor([[225 * LETTERS] * 4, [1 * LETTERS] * 2 + [0] * 2])
    mask = sites > 0
    logits = encoder.logits(torch.zeros(2, 4, 8), sites)
    logits[0, :, :2] += torch.tensor([[9.0, 5], [10, 4], [8, 7], [3, 1]])  # a, b of Fm-3m
    chosen = encoder.choose(logits, mask, sites)
    letters = chosen[0] % LETTERS
    assert letters[1] == 0  # wants it most
    assert letters[2] == 1
    fixed = [not place.free.any() for place in group(225).places]
    taken = [int(letter) for letter in letters if fixed[letter]]
    assert len(taken) == len(set(taken))
    assert (chosen[0] // LETTERS == 225).all()
    assert chosen[1].tolist() == [LETTERS, LETTERS, 0, 0]  # P1 has one letter


def test_a_vae_gives_back_the_group(orbit_vae, crystals):
    vae = CrystalVAE.from_pretrained(orbit_vae)
    orbits = vae.arranged(crystals)
    batch = orbits.batch(torch.arange(len(orbits)))
    with torch.no_grad():
        decoded = vae.decode(vae.encode(batch).mean, batch)
    made = vae.to_crystals(decoded, batch)
    assert batch.groups is not None
    for crystal, number in zip(made, batch.groups.tolist(), strict=True):
        assert_symmetric(crystal, number)
    report = api.vae.reconstruct(orbit_vae, "demo/val")
    assert report["crystals"] == 404


def test_samples_have_the_group_that_was_asked_for(orbit_ldm):
    pipeline = Pipeline.from_pretrained(orbit_ldm, "cpu")
    present = torch.nonzero(pipeline.model.group_histogram.sum(1)).flatten().tolist()
    wanted = [225, present[0], present[len(present) // 2], 225]
    made = pipeline.generate(4, space_group=wanted, seed=1)
    for crystal, number in zip(made, wanted, strict=True):
        assert_symmetric(crystal, number)
    one = pipeline.generate(6, space_group=[221], seed=3, batch_size=4)
    for crystal in one:
        assert_symmetric(crystal, 221)
    free = pipeline.generate(8, seed=2)
    again = pipeline.generate(8, seed=2, batch_size=3)
    assert torch.equal(free.atomic_numbers, again.atomic_numbers)
    torch.testing.assert_close(free.frac_coords, again.frac_coords, atol=1e-4, rtol=0)
    with pytest.raises(GenerationError, match="num_atoms"):
        pipeline.generate(2, num_atoms=[5])
    for numbers, said in (([230], "space group 230"), ([231], "231"), ([-1], "-1")):
        with pytest.raises(GenerationError, match=said):
            pipeline.generate(2, space_group=numbers)
    with pytest.raises(GenerationError, match="3 space groups are given for 4 crystals"):
        pipeline.generate(4, space_group=[225, 221, 225])


def test_the_command_promises_a_space_group(orbit_ldm, tmp_path):
    words = ["sample", "--model", str(orbit_ldm), "-n", "5", "-o", str(tmp_path / "out")]
    done = CliRunner().invoke(app, [*words, "--space-group", "Fm-3m,221"])
    assert done.exit_code == 0, done.output
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["space_group"] == [225, 221, 225, 221, 225]
    result = chemeleon.sample(orbit_ldm, 3, space_group=225)
    for structure in filter(None, result.structures):
        assert structure.get_space_group_info(0.01)[1] >= 195  # or a supergroup: cubic
    refused = CliRunner().invoke(app, [*words, "--space-group", "Fm3mm", "--overwrite"])
    assert "'Fm3mm' is neither" in str(refused.exception)
    with pytest.raises(ConfigError, match="1 crystals cannot have 2"):
        chemeleon.sample(orbit_ldm, 1, space_group="225,221")
    with pytest.raises(ConfigError, match="--space-group"):
        chemeleon.sample(orbit_ldm, 1, conditions={"space_group": 225})
    with pytest.raises(ConfigError, match="given twice"):
        chemeleon.sample(orbit_ldm, 3, space_group=[225], conditions={"space_group": 225})


def test_for_models_on_atoms_a_space_group_is_a_condition(tiny_ldm):
    with pytest.raises(ConfigError, match=r"trained without conditions.*space_group"):
        chemeleon.sample(tiny_ldm, 2, space_group=["225"])
    with pytest.raises(GenerationError, match="leave out space_group"):
        Pipeline.from_pretrained(tiny_ldm, "cpu").generate(2, space_group=[225])
    with pytest.raises(ConfigError, match="leave out the formulas"):
        chemeleon.sample(formula="NaCl", n=1, space_group="225")


def test_groups_are_drawn_as_often_as_in_training(orbit_ldm):
    pipeline = Pipeline.from_pretrained(orbit_ldm, "cpu")
    counts = pipeline.model.group_histogram
    train = write_as_orbits(demo_crystals("train"))
    assert counts.sum() == len(train)
    groups, sizes = draw_groups(pipeline.model, torch.arange(20000) * 7919)
    shares = torch.bincount(groups, minlength=231) / 20000
    torch.testing.assert_close(shares, counts.sum(1) / counts.sum(), atol=0.02, rtol=0)
    assert counts[groups, sizes].all()


def test_policy_gradients_take_orbits(orbit_ldm, tmp_path):
    words = [
        f"rl.ldm_ckpt_path={orbit_ldm}",
        *FORM,
        "data.batch_size=2",
        "rl.num_group_samples=4",
        "rl.val_samples=8",
        "trainer.max_steps=2",
        "trainer.tracker=none",
    ]
    api.rl_train("demo/dng", words, output=tmp_path / "rl")
    made = Pipeline.from_pretrained(tmp_path / "rl", "cpu").generate(3, space_group=[225])
    for crystal in made:
        assert_symmetric(crystal, 225)


def test_features_count_all_atoms_of_an_orbit(orbit_vae, tmp_path, monkeypatch):
    monkeypatch.setenv("CHEMELEON_CACHE", str(tmp_path))
    cubic = 4.0 * torch.eye(3)
    places = torch.tensor([[0.0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
    elements = torch.tensor([79, 29, 29, 29, 79, 79, 29, 29, 79, 29, 29, 29])
    moved = places + 0.02 * torch.tensor([[0.0, 0, 0], [1, 2, 0], [0, -1, 2], [2, 1, -1]])
    cells = torch.stack([cubic] * 3)
    crystals = Crystals(elements, torch.cat([places, places, moved]), cells, torch.tensor([4] * 3))
    vae = CrystalVAE.from_pretrained(orbit_vae)
    found = features_of(vae, crystals, mean_element)
    assert (found[0] - found[1]).norm() > 0.1  # AuCu3, AuCu
    crooked = write_as_orbits(crystals.subset([2]), keep=False)
    assert len(crooked.atomic_numbers) == 4
    torch.testing.assert_close(found[0], found[2])
    assert not (tmp_path / "orbits").exists()  # made once, and never seen again


def test_adapters_do_not_depend_on_the_groups_of_their_base(orbit_ldm, tmp_path):
    words = [f"ldm.init_ckpt_path={orbit_ldm}", "ldm.denoiser.space_group=true", "ldm.lora.rank=2"]
    words += ["trainer.max_steps=2", "data.where=num_atoms <= 6"]
    api.ldm_train("demo/null", [*TINY_LDM, *words], output=tmp_path / "run")
    shutil.copytree(tmp_path / "run" / "last", tmp_path / "alone")
    ours = LatentDiffusion.from_pretrained(tmp_path / "alone").group_histogram
    assert ours.sum() < LatentDiffusion.from_pretrained(orbit_ldm).group_histogram.sum()


def test_a_predictor_reads_orbits(orbit_vae, tmp_path):
    words = [f"predict.vae_ckpt_path={orbit_vae}", *FORM, "trainer.tracker=none"]
    words += ["trainer.max_steps=3"]
    with pytest.raises(ConfigError, match="head=pooled"):
        api.predict_train("demo/density", words, output=tmp_path / "graph")
    folder = tmp_path / "pooled"
    api.predict_train("demo/density", [*words, "predict.head=pooled"], output=folder)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["vae.tokens=orbits", "vae.atom_order=file"], "translate"),
        ([*ORBITS, "vae.atom_order=canonical"], "leave out atom_order"),
        ([*ORBITS, "vae.coordinate_head=raw"], "coordinate_head=angle"),
        ([*ORBITS, "data.augment.noise_angstrom=0.1"], "noise_angstrom"),
    ],
)
def test_what_does_not_fit_orbits_is_refused(words, said, tmp_path):
    with pytest.raises(ConfigError, match=said):
        api.vae_train("demo/dng", [*TINY_VAE, *words], output=tmp_path / "run")


def test_a_denoiser_must_know_groups_where_its_vae_does(orbit_vae, tiny_vae, tmp_path):
    for vae, known in ((orbit_vae, "false"), (tiny_vae, "true")):
        words = [f"ldm.vae_ckpt_path={vae}", f"ldm.denoiser.space_group={known}"]
        with pytest.raises(ChemeleonError, match="conditioned on the space group"):
            api.ldm_train("demo/null", [*TINY_LDM, *words], output=tmp_path / "run")
