"""The shell scripts, run as they stand: only sizes are made smaller, and Slurm is one machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import TINY_LDM, TINY_VAE
from test_distributed import free_port

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ROOT / "scripts"
TINY = {
    "vae": [*TINY_VAE, "trainer.max_steps=2"],
    "ldm": [*TINY_LDM, "trainer.max_steps=2"],
    "rl": [
        *("trainer.max_epochs=1", "data.batch_size=1", "rl.num_group_samples=4"),
        *("rl.val_samples=2", "rl.sampler.steps=4", "rl.window=2"),
    ],
    "sample": ["--steps", "2", "--num-atoms", "2"],
}
# the command, with more words behind those of the script
SMALLER = f"""#!{sys.executable}
import os, sys
more = {TINY}[sys.argv[1]]
os.execv(sys.executable, [sys.executable, "-m", "chemeleon", *sys.argv[1:], *more])
"""
# tasks of several nodes, each told its number, as processes of this machine
SRUN = """#!/usr/bin/env bash
while [[ $1 == --* ]]; do
  if [[ $1 == --ntasks=* ]]; then tasks=${1#*=}; fi
  shift
done
for ((node = 0; node < tasks; node++)); do SLURM_NODEID=$node "$@" & pids+=($!); done
for pid in "${pids[@]}"; do wait "$pid" || exit; done
"""
SAYS_WORDS = f"""#!{sys.executable}
import json, sys
sys.stdout.write(json.dumps(sys.argv[1:]) + "\\n")  # at once, as others write beside it
"""
FIRST_NODE = "#!/bin/sh\necho localhost\necho elsewhere\n"


@pytest.fixture
def shell(tmp_path, monkeypatch):
    """Run a script in an empty folder, where programs of a name can be put before all others."""
    programs = tmp_path / "programs"
    programs.mkdir()
    path = [str(programs), str(Path(sys.executable).parent), os.environ["PATH"]]
    monkeypatch.setenv("PATH", os.pathsep.join(path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("VENV", "none")
    monkeypatch.chdir(tmp_path)

    def run(*words: str, code: int = 0, **texts: str) -> str:
        for name, text in texts.items():
            (programs / name).write_text(text, encoding="utf-8")
            (programs / name).chmod(0o755)
        done = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stdout
        return done.stdout

    return run


@pytest.mark.slow
def test_the_demos_train_tune_and_sample_and_may_be_repeated(shell, tmp_path):
    demo, tuned = str(SCRIPTS / "demo.sh"), str(SCRIPTS / "demo_rl.sh")
    assert "mine/demo_ldm is missing: run scripts/demo.sh" in shell(tuned, "mine", code=2)
    said = shell(demo, "mine", "made/demo", chemeleon=SMALLER)
    assert said.count("done after 2 steps") == 2
    assert "mine/demo_rl/report.html" in shell(tuned, "mine", "made/demo_rl")
    for name, model in {"demo": "demo_ldm", "demo_rl": "demo_rl"}.items():
        manifest = json.loads((tmp_path / "made" / name / "manifest.json").read_text())
        assert (manifest["requested"], manifest["model"]) == (24, f"mine/{model}")
        for made in ("contact_sheet.png", "structures.extxyz", "structures.json.gz", "cif"):
            assert (tmp_path / "made" / name / made).exists(), made
    assert (tmp_path / "mine" / "demo_rl" / "report.html").is_file()
    weights = (tmp_path / "mine" / "demo_vae" / "state.safetensors").stat().st_mtime_ns
    shell(demo, "mine", "made/demo")  # replaces what was there
    assert (tmp_path / "mine" / "demo_vae" / "state.safetensors").stat().st_mtime_ns > weights


WORDS = ["ldm", "train", "-o", "runs/a b", 'x=it\'s "$HOME" `id`']


@pytest.mark.parametrize(("nodes", "gpus"), [(1, 1), (2, 4)])
def test_what_slurm_would_start_can_be_seen_first(shell, monkeypatch, nodes, gpus):
    script = str(SCRIPTS / "launch_slurm.sh")
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", str(nodes))
    monkeypatch.setenv("SLURM_GPUS_ON_NODE", str(gpus))
    said = shell(script, "--dry-run", *WORDS, accelerate=SAYS_WORDS, srun=SRUN)
    assert said.startswith(f"srun --nodes={nodes} --ntasks={nodes} ")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    started = shell(script, *WORDS, scontrol=FIRST_NODE).splitlines()
    assert len(started) == nodes
    for text in (*started, *shell("bash", "-c", said).splitlines()):
        words = json.loads(text)
        assert words[-len(WORDS) - 2 :] == ["-m", "chemeleon", *WORDS]
        given = dict(zip(words[1::2], words[2::2], strict=False))
        assert given["--num_machines"] == str(nodes)
        assert given["--num_processes"] == str(nodes * gpus)
        assert ("--multi_gpu" in words) == (nodes * gpus > 1)
    ranks = {json.loads(t)[json.loads(t).index("--machine_rank") + 1] for t in started}
    assert ranks == {str(node) for node in range(nodes)}


def test_slurm_is_needed_and_the_help_says_how(shell, monkeypatch):
    script = str(SCRIPTS / "launch_slurm.sh")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert "start it with sbatch" in shell(script, "ldm", "train", code=2)
    assert "GPUS_PER_NODE" in shell(script, "--help")
    assert "GPUS_PER_NODE" in shell(script, code=2)


@pytest.mark.slow
def test_two_nodes_train_together(shell, monkeypatch, tmp_path):
    for name, value in {"ID": "7", "NUM_NODES": "2", "NODELIST": "localhost,elsewhere"}.items():
        monkeypatch.setenv(f"SLURM_JOB_{name}", value)
    monkeypatch.setenv("GPUS_PER_NODE", "1")
    monkeypatch.setenv("MASTER_PORT", str(free_port()))
    words = ["vae", "train", "--preset", "demo/dng", "-o", "runs/big", *TINY["vae"]]
    said = shell(str(SCRIPTS / "launch_slurm.sh"), *words, srun=SRUN, scontrol=FIRST_NODE)
    assert "on 2 x cpu" in said
    assert said.count("done after 2 steps") == 1
    assert (tmp_path / "runs" / "big" / "state.safetensors").is_file()
