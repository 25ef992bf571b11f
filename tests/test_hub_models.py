"""Lightning checkpoints of the hub, publishing, commands: against a server on the loopback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from conftest import demo_crystals
from hub_helpers import LIGHTNING, equal, tiny_vae
from hub_server import TOKEN, HubServer
from reference import checkpoint
from typer.testing import CliRunner

from chemeleon.checkpoints import hub
from chemeleon.checkpoints.convert import convert
from chemeleon.checkpoints.load import find_model, read_model
from chemeleon.checkpoints.push import push
from chemeleon.cli.app import app
from chemeleon.config.architecture import LDMConfig
from chemeleon.errors import CheckpointError, ConfigError
from chemeleon.generation.pipeline import Pipeline
from chemeleon.models.denoiser import LatentDiffusion
from chemeleon.models.predictor import Predictor
from chemeleon.models.vae import CrystalVAE

pytest_plugins = ["hub_fixtures"]


def run(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a fresh Python, which reads the environment anew."""
    return subprocess.run(
        [sys.executable, *words], env={**os.environ, **env}, capture_output=True, text=True
    )


# --- Lightning checkpoints


def test_lightning_checkpoint_is_imported_once(lightning: HubServer, tmp_path: Path):
    folder = find_model("hub:small_vae")
    assert folder.parent == tmp_path / "cache" / "models"
    assert read_model(folder).kind == "vae"
    written = (folder / "model.safetensors").stat().st_mtime_ns
    lightning.commit(LIGHTNING, {"README.md": b"a new commit, the same checkpoint"})
    assert find_model("${hub:small_vae}") == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == written
    assert [p for p in folder.parent.iterdir() if p.is_dir()] == [folder]
    ldm = LatentDiffusion.from_pretrained("hub:small")  # an alias; its VAE is fetched by name
    assert ldm.config.denoiser.token_layout == "interleaved"
    assert len(lightning.downloads()) == 2


def test_a_failed_import_leaves_nothing(lightning: HubServer, tmp_path: Path):
    lightning.commit(LIGHTNING, {"v0/vae.ckpt": b"not a checkpoint at all" * 100})
    with pytest.raises(CheckpointError):
        find_model("hub:small_vae")
    assert not (tmp_path / "cache" / "models").exists()


def test_several_processes_download_and_import_once(lightning: HubServer, tmp_path: Path):
    code = "from chemeleon.checkpoints.hub import resolve; print(resolve('hub:small_vae'))"
    started = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    folders = {process.communicate()[0].strip() for process in started}
    assert [process.returncode for process in started] == [0, 0, 0]
    assert len(folders) == 1
    assert len(lightning.downloads()) == 1
    assert [str(p) for p in (tmp_path / "cache" / "models").iterdir() if p.is_dir()] == [*folders]


def test_sample_from_the_hub_and_again_offline(lightning: HubServer, tmp_path: Path):
    words = ["sample", "--model", "hub:small_ldm", "-n", "2", "--steps", "4", "--num-atoms", "3"]
    one, two = tmp_path / "one", tmp_path / "two"
    online = CliRunner().invoke(app, [*words, "-o", str(one)])
    assert online.exit_code == 0, online.output
    lightning.shutdown()
    asked = len(lightning.asked)
    done = run("-m", "chemeleon", *words, "-o", str(two), HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    assert len(lightning.asked) == asked
    assert (one / "manifest.json").is_file()
    for path in (one / "cif").iterdir():
        assert path.read_bytes() == (two / "cif" / path.name).read_bytes()


@pytest.mark.parametrize("place", ["command line", "file"])
def test_training_on_a_vae_of_the_hub(lightning: HubServer, tmp_path: Path, place: str):
    words = ["denoiser.width=32", "denoiser.layers=1", "denoiser.heads=2"]
    words = [f"ldm.{word}" for word in words]
    words += ["trainer.max_steps=1", "trainer.tracker=none", "-o", str(tmp_path / "run")]
    if place == "file":
        mine = tmp_path / "mine.yaml"
        mine.write_text("ldm:\n  vae_ckpt_path: ${hub:small_vae}\n", encoding="utf-8")
        words += ["--config", str(mine)]
    else:
        words += ["ldm.vae_ckpt_path=${hub:small_vae}"]
    done = CliRunner().invoke(app, ["ldm", "train", "--preset", "demo/null", *words])
    assert done.exit_code == 0, (done.output, done.exception)
    assert len(lightning.downloads()) == 1
    trained = LatentDiffusion.from_pretrained(tmp_path / "run")
    assert equal(trained.vae, CrystalVAE.from_pretrained("hub:small_vae"))
    assert trained.config.vae_ckpt_path == "${hub:small_vae}"


# --- publishing


def test_push_and_pull_back(server: HubServer, monkeypatch, tmp_path: Path):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    vae = tiny_vae()
    address = vae.push_to_hub("me/new", private=True, license="mit")
    assert address == f"{server.url}/me/new/commit/{server.refs['me/new']['main']}"
    assert "me/new" in server.private
    back = CrystalVAE.from_pretrained("hub:me/new")
    assert equal(back, vae)
    assert back.origin == vae.origin
    files = server.find("me/new", "main")
    assert files is not None
    assert set(files) == {"config.yaml", "config.json", "model.safetensors", "README.md"}
    assert json.loads(files["config.json"]) == yaml.safe_load(files["config.yaml"])
    _, head, text = files["README.md"].decode().split("---\n", 2)
    assert yaml.safe_load(head) == {
        "library_name": "chemeleon",
        "license": "mit",
        "tags": ["chemeleon", "crystal-structure", "materials-science", "vae", "autoencoder"],
        "datasets": ["mp_20"],
    }
    for part in ("mp_20", "| 700 |", "| match_rate | 0.875 |", "hub:me/new", "from_pretrained"):
        assert part in text
    # the Python of the card is what a reader will type
    code = text.split("```python\n")[1].split("```")[0]
    scope: dict[str, CrystalVAE] = {}
    exec(code, scope)
    assert equal(scope["model"], vae)


def test_push_of_an_ldm_keeps_words_and_forgets_paths(server: HubServer, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    config = LDMConfig.model_validate(
        {
            "denoiser": {"width": 32, "layers": 1, "heads": 2},
            "vae_ckpt_path": "/home/me/secret-project/vae",
            "init_ckpt_path": "hub:mp_20_ldm_base",
        }
    )
    pipeline = Pipeline(LatentDiffusion(config, tiny_vae(), torch.arange(5)), "cpu")
    pipeline.model.origin = {"adapted_from": {"base": "/home/me/secret-project/base", "rank": 4}}
    server.commit("me/ldm", {"README.md": b"my own words"})
    pipeline.push_to_hub("me/ldm", message="first", revision="try")
    files = server.find("me/ldm", "try")
    assert files is not None
    assert files["README.md"] == b"my own words"
    assert b"secret-project" not in b"".join(files.values())
    back = Pipeline.from_pretrained("hub:me/ldm@try", "cpu")
    assert back.model.config.init_ckpt_path == "hub:mp_20_ldm_base"
    assert back.model.origin["adapted_from"] == {"base": None, "rank": 4}
    assert back.fingerprint() == pipeline.fingerprint()
    assert set(server.find("me/ldm", "main") or ()) == {"README.md"}
    vae = CrystalVAE.from_pretrained("hub:me/ldm@try")  # the one inside
    assert equal(vae, pipeline.model.vae)
    assert "ldm" not in vae.origin


def test_a_predictor_goes_there_and_back(server: HubServer, monkeypatch, tmp_path: Path):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    made = convert(checkpoint("predictor_bandgap"), tmp_path / "made")
    predictor = Predictor.from_pretrained(made)
    predictor.origin = {**predictor.origin, "trained": {"metrics": {"mae": float("nan")}}}
    predictor.push_to_hub("me/gap", license="mit")
    files = server.find("me/gap", "main")
    assert files is not None
    assert json.loads(files["config.json"])["trained"] == {"metrics": {"mae": None}}
    card = files["README.md"].decode()
    assert "| predicts | band_gap |" in card
    assert "datasets:" not in card  # the file does not say
    scope: dict[str, Predictor] = {}
    exec(card.split("```python\n")[1].split("```")[0], scope)
    back = scope["model"]
    assert equal(back, predictor)
    assert equal(Predictor.from_pretrained(hub.resolve("hub:me/gap")), predictor)
    batch = demo_crystals("val").batch(torch.arange(4))
    assert torch.equal(back.predict(batch)["band_gap"], predictor.predict(batch)["band_gap"])
    with pytest.raises(CheckpointError, match="of kind 'predictor', but ldm is needed"):
        LatentDiffusion.from_pretrained("hub:me/gap")


def test_push_is_refused_in_words(server: HubServer, model: CrystalVAE, tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"may not write to me/x .* 401.*hf auth login"):
        model.push_to_hub("me/x")
    with pytest.raises(CheckpointError, match="is not OWNER/REPO"):
        model.push_to_hub("my-model")
    with pytest.raises(CheckpointError, match=r"no model at me/my-vae: .*or fetch: hub:me/my-vae"):
        find_model("me/my-vae")
    with pytest.raises(CheckpointError, match="no model at"):
        push(tmp_path / "nothing", "me/x")


# --- command line


def test_commands(lightning: HubServer, monkeypatch, tmp_path: Path):
    def chemeleon(*words: str) -> str:
        result = CliRunner().invoke(app, list(words), env={"COLUMNS": "120"})
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.output

    def listed() -> dict[str, str]:
        lines = chemeleon("hub", "list").splitlines()
        return {line.split()[1]: line for line in lines if "│" in line}

    before = listed()
    assert " no " in before["small_vae"]
    assert "small" in before["small_ldm"]
    folder = chemeleon("hub", "pull", "small_vae").strip().splitlines()[-1]
    assert Path(folder) == find_model("hub:small_vae")
    after = listed()
    assert " yes " in after["small_vae"]
    assert " no " in after["small_ldm"]

    made = tmp_path / "made"
    file = str(checkpoint("vae_dng"))
    chemeleon("hub", "convert", file, "-o", str(made))
    assert equal(CrystalVAE.from_pretrained(made), CrystalVAE.from_pretrained("hub:small_vae"))
    with pytest.raises(ConfigError, match="already holds"):
        chemeleon("hub", "convert", file, "-o", str(made))
    with pytest.raises(ConfigError, match="must be raw or ema"):
        chemeleon("hub", "convert", file, "-o", str(made), "--weights", "emma")
    with pytest.raises(CheckpointError, match="does not exist"):
        chemeleon("hub", "convert", str(tmp_path / "no.ckpt"), "-o", str(made))
    with pytest.raises(CheckpointError, match=f"chemeleon hub convert {file} -o DIR"):
        CrystalVAE.from_pretrained(file)

    monkeypatch.setenv("HF_TOKEN", TOKEN)
    said = chemeleon("hub", "push", str(made), "me/imported", "--license", "mit")
    assert "hub:me/imported" in said
    assert equal(CrystalVAE.from_pretrained("hub:me/imported"), CrystalVAE.from_pretrained(made))
