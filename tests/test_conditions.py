"""Conditions: what users write, what the denoiser is told, and that crystals follow."""

from __future__ import annotations

import json
import logging

import pytest
import torch
from conftest import EPSILON, TINY_LDM, demo_crystals
from typer.testing import CliRunner

import chemeleon
from chemeleon import api
from chemeleon.config.architecture import ConditionConfig
from chemeleon.config.schedulers import SamplerConfig
from chemeleon.errors import ConfigError
from chemeleon.generation.conditioning import Conditioning
from chemeleon.generation.denoising import GuidedDenoiser, StepwiseDenoiser
from chemeleon.generation.pipeline import Pipeline
from chemeleon.models.condition_encoder import ConditionEncoder
from chemeleon.models.conditions import element_counts
from chemeleon.models.packing import Layout

CONDITIONS = (
    "ldm.conditions={what: {kind: composition}, system: {kind: chemical_system},"
    " density: {kind: number, column: density}}"
)


@pytest.fixture(scope="module")
def folder(tiny_vae, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "conditional"
    words = [*TINY_LDM, *EPSILON, "trainer.max_steps=3", CONDITIONS]
    words += [f"ldm.vae_ckpt_path={tiny_vae}"]
    api.ldm_train("demo/null", words, output=folder)
    return folder


@pytest.fixture(scope="module")
def pipeline(folder) -> Pipeline:
    """A model whose conditions matter a lot."""
    made = Pipeline.from_pretrained(folder, "cpu")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in made.model.denoiser.named_parameters():
            if "modulation" in name or name.startswith("head"):
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return made


# --- what users write


def test_features_are_those_of_crystals_that_have_the_value():
    crystals = demo_crystals("train").subset(torch.arange(6))
    batch = crystals.batch(torch.arange(6))
    encoder = ConditionEncoder(
        {
            "what": ConditionConfig(kind="composition"),
            "system": ConditionConfig(kind="chemical_system"),
            "density": ConditionConfig(kind="number", column="density"),
        },
        8,
    )
    encoder.fit(crystals.targets)
    features = encoder.featurise(batch)
    structures = chemeleon_structures(crystals)
    asked = encoder.request(
        {
            "what": [s.composition.reduced_formula for s in structures],
            "system": [s.composition.chemical_system for s in structures],
            "density": crystals.targets["density"].tolist(),
        }
    )
    for name, value in features.items():
        torch.testing.assert_close(asked.features[name], value)
        assert not asked.hidden[name].any()
    assert encoder.request({"density": [1.0, None]}).hidden["density"].tolist() == [False, True]


def chemeleon_structures(crystals):
    from chemeleon.crystals.convert import to_structures

    return to_structures(crystals)


# --- what is refused, and what is remarked


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"conditions": {"densty": 2}}, r"did you mean 'density'.*number in g/cm3, trained on 0"),
        ({"conditions": {"density": "two"}}, "condition density: 'two' is not a number"),
        ({"conditions": {"density": float("nan")}}, "is not a number"),
        ({"conditions": {"system": "Li-Mm"}}, "condition system: 'Mm' is not the symbol"),
        ({"conditions": {"density": [1.0, 2.0]}}, "2 crystals, but 3 are requested"),
        ({"conditions": {"density": 2}, "guidance": -1}, "from 0 to 1,000, got -1"),
        ({"conditions": {"density": 2}, "guidance_interval": (0.5, 0.2)}, "0.2,0.8; got 0.5,0.2"),
        (
            {"conditions": {"density": 2}, "guidance_interval": (0.5, 0.501)},
            "none of the 50 denoising",
        ),
        ({"guidance": 2}, "--condition"),
        ({"allow_elements": ["Li", "Qq"]}, "'Qq' is not the symbol"),
        ({"allow_elements": []}, "allow_elements names no element"),
        ({"allow_elements": ["Li"], "forbid_elements": ["Li"]}, "forbidden, too"),
    ],
)
def test_wishes_that_cannot_be_met(pipeline, options, words):
    with pytest.raises(ConfigError, match=words):
        pipeline.generate(3, **options)


def test_a_model_without_conditions_says_what_to_train(tiny_ldm):
    with pytest.raises(ConfigError, match=r"trained without conditions.*chemeleon ldm train"):
        Pipeline.from_pretrained(tiny_ldm, "cpu").generate(1, conditions={"density": 2})


def test_values_beyond_the_training_data_are_remarked(pipeline, caplog):
    settings = SamplerConfig(steps=2)
    with caplog.at_level(logging.WARNING):
        pipeline.generate(2, conditions={"density": 5.0}, sampler=settings)
        assert not caplog.text
        pipeline.generate(2, conditions={"density": 50}, sampler=settings)
    assert "condition density=50 g/cm3: the model was trained on 0.5" in caplog.text


def test_classes_that_do_not_occur_are_remarked():
    encoder = ConditionEncoder(
        {"group": ConditionConfig(kind="space_group", column="spacegroup.number")}, 8
    )
    column = {"spacegroup.number": torch.tensor([225.0, 14.0, float("nan"), 225.0])}
    encoder.fit(column)
    facts = encoder.describe(column)["group"]
    assert facts == {"classes": [14, 225]}
    assert encoder["group"].unusual("Fm-3m", facts) is None
    assert "no training crystal" in str(encoder["group"].unusual(221, facts))
    assert encoder.request({"group": "Fm-3m"}).features["group"].argmax() == 225


# --- guidance


def evaluations(pipeline: Pipeline, monkeypatch) -> list[bool]:
    """Return a list that will hold, for each evaluation, whether conditions were told."""
    told: list[bool] = []
    forward = type(pipeline.model).forward

    def spy(self, z, t, num_atoms, features, drop, *rest):
        told.append(not all(bool(flags.all()) for flags in drop.values()))
        return forward(self, z, t, num_atoms, features, drop, *rest)

    monkeypatch.setattr(type(pipeline.model), "forward", spy)
    return told


@pytest.mark.parametrize(
    ("wishes", "expected"),
    [
        ({}, [False] * 4),
        ({"conditions": {"density": 3}, "guidance": 0}, [False] * 4),
        ({"conditions": {"density": 3}, "guidance": 1}, [True] * 4),
        ({"conditions": {"density": 3}}, [True, False] * 4),
        (
            {"conditions": {"density": 3}, "guidance_interval": (0.25, 0.75)},
            [True, True, False, True, False, True],
        ),
    ],
)
def test_evaluations_of_a_walk(pipeline, monkeypatch, wishes, expected):
    told = evaluations(pipeline, monkeypatch)
    pipeline.generate(3, sampler=SamplerConfig(steps=4), **wishes)
    assert told == expected


def test_guidance_is_the_formula(pipeline):
    """Of Ho and Salimans 2022, with crystals that share their conditions and others."""
    model, sizes = pipeline.model, torch.tensor([3, 5])
    z = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([400, 400])
    encoder = model.denoiser.conditions
    assert encoder is not None
    layout = Layout.from_mask(torch.arange(5) < sizes.unsqueeze(1), sizes)
    for value in (4.0, [4.0, 9.0]):
        request = encoder.request({"density": value})
        shown = model(z, t, sizes, *request)
        hidden = model(z, t, sizes, *encoder.request({}))
        assert (shown.prediction - hidden.prediction).abs().max() > 0.01
        for scale in (0.0, 1.0, 2.5):
            wishes = {"conditions": {"density": value}, "guidance": scale}
            conditioning = Conditioning.read(model, 2, wishes).of(
                torch.arange(2), torch.device("cpu")
            )
            denoiser = GuidedDenoiser(model, sizes, layout, None, conditioning, pipeline.estimator)
            found = StepwiseDenoiser(denoiser, 10)(z, t)
            torch.testing.assert_close(found, denoiser.predict(z, t), rtol=1e-5, atol=1e-5)
            for ours, one, other in zip(found, shown, hidden, strict=True):
                expected = other + scale * (one - other)
                torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


def test_without_guidance_in_an_interval_the_rest_takes_the_condition(pipeline):
    wishes = {"conditions": {"density": 4.0}, "guidance": 0.0}
    for interval, branches in (((0.0, 1.0), 1), ((0.2, 0.8), 2)):
        conditioning = Conditioning.read(
            pipeline.model, 2, {**wishes, "guidance_interval": interval}
        )
        assert len(conditioning.branches()) == branches


def test_conditions_of_each_crystal_are_its_own_in_any_batch(pipeline):
    settings = SamplerConfig(steps=4)
    values = [1.0, 20.0, None, 8.0, 8.0]
    options = {"sampler": settings, "seed": 3}
    whole = pipeline.generate(5, conditions={"density": values}, **options)
    parts = pipeline.generate(5, conditions={"density": values}, batch_size=2, **options)
    torch.testing.assert_close(whole.lattice, parts.lattice, rtol=1e-3, atol=1e-3)
    same = pipeline.generate(5, conditions={"density": 8.0}, **options)
    nothing = pipeline.generate(5, **options)
    for crystals, index in ((same, 3), (same, 4), (nothing, 2)):
        torch.testing.assert_close(
            whole.lattice[index], crystals.lattice[index], rtol=1e-3, atol=1e-3
        )
    assert not torch.allclose(whole.lattice[0], same.lattice[0], rtol=1e-2)


def test_formulas_go_into_the_cells(pipeline):
    settings = SamplerConfig(steps=1)
    made = pipeline.generate(40, conditions={"what": "BaTiO3"}, sampler=settings)
    assert set(made.num_atoms.tolist()) == {5, 10}
    formulas = ["NaCl", "BaTiO3", None, "Fe2O3"] * 10
    sizes = pipeline.generate(40, conditions={"what": formulas}, sampler=settings).num_atoms
    assert (sizes[0::4] % 2 == 0).all()
    assert (sizes[1::4] % 5 == 0).all()
    assert (sizes[3::4] % 5 == 0).all()
    free = pipeline.generate(40, sampler=settings).num_atoms
    assert torch.equal(sizes[2::4], free[2::4])


# --- elements


def test_only_allowed_elements_are_made(pipeline):
    settings = SamplerConfig(steps=2)

    def elements(**options):
        made = pipeline.generate(200, sampler=settings, **options)
        return set(made.atomic_numbers.tolist())

    free = elements()
    assert len(free) > 2
    assert elements(allow_elements=["Li", "Mn", "O"]) <= {3, 25, 8}
    assert elements(allow_elements=["Cm"]) == {96}
    from ase.data import chemical_symbols

    common = [chemical_symbols[z] for z in free]
    assert not elements(forbid_elements=common) & free
    assert elements(allow_elements=["Li", "O"], forbid_elements=["O"]) == {3}


# --- from the command line and Python to files


def test_conditions_on_the_command_line_are_those_of_the_manifest(folder, tmp_path):
    from chemeleon.cli.app import app

    words = ["sample", "--model", str(folder), "-n", "4", "-o", str(tmp_path), "--steps", "2"]
    words += ["--condition", "density=4.5", "--condition", "what=NaCl", "--guidance", "1.5"]
    words += ["--guidance-interval", "0.1,0.9", "--allow-elements", "Na,Cl"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["conditions"] == {"density": "4.5", "what": "NaCl"}
    assert (manifest["guidance"], manifest["guidance_interval"]) == (1.5, [0.1, 0.9])
    assert manifest["allow_elements"] == ["Na", "Cl"]
    conditions = {"density": 4.5, "what": "NaCl"}
    result = chemeleon.sample(folder, 4, steps=2, conditions=conditions, allow_elements=["Na"])
    for structure in result.structures:
        assert structure is None or structure.composition.chemical_system == "Na"


def test_arrays_are_conditions_too(folder, tmp_path):
    import numpy as np

    asked = [{"density": np.array([2.0, 4.5])}, {"density": torch.tensor([2.0, 4.5])}]
    asked += [{"density": [np.float32(2.0), torch.tensor(4.5)]}, {"density": (2.0, 4.5)}]
    made = []
    for i, conditions in enumerate(asked):
        out = tmp_path / str(i)
        made += [chemeleon.sample(folder, 2, steps=2, conditions=conditions, output=out)]
        manifest = json.loads((out / "manifest.json").read_text())
        assert manifest["conditions"] == {"density": [2.0, 4.5]}
    first = [s and s.as_dict() for s in made[-1].structures]
    for other in made:
        assert [s and s.as_dict() for s in other.structures] == first
    one = chemeleon.sample(folder, 1, steps=2, conditions={"density": np.float64(2.0)})
    assert len(one.structures) == 1


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--condition", "density"], "NAME=VALUE"),
        (["--condition", "density=1", "--condition", "density=2"], "given twice"),
        (["--condition", "density=1", "--guidance-interval", "0.3"], "two numbers"),
        (["--condition", "gap=1"], "It knows what"),
    ],
)
def test_mistakes_on_the_command_line(folder, tmp_path, words, text):
    from chemeleon.cli.app import app

    result = CliRunner().invoke(
        app, ["sample", "--model", str(folder), "-n", "1", "-o", str(tmp_path / "out"), *words]
    )
    assert text in f"{result.output} {result.exception}"


def test_counts_of_elements_ignore_padding():
    crystals = demo_crystals("train").subset(torch.arange(5))
    counts = element_counts(crystals.batch(torch.arange(5)))
    assert torch.equal(counts.sum(1).long(), crystals.num_atoms)
    assert not counts[:, 0].any()
