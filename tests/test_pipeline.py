"""Sampling: the same crystals whatever the batch, honest manifests, nothing overwritten."""

from __future__ import annotations

import gzip
import json
import shutil

import pytest
import torch
import yaml

import chemeleon
from chemeleon import api
from chemeleon.checkpoints.load import find_model
from chemeleon.config.schedulers import SamplerConfig
from chemeleon.crystals.batch import Crystals
from chemeleon.errors import CheckpointError, ConfigError, GenerationError
from chemeleon.generation.pipeline import Pipeline
from chemeleon.generation.redraw import Drawn
from chemeleon.generation.shapes import draw_sizes


@pytest.fixture(scope="module")
def pipeline(tiny_ldm) -> Pipeline:
    return Pipeline.from_pretrained(tiny_ldm, "cpu")


@pytest.mark.parametrize("scheduler", ["ddim", "ddpm", "dpm++", "unipc"])
def test_same_seed_same_crystals_whatever_the_batch_size(pipeline, scheduler):
    settings = SamplerConfig(scheduler=scheduler, steps=5)
    whole = pipeline.generate(13, seed=5, sampler=settings)
    parts = pipeline.generate(13, seed=5, sampler=settings, batch_size=4)
    assert torch.equal(whole.num_atoms, parts.num_atoms)
    assert torch.equal(whole.atomic_numbers, parts.atomic_numbers)
    torch.testing.assert_close(whole.lattice, parts.lattice, rtol=1e-3, atol=1e-3)
    fewer = pipeline.generate(6, seed=5, sampler=settings)
    assert torch.equal(fewer.atomic_numbers, whole.atomic_numbers[: len(fewer.atomic_numbers)])
    other = pipeline.generate(13, seed=6, sampler=settings)
    assert not torch.equal(whole.lattice, other.lattice)
    assert (whole.frac_coords >= 0).all()
    assert (whole.frac_coords < 1).all()


def test_sizes_follow_the_training_histogram_or_the_choice(pipeline):
    keys = torch.arange(20_000) * 7919
    from chemeleon.crystals.random import make_keys

    drawn = torch.bincount(draw_sizes(pipeline.model, make_keys(0, keys)), minlength=15) / 20_000
    expected = pipeline.model.size_histogram / pipeline.model.size_histogram.sum()
    assert (drawn - expected).abs().max() < 0.02
    chosen = draw_sizes(pipeline.model, make_keys(0, keys), [2, 5])
    assert set(chosen.tolist()) == {2, 5}
    assert set(draw_sizes(pipeline.model, make_keys(0, keys), [40]).tolist()) == {40}


def test_files_and_manifest(tiny_ldm, tmp_path):
    out = tmp_path / "out"
    result = chemeleon.sample(
        tiny_ldm, 6, output=out, formats=("cif", "extxyz", "json"), seed=3, steps=5, eta=0.0
    )
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["requested"] == 6
    assert manifest["seed"] == 3
    expected = {"scheduler": "ddim", "steps": 5, "eta": 0.0, "temperature": 1.0}
    expected |= {"composition_penalty": 0.0, "redraw": 0}
    assert manifest["sampler"] == expected
    assert len(manifest["weights"]) == 16
    written = [s for s in result.structures if s is not None]
    assert manifest["written"] == len(written) == len(list((out / "cif").glob("*.cif")))
    assert manifest["valid"] == sum(p is None for p in result.problems)
    named = {entry["id"] for entry in manifest["invalid"]}
    assert named == {f"sample-{i:06d}" for i, p in enumerate(result.problems) if p}
    listed = json.loads(gzip.decompress((out / "structures.json.gz").read_bytes()))
    assert len(listed) == len(written)


def test_an_earlier_sample_is_kept_unless_told(tiny_ldm, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    chemeleon.sample(tiny_ldm, 5, output=out, steps=2)
    before = (out / "manifest.json").read_text()
    with pytest.raises(ConfigError, match="--overwrite"):
        chemeleon.sample(tiny_ldm, 1, output=out, steps=2)
    assert (out / "manifest.json").read_text() == before
    chemeleon.sample(tiny_ldm, 2, output=out, steps=2, overwrite=True)
    assert len(list((out / "cif").glob("*"))) <= 2  # no crystal of the earlier sample is left
    assert (out / "notes.txt").read_text() == "mine"


def test_broken_crystals_are_counted_and_named(tiny_ldm, tmp_path, monkeypatch):
    def broken(self, num_samples, **options):
        yield Drawn.unjudged(
            torch.arange(3),
            Crystals(
                atomic_numbers=torch.tensor([11, 17, 11, 17, 6, 6]),
                frac_coords=torch.tensor(
                    [[0.0, 0, 0], [0.5, 0.5, 0.5], [0, 0, 0], [0, 0, 0.01], [0, 0, 0], [0.5, 0, 0]]
                ),
                lattice=torch.stack(
                    [4 * torch.eye(3), 4 * torch.eye(3), float("nan") * torch.ones(3, 3)]
                ),
                num_atoms=torch.tensor([2, 2, 2]),
                targets={},
                ids=["a", "b", "c"],
            ),
        )

    monkeypatch.setattr(Pipeline, "stream", broken)
    result = chemeleon.sample(tiny_ldm, 3, output=tmp_path / "out")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert (manifest["requested"], manifest["written"], manifest["valid"]) == (3, 2, 1)
    reasons = {entry["id"]: (entry["reason"], entry["written"]) for entry in manifest["invalid"]}
    assert "apart" in reasons["sample-000001"][0]
    assert reasons["sample-000001"][1] is True
    assert "finite" in reasons["sample-000002"][0]
    assert reasons["sample-000002"][1] is False
    assert [s is None for s in result.structures] == [False, False, True]


def test_requests_that_cannot_be_met(tiny_ldm, tiny_vae):
    with pytest.raises(ConfigError, match="at least 1"):
        chemeleon.sample(tiny_ldm, 0)
    with pytest.raises(ConfigError, match="eta"):
        chemeleon.sample(tiny_ldm, 1, eta=2.0)
    with pytest.raises(GenerationError, match="use ddim"):
        chemeleon.sample(tiny_ldm, 1, scheduler="euler")
    with pytest.raises(CheckpointError, match="ldm is needed"):
        chemeleon.sample(tiny_vae, 1)
    with pytest.raises(CheckpointError, match="does not exist"):
        chemeleon.sample("runs/nowhere", 1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"scheduler": "ddpm", "eta": 0.3}, "eta=0.3 would change nothing: ddpm always draws full"),
        ({"scheduler": "unipc", "eta": 0.0}, "eta=0 would change nothing: unipc draws no noise"),
        ({"scheduler": "dpm++", "eta": 0.5}, "eta=0.5 would change nothing.* none with eta=0"),
        ({"scheduler": "euler", "eta": 0.5}, "eta=0.5 would change nothing: euler draws no noise"),
        ({"rank_by": "model"}, "rank_by orders the candidates of a formula"),
        ({"rank_by": "none", "formulas_from": "demo"}, "rank_by orders the candidates"),
        ({"on_error": "skip"}, "on_error is for the rows of formulas_from"),
        ({"contact_sheet": True}, "name an output folder"),
        ({"formats": ["json"]}, "name an output folder"),
    ],
)
def test_options_that_would_change_nothing(options, words):
    with pytest.raises(ConfigError, match=words):
        chemeleon.sample("runs/nowhere", 1, **options)  # before a model is looked for


def test_eta_is_read_where_it_is_taken(tiny_ldm):
    def volumes(**options: object) -> list[float]:
        return [s.volume for s in chemeleon.sample(tiny_ldm, 3, steps=4, **options)]

    for scheduler, other in (("ddim", 0.5), ("dpm++", 0)):
        assert volumes(scheduler=scheduler, eta=other) != volumes(scheduler=scheduler, eta=1)
    assert volumes(scheduler="unipc", eta=1) == volumes(scheduler="unipc")  # the default is let by


def test_eta_of_the_model_is_that_of_its_scheduler(tiny_ldm, tmp_path):
    """One that another scheduler would not read is no mistake: nobody asked for it."""
    shutil.copytree(tiny_ldm, tmp_path / "run")
    path = find_model(tmp_path / "run") / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config["ldm"]["sampler"]["eta"] = 0.5
    path.write_text(yaml.safe_dump(config))
    assert len(chemeleon.sample(tmp_path / "run", 1, steps=2, scheduler="ddpm").structures) == 1


def test_a_flow_model_trains_and_samples(tiny_vae, tmp_path):
    from conftest import TINY_LDM

    words = [*TINY_LDM, "trainer.max_steps=3", f"ldm.vae_ckpt_path={tiny_vae}"]
    words += ["ldm.diffusion.process=flow", "ldm.diffusion.prediction=flow"]
    words += ["ldm.diffusion.learned_variance=false", "ldm.sampler.scheduler=euler"]
    api.ldm_train("demo/null", words, output=tmp_path / "flow")
    assert len(chemeleon.sample(tmp_path / "flow", 3, steps=4).problems) == 3


def test_a_composition_model_trains_and_samples_unconditionally(tiny_vae, tmp_path):
    from conftest import TINY_LDM

    words = [*TINY_LDM, "trainer.max_steps=3", f"ldm.vae_ckpt_path={tiny_vae}"]
    words += ["ldm.conditions={what: {kind: composition}, d: {kind: number, column: density}}"]
    api.ldm_train("demo/null", words, output=tmp_path / "conditional")
    assert len(chemeleon.sample(tmp_path / "conditional", 3, steps=4).problems) == 3


def test_result_as_table_and_picture(tiny_ldm):
    made = chemeleon.sample(tiny_ldm, 9, seed=3, steps=5)
    table = made.table()
    assert table.index.tolist() == made.names
    assert (table["valid"] == "valid").tolist() == [problem is None for problem in made.problems]
    first = next(i for i, structure in enumerate(made.structures) if structure is not None)
    density = table["density g/cm³"].iloc[first]
    assert density == pytest.approx(made.structures[first].density, abs=0.01)
    picture = made.picture(columns=2)
    assert picture.format == "PNG"
    rows = -(-len(made) // 2)  # what cannot be written is not drawn
    assert picture.height / picture.width == pytest.approx(rows * 1.36 / (2 * 1.12), rel=0.02)
