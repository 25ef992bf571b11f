"""Time sampling: noise to Structure objects, and the command from start to files.

    python benchmarks/sample.py [--num 10000] [--model DIR]
        [--precision bf16] [--sampler dpm++:15:1:0.8]

Without --model, a VAE and an LDM of the published sizes are trained on mp for a few hundred
steps first, so that their crystals can be written down. Prints crystals per second, the floor (the
FLOPs of the denoiser's products at the rate of this machine's products in the same run) and the
share of it. The original Chemeleon2 code made 210/s (DDIM, 50 steps) on an H200, and 0.85/s on two
CPU cores, at MP-20 sizes.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from csp import sampler
from rich.console import Console
from train_step import CUDA, linear_weights, matrix_rate, wait

from chemeleon import api
from chemeleon.crystals.convert import to_structures
from chemeleon.generation.pipeline import Pipeline


def train(folder: Path, steps: int) -> Path:
    """Train both models for a few steps and return the LDM's folder."""
    words = ["data.name=mp", "data.download=null", "data.targets=[]"]
    words += ["trainer.tracker=none", "trainer.val_every_epochs=1000000"]
    quiet = Console(quiet=True)
    more = [*words, "trainer.val_match_samples=0", f"trainer.max_steps={2 * steps}"]
    api.vae_train("mp_20/dng", more, output=folder / "vae", console=quiet)
    more = [*words, f"ldm.vae_ckpt_path={folder / 'vae'}", f"trainer.max_steps={steps}"]
    api.ldm_train("mp_20/null", more, output=folder / "ldm", console=quiet)
    return folder / "ldm"


def main() -> None:
    """Time both and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--num", type=int, default=10_000 if CUDA else 64)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--train-steps", type=int, default=400 if CUDA else 2)
    parser.add_argument("--precision", choices=["auto", "fp32", "bf16"], default="auto")
    parser.add_argument("--sampler", type=sampler, help="SCHEDULER:STEPS:ETA:TEMPERATURE")
    parser.add_argument("--no-command", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        model = arguments.model or train(Path(name), arguments.train_steps)
        pipeline = Pipeline.from_pretrained(model)
        precision = arguments.precision
        settings = arguments.sampler or pipeline.model.config.sampler
        few = min(256 if CUDA else 4, arguments.num)
        how: Any = {"precision": precision, "sampler": settings}
        pipeline.generate(few, **how)  # warm-up
        times, streamed, atoms = [], [], 0.0
        for seed in range(3 if CUDA else 1):
            wait()
            start = time.perf_counter()
            crystals = pipeline.generate(arguments.num, seed=seed, **how)
            made = time.perf_counter()
            to_structures(crystals)
            atoms = float(crystals.num_atoms.float().mean())
            times.append((time.perf_counter() - start, made - start))
            start = time.perf_counter()
            for part in pipeline.stream(arguments.num, seed=seed, **how):
                to_structures(part.crystals)
            streamed.append(time.perf_counter() - start)
        total, generated = sorted(times)[len(times) // 2]
        blocks: Any = pipeline.model.denoiser.blocks
        weights = linear_weights(blocks) - sum(linear_weights(b.modulation) for b in blocks)
        told = pipeline.precision(precision)
        dtype = torch.bfloat16 if told == "bf16" else torch.float32
        speed = matrix_rate(int(2048 * atoms) if CUDA else 640, dtype)
        floor = settings.steps * 2 * atoms * weights / speed
        rate, beside = arguments.num / total, arguments.num / statistics.median(streamed)
        device = torch.cuda.get_device_name() if CUDA else f"{torch.get_num_threads()} threads"
        print(f"torch {torch.__version__}, {device}, {told}, {atoms:.1f} atoms, {settings}")
        print(
            f"{arguments.num} crystals in {total:.2f} s ({generated:.2f} s without Structure"
            f" objects): {rate:,.1f}/s; floor {1e3 * floor:.2f} ms per crystal, {floor * rate:.0%}"
            f" of it reached; Structures made beside sampling: {beside:,.1f}/s"
        )
        if not arguments.no_command:
            command = [sys.executable, "-m", "chemeleon", "sample", "--model", str(model)]
            command += ["--precision", precision]
            for run in ("first", "warm"):
                out = Path(name) / run
                start = time.perf_counter()
                subprocess.run([*command, "-n", str(arguments.num), "-o", str(out)], check=True)
                took = time.perf_counter() - start
                files = len(list((out / "cif").glob("*.cif")))
                print(f"chemeleon sample, {run}: {took:.1f} s, {files} CIF files")


if __name__ == "__main__":
    main()
