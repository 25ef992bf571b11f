"""scripts/extend_data.py: which made crystals go beside a data set."""

from __future__ import annotations

import sys
from collections import Counter
from types import ModuleType

import pandas as pd
import pytest
from conftest import TINY_VAE, demo_crystals, load_script

from chemeleon import api
from chemeleon.checkpoints.card import model_card, trained_on
from chemeleon.config.schema import DataConfig
from chemeleon.crystals.convert import to_structures
from chemeleon.crystals.files import write_structures
from chemeleon.data.dataset import load_split
from chemeleon.data.prepare import prepare
from chemeleon.errors import ConfigError
from chemeleon.models.vae import CrystalVAE


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("extend_data")


def judged(names: list[str], **changes) -> pd.DataFrame:
    flags = {"valid_structure": True, "valid_composition": True, "unique": True, "novel_mine": True}
    table = pd.DataFrame({"id": names, "num_elements": 2, "e_above_hull_ev": 0.05, **flags})
    for name, values in changes.items():
        table[name] = values
    return table


def test_what_is_not_msun_is_left_out(script):
    table = judged(
        list("abcdef"),
        valid_structure=[True, False, True, True, True, True],
        unique=[True, True, False, True, True, True],
        novel_mine=[True, True, True, None, True, True],
        e_above_hull_ev=[0.1, 0, 0, 0, 0.11, float("nan")],
    )
    assert script.select(table, "mine", Counter({2: 10}))["id"].tolist() == ["a"]


def test_what_is_known_to_another_set_or_has_no_symmetry_is_left_out(script):
    table = judged(
        list("abcd"),
        novel_val=[True, False, True, True],
        space_group=[2, 225, 1, 62],
        e_above_hull_ev=[0.03, 0, 0, 0.05],
    )
    names = script.select(table, "mine", Counter({2: 10}), highest=0.04, symmetric=True)["id"]
    assert names.tolist() == ["a"]
    assert script.select(table, "mine", Counter({2: 10}))["id"].tolist() == ["a", "c", "d"]
    with pytest.raises(SystemExit, match="no space_group"):
        script.select(table.drop(columns="space_group"), "mine", Counter({2: 1}), symmetric=True)


def test_a_number_of_elements_gets_no_more_than_its_share_of_the_candidates(script):
    table = judged(list("abcdefgh"), num_elements=[2, 3, 3, 3, 3, 3, 5, 2])
    kept = script.select(table, "mine", Counter({2: 50, 3: 50}))
    assert kept["id"].tolist() == list("abcdeh")


def test_the_new_set_can_be_trained_on(script, tmp_path, monkeypatch):
    monkeypatch.setenv("CHEMELEON_DATA", str(tmp_path))
    crystals = demo_crystals("train")
    structures = to_structures(crystals)
    prepare(structures[:20], tmp_path / "mine", (0.6, 0.2, 0.2))
    names = [f"sample-{i:06d}" for i in range(3)]
    write_structures(structures[20:23], tmp_path / "made", ["cif"], names)
    folder = tmp_path / "judged"
    folder.mkdir()
    table = judged(names, num_elements=elements(structures[20:23]))
    table.to_csv(folder / "crystals.csv")
    for name in ("more1", "more2"):  # names stay apart in a second round
        words = ["mine", str(tmp_path / "made"), str(folder), "-o", str(tmp_path / name)]
        monkeypatch.setattr(sys, "argv", ["extend_data.py", *words])
        script.main()
    mine = load_split(DataConfig(name="mine"), "train")
    config = DataConfig(name="mine", also=["more1", "more2"])
    more = load_split(config, "train")
    assert len(more) == len(mine) + 6
    assert len(set(more.ids)) == len(more)
    assert len(load_split(config, "val")) == len(load_split(DataConfig(name="mine"), "val"))
    words = [*TINY_VAE, "data.name=mine", "data.also=[more1, more2]", "data.targets=[]"]
    words.append("trainer.max_steps=2")
    api.vae_train("demo/dng", words, output=tmp_path / "run")
    model = CrystalVAE.from_pretrained(tmp_path / "run")
    assert trained_on(model.origin) == ["mine", "more1", "more2"]
    assert "| data set | mine, more1, more2 |" in model_card(
        {"kind": "vae", **model.origin}, "me/it"
    )
    with pytest.raises(ConfigError, match="mine is named twice"):
        api.vae_train("demo/dng", [*words, "data.also=[mine]"], output=tmp_path / "run2")


def test_what_cannot_be_used_is_said(script):
    with pytest.raises(SystemExit, match="no e_above_hull_ev: evaluate with -r mine"):
        script.select(judged(["a"]).drop(columns="e_above_hull_ev"), "mine", Counter({2: 1}))


def elements(structures) -> list[int]:
    return [len(s.composition) for s in structures]
