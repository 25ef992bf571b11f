"""Predictors: what they see, how they learn, what is written, what is refused."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import demo_crystals
from energy_helpers import rocksalt_cube
from pymatgen.core import Lattice, Structure
from reference import checkpoint

import chemeleon
from chemeleon import api
from chemeleon.checkpoints.convert import convert
from chemeleon.config import presets
from chemeleon.config.schema import PredictTrainConfig
from chemeleon.crystals.augment import random_rotations, rotate, translate
from chemeleon.crystals.batch import CrystalBatch, Crystals
from chemeleon.crystals.convert import from_structures
from chemeleon.crystals.files import write_structures
from chemeleon.crystals.random import make_keys
from chemeleon.data.dataset import load_split
from chemeleon.data.loader import Loader
from chemeleon.errors import CheckpointError, ConfigError, DataError, GenerationError
from chemeleon.evaluation.report.columns import column_table
from chemeleon.models.neighbours import PairFeatures
from chemeleon.models.predictor import Predictor
from chemeleon.models.vae import CrystalVAE
from chemeleon.prediction.predictor import PredictStage
from chemeleon.prediction.regression import scores
from chemeleon.prediction.scoring import with_targets
from chemeleon.training.stage import Place

SMALL = [
    "predict.encoder=scratch",
    "predict.width=32",
    "predict.layers=1",
    "predict.heads=2",
    "predict.radial=8",
    "trainer.tracker=none",
    "trainer.grad_accumulation=1",
    "data.batch_size=32",
]
ROCK_SALT = rocksalt_cube(5.6)


def settings(*words: str) -> PredictTrainConfig:
    config = presets.load("predict", "demo/density", overrides=[*SMALL, *words]).config
    assert isinstance(config, PredictTrainConfig)
    return config


def stage(config: PredictTrainConfig, train: Crystals, val: Crystals, **more) -> PredictStage:
    return PredictStage(config, train, val, place=Place(torch.device("cpu")), **more)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run folder of a predictor of two targets after a few steps."""
    folder = tmp_path_factory.mktemp("predict") / "run"
    words = [*SMALL, "trainer.max_steps=20", "trainer.val_every_steps=10"]
    api.predict_train("demo/density", words, output=folder)
    return folder


# --- distances


def test_pair_features_are_sums_over_all_images_within_the_cutoff():
    crystals = from_structures([ROCK_SALT.get_primitive_structure(), ROCK_SALT])
    batch = crystals.batch(torch.arange(2))
    cutoff, functions = 4.5, 6
    found = PairFeatures(cutoff, functions)(batch)
    for row, structure in enumerate([ROCK_SALT.get_primitive_structure(), ROCK_SALT]):
        wanted = torch.zeros(len(structure), len(structure), functions)
        for i, neighbours in enumerate(structure.get_all_neighbors(cutoff)):
            for neighbour in neighbours:
                d = neighbour.nn_distance / cutoff * math.pi
                near = 0.5 + 0.5 * math.cos(d)
                for k in range(functions):
                    wanted[i, neighbour.index, k] += math.sin((k + 1) * d) * near
        size = len(structure)
        torch.testing.assert_close(found[row, :size, :size], wanted, rtol=1e-4, atol=1e-4)
        assert (found[row, size:] == 0).all()
        assert (found[row, :, size:] == 0).all()


def test_pair_features_do_not_change_when_the_crystal_is_moved_or_turned():
    batch = demo_crystals("val").batch(torch.arange(0, 400, 25))
    keys = make_keys(3, torch.arange(len(batch)))
    moved = rotate(translate(batch, torch.rand(len(batch), 3)), random_rotations(keys))
    features = PairFeatures(5.0, 16)
    torch.testing.assert_close(features(moved), features(batch), rtol=1e-4, atol=1e-4)


def test_padding_and_company_change_nothing():
    config = settings().predict
    torch.manual_seed(0)
    from chemeleon.prediction.predictor import new_encoder

    model = Predictor(config, new_encoder(config)).eval()
    crystals = demo_crystals("val").subset(torch.arange(0, 400, 30))
    alone = torch.cat([model(crystals.batch(torch.tensor([i]))) for i in range(len(crystals))])
    together = model(crystals.batch(torch.arange(len(crystals)), pad_to=20))
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


# --- learning


def with_gaps(crystals: Crystals) -> Crystals:
    """Return crystals of which every third has no density and every fourth no volume."""
    density, volume = (crystals.targets[k].clone() for k in ("density", "volume_per_atom"))
    density[::3], volume[::4] = math.nan, math.nan
    density[0] = volume[0] = math.nan
    density[1], volume[1] = 5.0, 20.0
    return replace(crystals, targets={"density": density, "volume_per_atom": volume})


@pytest.mark.parametrize("head", ["graph", "pooled"])
def test_a_few_crystals_are_learnt_exactly_whatever_is_missing(head, tiny_vae):
    few = with_gaps(demo_crystals("train").subset(torch.arange(0, 3200, 270)))
    words = ["predict.dropout=0", "data.augment.translate=false", "data.augment.rotate=false"]
    config = settings(f"predict.head={head}", "predict.encoder=finetune", *words)
    trained = stage(config, few, few, vae=CrystalVAE.from_pretrained(tiny_vae))
    model = trained.model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for epoch in range(150):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * (1 - epoch / 150)
        for [batch] in trained.batches(epoch, 0):
            loss = trained.loss(model, batch)["loss"]
            assert torch.isfinite(loss)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    values = model.eval().predict_all(few)
    for name in config.predict.targets:
        found = scores(values[name], few.targets[name])
        assert found.known < len(few)
        assert found.r2 > 0.99, (name, found)


def test_missing_values_have_no_say():
    crystals = with_gaps(demo_crystals("train").subset(torch.arange(64)))
    config = settings("predict.dropout=0", "data.batch_size=64")
    here = stage(config, crystals, crystals)
    [[draw]] = here.batches(0, 0)
    batch = draw.gather()
    error = here._error(here.model(batch.crystals), batch)
    known = torch.isfinite(torch.stack(list(batch.crystals.targets.values()), -1))
    assert 0 < int(known.sum()) < known.numel()
    assert (error[~known] == 0).all()
    terms = here.loss(here.model.eval(), draw)
    # a step with all crystals: each term is the mean over the crystals that have the value
    crystals_seen = here.model(augmented(here, batch))
    wanted = here.model.standardised(batch.crystals)
    for i, name in enumerate(config.predict.targets):
        mean = (crystals_seen[:, i] - wanted[:, i])[known[:, i]].abs().mean()
        torch.testing.assert_close(terms[name], mean)
    terms["loss"].backward()
    for name, parameter in here.model.named_parameters():
        assert parameter.grad is not None, name  # DDP wants all of them
        assert torch.isfinite(parameter.grad).all(), name


def augmented(here: PredictStage, batch) -> CrystalBatch:
    from chemeleon.crystals.augment import augment

    return augment(batch.crystals, batch.keys, here.config.data.augment)


def test_a_target_without_any_value_is_refused():
    crystals = demo_crystals("val")
    empty = {**crystals.targets, "density": torch.full((len(crystals),), math.nan)}
    with pytest.raises(DataError, match=r"training split.*'density'"):
        stage(settings(), replace(crystals, targets=empty), crystals)


def test_statistics_are_those_of_known_training_values_and_are_saved(run, tmp_path):
    train = with_gaps(demo_crystals("train"))
    model = stage(settings(), train, train).model
    again = Predictor.from_pretrained(model.save_pretrained(tmp_path / "model"))
    for i, name in enumerate(model.config.targets):
        known = train.targets[name][torch.isfinite(train.targets[name])]
        assert float(again.target_mean[i]) == pytest.approx(float(known.mean()), rel=1e-5)
        assert float(again.target_std[i]) == pytest.approx(float(known.std()), rel=1e-3)
    assert again.config.units == {"density": "g/cm3", "volume_per_atom": "A3"}


def test_two_processes_have_the_gradient_of_one():
    crystals = with_gaps(demo_crystals("train").subset(torch.arange(40)))
    config = settings("predict.dropout=0", "data.batch_size=40")
    one = stage(config, crystals, crystals)
    [[whole]] = one.batches(0, 0)
    total = one.loss(one.model, whole)["loss"]
    halves = Loader(crystals, 20, seed=config.seed, device=torch.device("cpu"), world=2)
    parts = []
    for rank in range(2):
        halves.rank = rank
        [batch] = next(halves.epoch(0))
        parts.append(one.loss(one.model, batch)["loss"])
    torch.testing.assert_close(sum(parts) / 2, total)
    # and the same for validation, whose shares are added up
    with torch.no_grad():
        alone = one.evaluate(one.model.eval(), 0, 1)
        shares = [one.evaluate(one.model, rank, 2) for rank in range(2)]
    for name, (value, weight) in alone.items():
        assert sum(s[name][0] for s in shares) == pytest.approx(value, rel=1e-4)
        assert sum(s[name][1] for s in shares) == pytest.approx(weight)


def test_a_frozen_encoder_stays_as_it_is_and_can_be_taken_out(tiny_vae, tmp_path):
    words = [*SMALL, "predict.encoder=frozen", f"predict.vae_ckpt_path={tiny_vae}"]
    words += ["trainer.max_steps=3", "predict.targets=[density]"]
    api.predict_train("demo/density", words, output=tmp_path / "run")
    before = CrystalVAE.from_pretrained(tiny_vae).state_dict()
    after = CrystalVAE.from_pretrained(tmp_path / "run").state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_a_trained_encoder_is_no_vae_and_the_message_says_so(run):
    with pytest.raises(CheckpointError, match="no VAE in it"):
        CrystalVAE.from_pretrained(run)


def test_a_resumed_run_is_the_one_that_never_stopped(tmp_path, tiny_vae):
    words = [*SMALL, "predict.encoder=finetune", f"predict.vae_ckpt_path={tiny_vae}"]
    words += ["trainer.val_every_steps=3", "optim.schedule=constant"]
    api.predict_train("demo/density", [*words, "trainer.max_steps=6"], output=tmp_path / "a")
    api.predict_train("demo/density", [*words, "trainer.max_steps=3"], output=tmp_path / "b")
    api.predict_train(overrides=["trainer.max_steps=6"], resume=tmp_path / "b")
    one, two = (Predictor.from_pretrained(tmp_path / x / "last").state_dict() for x in "ab")
    assert all(torch.equal(one[name], two[name]) for name in one)
    with pytest.raises(ConfigError, match=r"predict\.width differs"):
        api.predict_train(overrides=["predict.width=64"], resume=tmp_path / "b")


def test_patience_ends_a_run_and_scores_are_those_of_the_best_model(tmp_path):
    words = [*SMALL, "optim.lr=1e-12", "optim.warmup_steps=0", "optim.schedule=constant"]
    words += ["trainer.val_every_steps=2", "trainer.patience=2", "trainer.max_steps=500"]
    result = api.predict_train("demo/density", words, output=tmp_path / "r")
    assert result.fitted.step < 40
    written = json.loads((tmp_path / "r" / "scores.json").read_text())
    assert set(written) == {"val", "test"}
    best = Predictor.from_pretrained(tmp_path / "r" / "best")
    test = load_split(with_targets(settings()), "test", partial=True)
    mae, rmse, r2, known = scores(best.predict_all(test)["density"], test.targets["density"])
    expected = {"mae": mae, "rmse": rmse, "r2": r2, "count": known, "unit": "g/cm3"}
    assert written["test"]["density"] == pytest.approx(expected)
    assert (tmp_path / "r" / "parity.png").read_bytes()[:4] == b"\x89PNG"


def test_a_predictor_needs_a_vae_unless_it_is_from_scratch(tmp_path):
    words = [*SMALL, "predict.encoder=frozen", "predict.vae_ckpt_path=null"]
    with pytest.raises(ConfigError, match=r"predict\.vae_ckpt_path is not set"):
        api.predict_train("demo/density", words, output=tmp_path / "r")
    with pytest.raises(ConfigError, match="name a column twice"):
        settings("predict.targets=[density, density]")
    with pytest.raises(ConfigError, match="multiple of heads"):
        settings("predict.width=30", "predict.heads=4")


def test_scores_of_known_numbers():
    found = scores(torch.tensor([1.0, 2.0, 5.0, 9.0]), torch.tensor([1.0, 3.0, 2.0, math.nan]))
    assert found == pytest.approx((4 / 3, (10 / 3) ** 0.5, 1 - 10 / 2, 3))
    assert math.isnan(scores(torch.ones(2), torch.full((2,), math.nan)).mae)


# --- use


def test_every_kind_of_file_gives_rows_or_reasons(run, tmp_path):
    from typer.testing import CliRunner

    from chemeleon.cli.app import app

    folder = tmp_path / "files"
    write_structures([ROCK_SALT, ROCK_SALT.copy()], folder, ("cif", "extxyz"), ["one", "two"])
    (folder / "cif" / "broken.cif").write_text("data_x\n_cell_length_a 3\n")
    cif = (folder / "cif" / "one.cif").read_text().replace('"', '""')
    table = tmp_path / "table.csv"
    table.write_text(f'material_id,cif\nfirst,"{cif}"\nsecond,nonsense\n')
    empty = tmp_path / "notes.dat"
    empty.write_text("nothing")
    out = tmp_path / "out.csv"
    sources = [folder / "cif", folder / "structures.extxyz", table, empty]
    words = ["predict", "run", str(run), *map(str, sources), "-o", str(out)]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert "5 of 8 crystals predicted" in result.output
    with out.open() as handle:
        rows = list(csv.DictReader(handle))
    titles = ["id", "source", "density (g/cm3)", "volume_per_atom (A3)", "reason"]
    assert list(rows[0]) == titles
    assert [row["id"] for row in rows] == [
        *("broken", "one", "two", "one", "two", "first", "second", "notes.dat")
    ]
    assert [bool(row["reason"]) for row in rows] == [True, *[False] * 5, True, True]
    assert [row["density (g/cm3)"] == "" for row in rows] == [True, *[False] * 5, True, True]
    assert rows[0]["source"] == str(folder / "cif" / "broken.cif")
    assert rows[3]["source"] == f"{folder / 'structures.extxyz'}:1"
    assert rows[5]["source"] == f"{table}:1"
    assert "no known kind" in rows[7]["reason"]
    again = CliRunner().invoke(app, words)
    assert isinstance(again.exception, ConfigError)
    assert "--overwrite" in str(again.exception)


def test_structures_in_memory_give_what_the_model_says_of_them(run):
    structures = [ROCK_SALT.get_reduced_structure(), Structure(Lattice.cubic(3), ["Po"], [[0] * 3])]
    disordered = Structure(Lattice.cubic(3), [{"Fe": 0.5, "Co": 0.5}], [[0] * 3])
    found = chemeleon.predict.run(run, [*structures, disordered])
    assert [p.id for p in found] == ["0", "1", "2"]
    assert found[2].values is None
    assert "partial occupancy" in str(found[2].reason)
    alone = chemeleon.predict.run(run, [structures[1]])
    assert found[1].values == pytest.approx(alone[0].values, rel=1e-4)
    assert set(found[0].values or {}) == {"density", "volume_per_atom"}


def test_requests_that_cannot_be_met(run, tiny_vae, tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.cif does not exist"):
        chemeleon.predict.run(run, [tmp_path / "nowhere.cif"])
    with pytest.raises(CheckpointError, match="predictor is needed"):
        chemeleon.predict.run(tiny_vae, [])
    with pytest.raises(GenerationError, match="device 'tpu9'"):
        chemeleon.predict.run(run, [], device="tpu9")


def test_hits_are_counted_by_what_a_predictor_says(run):
    made = Predictor.from_pretrained(run).config.targets
    name, other = made[0], made[1]
    given = [ROCK_SALT, None, ROCK_SALT]
    [first, _] = chemeleon.predict.run(run, [ROCK_SALT, ROCK_SALT])
    value = first.values[name]
    wanted = {name: (value - 1, value + 2), other: first.values[other] + 3.0}
    report = chemeleon.evaluate(given, properties=wanted, predictor=run)
    assert report.crystals[f"predicted_{name}"][[0, 2]].tolist() == pytest.approx([value] * 2)
    assert math.isnan(report.crystals[f"predicted_{name}"][1])
    figures = report.headline["value"]
    assert figures[f"hit_{name}"] == pytest.approx(2 / 3)
    assert figures[f"mae_{name}"] == pytest.approx(0.5)
    assert f"hit_{other}" not in figures
    assert figures[f"mae_{other}"] == pytest.approx(3.0)
    assert report.summary["manifest"]["properties"]["predictor"] == str(run)
    shown = column_table(report.crystals, [0, 1])
    assert shown["values"][f"predicted_{name}"] == [pytest.approx(value, abs=1e-4), None]
    with pytest.raises(ConfigError, match="knows no property 'gap'"):
        chemeleon.evaluate(given, properties={"gap": 1.0}, predictor=run)
    with pytest.raises(ConfigError, match="go together"):
        chemeleon.evaluate(given, properties={name: 1.0})
    with pytest.raises(ConfigError, match="no interval"):
        chemeleon.evaluate(given, properties={name: [2.0, 1.0]}, predictor=run)


def test_an_imported_predictor_runs(tmp_path):
    folder = convert(checkpoint("predictor_bandgap"), tmp_path / "model")
    model = Predictor.from_pretrained(folder)
    assert model.config.head == "pooled"
    [found] = chemeleon.predict.run(folder, [ROCK_SALT])
    assert math.isfinite((found.values or {})["band_gap"])


def test_rows_with_some_of_the_targets_are_kept(tmp_path, monkeypatch):
    write_structures([ROCK_SALT], tmp_path, ("cif",), ["one"])
    cif = (tmp_path / "cif" / "one.cif").read_text().replace('"', '""')
    (tmp_path / "set").mkdir()
    rows = "".join(f'{i},"{cif}",{a},{b}\n' for i, (a, b) in enumerate([(1, 2), ("", 3), ("", "")]))
    (tmp_path / "set" / "train.csv").write_text("material_id,cif,a,b\n" + rows)
    monkeypatch.setenv("CHEMELEON_CACHE", str(tmp_path / "cache"))
    words = [
        f"data.root={tmp_path}",
        "data.name=set",
        "predict.targets=[a, b]",
    ]
    crystals = load_split(with_targets(settings(*words)), "train", partial=True)
    assert crystals.ids == ["0", "1"]
    assert math.isnan(float(crystals.targets["a"][1]))
    assert crystals.targets["b"].tolist() == [2.0, 3.0]
