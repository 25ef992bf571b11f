"""Conditions that are drawn where nothing is asked: counted in training, drawn with the size."""

from __future__ import annotations

import pytest
import torch
from conftest import EPSILON, TINY_LDM

from chemeleon import api
from chemeleon.config.schema import ConditionConfig, SamplerConfig
from chemeleon.crystals.prototypes import demo_crystals
from chemeleon.crystals.random import make_keys
from chemeleon.errors import ConfigError
from chemeleon.models.condition_encoder import ConditionEncoder
from chemeleon.pipeline import Pipeline
from chemeleon.steering import Steering

DRAWN = "ldm.conditions={count: {kind: num_elements, drawn: true}}"
SETTINGS = SamplerConfig(steps=2)


@pytest.fixture(scope="module")
def folder(tiny_vae, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "drawn"
    words = [*TINY_LDM, *EPSILON, "trainer.max_steps=3", f"ldm.vae_ckpt_path={tiny_vae}"]
    api.ldm_train("demo/null", [*words, DRAWN], output=folder)
    return folder


@pytest.fixture(scope="module")
def pipeline(folder) -> Pipeline:
    """A model whose condition matters a lot."""
    made = Pipeline.from_pretrained(folder, "cpu")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in made.model.denoiser.named_parameters():
            if "modulation" in name or name.startswith("head"):
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return made


def elements(crystals) -> list[int]:
    parts = crystals.atomic_numbers.split(crystals.num_atoms.tolist())
    return [len(set(part.tolist())) for part in parts]


def test_the_number_of_elements_is_read_off_crystals_and_off_what_is_asked():
    crystals = demo_crystals("train")
    encoder = ConditionEncoder({"n": ConditionConfig(kind="num_elements")}, 8)
    found = encoder.featurise(crystals.batch(torch.arange(len(crystals))))["n"]
    asked = encoder.request({"n": elements(crystals)})
    torch.testing.assert_close(asked.features["n"], found)
    assert len(set(elements(crystals))) > 1
    for wrong in (0, 11, "two", 2.5):
        with pytest.raises(ConfigError, match=f"'{wrong}' is not a number of elements from 1 to"):
            encoder.request({"n": wrong})


def test_training_counts_values_by_size(pipeline):
    crystals = demo_crystals("train")
    table = pipeline.model.occurrences()["count"].clone()
    assert table.sum() == len(crystals)
    for size, number in zip(crystals.num_atoms.tolist(), elements(crystals), strict=True):
        table[size, number - 1] -= 1
    assert not table.any()


def test_values_are_drawn_as_often_as_they_occur_with_a_size(pipeline):
    table = pipeline.model.occurrences()["count"]
    size = int((table > 0).sum(-1).argmax())  # has several
    shares = table[size] / table[size].sum()
    count = 4000
    steering = Steering(pipeline.model, count, {})
    steering.draw_values(torch.full((count,), size), make_keys(0, torch.arange(count)))
    assert steering.request is not None
    drawn = steering.request.features["count"]
    assert (drawn.sum(-1) == 1).all()
    assert (shares > 0).sum() > 1
    torch.testing.assert_close(drawn.mean(0), shares, atol=0.03, rtol=0)


def test_sizes_that_training_did_not_have_are_left_open(pipeline):
    steering = Steering(pipeline.model, 2, {})
    known = int(pipeline.model.size_histogram.nonzero()[0])
    steering.draw_values(torch.tensor([500, known]), make_keys(0, torch.arange(2)))
    assert steering.request is not None
    assert steering.request.hidden["count"].tolist() == [True, False]


def same(first, second) -> bool:
    return torch.equal(first.frac_coords, second.frac_coords)


def test_what_is_drawn_reaches_the_denoiser(pipeline):
    plain = pipeline.generate(6, sampler=SETTINGS, num_atoms=[2])
    assert not same(plain, pipeline.generate(6, sampler=SETTINGS, num_atoms=[2], guidance=0))
    # drawn values count as conditions: told without a push unless a push is asked for
    assert same(plain, pipeline.generate(6, sampler=SETTINGS, num_atoms=[2], guidance=1))
    assert not same(plain, pipeline.generate(6, sampler=SETTINGS, num_atoms=[2], guidance=3))
    only = int(pipeline.model.occurrences()["count"][2].argmax()) + 1
    steering = Steering(pipeline.model, 6, {})
    steering.draw_values(torch.full((6,), 2), make_keys(0, torch.arange(6)))
    assert steering.request is not None
    values = (steering.request.features["count"].argmax(-1) + 1).tolist()
    assert only in values
    asked = {"count": values}
    told = pipeline.generate(6, sampler=SETTINGS, num_atoms=[2], conditions=asked, guidance=1)
    torch.testing.assert_close(told.frac_coords, plain.frac_coords)


def test_crystals_do_not_depend_on_their_batch(pipeline):
    together = pipeline.generate(5, sampler=SETTINGS)
    apart = pipeline.generate(5, sampler=SETTINGS, batch_size=2)
    torch.testing.assert_close(apart.frac_coords, together.frac_coords, atol=1e-5, rtol=0)


def test_only_one_hot_conditions_can_be_drawn(tiny_vae, tmp_path):
    words = [*TINY_LDM, f"ldm.vae_ckpt_path={tiny_vae}"]
    words += ["ldm.conditions={what: {kind: composition, drawn: true}}"]
    with pytest.raises(ConfigError, match="composition cannot be drawn"):
        api.ldm_train("demo/null", words, output=tmp_path / "run")


def test_an_unconditional_model_can_be_given_one(tiny_ldm, tmp_path):
    words = [*TINY_LDM, "trainer.max_steps=2", f"ldm.init_ckpt_path={tiny_ldm}", DRAWN]
    api.ldm_train("demo/null", words, output=tmp_path / "run")
    made = Pipeline.from_pretrained(tmp_path / "run", "cpu")
    assert made.model.occurrences()["count"].sum() == len(demo_crystals("train"))
    assert len(made.generate(3, sampler=SETTINGS)) == 3


def test_adapters_keep_the_table(tiny_ldm, tmp_path):
    pytest.importorskip("peft")
    words = [*TINY_LDM, "trainer.max_steps=2", f"ldm.init_ckpt_path={tiny_ldm}", DRAWN]
    api.ldm_train("demo/null", [*words, "ldm.lora.rank=2"], output=tmp_path / "run")
    made = Pipeline.from_pretrained(tmp_path / "run", "cpu")
    assert made.model.occurrences()["count"].sum() == len(demo_crystals("train"))
