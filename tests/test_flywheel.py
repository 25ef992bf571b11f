"""`chemeleon rl flywheel`: rounds of a model that is trained on its own best crystals."""

from __future__ import annotations

import gzip
import io
import json
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import TINY_VAE, demo_crystals
from safetensors.torch import load_file
from typer.testing import CliRunner

from chemeleon import api
from chemeleon.checkpoints.card import model_card, trained_on
from chemeleon.checkpoints.load import find_model
from chemeleon.checkpoints.store import weights_hash
from chemeleon.cli.app import app
from chemeleon.config.schema import DataConfig
from chemeleon.crystals.convert import to_structures
from chemeleon.crystals.files import write_structures
from chemeleon.data.dataset import load_split
from chemeleon.data.prepare import prepare
from chemeleon.errors import ChemeleonError, ConfigError, GenerationError
from chemeleon.evaluation.matching.lookup import Lookup
from chemeleon.evaluation.report.basis import warnings
from chemeleon.models.denoiser import LatentDiffusion
from chemeleon.models.vae import CrystalVAE
from chemeleon.reinforcement.flywheel import rounds as rounds_of
from chemeleon.reinforcement.flywheel import start
from chemeleon.reinforcement.flywheel.select import figures, funnel, select
from chemeleon.terminal import Terminal
from chemeleon.training.run import Run

LENNARD_JONES = "energy_helpers:lennard_jones"
SIZES = Counter({2: 10})


# --- which crystals are kept


def judged(names: list[str], **changes: Any) -> pd.DataFrame:
    flags = {"valid_structure": True, "valid_composition": True, "unique": True, "status": "ok"}
    flags |= {"novel": True, "novel_disordered": True, "novel_val": True, "space_group": 225}
    flags |= {"reduced_formula": "NaCl"}
    table = pd.DataFrame({"id": names, "num_elements": 2, "e_above_hull_ev": 0.05, **flags})
    for name, values in changes.items():
        table[name] = values
    return table


def test_what_is_not_valid_unique_novel_and_near_the_hull_is_left_out():
    table = judged(
        list("abcdefgh"),
        valid_structure=[True, False, *[True] * 6],
        unique=[True, True, False, *[True] * 5],
        novel=[True, True, True, None, *[True] * 4],
        novel_disordered=[*[True] * 6, False, True],
        e_above_hull_ev=[0.1, 0, 0, 0, 0.11, float("nan"), 0, 0],
        space_group=[225] * 7 + [1],
    )
    for allow_p1, kept in ((False, ["a"]), (True, ["a", "h"])):
        good = funnel(table, 0.1, allow_p1)["good"]
        assert select(table, good, SIZES)["id"].tolist() == kept


def test_a_number_of_elements_gets_no_more_than_its_share_of_the_candidates():
    table = judged(list("abcdefgh"), num_elements=[2, 3, 3, 3, 3, 3, 5, 2])
    kept = select(table, np.ones(8, bool), Counter({2: 50, 3: 50}))
    assert kept["id"].tolist() == list("abcdeh")


def test_figures_count_what_each_step_leaves():
    table = judged(
        list("abcd"),
        novel=[True, True, False, True],
        novel_val=[True, True, False, True],
        e_above_hull_ev=[0.02, 0.04, 0.0, 0.5],
        space_group=[1, 2, 3, 1],
    )
    passed = funnel(table, 0.1, allow_p1=False)
    kept = select(table, passed["good"], SIZES)
    found = figures(table, kept, ["val"], {"Na": 1, "K": 1}, passed)
    steps = ("valid", "unique", "novel", "near", "good")
    assert [found[name]["count"] for name in steps] == [4, 4, 3, 2, 1]
    assert (found["made"], found["kept"], found["held_out"]) == (4, 1, 1)
    assert found["p1"]["value"] == 0.5
    assert found["element_drift"] == 0.5  # chlorine in the place of potassium
    assert found["e_above_hull_ev"]["median"] == 0.03


# --- whole rounds, with a model of a few steps


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """The model of the package, as if it had been trained on the demo set."""
    folder = tmp_path_factory.mktemp("model") / "de_novo"
    shutil.copytree(find_model("shipped:de_novo"), folder)
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(text.replace("name: mp_20_open", "name: demo"))
    return folder


@pytest.fixture(scope="module")
def how(model) -> dict[str, Any]:
    words = ["trainer.max_steps=4", "trainer.val_every_steps=2", "trainer.save_every_minutes=60"]
    words += ["data.batch_size=8", "trainer.grad_accumulation=1", "ldm.sampler.steps=8"]
    return {
        "model": model, "preset": "demo/null", "overrides": words, "num_samples": 12, "rounds": 1,
        "relax": 1, "redraw": 1, "highest": 10, "allow_p1": True, "device": "cpu",
    }  # fmt: skip


def made(folder: Path) -> dict[str, Any]:
    """Return all that a flywheel is about: weights, sets and figures."""
    found: dict[str, Any] = {}
    for path in sorted((folder / "rounds").rglob("*")):
        name = str(path.relative_to(folder))
        if path.name == "model.safetensors":
            found[name] = weights_hash(load_file(path))
        elif path.name.endswith("csv.gz"):
            with gzip.open(path, "rt") as file:
                found[name] = file.read().replace(folder.name, "NAME")
        elif path.suffix == ".json" and path.parent.name.isdigit():
            found[name] = json.loads(path.read_text())
    return found


@pytest.fixture(scope="module")
def whole(how, tmp_path_factory) -> Path:
    """A folder of two rounds, of which the second was wanted later."""
    folder = tmp_path_factory.mktemp("whole") / "fly"
    said = io.StringIO()
    result = api.rl.flywheel(**how, output=folder, console=Terminal(file=said, width=200))
    assert result.model == folder / "rounds" / "1" / "model"
    for text in ("round 1 of 1: making 12 crystals", "are kept", "round 1: training on demo"):
        assert text in said.getvalue()
    first = made(folder)
    words = ["rl", "flywheel", "--resume", str(folder), "--rounds", "2"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert f"chemeleon sample --model {folder / 'rounds' / '2' / 'model'}" in done.output
    both = made(folder)
    assert {name: both[name] for name in first} == first
    return folder


def test_every_round_makes_keeps_and_trains(whole, model):
    summary = json.loads((whole / "summary.json").read_text())
    kept = [whole / "rounds" / str(n) / f"kept-{n}" for n in (1, 2)]
    sets = [load_split(DataConfig(name=p.name, root=str(p.parent)), "train") for p in kept]
    assert [found["kept"] for found in summary["rounds"]] == list(map(len, sets))
    assert all(map(len, sets))
    assert len({*sets[0].ids, *sets[1].ids}) == len(sets[0]) + len(sets[1])
    models = [LatentDiffusion.from_pretrained(m) for m in (model, whole / "rounds/2/model")]
    assert trained_on(models[1].origin) == ["demo", *map(str, kept)]
    assert "datasets:\n- demo\n- kept-1" in model_card({"kind": "ldm", **models[1].origin}, "a/b")
    weights = [dict(model.denoiser.named_parameters()) for model in models]
    assert any(not value.equal(weights[1][name]) for name, value in weights[0].items())
    # nothing twice: no crystal of the second round in the training set or the first round's
    known = Lookup(sets[0], workers=1)
    assert not known.holds(sets[1]).any()


def test_the_report_says_what_was_made_and_who_is_no_judge(whole):
    summary = json.loads((whole / "summary.json").read_text())
    assert [len(summary[name]) for name in ("rounds", "models")] == [2, 3]
    assert summary["apart"] == ["demo/val", "demo/test"]
    for found in summary["models"]:
        assert found["memorisation"]["of"] == 12
        assert 0 <= found["element_drift"] <= 1
    assert [m["kept_again"] is None for m in summary["models"]] == [True, False, False]
    text = (whole / "report.html").read_text()
    for words in ("memorisation: duplicates of the training set", "--potential sevennet", "P1"):
        assert words in text
    evaluated = json.loads((whole / "rounds/2/judged/summary.json").read_text())
    names = [one["name"] for one in evaluated["manifest"]["references"]]
    assert names == ["demo", str(whole / "rounds/1/kept-1"), "demo/val", "demo/test"]


class KilledError(BaseException):
    """Stands for a signal that ends a process at once."""


def test_whoever_is_killed_after_each_step_and_within_training_ends_the_same(
    whole, how, tmp_path, monkeypatch
):
    folder, killed = tmp_path / "fly", []
    finish, advance = start.State.finish, Run.advance

    def kill(place: str) -> None:
        if place not in killed:
            killed.append(place)
            raise KilledError

    def finish_or_die(state, *steps):
        if steps:
            kill(steps[0])  # the work is done, and nobody has noted it
        finish(state, *steps)

    def advance_or_die(run):
        advance(run)
        if run.at.step == 3:
            kill(f"{run.folder} step 3")

    monkeypatch.setattr(start.State, "finish", finish_or_die)
    monkeypatch.setattr(Run, "advance", advance_or_die)
    turns = 0
    while True:
        given = {"resume": folder} if turns % 2 else {**how, "output": folder}
        turns += 1
        try:
            api.rl.flywheel(**given)
            break
        except KilledError:
            continue
    assert turns == len(killed) + 1 == 1 + 1 + 6
    ours, theirs = made(folder), made(whole)
    assert ours.keys() == {name for name in theirs if not name.startswith("rounds/2")}
    for name, value in ours.items():
        assert theirs[name] == value, name


def test_no_crystal_of_a_set_apart_is_kept(how, whole, tmp_path):
    """The crystals of the first round, held out by their own name, must all be missing."""
    own = str(whole / "rounds" / "1" / "kept-1")
    apart = Lookup(load_split(DataConfig(name="kept-1", root=str(Path(own).parent)), "train"))
    folder = tmp_path / "fly"
    api.rl.flywheel(**{**how, "apart": [own, "demo/val"]}, output=folder)
    found = json.loads((folder / "summary.json").read_text())
    assert found["apart"] == [own, "demo/val"]
    kept = folder / "rounds" / "1" / "kept-1"
    crystals = load_split(DataConfig(name="kept-1", root=str(kept.parent)), "train")
    assert len(crystals)
    assert not apart.holds(crystals).any()


def test_the_command_takes_a_preset_for_a_model_without_settings(model, tmp_path):
    words = ["rl", "flywheel", "--model", str(model), "-o", str(tmp_path / "fly"), "-n", "12"]
    words += ["--highest", "10", "--allow-p1", "--relax", "0", "--rounds", "1"]
    words += ["trainer.max_steps=1", "data.batch_size=8"]
    result = CliRunner().invoke(app, [*words, "ldm.sampler.steps=4"])
    assert result.exit_code == 2 or isinstance(result.exception, ConfigError)
    assert "name a --preset" in str(result.exception)
    # the architecture is the model's: the preset has a larger one
    result = CliRunner().invoke(app, [*words, "--preset", "demo/null", "ldm.sampler.steps=4"])
    assert result.exit_code == 0, result.output
    assert "warning: " in result.output
    assert (tmp_path / "fly" / "report.html").is_file()


def test_a_round_that_keeps_nothing_says_so_and_has_a_report(how, tmp_path):
    folder = tmp_path / "fly"
    with pytest.raises(GenerationError, match=r"round 1 keeps no crystal: of 12 .*--highest"):
        api.rl.flywheel(**{**how, "highest": -10}, output=folder)
    assert (folder / "report.html").is_file()


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no model": ({"model": None}, "name the model to begin from"),
    "no folder": ({"output": None}, "name a folder with -o"),
    "no rounds": ({"rounds": 0}, "rounds must be from 1"),
    "nothing drawn again": ({"redraw": 0}, "redraw must be from 1"),
    "no potential": ({"potential": "none"}, "name a potential"),
    "no hull": (
        {"potential": LENNARD_JONES},
        "there is no hull for the energies of energy_helpers",
    ),
    "no such set": ({"apart": ["nowhere"]}, "nowhere"),
    "a model of formulas": ({"model": "shipped:csp", "preset": "mp/csp_mini"}, "kind csp"),
    "both": ({"resume": "there"}, "leave out"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_done_is_refused_before_the_work(how, tmp_path, monkeypatch, name):
    changes, words = REFUSED[name]
    monkeypatch.setattr(rounds_of, "sample", None)
    with pytest.raises(ChemeleonError, match=re.escape(words)):
        api.rl.flywheel(**{**how, "output": tmp_path / "fly", **changes})
    assert not (tmp_path / "fly").exists()


def test_a_folder_of_another_flywheel_is_not_resumed(how, whole):
    with pytest.raises(ConfigError, match=r"another num_samples \(12, now 11\).*--resume"):
        api.rl.flywheel(**{**how, "num_samples": 11}, output=whole)
    with pytest.raises(ConfigError, match="leave out highest"):
        api.rl.flywheel(resume=whole, highest=0.1)
    with pytest.raises(ConfigError, match="no folder of a flywheel"):
        api.rl.flywheel(resume=whole.parent)


# --- sets of made crystals in training


def test_a_set_beside_another_is_named_by_name_or_path(tmp_path, monkeypatch):
    monkeypatch.setenv("CHEMELEON_DATA", str(tmp_path))
    structures = to_structures(demo_crystals("train"))
    prepare(structures[:20], tmp_path / "mine", (0.6, 0.2, 0.2))
    other = tmp_path / "elsewhere" / "more2"
    for folder, some in ((tmp_path / "more1", structures[20:23]), (other, structures[23:26])):
        folder.mkdir(parents=True)
        names = [f"{folder.name}-{i}" for i in range(3)]
        write_structures(some, folder / "train", ["cif"], names)
        (folder / "train" / "cif").rename(folder / "cifs")
        (folder / "train").rmdir()
        (folder / "cifs").rename(folder / "train")
    mine = load_split(DataConfig(name="mine"), "train")
    config = DataConfig(name="mine", also=["more1", str(other)])
    more = load_split(config, "train")
    assert len(more) == len(mine) + 6
    assert len(set(more.ids)) == len(more)
    assert len(load_split(config, "val")) == len(load_split(DataConfig(name="mine"), "val"))
    words = [*TINY_VAE, "data.name=mine", f"data.also=[more1, {other}]", "data.targets=[]"]
    words.append("trainer.max_steps=2")
    api.vae_train("demo/dng", words, output=tmp_path / "run")
    model = CrystalVAE.from_pretrained(tmp_path / "run")
    assert trained_on(model.origin) == ["mine", "more1", str(other)]
    card = model_card({"kind": "vae", **model.origin}, "me/it")
    assert "| data set | mine, more1, more2 |" in card
    with pytest.raises(ConfigError, match="mine is named twice"):
        api.vae_train("demo/dng", [*words, "data.also=[mine]"], output=tmp_path / "run2")


@pytest.mark.parametrize("name", ["/there/kept-1", "there/kept-1 where num_atoms < 9"])
def test_a_set_by_its_path_is_a_reference_like_any_other(monkeypatch, name):
    monkeypatch.chdir("/")
    manifest: dict[str, Any] = {"trained_on": ["demo", "/there/kept-1"]}
    manifest["references"] = [{"name": name}]
    (text,) = warnings(manifest, [])
    assert "trained on demo," in text
