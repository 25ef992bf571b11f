"""Two CPU processes under `accelerate launch` give the run of one with the doubled batch."""

from __future__ import annotations

import gzip
import json
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY_LDM, TINY_VAE
from rl_helpers import train
from test_predictor import SMALL
from test_training import metrics
from typer.testing import CliRunner

from chemeleon import api
from chemeleon.checkpoints.load import find_model
from chemeleon.checkpoints.opened import read_tensors
from chemeleon.checkpoints.store import read_state
from chemeleon.cli.app import app

PRESETS = {"vae": "demo/dng", "ldm": "demo/null", "predict": "demo/density"}
HALF = "data.batch_size=16"


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def launcher() -> list[str]:
    # --multi_gpu is accelerate's name for torchrun; without it a CPU gets one process only
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]
    command += ["--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no"]
    command += ["--dynamo_backend", "no", "--main_process_port", str(free_port())]
    return [*command, "--num_cpu_threads_per_process", "1"]


def training(stage: str, vae: Path) -> list[str]:
    """Return settings of a few steps."""
    words = {
        "vae": TINY_VAE,
        "ldm": [*TINY_LDM, f"ldm.vae_ckpt_path={vae}"],
        "predict": [*SMALL, "trainer.max_minutes=2"],
    }[stage]
    words = [*words, "trainer.max_steps=6", "optim.warmup_steps=0", "optim.schedule=constant"]
    return [*words, "trainer.val_every_steps=3", "optim.lr=1e-4"]


TUNING = ["trainer.max_epochs=2", "optim.lr=1e-4", "rl.micro_batch=12", "rl.kl_weight=0.0"]
TUNING += ["rl.filter_zero_variance=true", "rl.entropy_weight=1.0"]
IDEALISING = [
    "-n",
    "9",
    "--steps",
    "20",
    "--batch-size",
    "2",
    "--redraw",
    "2",
    "--symmetrize",
    "--potential",
    "none",
]
SAMPLING = ["-n", "9", "--steps", "3", "--seed", "4", "--format", "cif,json"]


@pytest.fixture(scope="module")
def two(tmp_path_factory, tiny_vae, tiny_ldm) -> Path:
    """The folder of what two processes did; to start them takes longer than all of their work."""
    folder = tmp_path_factory.mktemp("two")
    jobs = {
        stage: [stage, "train", "--preset", preset, *training(stage, tiny_vae), HALF]
        for stage, preset in PRESETS.items()
    }
    jobs["sample"] = ["sample", "--model", str(tiny_ldm), *SAMPLING]
    jobs["ideal"] = ["sample", *IDEALISING]
    jobs["evaluate"] = ["evaluate", str(folder / "sample"), "--jobs", "1", "--reference", "demo"]
    jobs["rl"] = [str(tiny_ldm), *TUNING, "data.batch_size=2"]
    command = [*launcher(), str(Path(__file__).with_name("two_processes.py"))]
    command += [str(folder), json.dumps(jobs)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def said(two: Path, name: str) -> str:
    """Return what both processes printed."""
    return "".join((two / f"{name}.{rank}.txt").read_text() for rank in range(2))


@pytest.mark.parametrize(("stage", "preset"), PRESETS.items())
def test_two_processes_equal_one_with_the_doubled_batch(tmp_path, two, tiny_vae, stage, preset):
    assert said(two, stage).count("done after 6 steps") == 1  # only the first process speaks
    assert "on 2 x cpu" in said(two, stage)
    api.train(
        stage, preset, [*training(stage, tiny_vae), "data.batch_size=32"], output=tmp_path / "one"
    )
    found, two_counters = read_state(two / stage)
    one, one_counters = read_state(tmp_path / "one")
    assert two_counters["step"] == one_counters["step"] == 6
    assert two_counters["best"] == pytest.approx(one_counters["best"], rel=1e-4)
    for name, value in one.items():
        if name.startswith("weight."):
            if value.shape == (96,):
                # the bias of attention keys has no effect, so its gradient is rounding, which Adam
                # turns into full steps
                found[name][32:64] = value[32:64]
            torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-5)
    read_tensors(find_model(two / stage) / "model.safetensors")


@pytest.mark.parametrize("stage", PRESETS)
def test_both_ranks_end_with_the_same_weights(two, stage):
    first, _ = read_tensors(two / f"{stage}.0.safetensors")
    second, _ = read_tensors(two / f"{stage}.1.safetensors")
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert len(list((two / stage).glob("state*"))) == 1  # saved once


def test_two_processes_sample_what_one_does(tmp_path, two, tiny_ldm):
    words = ["sample", "--model", str(tiny_ldm), *SAMPLING, "-o", str(tmp_path / "sample")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    found = []
    for folder, printed in ((two, said(two, "sample")), (tmp_path, done.stdout)):
        assert printed.count("9 crystals,") == 1  # only the first process speaks
        text = gzip.decompress((folder / "sample" / "structures.json.gz").read_bytes())
        found.append({item["properties"]["material_id"]: item for item in json.loads(text)})
        assert len(list((folder / "sample" / "cif").glob("*.cif"))) == len(found[-1]) > 0
    theirs, ours = found
    assert ours.keys() == theirs.keys()
    for name, one in ours.items():
        other = theirs[name]
        assert [s["species"] for s in one["sites"]] == [s["species"] for s in other["sites"]]
        for key in ("a", "b", "c", "alpha", "beta", "gamma"):
            np.testing.assert_allclose(one["lattice"][key], other["lattice"][key], rtol=1e-3)


def test_two_processes_say_of_each_crystal_what_one_does(tmp_path, two):
    words = ["sample", *IDEALISING, "-o", str(tmp_path / "ideal")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    theirs, ours = (
        json.loads((folder / "ideal" / "manifest.json").read_text()) for folder in (two, tmp_path)
    )
    assert theirs["redraw"] == ours["redraw"]
    assert ours["redraw"]["redrawn"] > 0
    theirs, ours = theirs["symmetrization"], ours["symmetrization"]
    assert theirs == ours
    assert list(ours["groups"]) == sorted(ours["groups"])
    assert len(set(ours["groups"].values())) > 3  # in another order it would show
    for name in ours["groups"]:
        files = [folder / "ideal" / "cif" / f"{name}.cif" for folder in (two, tmp_path)]
        one, other = (file.read_text().partition("_cell_length")[0] for file in files)
        assert one == other


def test_one_of_two_processes_evaluates(tmp_path, two):
    words = ["evaluate", str(two / "sample"), "--jobs", "1", "--reference", "demo"]
    done = CliRunner().invoke(app, [*words, "-o", str(tmp_path / "evaluate")])
    assert done.exit_code == 0, done.output
    first, second = ((two / f"evaluate.{rank}.txt").read_text() for rank in range(2))
    assert "takes one process: the others have ended" in first
    assert "written to" in first
    assert second == "this process did nothing: the command takes the first alone\n"
    for name in ("crystals.csv", "summary.json"):
        ours, theirs = (
            [
                row
                for row in (folder / "evaluate" / name).read_text().splitlines()
                if "created" not in row
            ]
            for folder in (tmp_path, two)
        )
        assert ours == theirs


def test_two_processes_with_half_the_groups_are_one_with_all(tmp_path, two, tiny_ldm):
    train(tmp_path / "one", tiny_ldm, *TUNING, "data.batch_size=4")
    ours, theirs = metrics(two / "rl"), metrics(tmp_path / "one")
    same = ("rollout/reward", "rollout/share_std", "formulas", "elements", "val/reward")
    for row, other in zip(ours, theirs, strict=True):
        assert {k: row[k] for k in same if k in other} == {k: other[k] for k in same if k in other}
    assert ours[0]["train/grad_norm"] == pytest.approx(theirs[0]["train/grad_norm"], rel=1e-3)
    one, _ = read_state(tmp_path / "one")
    for name, value in read_state(two / "rl")[0].items():
        if name.startswith("weight."):
            torch.testing.assert_close(value, one[name], rtol=1e-3, atol=5e-4)
