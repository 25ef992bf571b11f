"""Training and sampling speed of one network on orbits and on atoms.

    python benchmarks/layouts.py [--size mini] [--batch 512] [--steps 400] [--num 10000]
        [KEY=VALUE ...]

The same denoiser, latent channels and training crystals (mp) for both; only the tokens differ. VAEs
are as they begin, as no time depends on weights. Prints crystals per second and the ratio; with
`ldm.denoiser.self_conditioning=true ldm.denoiser.neighbour_layers=2` that of the shipped settings.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from rich.console import Console
from train_step import CUDA, logged, wait

from chemeleon import api
from chemeleon.generation.pipeline import Pipeline

FIXED = ["data.augment={rotate: false, translate: false, permute: false}", "trainer.tracker=none"]
FIXED += ["trainer.val_every_epochs=1000000", "optim.schedule=constant", "trainer.max_minutes=null"]
LAYOUTS = {
    "atoms": (["vae.atom_order=canonical"], ["ldm.denoiser.space_group=false"]),
    "orbits": (["vae.tokens=orbits", "vae.atom_order=file"], ["ldm.denoiser.space_group=true"]),
}


def rates(
    layout: str, folder: Path, arguments: argparse.Namespace, extra: list[str]
) -> tuple[float, float]:
    """Return crystals per second of LDM training and of sampling to crystals in main memory."""
    of_vae, of_ldm = LAYOUTS[layout]
    steps, quiet = arguments.steps, Console(quiet=True)
    words = [*FIXED, f"data.batch_size={arguments.batch}", f"trainer.log_every={steps // 20 or 1}"]
    preset = "mp/mini" if arguments.size == "mini" else "mp/atoms"
    of_vae = [*words, *of_vae, "trainer.max_steps=2", "trainer.val_match_samples=0"]
    api.vae_train("mp/mini", of_vae, output=folder / "vae", console=quiet)
    of_ldm = [*words, *of_ldm, *extra, f"ldm.vae_ckpt_path={folder / 'vae'}"]
    of_ldm.append(f"trainer.max_steps={steps}")
    api.ldm_train(preset, of_ldm, output=folder / "ldm", console=quiet)
    pipeline, times = Pipeline.from_pretrained(folder / "ldm"), []
    for seed in range(4):
        wait()
        start = time.perf_counter()
        pipeline.generate(arguments.num, seed=seed)
        wait()
        times.append(time.perf_counter() - start)
    return statistics.median(logged(folder / "ldm")), arguments.num / statistics.median(times[1:])


def main() -> None:
    """Time both, in turn, and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--size", choices=["mini", "base"], default="mini")
    parser.add_argument("--batch", type=int, default=512 if CUDA else 64)
    parser.add_argument("--steps", type=int, default=400 if CUDA else 30)
    parser.add_argument("--num", type=int, default=10_000 if CUDA else 128)
    arguments, extra = parser.parse_known_args()
    found = {}
    with tempfile.TemporaryDirectory() as name:
        for layout in LAYOUTS:
            found[layout] = rates(layout, Path(name) / layout, arguments, extra)
    device = torch.cuda.get_device_name() if CUDA else f"{torch.get_num_threads()} CPU threads"
    print(f"torch {torch.__version__}, {device}, {arguments.size}, batch {arguments.batch}", *extra)
    for place, what in enumerate(("training", "sampling")):
        atoms, orbits = found["atoms"][place], found["orbits"][place]
        print(f"{what}: atoms {atoms:,.1f}/s, orbits {orbits:,.1f}/s, {orbits / atoms:.2f} times")


if __name__ == "__main__":
    main()
