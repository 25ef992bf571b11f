"""The loop: resuming, stopping, refusing; what is in a run folder."""

from __future__ import annotations

import io
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import TINY_LDM, TINY_VAE
from rich.console import Console

from chemeleon import api
from chemeleon.checkpoints.load import find_model
from chemeleon.checkpoints.opened import read_tensors
from chemeleon.checkpoints.store import read_state
from chemeleon.config.schema import OptimConfig, TrainerConfig
from chemeleon.errors import CheckpointError, ConfigError, TrainingError
from chemeleon.generation.pipeline import Pipeline
from chemeleon.training.schedule import LearningRate, total_steps

TIMES = {"crystals_per_s"}


def metrics(folder: Path) -> list[dict]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines]


def assert_same_run(one: Path, other: Path) -> None:
    ours, our_counters = read_state(one)
    theirs, their_counters = read_state(other)
    assert our_counters == their_counters
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name
    parts = [part for part in ("best", "last") if (one / part).exists()]
    assert "last" in parts
    assert [part for part in ("best", "last") if (other / part).exists()] == parts
    for part in parts:
        mine, _ = read_tensors(one / part / "model.safetensors")
        yours, _ = read_tensors(other / part / "model.safetensors")
        assert all(torch.equal(mine[k], yours[k]) for k in mine)
    assert metrics(one) == metrics(other)


def test_a_resumed_vae_is_bitwise_the_one_that_never_stopped(tmp_path):
    words = [*TINY_VAE, "trainer.grad_accumulation=2", "vae.dropout=0.1", "trainer.log_every=7"]
    words += ["trainer.val_every_steps=20"]
    api.vae_train("demo/dng", [*words, "trainer.max_steps=60"], output=tmp_path / "whole")
    # 33 steps: in the middle of an epoch and of a logging window
    stop = ["trainer.max_steps=60", "trainer.max_minutes=1000"]
    interrupt_at(33, tmp_path / "parts", "vae", "demo/dng", [*words, *stop])
    assert read_state(tmp_path / "parts")[1]["step"] == 33
    api.vae_train(overrides=["trainer.max_minutes=3.5"], resume=tmp_path / "parts")
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_a_resumed_ldm_needs_no_vae_folder_and_is_bitwise_the_same(tmp_path, tiny_vae):
    import shutil

    shutil.copytree(tiny_vae, tmp_path / "vae")
    words = [*TINY_LDM, f"ldm.vae_ckpt_path={tmp_path / 'vae'}", "trainer.max_steps=30"]
    words += ["trainer.val_every_steps=10", "optim.schedule=plateau", "optim.plateau_patience=1"]
    whole = api.ldm_train("demo/null", words, output=tmp_path / "whole")
    losses = whole.history()["val/loss"].dropna()
    assert losses.index.tolist() == [10, 20, 30]
    assert losses.iloc[-1] == pytest.approx(whole.fitted.metrics["val/loss"], abs=1e-7)
    interrupt_at(17, tmp_path / "parts", "ldm", "demo/null", words)
    shutil.rmtree(tmp_path / "vae")
    api.ldm_train(resume=tmp_path / "parts")
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def interrupt_at(step: int, folder: Path, stage: object, preset: str, words: list[str]) -> None:
    """Train, and send ourselves SIGINT when a step begins; the step is finished, then saved.

    ``stage`` is its name or a function that trains.
    """
    from chemeleon.training.step import Step

    do = Step.__call__

    def do_and_interrupt(self: Step, batches: list, number: int, rate: float):
        if number == step - 1:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)
        return do(self, batches, number, rate)

    Step.__call__ = do_and_interrupt
    try:
        train = {"vae": api.vae_train, "ldm": api.ldm_train}.get(stage, stage)
        result = train(preset, words, output=folder)
    finally:
        Step.__call__ = do
    assert result.fitted.interrupted


def test_ctrl_c_on_the_command_line_saves_and_says_how_to_go_on(tmp_path):
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "chemeleon", "vae", "train", "--preset", "demo/dng"]
    command += ["-o", str(folder), *TINY_VAE, "trainer.max_steps=100000", "trainer.max_minutes=5"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: (folder / "metrics.jsonl").exists(), process)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"chemeleon vae train --resume {folder}" in out
    assert read_state(folder)[1]["step"] > 0


def wait_for(condition, process: subprocess.Popen, seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_ten_kills_at_random_moments_change_nothing(tmp_path):
    import random

    words = [*TINY_VAE, "trainer.max_steps=400", "trainer.val_every_steps=25"]
    words += ["trainer.save_every_minutes=0.002"]
    api.vae_train("demo/dng", words, output=tmp_path / "whole")
    folder = tmp_path / "killed"
    draw = random.Random(7)
    start = ["--preset", "demo/dng", "-o", str(folder), "--overwrite", *words]
    kills = 0
    while kills < 10:
        resumable = (folder / "state.safetensors").exists()
        arguments = ["--resume", str(folder)] if resumable else start
        before = (folder / "metrics.jsonl").stat().st_size if resumable else -1
        command = [sys.executable, "-m", "chemeleon", "vae", "train", *arguments]
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        wait_for(
            lambda size=before: (
                (folder / "metrics.jsonl").exists()
                and (folder / "metrics.jsonl").stat().st_size != size
            ),
            process,
        )
        time.sleep(draw.uniform(0, 0.4))
        process.kill()
        process.wait()
        kills += 1
        if (folder / "state.safetensors").exists():
            read_state(folder)
        for model in folder.glob("*/model.safetensors"):
            read_tensors(model)
    if (folder / "state.safetensors").exists():
        api.vae_train(resume=folder)
    else:
        api.vae_train("demo/dng", words, output=folder, overwrite=True)
    assert_same_run(tmp_path / "whole", folder)


def test_a_loss_that_is_not_finite_stops_before_the_update(tmp_path, tiny_vae):
    from chemeleon.training.vae import VAEStage

    loss = VAEStage.loss
    seen = []

    def poisoned(stage, model, batch):
        terms = loss(stage, model, batch)
        if len(seen) == 3:
            terms["angles"] = terms["angles"] * float("nan")
            terms["loss"] = terms["loss"] + terms["angles"]
        seen.append([p.detach().clone() for p in stage.model.parameters()])
        return terms

    folder = tmp_path / "run"
    shutil.copytree(tiny_vae, folder)
    words = [*TINY_VAE, "trainer.max_steps=9"]
    VAEStage.loss = poisoned
    try:
        with pytest.raises(TrainingError, match=r"step 3: loss, angles, the gradient norm"):
            api.vae_train("demo/dng", words, output=folder, overwrite=True)
    finally:
        VAEStage.loss = loss
    assert len(seen) == 4
    # nothing was saved that could take the earlier run's place
    files = {p.relative_to(folder) for p in folder.rglob("*")}
    assert files == {p.relative_to(tiny_vae) for p in tiny_vae.rglob("*")}
    assert all(
        (folder / name).read_bytes() == (tiny_vae / name).read_bytes()
        for name in files
        if (folder / name).is_file()
    )


def test_an_earlier_run_is_kept_unless_told(tmp_path, tiny_vae):
    folder = tmp_path / "run"
    shutil.copytree(tiny_vae, folder)
    before = (folder / "state.safetensors").read_bytes()
    with pytest.raises(ConfigError, match=r"--resume.*--overwrite"):
        api.vae_train("demo/dng", TINY_VAE, output=folder)
    # bad input must not cost the earlier run, even with --overwrite
    bad = [*TINY_VAE, "data.name=missing", "data.targets=[]"]
    with pytest.raises(Exception, match="missing"):
        api.vae_train("demo/dng", bad, output=folder, overwrite=True)
    assert (folder / "state.safetensors").read_bytes() == before
    api.vae_train("demo/dng", [*TINY_VAE, "trainer.max_steps=2"], output=folder, overwrite=True)
    assert read_state(folder)[1]["step"] == 2


def test_resuming_needs_a_run_and_the_same_model(tmp_path, tiny_vae):
    with pytest.raises(ConfigError, match="not a run folder"):
        api.vae_train(resume=tmp_path)
    with pytest.raises(ConfigError, match="leave out --preset"):
        api.vae_train("demo/dng", resume=tiny_vae)
    before = (tiny_vae / "config.yaml").read_text()
    with pytest.raises(CheckpointError, match="does not fit this model"):
        api.vae_train(overrides=["vae.width=48", "vae.heads=4"], resume=tiny_vae)
    with pytest.raises(ConfigError, match="run's own folder"):
        api.vae_train(resume=tiny_vae, output=tmp_path)
    assert (tiny_vae / "config.yaml").read_text() == before


def test_resuming_a_finished_run_changes_nothing(tmp_path, tiny_vae):
    import shutil

    folder = shutil.copytree(tiny_vae, tmp_path / "run")
    before = (folder / "last" / "config.yaml").read_text()
    fitted = api.vae_train(resume=str(folder)).fitted
    assert fitted.complete
    assert fitted.metrics["val/loss"] > 0
    assert (folder / "last" / "config.yaml").read_text() == before


def test_resuming_with_another_batch_size_goes_on(tmp_path, tiny_vae):
    import shutil

    folder = shutil.copytree(tiny_vae, tmp_path / "run")
    words = ["data.batch_size=512", "trainer.max_steps=23"]
    assert api.vae_train(overrides=words, resume=folder).fitted.step == 23


def test_an_ldm_cannot_be_resumed_with_another_architecture(tiny_ldm):
    with pytest.raises(ConfigError, match=r"ldm\.denoiser differs"):
        api.ldm_train(overrides=["ldm.denoiser.width=64"], resume=tiny_ldm)


def test_tensorboard_logs(tmp_path):
    words = [w for w in TINY_VAE if "tracker" not in w]
    words += ["trainer.tracker=tensorboard", "trainer.max_steps=12"]
    api.vae_train("demo/dng", words, output=tmp_path / "run")
    assert list((tmp_path / "run").rglob("events.out.tfevents*"))


@pytest.mark.parametrize("stage", ["vae", "ldm"])
def test_wandb_without_a_key_is_offline_and_says_so(tmp_path, tiny_vae, stage):
    said = with_wandb(tmp_path, stage, tiny_vae)
    assert "no API key, logging offline" in said


def test_wandb_without_a_network_is_offline_and_says_so(tmp_path, tiny_vae):
    nowhere = {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_INIT_TIMEOUT": "2"}
    said = with_wandb(tmp_path, "vae", tiny_vae, WANDB_API_KEY="0" * 40, **nowhere)
    assert "cannot log online" in said


def with_wandb(folder: Path, stage: str, vae: Path, **variables: str) -> str:
    """Train as somebody does whose terminal asks nothing, and return what was said to them."""
    words = {"vae": TINY_VAE, "ldm": [*TINY_LDM, f"ldm.vae_ckpt_path={vae}"]}[stage]
    words = [word for word in words if "tracker" not in word]
    command = [sys.executable, "-m", "chemeleon", stage, "train", "-o", str(folder / "run")]
    command += ["--preset", {"vae": "demo/dng", "ldm": "demo/null"}[stage], *words]
    hidden = ("WANDB_MODE", "WANDB_API_KEY")
    environment = {k: v for k, v in os.environ.items() if k not in hidden}
    environment |= {"HOME": str(folder), **variables}  # no netrc
    done = subprocess.run(
        [*command, "trainer.max_steps=12", "trainer.tracker=wandb"],
        capture_output=True,
        text=True,
        env=environment,
        stdin=subprocess.DEVNULL,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    kept = list((folder / "run" / "wandb").glob("offline-run-*/*.wandb"))
    assert len(kept) == 1
    assert b"val/loss" in kept[0].read_bytes()
    return " ".join((done.stdout + done.stderr).split())


def test_the_resolved_config_is_a_valid_config_file(tiny_vae):
    again = api.resolve("vae", None, tiny_vae / "config.yaml").config
    assert again.trainer.max_steps == 20
    assert again.data.name == "demo"


def test_an_ldm_needs_a_vae(tmp_path):
    words = [*TINY_LDM, "ldm.vae_ckpt_path=null"]
    with pytest.raises(ConfigError, match=r"ldm\.vae_ckpt_path is not set"):
        api.ldm_train("demo/null", words, output=tmp_path / "l")
    with pytest.raises(CheckpointError, match="chemeleon vae train"):
        api.ldm_train("demo/null", [*TINY_LDM, "ldm.vae_ckpt_path=no"], output=tmp_path / "l")


def test_patience_ends_a_run(tmp_path):
    words = [*TINY_VAE, "optim.lr=1e-12", "optim.warmup_steps=0", "optim.schedule=constant"]
    words += ["trainer.val_every_steps=2", "trainer.patience=2", "trainer.max_steps=500"]
    result = api.vae_train("demo/dng", words, output=tmp_path / "r")
    assert result.fitted.step < 40


def test_a_run_stands_for_the_model_that_is_kept(tmp_path):
    words = [*TINY_VAE, "trainer.max_steps=6", "trainer.val_every_steps=2"]
    for keep in ("best", "last"):
        api.vae_train(
            "demo/dng", [*words, f"trainer.checkpoint_selection={keep}"], output=tmp_path / keep
        )
        assert find_model(tmp_path / keep) == tmp_path / keep / keep
    assert not (tmp_path / "last" / "best").exists()
    # a run that has a best model already
    more = ["trainer.max_steps=8", "trainer.checkpoint_selection=last"]
    api.vae_train(overrides=more, resume=tmp_path / "best")
    assert find_model(tmp_path / "best") == tmp_path / "best" / "last"


def test_a_run_by_the_clock_ends_with_its_rate(tmp_path):
    words = [*TINY_VAE, "optim.schedule=time_budget", "trainer.max_minutes=0.02"]
    result = api.vae_train("demo/dng", words, output=tmp_path / "r")
    assert result.fitted.complete
    console = Console(record=True, file=io.StringIO())
    again = api.vae_train(resume=tmp_path / "r", console=console)
    assert again.fitted.step == result.fitted.step
    assert "time budget is spent" in console.export_text().replace("\n", " ")
    with pytest.raises(ConfigError, match=r"needs trainer\.max_minutes"):
        api.vae_train("demo/dng", [*words, "trainer.max_minutes=null"], output=tmp_path / "s")


def test_augmentation_does_not_spoil_a_canonical_form(tmp_path, tiny_vae, tiny_ldm):
    turned = "data.augment.rotate=true"
    with pytest.raises(ConfigError, match=r"data\.augment\.rotate=false"):
        api.vae_train("demo/dng", [*TINY_VAE, turned], output=tmp_path / "v")
    for words in ([f"ldm.vae_ckpt_path={tiny_vae}"], [f"ldm.init_ckpt_path={tiny_ldm}"]):
        for change in (turned, "data.augment.permute=true"):
            with pytest.raises(ConfigError, match=f"{change[:-4]}false"):
                api.ldm_train("demo/null", [*TINY_LDM, *words, change], output=tmp_path / "l")


def test_a_fine_tuned_model_samples_as_its_own_config_says(tmp_path, tiny_ldm):
    words = [*TINY_LDM, f"ldm.init_ckpt_path={tiny_ldm}", "trainer.max_steps=1"]
    words += ["ldm.sampler.temperature=0.7", "ldm.sampler.steps=7"]
    api.ldm_train("demo/null", words, output=tmp_path / "r")
    sampler = Pipeline.from_pretrained(tmp_path / "r").model.config.sampler
    assert (sampler.temperature, sampler.steps) == (0.7, 7)


def test_learning_rates():
    warm = LearningRate(OptimConfig(lr=1.0, warmup_steps=4), None)
    assert [warm.at(s) for s in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    cosine = LearningRate(OptimConfig(lr=1.0, schedule="cosine", min_lr_ratio=0.1), 100)
    assert cosine.at(0) == 1.0
    assert cosine.at(50) == pytest.approx(0.55)
    assert cosine.at(100) == pytest.approx(0.1)
    clock = LearningRate(OptimConfig(lr=1.0, schedule="time_budget", min_lr_ratio=0.1), None)
    clock.passed(0.5)
    assert clock.at(7) == clock.at(7000) == pytest.approx(0.55)
    slow = LearningRate(OptimConfig(lr=1.0, schedule="time_budget", warmup_steps=1000), None)
    assert slow.at(9) == 0.01
    slow.passed(0.025)  # halfway through the longest warm-up
    assert slow.at(9) == pytest.approx(0.5, abs=1e-3)
    slow.passed(0.5)
    assert slow.at(9) == slow.at(999) == slow.at(1000) == pytest.approx(0.5)
    assert not slow.over()
    slow.passed(1.1)
    assert slow.at(9) == pytest.approx(0, abs=1e-9)
    assert slow.over()
    resumed = LearningRate(clock.config, None)
    resumed.load(clock.state())
    assert resumed.at(0) == clock.at(0)
    resumed.passed(0.5)  # half of what was left
    assert resumed.at(0) == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * 0.75)))
    resumed.passed(1.2)
    assert resumed.at(0) == pytest.approx(0.1)
    plateau = LearningRate(OptimConfig(lr=1.0, schedule="plateau", plateau_patience=2), None)
    for improved in (True, False, False, False, False):
        plateau.validated(improved)
    assert plateau.at(9) == 0.25
    with pytest.raises(ConfigError, match="max_steps"):
        LearningRate(OptimConfig(schedule="cosine"), None)


def test_the_first_limit_ends_training():
    assert total_steps(TrainerConfig(max_epochs=3, max_steps=100), 10) == 30
    assert total_steps(TrainerConfig(max_epochs=30, max_steps=100), 10) == 100
    assert total_steps(TrainerConfig(max_minutes=1), 10) is None
