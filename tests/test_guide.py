"""The commands of the published training guide, translated, each to its first optimizer steps.

Data sets and models of the guide cannot be had here: a few crystals of the demo set stand under
their names, small checkpoints of the published form on a hub of the loopback under theirs. Sizes
are small; all else is what the page says.
"""

from __future__ import annotations

import csv
import functools
import math
import operator
import shlex
from pathlib import Path

import pytest
import torch
import yaml
from conftest import TINY_VAE, demo_crystals
from hub_helpers import LIGHTNING
from test_presets import COUNTERPARTS
from test_training import metrics
from typer.testing import CliRunner

from chemeleon.cli.app import app
from chemeleon.crystals.convert import to_structures

pytest_plugins = ["hub_fixtures"]

NAMES = "".join(
    f"""
  {data}_vae: {{repo: {LIGHTNING}, file: v0/vae.ckpt, kind: vae}}
  {data}_ldm_base: {{repo: {LIGHTNING}, file: v0/ldm.ckpt, kind: ldm, vae: {data}_vae}}"""
    for data in ("mp_20", "alex_mp_20")
)
STEP = ["trainer.max_steps=1", "trainer.tracker=none"]
SMALL = {
    "vae": [*(word for word in TINY_VAE if word.startswith("vae.")), *STEP],
    # as wide as the published model on the hub here, which adapters are fitted to
    "ldm": [*STEP, *(f"ldm.denoiser.{w}" for w in ("width=64", "layers=2", "heads=2"))],
    "rl": [
        *("trainer.max_epochs=1", "trainer.tracker=none", "data.batch_size=1", "rl.val_samples=2"),
        *("rl.num_group_samples=4", "rl.sampler.steps=4"),
    ],
    "predict": [*STEP, *(f"predict.{w}" for w in ("width=32", "layers=1", "encoder_layers=1"))],
}
# models of one's own that commands name, and how the page says that they are trained
MINE = {
    "runs/my_vae": "vae train --preset mp_20/dng",
    "runs/my_ldm": "ldm train --preset mp_20/null",
    "runs/my_predictor": "predict train --preset alex_mp_20_bandgap/dft_band_gap",
}
# what the page says beside the command
NOTED = {"alex_mp_20_bandgap/bandgap": "rl.rewards.band_gap.options.model=runs/my_predictor"}


@pytest.fixture
def place(lightning, tmp_path, monkeypatch) -> Path:
    """A folder with data sets, and a hub."""
    (tmp_path / "hub.yaml").write_text(f"models:{NAMES}\n", encoding="utf-8")
    monkeypatch.setenv("CHEMELEON_DATA", str(tmp_path / "data"))
    for split in ("train", "val", "test"):
        crystals = demo_crystals(split)
        small = torch.nonzero(crystals.num_atoms <= 4).flatten()[:24]
        for name in ("mp_20", "alex_mp_20_bandgap"):
            (tmp_path / "data" / name).mkdir(parents=True, exist_ok=True)
            with (tmp_path / "data" / name / f"{split}.csv").open("w", newline="") as file:
                rows = csv.writer(file)
                rows.writerow(["material_id", "cif", "dft_band_gap"])
                for number, structure in enumerate(to_structures(crystals.subset(small))):
                    rows.writerow([f"{split}-{number}", structure.to(fmt="cif"), number / 10])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(command: str, *more: str) -> str:
    result = CliRunner().invoke(app, [*shlex.split(command), *more])
    assert result.exit_code == 0, (command, result.output, result.exception)
    return result.output


@pytest.mark.parametrize("command", COUNTERPARTS)
def test_a_command_of_the_guide_takes_its_first_step(command, place):
    command = command.removeprefix("chemeleon ")
    stage, *words = shlex.split(command)
    noted = [word for name, word in NOTED.items() if stage == "rl" and name in words]
    if stage == "rl":
        pytest.importorskip("chgnet")  # its energies are a reward
    for folder, training in MINE.items():
        if folder in f"{command} {noted}":
            run(training, "-o", folder, *SMALL[training.split()[0]])
    if "--show-config" in words:
        assert "vae_ckpt_path" in run(command)
        return
    if "--resume" in words:
        folder, steps, more = place / words[-1], 2, ["trainer.max_steps=2"]
    else:
        folder, steps = place / "run", 2 if stage == "rl" else 1
        more = ["-o", str(folder), *SMALL[stage], *noted]
    assert f"done after {steps} steps" in run(command, *more)
    assert math.isfinite([row["val/loss"] for row in metrics(folder) if "val/loss" in row][-1])
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    smaller = {word.partition("=")[0] for word in SMALL[stage]}
    for key, _, value in (word.partition("=") for word in words if "=" in word):
        if key not in smaller:  # the page's words are those of the run
            assert str(functools.reduce(operator.getitem, key.split("."), config)) == value
