"""Presets: layers, overrides, errors, and the commands of the training guide."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from chemeleon import api
from chemeleon.cli.app import app
from chemeleon.config import presets
from chemeleon.config.schema import STAGES, LDMTrainConfig, VAETrainConfig
from chemeleon.errors import ConfigError, DataError

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "docs" / "from-the-guide.md"
GUIDE = ROOT / "tests" / "reference" / "guide_commands.txt"  # of the published models
ALL = [(stage, name) for stage in STAGES for name in presets.list_presets(stage)]
EXPECTED = {
    "vae": """mp_20/dng mp_20/csp alex_mp_20/dng alex_mp_20/csp perov_5/dng carbon_24/dng
        mp/dng mp/atoms demo/dng mp/csp perov_5/csp demo/csp mp/mini
        mp/csp_mini mp/orbits_mini mp/orbits_csp_mini""",
    "ldm": """mp_20/null mp_20/composition alex_mp_20/null alex_mp_20/composition
        alex_mp_20_bandgap/bandgap alex_mp_20_bandgap/bandgap_lora perov_5/null mp/null
        demo/null mp_20/csp mp/csp perov_5/csp alex_mp_20/csp demo/csp
        demo/density own/finetune mp/mini mp/mid mp/csp_mini mp/atoms mp/orbits_mini
        mp/orbits_csp_mini""",
    "rl": """mp_20/dng mp_20/custom_reward alex_mp_20/dng alex_mp_20_bandgap/bandgap mp/dng
        mp/band_gap perov_5/dng demo/dng demo/custom_reward mp/dng_published""",
    "predict": """alex_mp_20_bandgap/dft_band_gap mp/band_gap mp/formation_energy
        demo/density""",
}


def load_vae(*overrides: str, **more: Path) -> VAETrainConfig:
    config = presets.load("vae", "mp_20/dng", overrides=overrides, **more).config
    assert isinstance(config, VAETrainConfig)
    return config


def load_ldm(name: str, *overrides: str) -> LDMTrainConfig:
    config = presets.load("ldm", name, overrides=overrides).config
    assert isinstance(config, LDMTrainConfig)
    return config


# --- what is shipped


@pytest.mark.parametrize(("stage", "name"), ALL, ids=lambda word: str(word))
def test_every_preset_loads_and_its_config_is_a_config(stage, name, tmp_path):
    loaded = presets.load(stage, name)
    assert loaded.config.data.name == name.partition("/")[0]
    assert "default" not in {loaded.origins["data.name"], loaded.origins["seed"]}
    resolved = tmp_path / "config.yaml"
    resolved.write_text(presets.to_yaml(loaded.config), encoding="utf-8")
    assert presets.load(stage, None, resolved).config == loaded.config
    shown = CliRunner().invoke(app, [stage, "train", "--preset", name, "--show-config"])
    assert shown.exit_code == 0, shown.output
    for key, origin in loaded.origins.items():
        assert re.search(rf"^{re.escape(key)}: .*  # {re.escape(origin)}$", shown.output, re.M), key


@pytest.mark.parametrize("stage", EXPECTED)
def test_no_preset_is_missing(stage):
    assert set(EXPECTED[stage].split()) <= set(presets.list_presets(stage))


@pytest.mark.parametrize(("stage", "name"), ALL, ids=lambda word: str(word))
def test_every_preset_says_in_one_sentence_what_it_does(stage, name):
    said = presets.describe_preset(stage, name)
    assert re.fullmatch(r"(Trains|Tunes|Teaches|Fine-tunes) .+[^.:]\.", said)
    assert len(said) < 120
    listed = CliRunner().invoke(app, [stage, "presets"]).output.splitlines()
    assert any(re.fullmatch(f"{name} +{re.escape(said)}", line) for line in listed)


def test_presets_of_mp_name_their_columns_and_rows():
    def rows(stage: str, name: str) -> tuple[str | None, list[str]]:
        data = presets.load(stage, f"mp/{name}").config.data
        assert (data.max_atoms, data.units["e_above_hull"]) == (20, "eV/atom")
        return data.where, data.targets

    stable = "e_above_hull <= 0.1"
    for name in ("dng", "csp", "mini", "csp_mini"):
        assert rows("vae", name) == (None, [])
    for name in ("null", "csp", "mini", "mid", "csp_mini", "composition"):
        assert rows("ldm", name) == (stable, [])
    assert rows("ldm", "space_group") == (stable, ["spacegroup.number"])
    assert rows("ldm", "band_gap") == (stable, ["band_gap"])  # the others teach what is stable
    assert rows("ldm", "band_gap_lora") == (f"{stable} and known(band_gap)", ["band_gap"])
    assert rows("predict", "band_gap")[0] == "known(band_gap)"
    assert rows("predict", "formation_energy")[0] == "known(formation_energy_per_atom)"
    assert rows("rl", "dng") == (None, [])


@pytest.mark.parametrize(
    ("stage", "old", "new"),
    [
        ("vae", "mp_20_open/csp_mini", "mp/csp_mini"),
        ("ldm", "mp_20_open/bandgap", "mp/band_gap"),
        ("ldm", "mp/bandgap_lora", "mp/band_gap_lora"),
        ("rl", "mp_20_open/dng_published", "mp/dng_published"),
        ("predict", "mp_20_open/band_gap", "mp/band_gap"),
    ],
)
def test_an_old_name_is_refused_with_the_new_one(stage, old, new):
    with pytest.raises(ConfigError, match=rf"^the {stage} preset {old} is now {new}$"):
        presets.load(stage, old)
    with pytest.raises(ConfigError, match=r"has no preset 'mp_20_open/nothing'"):
        presets.load(stage, "mp_20_open/nothing")
    with pytest.raises(ConfigError, match=r"called 'mp_20_open'; mp has taken its place"):
        presets.load_data("mp_20_open")


def test_where_mp_20_is_not_found_mp_is_offered(tmp_path, monkeypatch):
    from chemeleon.data.dataset import split_path

    monkeypatch.setenv("CHEMELEON_DATA", str(tmp_path))
    with pytest.raises(DataError) as caught:
        split_path(presets.load("ldm", "mp_20/null").config.data, "train")
    assert "`chemeleon data download mp_20`" in str(caught.value)
    offered = re.search(r", take (data\.name=.*) instead", str(caught.value))
    assert offered is not None
    data = presets.load("ldm", "mp_20/null", None, shlex.split(offered[1])).config.data
    assert (data.name, data.where) == ("mp", "mp_20 == 1")


@pytest.mark.parametrize("name", presets.list_data())
def test_every_data_set_loads(name):
    data = presets.load_data(name)
    assert data.name == name
    if data.download:
        assert "{split}" in data.download.url
        assert set(data.download.rows) == {"train", "val", "test"}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("size", ["tiny", "small", "base", "large"])
def test_every_size_fits_every_stage(stage, size):
    path = presets.preset_root() / "size" / f"{size}.yaml"
    layer = presets.parse_yaml(path.read_text(encoding="utf-8"), str(path))
    needed = {"predict": {"targets": ["gap"]}, "rl": {"rewards": {"new": {"reward": "creativity"}}}}
    own = {stage: {**layer.get(stage, {}), **needed.get(stage, {})}}  # rl takes a trained model
    loaded = presets.stack_layers(
        STAGES[stage], [("own", {"trainer": {"max_steps": 1}}), (size, own)]
    )
    assert size in loaded.origins.values()


def test_mp_20_presets_hold_the_published_values():
    vae = load_vae()
    assert (vae.vae.width, vae.vae.encoder_layers, vae.vae.heads) == (512, 8, 8)
    assert (vae.vae.feedforward, vae.vae.latent_dim) == (2048, 8)
    assert (vae.vae.coordinate_head, vae.vae.coordinate_input) == ("raw", "raw")
    assert list(vae.vae.loss.model_dump(exclude={"letters"}).values()) == [
        1.0,
        1.0,
        10.0,
        10.0,
        1e-5,
    ]
    assert (vae.optim.lr, vae.data.batch_size, vae.trainer.clip_norm) == (1e-4, 256, 10.0)
    assert (vae.trainer.max_epochs, vae.trainer.val_every_epochs) == (5000, 50)
    ldm = load_ldm("mp_20/null").ldm
    assert (ldm.denoiser.width, ldm.denoiser.layers, ldm.denoiser.heads) == (768, 12, 12)
    assert (ldm.diffusion.prediction, ldm.diffusion.learned_variance) == ("epsilon", True)
    assert (ldm.latent_scale, ldm.ema_decay) == ("scalar", 0.9999)
    assert ldm.vae_ckpt_path == "${hub:mp_20_vae}"
    adapters = load_ldm("alex_mp_20_bandgap/bandgap_lora").ldm.lora
    assert adapters is not None
    assert (adapters.rank, adapters.alpha) == (16, 32)


# --- layers


def test_later_layers_win_and_are_remembered(tmp_path):
    extra = tmp_path / "mine.yaml"
    extra.write_text("data: {batch_size: 64}\noptim: {lr: 2e-4}\n", encoding="utf-8")
    loaded = presets.load("vae", "mp_20/dng", extra, ["optim.lr=3e-4", "vae.loss.kl=1e-3"])
    config = loaded.config
    assert isinstance(config, VAETrainConfig)
    assert (config.data.batch_size, config.optim.lr, config.vae.loss.kl) == (64, 3e-4, 1e-3)
    assert config.vae.loss.angles == 10.0  # its neighbour in `published` is still there
    assert loaded.origins["seed"] == "base"
    assert loaded.origins["data.name"] == "data/mp_20"
    assert loaded.origins["vae.width"] == "size/base"
    assert loaded.origins["vae.loss.angles"] == "published"
    assert loaded.origins["vae.kind"] == "vae/mp_20/dng"
    assert loaded.origins["vae.dropout"] == presets.DEFAULT_ORIGIN
    assert loaded.origins["data.batch_size"].endswith("mine.yaml")
    assert "command line" in loaded.origins["optim.lr"]


def test_lists_replace_and_mappings_merge():
    config = load_ldm(
        "alex_mp_20_bandgap/bandgap",
        "data.targets=[dft_band_gap, density]",
        "ldm.conditions.density={kind: number, column: density}",
    )
    assert config.data.targets == ["dft_band_gap", "density"]
    assert set(config.ldm.conditions) == {"band_gap", "density"}


@pytest.mark.parametrize("reference", ["${hub:mp_20_vae}", "hub:mp_20_vae", "runs/my_vae"])
def test_checkpoint_names_are_kept_as_written(reference):
    assert load_ldm("mp_20/null", f"ldm.vae_ckpt_path={reference}").ldm.vae_ckpt_path == reference


# --- scalars


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("No", "No"),  # nobelium, not False
        ("Y", "Y"),  # yttrium, not True
        ("on", "on"),
        ("0225", 225),  # a space group, not octal
        ("1e-4", 1e-4),
        ("1:30", "1:30"),  # not sexagesimal
        ("2020-01-01", "2020-01-01"),
        ("true", True),
        ("null", None),
        ("[No, 0225, 1e-4]", ["No", 225, 1e-4]),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text, value, tmp_path):
    read = presets.parse_override(f"a.b={text}")["a"]["b"]
    assert (read, type(read)) == (value, type(value))
    assert presets.parse_yaml(f"key: {text}", "a test") == {"key": value}


def test_strings_that_look_like_other_things_survive_a_saved_config(tmp_path):
    for name in ("No", "0225", "1e-4", "true", "null", "a: b"):
        config = load_vae(f'data.name="{name}"')
        path = tmp_path / "config.yaml"
        path.write_text(presets.to_yaml(config), encoding="utf-8")
        assert load_vae(config_file=path).data.name == name


# --- mistakes


def test_all_problems_are_shown_at_once_with_names_and_origins():
    with pytest.raises(ConfigError) as caught:
        load_vae("trainer.max_epoch=3", "vae.widht=256", "optim.lr=-1", "data.batch_size=many")
    text = str(caught.value)
    assert "trainer.max_epoch" in text
    assert "'max_epochs'" in text
    assert "'width'" in text
    assert "optim.lr" in text
    assert "-1" in text
    assert "'many'" in text
    assert text.count("command line") >= 4


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["vae.heads=7"], ["512", "heads 7"]),
        (["trainer.max_epochs=null"], ["never ends"]),
        (["vae.coordinate_head=sine"], ["raw", "angle", "sine"]),
        (["ldm.ema_decay=0.9"], ["ldm", "unknown key"]),
        (["trainer.max_epochs"], ["KEY=VALUE", "trainer.max_epochs"]),
        (["--preset=mp_20/dng"], ["KEY=VALUE"]),
        (["data.targets=[a"], ["data.targets", "YAML"]),
    ],
)
def test_mistakes_are_named(overrides, words):
    with pytest.raises(ConfigError) as caught:
        load_vae(*overrides)
    for word in words:
        assert word in str(caught.value)


def test_unknown_names_get_the_nearest():
    with pytest.raises(ConfigError, match=r"'mp_20/dng'"):
        presets.load("vae", "mp20/dng")
    with pytest.raises(ConfigError, match=r"'perov_5'"):
        presets.load_data("perov5")


def test_missing_and_malformed_config_files_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        load_vae(config_file=tmp_path / "nowhere.yaml")
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("- a\n- b\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"wrong\.yaml"):
        load_vae(config_file=wrong)


def test_a_condition_needs_its_column():
    with pytest.raises(ConfigError, match=r"dft_band_gap.*data\.targets"):
        load_ldm("alex_mp_20_bandgap/bandgap", "data.targets=[]")


# --- the training guide


def table_rows() -> list[tuple[str, str]]:
    """Return (command of the guide, counterpart) from the first table of the page."""
    rows = []
    for line in TABLE.read_text(encoding="utf-8").splitlines():
        cells = [re.search(r"`([^`]+)`", cell) for cell in line.split(" | ")[:2]]
        if line.startswith("| `") and all(cells):
            rows.append(tuple(cell.group(1) for cell in cells if cell))
        elif rows:
            break
    return rows


def test_every_experiment_of_the_guide_has_a_preset():
    rows = re.findall(r"^\| `(\S+)/(\w+?)_(\w+)` \| (\w+) `(\S+)` \|$", TABLE.read_text(), re.M)
    assert len(rows) == 8
    for data, stage, name, ours, preset in rows:
        assert (ours, preset) == ({"predictor": "predict"}.get(stage, stage), f"{data}/{name}")
        assert presets.load(ours, preset).config.data.name == data


COUNTERPARTS = [
    command for _, command in table_rows() if shlex.split(command)[:3:2] == ["chemeleon", "train"]
]


def test_the_table_has_every_command_of_the_guide():
    commands = GUIDE.read_text(encoding="utf-8").splitlines()
    assert len(commands) > 10
    assert set(commands) == {command for command, _ in table_rows()}


@pytest.mark.parametrize("command", COUNTERPARTS)
def test_every_counterpart_runs(command, tmp_path, monkeypatch):
    _, stage, *words = shlex.split(command)
    assert stage in STAGES
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "runs" / "my_vae"  # what `--resume runs/my_vae` goes on with
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(presets.to_yaml(load_vae()), encoding="utf-8")
    if "--show-config" not in words:
        words.insert(1, "--show-config")
    result = CliRunner().invoke(app, [stage, *words])
    assert result.exit_code == 0, result.output
    assert "max_epochs" in result.output
    assert sorted(p.name for p in run.iterdir()) == ["config.yaml"]  # nothing was started


def test_a_resumed_run_keeps_settings_that_would_change_nothing(tmp_path):
    words = ["rl.top_fraction=0.3", "rl.ldm_ckpt_path=somewhere"]
    with pytest.raises(
        ConfigError, match=r"rl\.top_fraction would change nothing|top_fraction would"
    ):
        api.resolve("rl", "demo/dng", overrides=words)
    config = presets.load("rl", "demo/dng", overrides=words, fresh=False).config
    (tmp_path / "config.yaml").write_text(presets.to_yaml(config))
    assert api.resolve("rl", resume=tmp_path).config == config
