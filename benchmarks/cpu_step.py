"""Time a training step of the published sizes on the CPU, through the training command itself.

    CHEMELEON_DATA=../shared/data python benchmarks/cpu_step.py [--steps 12]

Batch 64 of Perov-5 (5 atoms). Prints the median step time of the VAE (51 M parameters) and of the
LDM (DiT-B, 130 M, with the frozen VAE's encoder), the floor of its matrix products at the rate that
this machine reaches on such products in the same run, and the share of it. The original Chemeleon2
code was measured at 0.88 s and 2.06 s per step on a 2-core machine of this kind.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch
from rich.console import Console

from chemeleon import api
from chemeleon.models.denoiser import LatentDiffusion
from chemeleon.models.vae import CrystalVAE

BATCH, ATOMS = 64, 5
TOKENS = BATCH * ATOMS


def matrix_rate() -> float:
    """Return FLOP/s of the products that dominate a step: forward, input and weight gradients."""
    work = seconds = 0.0
    for width, hidden in ((512, 2048), (768, 3072)):
        x, w = torch.randn(TOKENS, width), torch.randn(hidden, width)
        y = torch.randn(TOKENS, hidden)
        for product in (lambda x=x, w=w: x @ w.T, lambda y=y, w=w: y @ w, lambda x=x, y=y: y.T @ x):
            product()
            times = []
            for _ in range(20):
                start = time.perf_counter()
                product()
                times.append(time.perf_counter() - start)
            work += 2 * TOKENS * width * hidden
            seconds += statistics.median(times)
    return work / seconds


def linear_weights(module: torch.nn.Module) -> int:
    """Count the weights that every token is multiplied with."""
    return sum(m.weight.numel() for m in module.modules() if isinstance(m, torch.nn.Linear))


def median_step(folder: Path, skip: int = 2) -> float:
    """Return the median seconds per step that a run logged."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    rates = [line["crystals_per_s"] for line in lines if "crystals_per_s" in line]
    return statistics.median(BATCH / rate for rate in rates[skip:])


def main() -> None:
    """Run both stages and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=12)
    steps = parser.parse_args().steps
    words = ["data.name=perov_5", "data.download=null", f"data.batch_size={BATCH}"]
    words += ["trainer.tracker=none", "trainer.log_every=1", f"trainer.max_steps={steps}"]
    quiet = Console(quiet=True)
    with tempfile.TemporaryDirectory() as folder:
        vae, ldm = Path(folder) / "vae", Path(folder) / "ldm"
        api.vae_train(
            "mp_20/dng", [*words, "trainer.val_match_samples=0"], output=vae, console=quiet
        )
        path = f"ldm.vae_ckpt_path={vae}"
        api.ldm_train("mp_20/null", [*words, path], output=ldm, console=quiet)
        rate = matrix_rate()
        model = LatentDiffusion.from_pretrained(ldm)
        per_crystal = [b.modulation for b in model.denoiser.blocks]
        modulations = sum(linear_weights(m) for m in per_crystal)
        encoder = linear_weights(CrystalVAE.from_pretrained(vae).encoder)
        blocks = linear_weights(model.denoiser.blocks) - modulations
        work = {
            "VAE": 6 * TOKENS * linear_weights(model.vae),
            "LDM": 6 * (TOKENS * blocks + BATCH * modulations) + 2 * TOKENS * encoder,
        }
        taken = {"VAE": median_step(vae), "LDM": median_step(ldm)}
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads,", end=" ")
    print(f"matrix rate {rate / 1e9:.0f} GFLOP/s")
    for name, original in (("VAE", 0.88), ("LDM", 2.06)):
        floor = work[name] / rate
        print(
            f"{name} step {taken[name]:.3f} s; floor {floor:.3f} s ({floor / taken[name]:.0%} of"
            f" it reached); original {original} s = {original / taken[name]:.2f} x ours"
        )


if __name__ == "__main__":
    main()
