"""Names of earlier versions do what today's do: in words, configs, runs, models and results."""

from __future__ import annotations

import json
import shutil

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

MODEL = "rl.ldm_ckpt_path=somewhere"
# stage, words of an earlier version, the same of today
WORDS = [
    ("ldm", "trainer.keep=best", "trainer.checkpoint_selection=best"),
    ("vae", "data.bucket=7", "data.pad_to_multiple=7"),
    ("vae", "optim.schedule=clock", "optim.schedule=time_budget"),
    ("ldm", "ldm.sampler.element_price=3", "ldm.sampler.composition_penalty=3"),
    ("ldm", "ldm.sampler={element_price: 3}", "ldm.sampler={composition_penalty: 3}"),
    ("rl", "rl.drop_flat_groups=true", "rl.filter_zero_variance=true"),
    ("rl", "rl.same_noise=true", "rl.shared_noise=true"),
    ("rl", "rl.keep_share=0.5", "rl.top_fraction=0.5"),
]
PRESETS = {"vae": "demo/dng", "ldm": "demo/null", "rl": "demo/dng"}
MORE = {"rl.keep_share": ["rl.algorithm=rejection"], "optim.schedule": ["trainer.max_minutes=9"]}


@pytest.mark.parametrize(("stage", "old", "new"), WORDS)
def test_an_earlier_word_is_todays(stage, old, new, tmp_path):
    key, more = new.partition("=")[0], MORE.get(old.partition("=")[0], [])
    before, today = (presets.load(stage, PRESETS[stage], None, [w, *more]) for w in (old, new))
    assert before.config == today.config != presets.load(stage, PRESETS[stage], None, more).config
    assert before.origins.keys() == today.origins.keys()
    if "{" not in old:  # the message still says what was typed
        assert before.origins[key] == f"command line: {old}"
    # a run folder of that version
    text = presets.to_yaml(today.config)
    past = {name: earlier for earlier, name in NAMES.items()} | {"time_budget": "clock"}
    for name, earlier in past.items():
        text = text.replace(f" {name}:", f" {earlier}:").replace(f": {name}\n", f": {earlier}\n")
    assert text != presets.to_yaml(today.config)
    (tmp_path / "config.yaml").write_text(text, encoding="utf-8")
    assert api.resolve(stage, resume=tmp_path).config == today.config


def test_every_earlier_name_is_tried_here():
    tried = " ".join(old for _, old, _ in WORDS)
    elsewhere = {"broken"}  # a key of manifests
    assert [name for name in NAMES if name not in tried] == [*elsewhere]
    assert all(f"{key}={old}" in tried for key, words in VALUES.items() for old in words)


def test_both_names_at_once_are_refused(tmp_path):
    said = r"keep is the earlier name of checkpoint_selection, which is given too: leave one out"
    words = ["trainer.keep=best", "trainer.checkpoint_selection=last"]
    with pytest.raises(ConfigError, match=said):
        presets.load("ldm", "demo/null", None, words)
    file = tmp_path / "own.yaml"
    file.write_text("trainer: {keep: best, checkpoint_selection: last}", encoding="utf-8")
    with pytest.raises(ConfigError, match=rf"own\.yaml.*{said}"):
        presets.load("ldm", "demo/null", file)
    # in two layers the upper one wins, as always
    file.write_text("trainer: {keep: best}", encoding="utf-8")
    config = presets.load("ldm", "demo/null", file, words[1:]).config
    assert config.trainer.checkpoint_selection == "last"


def test_a_name_of_the_users_own_is_left_alone():
    words = [MODEL, "rl.rewards.keep={reward: creativity}", "data.units.bucket=eV"]
    config = presets.load("rl", "demo/dng", None, words).config
    assert config.data.units["bucket"] == "eV"
    assert "keep" in presets.to_yaml(config)


def test_an_earlier_keyword_is_todays():
    settings = called_with(SampleSettings)(lambda given: given)
    assert settings(element_price=2.0) == settings(composition_penalty=2.0) != settings()
    with pytest.raises(ConfigError, match="element_price is the earlier name of composition_pen"):
        settings(element_price=2.0, composition_penalty=2.0)
    assert "element_price" not in (chemeleon.sample.__doc__ or "")


def test_an_earlier_option_is_todays(monkeypatch):
    found = []

    def make(asked):
        found.append(asked)
        raise ConfigError("enough")

    def run(*words: str) -> Exception | None:
        return CliRunner().invoke(app, ["sample", *words]).exception

    monkeypatch.setattr(command, "_make", make)
    for words in (("--element-price", "2"), ("--element-price=2",), ("--composition-penalty", "2")):
        assert str(run(*words)) == "enough"
    assert found[0] == found[1] == found[2]
    assert found[0].composition_penalty == 2
    both = run("--element-price", "2", "--composition-penalty=3")
    assert isinstance(both, ConfigError)
    assert "--element-price is the earlier name of --composition-penalty" in str(both)
    assert "element-price" not in CliRunner().invoke(app, ["sample", "--help"]).output


def test_a_model_of_an_earlier_version_is_read(tiny_ldm, tmp_path):
    folder = shutil.copytree(tiny_ldm / "last", tmp_path / "model")
    path = folder / "config.yaml"
    text = path.read_text(encoding="utf-8")
    assert "composition_penalty: 0.0" in text
    path.write_text(text.replace("composition_penalty: 0.0", "element_price: 3.0"), "utf-8")
    assert LatentDiffusion.from_pretrained(folder).config.sampler.composition_penalty == 3


def test_a_folder_of_crystals_of_an_earlier_version_is_read(tmp_path):
    (tmp_path / "cif").mkdir()
    entries = [{"id": "a", "reason": "b", "written": False}]
    for name in ("broken", "invalid"):
        manifest = {"requested": 1, "formats": [], name: entries}
        (tmp_path / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
        assert sample_manifest(tmp_path) == {"requested": 1, "formats": [], "invalid": entries}
