"""Models that place given orbits: space group, elements and Wyckoff letters, always; geometry."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY_LDM, TINY_VAE, demo_crystals
from energy_helpers import rocksalt
from test_orbit_models import assert_symmetric
from test_orbits import made as made_of

from chemeleon import api
from chemeleon.crystals.batch import LETTERS, Crystals
from chemeleon.crystals.canonical import by_letters, orbits_of, redrawn, standard
from chemeleon.crystals.convert import from_structures
from chemeleon.crystals.orbit_sets import with_all_atoms, write_as_orbits
from chemeleon.crystals.orbits import Assignment, crystals_of, orbit_crystal, put_together
from chemeleon.crystals.symmetry import space_group
from chemeleon.crystals.wyckoff import group
from chemeleon.errors import ConfigError, GenerationError
from chemeleon.evaluation.matching.pairs import match_pairs
from chemeleon.generation.pipeline import Pipeline
from chemeleon.generation.ranking import denoising_error
from chemeleon.models.denoiser import LatentDiffusion
from chemeleon.models.vae import CrystalVAE

FORM = ["data.augment={rotate: false, translate: false}"]
GIVEN = [*FORM, "vae.tokens=orbits", "vae.atom_order=file"]
TOLD = ["ldm.denoiser.space_group=true"]


def seven() -> list:
    """Some structures, most of them with free coordinates."""
    from pymatgen.core import Lattice, Structure

    return [
        rocksalt(5.64),
        Structure(
            Lattice.cubic(3.9),
            ["Sr", "Ti", "O", "O", "O"],
            [[0] * 3, [0.5] * 3, [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]],
        ),
        Structure.from_spacegroup(
            "P4_2/mnm", Lattice.tetragonal(4.6, 2.96), ["Ti", "O"], [[0, 0, 0], [0.305, 0.305, 0]]
        ),
        Structure.from_spacegroup(  # of the same formula, told apart by group and letters
            "I4_1/amd", Lattice.tetragonal(3.785, 9.514), ["Ti", "O"], [[0, 0, 0], [0, 0, 0.208]]
        ),
        Structure.from_spacegroup(
            "P6_3mc",
            Lattice.hexagonal(3.25, 5.2),
            ["Zn", "O"],
            [[1 / 3, 2 / 3, 0], [1 / 3, 2 / 3, 0.382]],
        ),
        Structure.from_spacegroup(
            "P3_121",
            Lattice.hexagonal(4.91, 5.4),
            ["Si", "O"],
            [[0.47, 0, 1 / 3], [0.413, 0.267, 0.119 + 1 / 3]],
        ),
        Structure.from_spacegroup(  # baddeleyite: three general positions
            "P2_1/c",
            Lattice.monoclinic(5.15, 5.21, 5.32, 99.2),
            ["Zr", "O", "O"],
            [[0.275, 0.040, 0.208], [0.070, 0.332, 0.345], [0.450, 0.757, 0.479]],
        ),
    ]


def assignments(orbits: Crystals) -> list[Assignment]:
    arrays = orbits.arrays()
    return [orbit_crystal(arrays, row).assignment for row in range(len(arrays))]


def atoms_of(assignment: Assignment) -> list[int]:
    """Return all atoms of a primitive cell, sorted."""
    counts = group(assignment.number).multiplicities[np.asarray(assignment.letters)]
    return sorted(np.asarray(assignment.atomic_numbers).repeat(counts).tolist())


def random_assignments(count: int, seed: int) -> list[Assignment]:
    """Return orbits of random elements on random letters of random groups."""
    draw, found = np.random.default_rng(seed), []
    while len(found) < count:
        number, orbits = int(draw.integers(1, 231)), int(draw.integers(1, 6))
        letters = draw.integers(0, len(group(number).places), orbits)
        made = Assignment(number, draw.integers(1, 100, orbits), letters)
        if made.problem() is None:
            found.append(made)
    return found


@pytest.fixture(scope="module")
def taught(tmp_path_factory) -> Path:
    """A folder with a set of seven crystals, and with a VAE and a model that know them by heart."""
    folder = tmp_path_factory.mktemp("seven")
    (folder / "seven").mkdir()
    for name, times in (("train", 4), ("val", 1)):
        rows = [f'{name}-{i},"{s.to(fmt="cif")}"' for i, s in enumerate(seven() * times)]
        (folder / "seven" / f"{name}.csv").write_text("\n".join(["material_id,cif", *rows]))
    words = ["data.name=seven", f"data.root={folder}", "data.batch_size=24", "data.targets=[]"]
    words += ["trainer.tracker=none", "trainer.grad_accumulation=1", *FORM]
    small = ["vae.width=64", "vae.encoder_layers=2", "vae.decoder_layers=2", "vae.heads=4"]
    small += ["vae.feedforward=128", "trainer.max_steps=400", "trainer.val_every_steps=400"]
    api.vae_train("demo/csp", [*words, *GIVEN, *small], output=folder / "vae")
    small = ["ldm.denoiser.width=64", "ldm.denoiser.layers=3", "ldm.denoiser.heads=4", *TOLD]
    small += ["trainer.max_steps=400", f"ldm.vae_ckpt_path={folder / 'vae'}", "optim.lr=2e-3"]
    small += ["ldm.ema_decay=0.98", "trainer.val_every_steps=200"]
    api.ldm_train("demo/csp", [*words, *small], output=folder / "ldm")
    return folder


def test_a_model_of_seven_crystals_gives_them_back(taught):
    crystals = from_structures(seven())
    orbits = write_as_orbits(crystals, by_letters=True)
    wanted = assignments(orbits)
    assert [one.number for one in wanted] == [225, 221, 136, 141, 186, 152, 14]
    pipeline = Pipeline.from_pretrained(taught / "ldm", "cpu")
    made = pipeline.generate(14, assignments=wanted * 2, seed=3)
    found = match_pairs(list(zip(made, [*crystals] * 2, strict=True)))
    assert found.matched.all()
    assert found.mean_rmse < 0.05
    for crystal, one in zip(made, wanted * 2, strict=True):
        assert space_group(*crystal, 0.01).number == one.number
        assert sorted(crystal.atomic_numbers.tolist()) == atoms_of(one)
    # ranked by the model: what has no atoms has no score
    errors = denoising_error(pipeline, Crystals.join([Crystals.of([None]).tensors(), crystals]))
    assert errors.isnan().tolist() == [True] + [False] * 7
    torch.testing.assert_close(errors[1:], denoising_error(pipeline, crystals))
    rates = [
        row["val/match_rate"]
        for row in map(json.loads, (taught / "ldm" / "metrics.jsonl").read_text().splitlines())
        if "val/match_rate" in row
    ]
    assert len(rates) == 2
    assert rates[-1] == 1
    report = api.vae.reconstruct(taught / "vae", str(taught / "seven" / "val.csv"))
    assert report["match_rate"]["value"] == 1


def test_letters_alone_tell_the_setting():
    orbits = write_as_orbits(demo_crystals("val"), by_letters=True).arrays()
    draw, moved = np.random.default_rng(0), 0
    for row in range(len(orbits)):
        crystal = orbit_crystal(orbits, row)
        for other in (crystal, redrawn(crystal, draw)):
            found = standard(other.assignment)
            assert found.atomic_numbers.tolist() == crystal.atomic_numbers.tolist()
            assert found.letters.tolist() == crystal.letters.tolist()
            moved += other.letters.tolist() != crystal.letters.tolist()
    assert moved > 20


@pytest.mark.parametrize("number", [3, 5, 10, 11, 12, 13, 14, 15])
def test_monoclinic_axes_are_the_shortest_that_give_these_letters(number):
    draw, longer = np.random.default_rng(number), 0
    for _ in range(8):
        given = orbits_of(made_of(number, draw))
        assert given is not None
        found = by_letters(given)
        assert standard(given.assignment).letters.tolist() == found.letters.tolist()
        again = by_letters(found)
        np.testing.assert_allclose(again.coords, found.coords, atol=1e-4)
        np.testing.assert_allclose(again.cell, found.cell, atol=1e-4)
        sizes = [float((one.cell[:3] ** 2).sum()) for one in (given, found)]
        assert sizes[1] >= sizes[0] * (1 - 1e-6)
        longer += sizes[1] > sizes[0] * (1 + 1e-3)
        pair = [crystals_of(put_together([one])).crystal(0) for one in (given, found)]
        assert space_group(*pair[1], 0.01).number == number
        assert match_pairs([(pair[0], pair[1])]).mean_rmse < 1e-6
    assert longer or number in (5, 11)


def test_rocksalt_has_two_descriptions_of_which_training_has_seen_one(taught):
    pipeline = Pipeline.from_pretrained(taught / "ldm", "cpu")
    both = [Assignment(225, [17, 11], [0, 1]), Assignment(225, [17, 11], [1, 0])]
    made = pipeline.generate(2, assignments=both)
    torch.testing.assert_close(made.atomic_numbers[:2], torch.tensor([11, 17]))
    assert match_pairs([(crystal, *from_structures(seven()[:1])) for crystal in made]).matched.all()


def test_orbits_are_those_asked_for_whatever_the_batch(taught):
    model = LatentDiffusion.from_pretrained(taught / "ldm")
    wanted = random_assignments(40, seed=1)
    pipeline = Pipeline(model, "cpu")
    options = {"seed": 5, "precision": "fp32"}
    made = pipeline.generate(40, assignments=wanted, **options)
    real = 0
    for crystal, one in zip(made, wanted, strict=True):
        if len(crystal.atomic_numbers) == 0:
            continue  # angles of a triclinic cell that cannot be
        real += 1
        assert sorted(crystal.atomic_numbers.tolist()) == atoms_of(one)
        assert_symmetric(crystal, one.number)
    assert real >= 36
    draw = np.random.default_rng(0)
    orders = [draw.permutation(len(one.letters)) for one in wanted]
    shuffled = [
        Assignment(
            one.number,
            np.asarray(one.atomic_numbers)[order].tolist(),
            np.asarray(one.letters)[order].tolist(),
        )
        for one, order in zip(wanted, orders, strict=True)
    ]
    again = pipeline.generate(40, assignments=shuffled, batch_size=7, **options)
    assert torch.equal(made.atomic_numbers, again.atomic_numbers)
    torch.testing.assert_close(made.lattice, again.lattice, rtol=1e-3, atol=1e-3)
    apart = (made.frac_coords - again.frac_coords + 0.5) % 1 - 0.5
    assert apart.abs().max() < 1e-3


def test_only_free_coordinates_are_decoded(taught):
    vae = CrystalVAE.from_pretrained(taught / "vae")
    orbits = write_as_orbits(from_structures(seven()), by_letters=True)
    batch = orbits.batch(torch.arange(7))
    noise = torch.zeros(batch.width, vae.config.latent_dim)
    output = vae(batch, noise)
    assert output.decoded.letter_logits is None
    assert output.decoded.type_logits is None
    assert output.fixed is not None
    assert batch.sites is not None
    for row in range(7):
        for slot in range(int(batch.num_atoms[row])):
            number, letter = divmod(int(batch.sites[row, slot]), LETTERS)
            place = group(number).places[letter]
            free = np.abs(place.follow).any(1)
            assert output.fixed[row, slot].tolist() == (~free).tolist()
    # what is decoded of fixed ones does not matter
    coords = output.decoded.coords.detach()
    wild = torch.where(output.fixed.repeat(1, 1, 2), torch.randn_like(coords), coords)
    spoiled = output.decoded._replace(coords=wild)
    good, same = (vae.to_crystals(one, batch) for one in (output.decoded, spoiled))
    torch.testing.assert_close(good.frac_coords, same.frac_coords)
    # cells are scaled by the atoms of the given sites
    given = with_all_atoms(orbits)
    centring = torch.tensor([4, 1, 1, 2, 1, 1, 1])
    expected = (given.num_atoms * centring).pow(1 / 3).float()
    torch.testing.assert_close(output.scale.squeeze(1), expected)


def test_what_a_model_of_orbits_cannot_do_is_said(taught, tiny_ldm):
    pipeline = Pipeline.from_pretrained(taught / "ldm", "cpu")
    for options in ({}, {"atoms": [[11, 17]]}, {"space_group": [225]}):
        with pytest.raises(GenerationError, match="assignments="):
            pipeline.generate(1, **options)
    rocksalts = [Assignment(225, [11, 17], [0, 1])]
    with pytest.raises(GenerationError, match="leave out space_group"):
        pipeline.generate(1, assignments=rocksalts, space_group=[225])
    with pytest.raises(GenerationError, match="2 crystals are requested, with assignments of 1"):
        pipeline.generate(2, assignments=rocksalts)
    with pytest.raises(GenerationError, match="this is none"):
        Pipeline.from_pretrained(tiny_ldm, "cpu").generate(1, assignments=rocksalts)


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        (Assignment(231, [11], [0]), "1 to 230, got 231"),
        (Assignment(225, [], []), "at least one orbit"),
        (Assignment(225, [11, 17], [0]), "2 elements and 1 letters"),
        (Assignment(225, [11, 117], [0, 1]), "1 to 99, got"),
        (Assignment(225, [11, 17], [0, 12]), r"0 \(a\) to 11 \(l\), got"),
        (Assignment(225, [11, 17], [0, 0]), "letter a of space group 225"),
    ],
)
def test_assignments_that_no_crystal_has_are_refused(assignment, said, taught):
    pipeline = Pipeline.from_pretrained(taught / "ldm", "cpu")
    good = Assignment(221, [55], [0])
    with pytest.raises(GenerationError, match=f"crystal 1: .*{said}"):
        pipeline.generate(2, assignments=[good, assignment])


def test_both_stages_must_be_told_of_orbits(taught, tmp_path, tiny_vae):
    words = [*TINY_LDM, "trainer.max_steps=1", *FORM]
    ours = f"ldm.vae_ckpt_path={taught / 'vae'}"
    with pytest.raises(ConfigError, match="space_group=false"):
        api.ldm_train("demo/csp", [*words, ours], output=tmp_path / "run")
    with pytest.raises(ConfigError, match="kind csp"):
        api.ldm_train("demo/null", [*words, *TOLD, ours], output=tmp_path / "run")
    theirs = f"ldm.vae_ckpt_path={tiny_vae}"
    with pytest.raises(ConfigError, match="kind dng"):
        api.ldm_train("demo/csp", [*words, *TOLD, theirs], output=tmp_path / "run")


def test_policy_gradients_place_the_orbits_of_training_crystals(taught, tmp_path):
    words = [
        f"rl.ldm_ckpt_path={taught / 'ldm'}",
        *FORM,
        "data.batch_size=2",
        "rl.num_group_samples=4",
        "rl.val_samples=8",
        "trainer.max_steps=2",
        "trainer.tracker=none",
    ]
    api.rl_train("demo/dng", words, output=tmp_path / "rl")
    (made,) = Pipeline.from_pretrained(tmp_path / "rl", "cpu").generate(
        1, assignments=[Assignment(225, [11, 17], [0, 1])]
    )
    assert_symmetric(made, 225)


def test_the_demo_set_trains_with_orbits_of_its_own(tmp_path):
    words = [*TINY_VAE, *GIVEN, "trainer.max_steps=20"]
    api.vae_train("demo/csp", words, output=tmp_path / "vae")
    words = [*TINY_LDM, *TOLD, f"ldm.vae_ckpt_path={tmp_path / 'vae'}", "trainer.max_steps=2"]
    words += ["trainer.val_every_steps=2", "trainer.val_match_samples=6", "ldm.sampler.steps=3"]
    api.ldm_train("demo/csp", words, output=tmp_path / "ldm")
    model = LatentDiffusion.from_pretrained(tmp_path / "ldm")
    assert model.group_histogram.sum() == len(demo_crystals("train"))
    rows = (tmp_path / "ldm" / "metrics.jsonl").read_text().splitlines()
    assert "val/match_rate" in json.loads(rows[-1])
