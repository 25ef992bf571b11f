"""Names of earlier versions do what today's do: in words, configs, runs, models and results."""

from __future__ import annotations

import json
import shutil
from typing import Any

import pytest
from typer.testing import CliRunner

import chemeleon
from chemeleon import api
from chemeleon.cli import sample as command
from chemeleon.cli.app import app
from chemeleon.config import presets
from chemeleon.config.keywords import called_with
from chemeleon.config.renamed import NAMES, VALUES
from chemeleon.errors import ConfigError
from chemeleon.evaluation.origin import sample_manifest
from chemeleon.generation.settings import SampleSettings
from chemeleon.models.denoiser import LatentDiffusion

BOTH = "{} is the earlier name of {}, which is given too: leave one out"
PRESETS = {"vae": "demo/dng", "ldm": "demo/null", "rl": "demo/dng"}
# words of an earlier version to those of today
WORDS = {
    "trainer.keep=best": "trainer.checkpoint_selection=best",
    "data.bucket=7": "data.pad_to_multiple=7",
    "optim.schedule=clock": "optim.schedule=time_budget",
    "ldm.sampler.element_price=3": "ldm.sampler.composition_penalty=3",
    "ldm.sampler={element_price: 3}": "ldm.sampler={composition_penalty: 3}",
    "rl.drop_flat_groups=true": "rl.filter_zero_variance=true",
    "rl.same_noise=true": "rl.shared_noise=true",
    "rl.keep_share=0.5": "rl.top_fraction=0.5",
}


@pytest.mark.parametrize(("old", "new"), WORDS.items())
def test_an_earlier_word_is_todays_and_a_run_of_that_version_is_resumed(old, new, tmp_path):
    stage = next((stage for stage in PRESETS if old.startswith(stage)), "ldm")
    more = ["trainer.max_minutes=9", *(["rl.algorithm=rejection"] if "keep_share" in old else [])]
    without, before, today = (
        presets.load(stage, PRESETS[stage], None, [*more, *word]) for word in ([], [old], [new])
    )
    assert without.config != before.config == today.config
    assert before.origins == {key: by.replace(new, old) for key, by in today.origins.items()}
    text = presets.to_yaml(today.config)
    for earlier, name in {**NAMES, **VALUES["schedule"]}.items():
        text = text.replace(f" {name}:", f" {earlier}:").replace(f": {name}\n", f": {earlier}\n")
    assert " bucket:" in text
    (tmp_path / "config.yaml").write_text(text, encoding="utf-8")
    assert api.resolve(stage, resume=tmp_path).config == today.config


def test_every_earlier_name_is_tried_here():
    tried = " ".join(WORDS)
    assert [name for name in NAMES if name not in tried] == ["broken", "--element-price"]
    assert all(f"{key}={old}" in tried for key, words in VALUES.items() for old in words)


def test_both_names_at_once_are_refused_and_of_two_layers_the_upper_one_wins(tmp_path):
    said = BOTH.format("keep", "checkpoint_selection")
    words = ["trainer.keep=best", "trainer.checkpoint_selection=last"]
    with pytest.raises(ConfigError, match=said):
        presets.load("ldm", "demo/null", None, words)
    file = tmp_path / "own.yaml"
    file.write_text("trainer: {keep: best, checkpoint_selection: last}", encoding="utf-8")
    with pytest.raises(ConfigError, match=rf"own\.yaml: {said}"):
        presets.load("ldm", "demo/null", file)
    text = "trainer: {keep: best}\ndata: {source: table, units: {bucket: eV}}"
    file.write_text(text, encoding="utf-8")  # with a key that said what the name of the set says
    config = presets.load("ldm", "demo/null", file, words[1:]).config
    assert config.trainer.checkpoint_selection == "last"
    assert config.data.units["bucket"] == "eV"  # a name of the user's own


def test_an_earlier_keyword_is_todays():
    settings: Any = called_with(SampleSettings)(lambda given: given)
    assert settings(element_price=2.0) == settings(composition_penalty=2.0) != settings()
    with pytest.raises(ConfigError, match=BOTH.format("element_price", "composition_penalty")):
        settings(element_price=2.0, composition_penalty=2.0)
    assert "element_price" not in (chemeleon.sample.__doc__ or "")


def test_an_earlier_option_is_todays(monkeypatch):
    found = []
    monkeypatch.setattr(command, "_make", found.append)

    def run(*words: str) -> str:
        result = CliRunner().invoke(app, ["sample", *words])
        return f"{result.output} {result.exception}"

    for words in (["--element-price", "2"], ["--element-price=2"], ["--composition-penalty", "2"]):
        run(*words)
    assert found[0] == found[1] == found[2]
    assert found[0].composition_penalty == 2
    said = BOTH.format("--element-price", "--composition-penalty")
    assert said in run("--element-price", "2", "--composition-penalty=3")
    assert "element-price" not in run("--help")


def test_a_model_of_an_earlier_version_is_read(tiny_ldm, tmp_path):
    path = shutil.copytree(tiny_ldm / "last", tmp_path / "model") / "config.yaml"
    text = path.read_text(encoding="utf-8")
    assert "composition_penalty: 0.0" in text
    path.write_text(text.replace("composition_penalty: 0.0", "element_price: 3.0"), "utf-8")
    assert LatentDiffusion.from_pretrained(path.parent).config.sampler.composition_penalty == 3


def test_a_folder_of_crystals_of_an_earlier_version_is_read(tmp_path):
    (tmp_path / "cif").mkdir()
    entries = [{"id": "a", "reason": "b", "written": False}]
    for name in ("broken", "invalid"):
        manifest = {"requested": 1, "formats": [], name: entries}
        (tmp_path / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
        assert sample_manifest(tmp_path) == {"requested": 1, "formats": [], "invalid": entries}
