"""Two CPU processes under `accelerate launch` give the run of one with the doubled batch."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import TINY_LDM, TINY_VAE
from test_training import metrics

from chemeleon import api
from chemeleon.checkpoints.store import find_model, read_state, read_tensors


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


def launch(stage: str, preset: str, folder: Path, words: list[str]) -> str:
    command = launcher()
    command += ["-m", "chemeleon", stage, "train", "--preset", preset, "-o", str(folder), *words]

    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


@pytest.mark.parametrize(("stage", "preset"), [("vae", "demo/dng"), ("ldm", "demo/null")])
def test_two_processes_equal_one_with_the_doubled_batch(tmp_path, tiny_vae, stage, preset):
    words = {"vae": TINY_VAE, "ldm": [*TINY_LDM, f"ldm.vae_ckpt_path={tiny_vae}"]}[stage]
    words = [*words, "trainer.max_steps=6", "optim.warmup_steps=0", "optim.schedule=constant"]
    words += ["trainer.val_every_steps=3", "optim.lr=1e-4"]
    said = launch(stage, preset, tmp_path / "two", [*words, "data.batch_size=16"])
    assert said.count("done after 6 steps") == 1  # only the first process speaks
    assert "on 2 x cpu" in said
    train = {"vae": api.vae_train, "ldm": api.ldm_train}[stage]
    train(preset, [*words, "data.batch_size=32"], output=tmp_path / "one")
    two, two_counters = read_state(tmp_path / "two")
    one, one_counters = read_state(tmp_path / "one")
    assert two_counters["step"] == one_counters["step"] == 6
    assert two_counters["best"] == pytest.approx(one_counters["best"], rel=1e-4)
    for name, value in one.items():
        if name.startswith("weight."):
            if value.shape == (96,):
                # the bias of attention keys has no effect, so its gradient is rounding, which Adam
                # turns into full steps
                two[name][32:64] = value[32:64]
            torch.testing.assert_close(two[name], value, rtol=1e-5, atol=1e-5)
    read_tensors(find_model(tmp_path / "two") / "model.safetensors")


def test_both_ranks_end_with_the_same_weights(tmp_path):
    script = tmp_path / "ranks.py"
    script.write_text(
        "import sys\n"
        "from pathlib import Path\n"
        "from chemeleon.training import loop\n"
        "from chemeleon.checkpoints.store import write_tensors\n"
        "from chemeleon import api\n"
        "fit = loop.fit\n"
        "def keep(run):\n"
        "    fitted = fit(run)\n"
        "    rank = run.accelerator.process_index\n"
        "    path = Path(sys.argv[1]) / f'rank{rank}.safetensors'\n"
        "    write_tensors(path, run.stage.model.state_dict())\n"
        "    return fitted\n"
        "from chemeleon.training import launch\n"
        "launch.fit = keep\n"
        "api.vae_train('demo/dng', sys.argv[2:], output=Path(sys.argv[1]) / 'run')\n"
    )
    command = launcher()
    command += [str(script), str(tmp_path), *TINY_VAE, "trainer.max_steps=10"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    first, _ = read_tensors(tmp_path / "rank0.safetensors")
    second, _ = read_tensors(tmp_path / "rank1.safetensors")
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert len(list((tmp_path / "run").glob("state*"))) == 1  # saved once


def test_two_processes_sample_what_one_does(tmp_path, tiny_ldm):
    import gzip
    import json

    import numpy as np

    found = {}
    for name, start in (("two", launcher()), ("one", [sys.executable])):
        words = ["-m", "chemeleon", "sample", "--model", str(tiny_ldm), "-n", "9", "--steps", "3"]
        done = subprocess.run(
            [*start, *words, "-o", str(tmp_path / name), "--seed", "4", "--format", "cif,json"],
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stdout.count("9 crystals,") == 1  # only the first process speaks
        text = gzip.decompress((tmp_path / name / "structures.json.gz").read_bytes())
        found[name] = {item["properties"]["material_id"]: item for item in json.loads(text)}
        assert len(list((tmp_path / name / "cif").glob("*.cif"))) == len(found[name]) > 0
    assert found["one"].keys() == found["two"].keys()
    for name, one in found["one"].items():
        two = found["two"][name]
        assert [s["species"] for s in one["sites"]] == [s["species"] for s in two["sites"]]
        for key in ("a", "b", "c", "alpha", "beta", "gamma"):
            np.testing.assert_allclose(one["lattice"][key], two["lattice"][key], rtol=1e-3)


def test_two_processes_with_half_the_groups_are_one_with_all(tmp_path, tiny_ldm):
    from rl_helpers import train

    words = ["trainer.max_epochs=2", "optim.lr=1e-4", "rl.micro_batch=12", "rl.kl_weight=0.0"]
    words += ["rl.drop_flat_groups=true", "rl.entropy_weight=1.0"]
    script = tmp_path / "rl.py"
    script.write_text(
        "import sys\n"
        "from pathlib import Path\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from rl_helpers import train\n"
        "train(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])\n"
    )
    two = [str(tmp_path / "two"), str(tiny_ldm), *words, "data.batch_size=2"]
    done = subprocess.run(
        [*launcher(), str(script), *two], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    train(tmp_path / "one", tiny_ldm, *words, "data.batch_size=4")
    ours, theirs = (metrics(tmp_path / name) for name in ("two", "one"))
    same = ("rollout/reward", "rollout/share_std", "formulas", "elements", "val/reward")
    for row, other in zip(ours, theirs, strict=True):
        assert {k: row[k] for k in same if k in other} == {k: other[k] for k in same if k in other}
    assert ours[0]["train/grad_norm"] == pytest.approx(theirs[0]["train/grad_norm"], rel=1e-3)
    one, _ = read_state(tmp_path / "one")
    for name, value in read_state(tmp_path / "two")[0].items():
        if name.startswith("weight."):
            torch.testing.assert_close(value, one[name], rtol=1e-3, atol=5e-4)
