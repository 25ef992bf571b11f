"""Time one policy update of the published sizes, with random weights and a trivial reward.

    python benchmarks/rl_step.py [--updates 12] [--mix] [KEY=VALUE ...]
    accelerate launch --multi_gpu --num_processes 2 benchmarks/rl_step.py ...   # twice the groups

Runs `chemeleon rl train` itself: 5 groups of 64 crystals, DDIM 50, DiT-B, two optimizer steps; the
crystals have the sizes of mp. On a CPU it is demo/dng with a small model.
Prints the median of each part of an update after the first ones, in which shapes are recorded. The
trivial reward is the density; ``--mix`` takes the rewards of the preset instead. Another setting,
such as `rl.micro_batch=2048 rl.old_log_probs=rollout trainer.compile=on`, is given as KEY=VALUE.

The original Chemeleon2 code took 6.8 s per update on an H200 with a trivial reward.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from rich.console import Console

from chemeleon import api
from chemeleon.config.architecture import LDMConfig, VAEConfig
from chemeleon.config.presets import load_data
from chemeleon.config.schema import RLTrainConfig
from chemeleon.crystals.formula import atom_histogram
from chemeleon.data.dataset import load_split
from chemeleon.errors import DataError
from chemeleon.models.denoiser import LatentDiffusion
from chemeleon.models.vae import CrystalVAE
from chemeleon.training.tracking import read_metrics

CUDA = torch.cuda.is_available()
TRIVIAL = """
import torch

def density(crystals):
    volume = torch.linalg.det(crystals.lattice).abs()
    return torch.nan_to_num(crystals.num_atoms / volume.clamp_min(1.0))

density.batched = True
"""
PARTS = ("rollout", "rewards", "learning")


def random_model(folder: Path, data: str) -> None:
    """Write a model of the published size (tiny on a CPU) whose outputs are no zeros."""
    torch.manual_seed(0)
    sizes = {} if CUDA else {"denoiser": {"width": 96, "layers": 3, "heads": 3}}
    vae = {} if CUDA else {"width": 64, "heads": 4, "encoder_layers": 2, "decoder_layers": 2}
    crystals = load_split(load_data(data), "train")
    model = LatentDiffusion(
        LDMConfig.model_validate(sizes),
        CrystalVAE(VAEConfig.model_validate(vae)),
        atom_histogram(crystals),
    )
    with torch.no_grad():  # the last layers begin at zero, which would make every ratio 1
        for layer in ("head", "modulation"):
            model.denoiser.get_submodule(layer).get_parameter("weight").normal_(std=0.02)
    model.save_pretrained(folder)


def main() -> None:
    """Run the updates and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--updates", type=int, default=30 if CUDA else 4)
    parser.add_argument("--skip", type=int, help="first updates that do not count")
    parser.add_argument("--mix", action="store_true", help="the rewards of the preset")
    parser.add_argument("--data", default="mp" if CUDA else "demo")
    arguments, extra = parser.parse_known_args()
    skip = arguments.updates // 3 if arguments.skip is None else arguments.skip
    try:
        load_split(load_data(arguments.data), "val")
    except DataError as error:
        raise SystemExit(f"{error}") from None
    preset = f"{arguments.data}/dng"
    if arguments.data == "mp":
        preset += "_published"
    state = PartialState()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(broadcast_object_list([name])[0])  # that of the first process
        (folder / "trivial.py").write_text(TRIVIAL)
        if state.is_main_process:
            random_model(folder / "model", arguments.data)
        state.wait_for_everyone()
        words = [f"rl.ldm_ckpt_path={folder / 'model'}"]
        words += [f"trainer.max_epochs={arguments.updates}", "trainer.max_minutes=null"]
        words += ["trainer.tracker=none", "rl.pictures_every=0", "trainer.val_every_epochs=100000"]
        config = api.resolve("rl", preset, overrides=extra).config
        assert isinstance(config, RLTrainConfig)
        if not arguments.mix:
            words += [f"rl.rewards.{reward}=null" for reward in config.rl.rewards]
            words.append(f"rl.rewards.trivial.reward={folder}/trivial.py:density")
        run = folder / "run"
        quiet = Console(quiet=True)
        result = api.rl_train(preset, [*words, *extra], output=run, console=quiet)
        if not state.is_main_process:
            return
        lines = read_metrics(run)
    rows = [row for row in lines if "seconds/rollout" in row][skip:]
    device = torch.cuda.get_device_name() if CUDA else f"{torch.get_num_threads()} CPU threads"
    print(f"torch {torch.__version__}, {device}; {preset} {' '.join(extra)}")
    groups = config.data.batch_size * state.num_processes
    print(f"{groups} groups x {config.rl.num_group_samples} crystals")
    totals = [sum(row[f"seconds/{part}"] for part in PARTS) for row in rows]
    names = [key for key in rows[0] if key.startswith("seconds/")]
    for key in names:
        values = [row[key] for row in rows]
        print(f"  {key.removeprefix('seconds/'):<28} {1e3 * statistics.median(values):8.1f} ms")
    print(
        f"update: median {statistics.median(totals):.3f} s, fastest {min(totals):.3f} s of"
        f" {len(rows)} (after {skip}); {result.fitted.step} optimizer steps;"
        f" largest |ratio - 1| {max(row['train/ratio_off_by_most'] for row in rows):.1e}"
    )


if __name__ == "__main__":
    main()
