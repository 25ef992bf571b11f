"""Formula to structure: the atoms asked for, always; order, sizes, ranking, errors."""

from __future__ import annotations

import inspect
import json
import random
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import typer
from conftest import TINY_LDM, TINY_VAE, demo_crystals
from energy_helpers import rocksalt, rocksalt_cube
from pymatgen.core import Structure
from test_ordering import split

import chemeleon
from chemeleon import api
from chemeleon.checkpoints.store import read_state
from chemeleon.config.schedulers import SamplerConfig
from chemeleon.config.schema import DataConfig, LDMTrainConfig
from chemeleon.crystals.augment import random_rotations
from chemeleon.crystals.convert import from_structures
from chemeleon.crystals.formula import likely_units
from chemeleon.crystals.ordering import arrange_atoms
from chemeleon.crystals.random import make_keys
from chemeleon.data.dataset import load_source, load_split
from chemeleon.errors import CheckpointError, ChemeleonError, ConfigError, GenerationError
from chemeleon.evaluation.metrics.csp import assign
from chemeleon.generation.pipeline import Pipeline
from chemeleon.generation.ranking import KT, best_first, denoising_error, make_scorer, ranked
from chemeleon.models.denoiser import LatentDiffusion
from chemeleon.models.elements import element_embedding
from chemeleon.models.vae import CrystalVAE
from chemeleon.training.ldm import LDMStage
from chemeleon.training.stage import Place


@pytest.fixture(scope="module")
def csp_vae(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "vae"
    api.vae_train(
        "demo/csp", [*TINY_VAE, "trainer.max_steps=60", "optim.warmup_steps=0"], output=folder
    )
    return folder


@pytest.fixture(scope="module")
def csp_ldm(csp_vae, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "ldm"
    words = [*TINY_LDM, "trainer.max_steps=5", f"ldm.vae_ckpt_path={csp_vae}"]
    api.ldm_train("demo/csp", words, output=folder)
    return folder


def test_a_csp_model_is_kept_by_the_structures_it_predicts(csp_vae, tmp_path):
    words = [*TINY_LDM, f"ldm.vae_ckpt_path={csp_vae}", "trainer.val_match_samples=12"]
    words += ["trainer.max_steps=6", "trainer.val_every_steps=2"]
    api.ldm_train("demo/csp", words, output=tmp_path / "run")
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    rates = [row["val/match_rate"] for row in map(json.loads, lines) if "val/match_rate" in row]
    assert len(rates) == 3
    assert all(rate * 12 == pytest.approx(round(rate * 12)) for rate in rates)
    _, counters = read_state(tmp_path / "run")
    assert counters["best"] == pytest.approx(-max(rates))
    # a loss is not compared with a match rate
    more = ["trainer.val_match_samples=0", "trainer.max_steps=8"]
    api.ldm_train(overrides=more, resume=tmp_path / "run")
    _, counters = read_state(tmp_path / "run")
    assert counters["criterion"] == "val/loss"
    assert counters["best"] == pytest.approx(counters["metrics"]["val/loss"])


def test_structures_are_predicted_in_the_precision_of_training(csp_vae, monkeypatch):
    seen, context = [], Pipeline.autocast

    def autocast(self, precision):
        seen.append(precision)
        return context(self, precision)

    monkeypatch.setattr(Pipeline, "autocast", autocast)
    words = [*TINY_LDM, "trainer.val_match_samples=2", "ldm.sampler={steps: 2, redraw: 5}"]
    config = api.resolve("ldm", "demo/csp", overrides=words).config
    assert isinstance(config, LDMTrainConfig)
    vae, crystals = CrystalVAE.from_pretrained(csp_vae), demo_crystals("val")
    for word in ("no", "bf16"):  # in accelerate's words
        stage = LDMStage(
            config, crystals, crystals, vae=vae, place=Place(torch.device("cpu"), precision=word)
        )
        stage.evaluate(stage.model, 0, 1)
    assert seen == ["fp32", "bf16"]  # each is made once, and no bad one again


@pytest.fixture(scope="module")
def pipeline(csp_ldm) -> Pipeline:
    # adaLN-Zero starts blind to everything: give the weights something to say
    model = LatentDiffusion.from_pretrained(csp_ldm)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.denoiser.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
    return Pipeline(model, "cpu")


def random_atoms(count: int, seed: int = 0) -> list[list[int]]:
    draw = random.Random(seed)
    return [[draw.randint(1, 99) for _ in range(draw.randint(1, 14))] for _ in range(count)]


FAST = SamplerConfig(steps=3)


# --- the atoms


@pytest.mark.parametrize("scheduler", ["ddim", "dpm++"])
def test_atoms_are_those_asked_for_whatever_the_batch(pipeline, scheduler):
    atoms = random_atoms(60)
    settings = SamplerConfig(scheduler=scheduler, steps=3)
    made = pipeline.generate(60, atoms=atoms, sampler=settings)
    assert split(made) == [arrange_atoms(row, "canonical") for row in atoms]
    assert [sorted(row) for row in split(made)] == [sorted(row) for row in atoms]
    shuffled = [random.Random(i).sample(row, len(row)) for i, row in enumerate(atoms)]
    parts = pipeline.generate(60, atoms=shuffled, sampler=settings, batch_size=7)
    assert torch.equal(made.atomic_numbers, parts.atomic_numbers)
    torch.testing.assert_close(made.lattice, parts.lattice, rtol=1e-3, atol=1e-3)
    apart = (made.frac_coords - parts.frac_coords + 0.5) % 1 - 0.5
    assert apart.abs().max() < 1e-3


def test_elements_change_the_geometry(pipeline):
    made = pipeline.generate(2, atoms=[[3, 9], [55, 9]], sampler=FAST)
    again = pipeline.generate(2, atoms=[[3, 9], [3, 9]], sampler=FAST)
    assert torch.equal(made.lattice[0], again.lattice[0])
    assert not torch.allclose(made.lattice[1], again.lattice[1], rtol=1e-2)


def test_neighbours_in_the_periodic_table_start_alike():
    torch.manual_seed(0)
    table = element_embedding(512).weight.detach()
    like = torch.nn.functional.normalize(table) @ torch.nn.functional.normalize(table).mT
    assert like[57, 60] > 0.8  # La, Nd
    assert 0.4 < like[11, 19] < 0.8  # Na, K: a group
    assert like[11, 35].abs() < 0.2  # Na, Br


# --- training


def test_a_model_of_four_crystals_gives_them_back(tmp_path, monkeypatch):
    from pymatgen.core import Lattice, Structure

    four = [
        rocksalt(5.64),
        Structure(Lattice.cubic(4.1), ["Cs", "Cl"], [[0] * 3, [0.5] * 3]),
        Structure(
            Lattice.cubic(3.9),
            ["Sr", "Ti", "O", "O", "O"],
            [[0] * 3, [0.5] * 3, [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]],
        ),
        Structure(
            Lattice.tetragonal(4.6, 2.96),
            ["Ti", "Ti", "O", "O", "O", "O"],
            [[0] * 3, [0.5] * 3, [0.3, 0.3, 0], [0.7, 0.7, 0], [0.2, 0.8, 0.5], [0.8, 0.2, 0.5]],
        ),
    ]
    for name, times in (("train", 4), ("val", 1)):
        rows = [f'{name}-{i},"{s.to(fmt="cif")}"' for i, s in enumerate(four * times)]
        (tmp_path / "four").mkdir(exist_ok=True)
        table = "\n".join(["material_id,cif", *rows])
        (tmp_path / "four" / f"{name}.csv").write_text(table)
    monkeypatch.setenv("CHEMELEON_DATA", str(tmp_path))
    words = ["data.name=four", "data.batch_size=16", "trainer.tracker=none"]
    words += ["data.targets=[]", "trainer.grad_accumulation=1", "trainer.val_every_steps=1000"]
    small = ["vae.width=64", "vae.encoder_layers=2", "vae.decoder_layers=2", "vae.heads=4"]
    small += ["vae.feedforward=128", "trainer.max_steps=300", "data.augment.translate=false"]
    api.vae_train("demo/csp", [*words, *small], output=tmp_path / "vae")
    small = ["ldm.denoiser.width=64", "ldm.denoiser.layers=3", "ldm.denoiser.heads=4"]
    small += ["trainer.max_steps=300", f"ldm.vae_ckpt_path={tmp_path / 'vae'}", "optim.lr=2e-3"]
    api.ldm_train("demo/csp", [*words, *small, "ldm.ema_decay=0.98"], output=tmp_path / "ldm")

    out = tmp_path / "out"
    made = chemeleon.sample(tmp_path / "ldm", n=2, formulas_from="four/val", output=out, steps=20)
    assert [s.composition for s in made] == [s.composition for s in four for _ in range(2)]
    # by the documented way, ids and all
    report = api.evaluate(out, targets=str(tmp_path / "four" / "val.csv"))
    assert report.summary["csp"]["targets"] == 4
    assert report.summary["csp"]["k"] == 2
    assert report.summary["csp"]["at_k"]["value"] == 1.0
    assert report.summary["csp"]["at_k"]["rmse"] < 0.1
    # units are those of training: four cells of one unit, but rutile has two
    found = chemeleon.sample(tmp_path / "ldm", formula=["CsCl", "TiO2"], n=2, rank_by="model")
    assert [s.formula for s in found] == ["Cs1 Cl1"] * 2 + ["Ti2 O4"] * 2
    # the model recognises what it was taught
    pipeline = Pipeline.from_pretrained(tmp_path / "ldm", "cpu")
    known = load_source(DataConfig(), tmp_path / "four" / "val.csv").crystals
    noise = torch.randn(known.frac_coords.shape, generator=torch.Generator().manual_seed(0))
    wrong = replace(known, frac_coords=(known.frac_coords + 0.2 * noise) % 1)
    assert (denoising_error(pipeline, known) < denoising_error(pipeline, wrong)).all()
    order = torch.tensor([3, 0, 2, 1])
    turn = random_rotations(make_keys(0, order))
    turned = known.subset(order)
    turned = replace(turned, lattice=turned.lattice @ turn)
    mixed = denoising_error(pipeline, turned)
    torch.testing.assert_close(mixed, denoising_error(pipeline, known)[order], rtol=1e-3, atol=1e-4)


def test_both_stages_must_be_told_the_elements(tmp_path, csp_vae, tiny_vae):
    words = [*TINY_LDM, "trainer.max_steps=1"]
    for preset, vae, remedy in (("demo/csp", tiny_vae, "/csp"), ("demo/null", csp_vae, "/csp")):
        with pytest.raises(ConfigError, match=f"kind .*{remedy}"):
            api.ldm_train(preset, [*words, f"ldm.vae_ckpt_path={vae}"], output=tmp_path / "x")
    with pytest.raises(ConfigError, match="tell the decoder"):
        api.vae_train("demo/dng", ["vae.decoder_types=true"], output=tmp_path / "x")


def test_a_model_from_before_formulas_were_counted_still_loads(csp_ldm, tmp_path):
    from chemeleon.checkpoints.load import read_model
    from chemeleon.checkpoints.store import write_model

    old = read_model(csp_ldm, ["ldm"])
    tensors = {k: v for k, v in old.tensors.items() if k != "formula_histogram"}
    write_model(tmp_path / "old", "ldm", old.config, tensors)
    model = LatentDiffusion.from_pretrained(tmp_path / "old")
    assert sum(likely_units([11, 17], model.formula_histogram).values()) == pytest.approx(1)


# --- asking


def test_python_gives_a_list_of_structures_in_order_of_rank(csp_ldm, tmp_path):
    out = tmp_path / "out"
    made = chemeleon.sample(
        csp_ldm, formula=["NaCl", "SrTiO3"], n=5, output=out, steps=3, rank_by="model"
    )
    assert isinstance(made, list)
    assert len(made) == 10
    assert {s.composition.reduced_formula for s in made[:5]} == {"NaCl"}
    assert {s.composition.reduced_formula for s in made[5:]} == {"SrTiO3"}
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["ranked_by"] == "denoising error of the model"
    rows = manifest["candidates"]
    assert [row["id"] for row in rows] == made.names
    assert [row["rank"] for row in rows] == [1, 2, 3, 4, 5] * 2
    assert {f"{name}.cif" for name in made.names} == {p.name for p in (out / "cif").iterdir()}
    broken = {entry["id"] for entry in manifest["invalid"]}
    for group in (rows[:5], rows[5:]):
        merit = [(row["id"] in broken, row["score"]) for row in group]
        assert merit == sorted(merit)
    for row, structure in zip(rows, made, strict=True):
        units = {"NaCl": 2, "SrTiO3": 5}[row["formula"]]
        assert len(structure) == units * row["formula_units"]
    one = chemeleon.sample(csp_ldm, formula="NaCl", formula_units=[3], n=1, steps=3, rank_by="none")
    assert [s.formula for s in one] == ["Na3 Cl3"]


def test_conditions_of_candidates_go_where_they_go(csp_vae, tmp_path):
    words = [*TINY_LDM, "trainer.max_steps=3", f"ldm.vae_ckpt_path={csp_vae}"]
    words += ["ldm.conditions={density: {kind: number, column: density}}"]
    api.ldm_train("demo/csp", words, output=tmp_path / "run")
    asked, out = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], tmp_path / "out"
    options = {"formula": "NaCl", "n": 6, "steps": 2, "conditions": {"density": asked}}
    free = chemeleon.sample(tmp_path / "run", rank_by="none", **options)
    ranked = chemeleon.sample(tmp_path / "run", rank_by="model", output=out, **options)
    cells = [s and s.volume for s in free.structures]
    order = [cells.index(s and s.volume) for s in ranked.structures]
    assert order != sorted(order)
    told = json.loads((out / "manifest.json").read_text())["conditions"]["density"]
    assert told == [asked[i] for i in order]


def test_candidates_are_ranked_by_energy_if_chgnet_is_there(pipeline):
    pytest.importorskip("chgnet")

    good = rocksalt_cube()
    bad = good.copy().apply_strain(-0.2, inplace=False)
    scorer = make_scorer("auto", pipeline)
    assert scorer is not None
    assert "energy" in scorer.name
    scores = scorer.score(from_structures([bad, good]))
    assert best_first([range(2)], scores, [None, None]) == [1, 0]


def test_broken_candidates_go_behind_the_others():
    nan = float("nan")
    scores = torch.tensor([-9.0, -1.0, nan, -2.0, 5.0, 4.0])
    problems = ["atoms 0 and 1 are 0.05 A apart", None, "not finite", None, None, None]
    assert best_first([range(4), range(4, 6)], scores, problems) == [3, 1, 0, 2, 5, 4]


def test_a_structure_that_comes_twice_takes_one_place_with_all_of_its_votes():
    salt, other = rocksalt_cube(), Structure(np.eye(3) * 3.4, ["Na", "Cl"], [[0] * 3, [0.5] * 3])
    made = [salt, salt.get_primitive_structure(), other, salt.copy(), salt.copy()]
    energies = [-3.00, -2.99, -3.01, -9.0, float("nan")]
    problems = [None, None, None, "broken", None]
    found = ranked([range(5)], made, energies, problems)
    assert found.order == [2, 0, 1, 3, 4]
    assert found.repeats == {1: 0}
    assert found.scores[:4] == energies[:4]
    one, two, three = (SimpleNamespace(probability=p) for p in (0.2, 0.3, 0.1))
    found = ranked([range(5)], made, energies, problems, [one, two, three, one, one])
    assert found.order == [0, 2, 1, 3, 4]
    assert found.scores[0] == pytest.approx(-3.00 - KT * np.log(0.2 + 0.3))
    assert found.scores[1] == pytest.approx(-2.99 - KT * np.log(0.3))
    assert found.scores[2] == pytest.approx(-3.01 - KT * np.log(0.1))
    # one proposal that was taken twice is no more likely for it
    found = ranked([range(3)], made[:3], energies[:3], problems[:3], [one, one, three])
    assert found.scores[0] == pytest.approx(-3.00 - KT * np.log(0.2))
    # formulas do not share places
    assert ranked([range(1), range(1, 2)], made[:2], energies[:2], problems[:2]).repeats == {}


@pytest.mark.parametrize(
    ("asked", "error", "words"),
    [
        ({}, GenerationError, "--formula"),
        ({"formula": "Fe2Xx"}, ConfigError, "Fe2Xx.*Xx"),
        ({"formula": ""}, ConfigError, "'' is not a formula"),
        ({"formula": "Si500"}, ConfigError, "500 atoms.*trained with"),
        ({"formula": "NaCl", "formula_units": [40]}, ConfigError, "80 atoms"),
        ({"formula": "NaCl", "formula_units": [0]}, ConfigError, "positive"),
        ({"formula": "NaCl", "rank_by": "both"}, ConfigError, "rank by energy or model"),
        ({"formula": ["NaCl", " NaCl"]}, ConfigError, "twice"),
        ({"formula": "NaCl", "num_atoms": [4]}, ConfigError, "formula_units"),
        ({"formula": "NaCl", "formulas_from": "demo/val"}, ConfigError, "one place"),
        ({"formula": "NaCl", "rank_by": "energies"}, ConfigError, "did you mean 'energy'"),
        ({"formula_units": [2]}, ConfigError, "name the formula"),
        ({"formulas_from": "demo/vall"}, ChemeleonError, "did you mean 'val'"),
    ],
)
def test_requests_that_cannot_be_met(csp_ldm, asked, error, words):
    with pytest.raises(error, match=words):
        chemeleon.sample(csp_ldm, 1, steps=2, **asked)


def test_a_model_that_chooses_elements_is_not_asked_for_formulas(tiny_ldm, csp_vae):
    with pytest.raises(GenerationError, match="csp presets"):
        chemeleon.sample(tiny_ldm, 1, formula="NaCl")
    with pytest.raises(CheckpointError, match="ldm is needed"):
        chemeleon.sample(csp_vae, 1, formula="NaCl")
    pipeline = Pipeline.from_pretrained(tiny_ldm, "cpu")
    with pytest.raises(GenerationError, match="csp presets"):
        pipeline.generate(1, atoms=[[11, 17]])


def test_atoms_that_cannot_be_made(pipeline):
    for atoms, words in (
        ([[11], []], "crystal 1"),
        ([[11], [0]], r"\[0\]"),
        ([[11]], "2 crystals"),
    ):
        with pytest.raises(GenerationError, match=words):
            pipeline.generate(2, atoms=atoms)


def test_units_beyond_the_model_are_left_out_and_said(csp_ldm):
    made = chemeleon.sample(csp_ldm, formula="BaTiO3", formula_units=[1, 2, 40], n=4, steps=2)
    assert sorted(len(s) for s in made) == [5, 5, 10, 10]
    assert "40 formula units left out" in made.notes[0]


def test_the_atoms_of_a_data_set_are_asked_for_under_its_ids(csp_ldm, tmp_path):
    made = chemeleon.sample(csp_ldm, 2, formulas_from="demo/val", steps=2)
    from chemeleon.config.presets import load_data

    wanted = load_split(load_data("demo"), "val")
    assert len(made.names) == 2 * len(wanted)
    rows = assign(made.names, wanted.ids)
    assert rows == [[2 * i, 2 * i + 1] for i in range(len(wanted))]
    kinds = [sorted(s.atomic_numbers) for s in made.structures if s is not None]
    pairs = zip(made.structures, [row for row in split(wanted) for _ in range(2)], strict=True)
    assert kinds == [sorted(row) for s, row in pairs if s is not None]


def test_python_and_the_command_line_have_the_same_names():
    from chemeleon.cli.sample import sample as command

    here = set(inspect.signature(chemeleon.sample).parameters)
    there = set(inspect.signature(command).parameters)
    only_words = {"table", "evaluate", "reference"}  # of the terminal
    only_python = {"n", "progress"}
    assert there - only_words == here - only_python
    short = inspect.signature(command, eval_str=True).parameters["num_samples"].annotation
    flags = next(m for m in short.__metadata__ if isinstance(m, typer.models.OptionInfo))
    assert "-n" in flags.param_decls
