"""Models inside the package: names, the default, weights in bf16, and how they are put there."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest
import torch
from conftest import TINY_LDM, load_script
from typer.testing import CliRunner

import chemeleon
from chemeleon import api
from chemeleon.checkpoints import shipped
from chemeleon.checkpoints.convert import convert
from chemeleon.checkpoints.load import find_model, read_model
from chemeleon.checkpoints.opened import read_tensors
from chemeleon.checkpoints.store import rounded
from chemeleon.cli.app import app
from chemeleon.config import presets
from chemeleon.config.architecture import ConditionConfig, DenoiserConfig, LDMConfig, VAEConfig
from chemeleon.config.predictor import PredictorConfig
from chemeleon.config.schema import STAGES
from chemeleon.errors import CheckpointError, ConfigError
from chemeleon.generation.pipeline import Pipeline
from chemeleon.models.denoiser import LatentDiffusion
from chemeleon.models.predictor import Predictor
from chemeleon.models.vae import CrystalVAE

ROOT = Path(__file__).resolve().parents[1]
ALL = [(stage, name) for stage in STAGES for name in presets.list_presets(stage)]


def small_vae(kind: str = "dng") -> CrystalVAE:
    words = {"width": 32, "encoder_layers": 1, "decoder_layers": 1, "heads": 2, "feedforward": 64}
    return CrystalVAE(VAEConfig.model_validate({"kind": kind, "atom_order": "canonical", **words}))


def small_ldm(types: bool = False, **conditions: ConditionConfig) -> LatentDiffusion:
    """Make a model with random weights, and with statistics that bf16 could not hold."""
    torch.manual_seed(0)
    denoiser = DenoiserConfig(width=32, layers=2, heads=2, types=types)
    config = LDMConfig(denoiser=denoiser, conditions=conditions)
    model = LatentDiffusion(
        config, small_vae("csp" if types else "dng"), torch.tensor([0, 1001, 3])
    )
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * torch.randn(weight.shape)
    model.latent_mean += 1.2345678
    if types:
        model.formula_histogram += 1001
    model.origin = {"data": {"name": "demo", "niggli": True}}
    return model.eval()


@pytest.fixture
def box(tmp_path, monkeypatch) -> Path:
    """A package that ships nothing yet."""
    folder = tmp_path / "shipped"
    monkeypatch.setattr(shipped, "root", lambda: folder)
    return folder


@pytest.fixture
def full(box, tiny_ldm) -> Path:
    """A package that ships both models."""
    convert(tiny_ldm, box / shipped.DEFAULT, dtype="bf16")
    small_ldm(types=True).save_pretrained(box / shipped.DEFAULT_CSP, "bf16")
    return box


# --- names and the default


def test_the_models_of_the_package_work_and_are_those_of_their_cards():
    """Of what is really there: a change that breaks it breaks the first thing that users try."""
    models = shipped.list_shipped()
    assert len(models) == 2
    for model in models:
        pipeline = Pipeline.from_pretrained(model.reference)
        card = (model.path / "README.md").read_text(encoding="utf-8")
        assert pipeline.fingerprint() in card
        assert model.size < 20e6
        if not pipeline.model.config.denoiser.types:
            made = chemeleon.sample(model.reference, 8, steps=20)
            assert sum(problem is None for problem in made.problems) >= 6


def test_the_model_of_the_package_is_used_if_none_is_named(full, tmp_path):
    made = chemeleon.sample(n=3, steps=2, output=tmp_path / "out")
    assert made.notes == [
        "no model was named: this is shipped:de_novo, unconditional LDM trained on demo"
    ]
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["model"] == "shipped:de_novo"
    named = chemeleon.sample("shipped:de_novo", 3, steps=2)
    assert named.notes == []
    assert made.structures == named.structures


def test_formulas_are_for_the_csp_model_of_the_package(full, tmp_path):
    made = chemeleon.sample(formula="NaCl", n=2, steps=2, rank_by="none")
    assert made.notes[0] == (
        "no model was named: this is shipped:csp, csp LDM, for given formulas, trained on demo"
    )
    assert {s.composition.reduced_formula for s in made.structures if s} <= {"NaCl"}


def test_the_command_says_which_model_it_used(full, tmp_path):
    words = ["sample", "-n", "2", "--steps", "2", "-o", str(tmp_path / "out")]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert "no model was named: this is shipped:de_novo" in result.output
    lines = CliRunner().invoke(app, ["hub", "list"], env={"COLUMNS": "120"}).output.splitlines()
    (line,) = [line for line in lines if "shipped:csp" in line]
    assert "for given formulas" in line
    assert "MB" in line


def test_a_package_without_models_says_what_to_name(box, tmp_path):
    with pytest.raises(CheckpointError, match=r"holds none \(shipped:de_novo\).*--model"):
        chemeleon.sample(n=1, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(CheckpointError, match=r"none that takes formulas.*csp presets"):
        chemeleon.sample(formula="NaCl")
    with pytest.raises(CheckpointError, match="It holds no trained model"):
        find_model("shipped:de_novo")
    assert api.hub.shipped() == []
    assert "models inside" not in CliRunner().invoke(app, ["hub", "list"]).output


def test_a_name_stands_for_the_model_wherever_one_is_asked_for(full):
    whole = LatentDiffusion.from_pretrained("shipped:de_novo")
    vae = CrystalVAE.from_pretrained("shipped:de_novo")
    for name, value in vae.state_dict().items():
        assert torch.equal(value, whole.vae.state_dict()[name])
    with pytest.raises(CheckpointError, match=r"did you mean 'shipped:de_novo'\?"):
        LatentDiffusion.from_pretrained("shipped:de_nvo")
    with pytest.raises(CheckpointError, match="take that of the package: shipped:de_novo"):
        LatentDiffusion.from_pretrained("de_novo")


def test_the_names_of_an_earlier_version_still_stand_for_the_models(full):
    for old, new in (("mp_20_open", "de_novo"), ("mp_20_open_csp", "csp")):
        assert find_model(f"shipped:{old}") == find_model(f"shipped:{new}") == full / new
    with pytest.raises(CheckpointError, match=r"holds shipped:csp, shipped:de_novo\."):
        find_model("shipped:mp_20")


@pytest.mark.parametrize("key", ["ldm.vae_ckpt_path", "ldm.init_ckpt_path"])
def test_training_begins_from_the_package_and_resumes_without_it(full, tmp_path, key):
    words = [*TINY_LDM, f"{key}=shipped:de_novo"]
    api.ldm_train("demo/null", [*words, "trainer.max_steps=2"], output=tmp_path / "run")
    model = LatentDiffusion.from_pretrained(tmp_path / "run")
    assert all(value.dtype == torch.float32 for value in model.state_dict().values())
    written = (tmp_path / "run" / "config.yaml").read_text()
    assert f"{key.partition('.')[2]}: shipped:de_novo" in written
    full.rename(tmp_path / "gone")
    api.ldm_train(overrides=["trainer.max_steps=3"], resume=tmp_path / "run")


def test_adapters_fit_a_base_in_bf16(full, tmp_path):
    pytest.importorskip("peft")
    words = [*TINY_LDM, "ldm.init_ckpt_path=shipped:de_novo", "ldm.lora={rank: 2, alpha: 4}"]
    words += ["ldm.conditions={density: {kind: number, column: density}}", "trainer.max_steps=2"]
    api.ldm_train("demo/null", words, output=tmp_path / "run")
    alone = tmp_path / "alone"  # no run beside it, so the base is looked for by its name
    (tmp_path / "run" / "last").rename(alone)
    folder = read_model(alone, ("ldm",), whole=False)
    assert folder.config["adapter"]["base"] == "shipped:de_novo"
    whole = read_model(api.ldm.merge(alone, tmp_path / "merged")).tensors
    assert all(value.dtype == torch.float32 for value in whole.values())


# --- bf16


def test_weights_are_rounded_and_nothing_else(tmp_path):
    gap = ConditionConfig(kind="number", column="gap")
    models = [
        small_vae(),
        small_ldm(),
        small_ldm(types=True),
        small_ldm(gap=gap),
        Predictor(PredictorConfig(targets=["gap"]), small_vae()),
    ]
    for number, model in enumerate(models):
        path = model.save_pretrained(tmp_path / str(number), "bf16")
        kept, _ = read_tensors(path / "model.safetensors")
        weights = {name for name, _ in model.named_parameters()}
        short = {name for name, value in kept.items() if value.dtype == torch.bfloat16}
        assert short <= weights
        assert weights - short == {n for n in weights if n.endswith(".null")}
        for name, value in model.state_dict().items():
            if name not in short:
                assert torch.equal(kept[name], value), name
        full = model.save_pretrained(tmp_path / f"{number}-full") / "model.safetensors"
        assert (path / "model.safetensors").stat().st_size < 0.6 * full.stat().st_size


def test_a_model_in_bf16_is_the_one_that_is_rounded_by_hand(tmp_path):
    model = small_ldm()
    folder = model.save_pretrained(tmp_path / "short", "bf16")
    loaded = LatentDiffusion.from_pretrained(folder)
    before = Pipeline(model, "cpu").fingerprint()
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(weight.bfloat16().float())
    assert all(value.dtype == torch.float32 for value in loaded.state_dict().values())
    one, two = Pipeline(model, "cpu"), Pipeline(loaded, "cpu")
    assert one.fingerprint() == two.fingerprint() != before
    ours, theirs = (p.generate(4, seed=3, num_atoms=[2, 5]) for p in (one, two))
    assert torch.equal(ours.lattice, theirs.lattice)
    assert torch.equal(ours.frac_coords, theirs.frac_coords)
    # what is in bf16 already stays as it is
    again = convert(folder, tmp_path / "again", dtype="bf16")
    wide = convert(folder, tmp_path / "wide")
    for made in (again, wide):
        assert Pipeline.from_pretrained(made, "cpu").fingerprint() == two.fingerprint()
    assert (
        read_tensors(wide / "model.safetensors")[0]["denoiser.head.weight"].dtype == torch.float32
    )


def test_convert_writes_a_folder_anew(tiny_ldm, tmp_path):
    words = ["hub", "convert", str(tiny_ldm), "-o", str(tmp_path / "made")]
    result = CliRunner().invoke(app, [*words, "--dtype", "bf16"])
    assert result.exit_code == 0, result.output
    assert "an LDM with its VAE, weights in bf16" in result.output
    ours, theirs = read_model(tmp_path / "made"), read_model(tiny_ldm)
    assert ours.config == theirs.config
    for name, value in rounded(theirs.tensors, "bf16").items():
        assert torch.equal(ours.tensors[name], value.float())
    with pytest.raises(ConfigError, match="already holds"):
        convert(tiny_ldm, tmp_path / "made")
    with pytest.raises(CheckpointError, match="no Lightning checkpoint: leave out --weights"):
        convert(tiny_ldm, tmp_path / "other", weights="ema")
    with pytest.raises(CheckpointError, match="or a run or model folder"):
        convert(tmp_path / "nothing", tmp_path / "other")
    result = CliRunner().invoke(app, [*words, "--dtype", "fp16"])
    assert "must be fp32 or bf16" in str(result.exception)


# --- the script that ships


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("ship_model")


def test_a_run_is_shipped_with_its_card(script, box, tiny_ldm, tiny_vae, tmp_path, capsys):
    figures = tmp_path / "summary.json"
    entry = {"name": "unique", "label": "Unique", "value": 0.5, "low": 0.4, "high": 0.6}
    figures.write_text(json.dumps({"headline": [{**entry, "control": 1.0}]}))
    lines = tmp_path / "lines.json"
    lines.write_text('{"model": "/tmp/x", "msun": 0.1}\n{"model": "/tmp/y", "msun": 0.2}\n')
    words = [str(tiny_ldm), "de_novo", "--data", "made up, CC0"]
    words += ["--metrics", f"De novo={figures}", str(lines)]
    assert script.main(words) == 0
    assert "MB of at most 20" in capsys.readouterr().out
    card = (box / "de_novo" / "README.md").read_text()
    for text in (
        "made up, CC0",
        "| seed | 42 |",
        "| val/loss |",
        "| Unique | 0.5 (0.4 to 0.6); real crystals 1 |",
        "lines.json, 2",
        "| msun | 0.2 |",
        "chemeleon sample --model shipped:de_novo -n 100 -o out",
        f"hash `{Pipeline.from_pretrained('shipped:de_novo', 'cpu').fingerprint()}`",
        "chemeleon vae train --preset demo/dng -o runs/vae",
        "chemeleon ldm train --preset demo/null -o runs/ldm",
        "ldm.vae_ckpt_path=runs/vae",
    ):
        assert text in card, text
    kept = "".join(
        path.read_text() for path in box.glob("*/*.*m*") if path.suffix != ".safetensors"
    )
    assert str(tiny_vae) not in kept
    assert "/tmp/" not in kept
    assert len(chemeleon.sample(n=2, steps=2).structures) == 2

    assert script.main([*words, "--overwrite", "--limit", "0.1"]) == 2
    assert "over 0.1 MB" in capsys.readouterr().err
    assert (box / "de_novo" / "README.md").read_text() == card  # what was there is there
    assert [path.name for path in box.iterdir()] == ["de_novo"]
    assert script.main(words) == 2
    assert "already holds" in capsys.readouterr().err


def test_what_a_card_needs_is_asked_for(script, box, tmp_path, capsys):
    folder = str(small_ldm().save_pretrained(tmp_path / "model"))
    for more, text in (
        ([], "--data"),
        (["--data", "x"], "--command"),
        (["--data", "x", "--command", "y", "--metrics", "none.json"], "no figures"),
    ):
        assert script.main([folder, "name", *more]) == 2
        assert text in capsys.readouterr().err
    assert not box.exists()


@pytest.mark.parametrize(("stage", "preset"), ALL)
def test_words_of_a_preset_give_it_again(stage, preset, tmp_path):
    config = presets.load(stage, preset, None, ["seed=7", "optim.lr=0.0003"]).config
    (tmp_path / "config.yaml").write_text(presets.to_yaml(config))
    found, words = load_script("run_words").training_words(tmp_path / "config.yaml")
    assert len(words) <= 2  # or one, if a preset has this learning rate
    again = presets.load(stage, found, None, [f"{k}={v}" for k, v in words.items()]).config
    assert again == config
