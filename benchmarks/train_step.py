"""Time training steps of the published sizes, through the training command itself.

    python benchmarks/train_step.py [--data mp] [--batch 256]
        [--steps 400] [KEY=VALUE ...]

Prints the median rate of the VAE (51 M parameters) and of the LDM (DiT-B, 130 M, with the frozen
VAE's encoder), data and augmentation included, and the floor: the FLOPs of their matrix products on
the atoms that there are, at the rate which this machine reaches on such products in the same run.

The original Chemeleon2 code took, at batch 64 of Perov-5 on two CPU cores, 0.88 s and 2.06 s per
step; at batch 256 of MP-20 on an H200 it did 3,850 and 2,540 crystals/s.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console

from chemeleon import api
from chemeleon.config.architecture import VAEConfig
from chemeleon.models import products
from chemeleon.models.denoiser import LatentDiffusion
from chemeleon.models.vae import CrystalVAE
from chemeleon.training.tracking import read_metrics

CUDA = torch.cuda.is_available()


def seconds(work: object, repeats: int = 20) -> float:
    """Return the median time of a call."""
    times = []
    for _ in range(repeats):
        wait()
        start = time.perf_counter()
        work()  # pyright: ignore
        wait()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def wait() -> None:
    """Wait for the GPU, if there is one."""
    if CUDA:
        torch.cuda.synchronize()


def matrix_rate(tokens: int, dtype: torch.dtype | None = None) -> float:
    """Return FLOP/s of the products that dominate a step: forward, input and weight gradients.

    Args:
        tokens: rows of the activations.
        dtype: by default bf16 on a GPU and float32 on a CPU.
    """
    device = "cuda" if CUDA else "cpu"
    dtype = dtype or (torch.bfloat16 if CUDA else torch.float32)
    work = taken = 0.0
    for width, hidden in ((512, 2048), (768, 3072)):
        x, w, y = (
            torch.randn(*shape, device=device, dtype=dtype)
            for shape in ((tokens, width), (hidden, width), (tokens, hidden))
        )
        multiply = products.multiply if products.by_onednn(x) else F.linear
        for a, b in ((x, w), (y, w.T), (y.T, x.T)):
            # ten at once: the wait for the device is not the product's
            many = lambda a=a, b=b, by=multiply: [by(a, b) for _ in range(10)]  # noqa: E731
            taken += seconds(many) / 10
            work += 2 * tokens * width * hidden
    return work / taken


def linear_weights(module: torch.nn.Module) -> int:
    """Count the weights that every token is multiplied with."""
    return sum(m.weight.numel() for m in module.modules() if isinstance(m, torch.nn.Linear))


def logged(folder: Path, skip: float = 0.3) -> list[float]:
    """Return the rates that a run logged, in crystals per second, without the first ones."""
    lines = read_metrics(folder)
    rates = [line["crystals_per_s"] for line in lines if "crystals_per_s" in line]
    return rates[int(skip * len(rates)) :]


def main() -> None:
    """Run both stages and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", default="mp" if CUDA else "perov_5")
    parser.add_argument("--batch", type=int, default=256 if CUDA else 64)
    parser.add_argument("--steps", type=int, default=400 if CUDA else 12)
    parser.add_argument("--only", choices=["vae", "ldm"])
    arguments, extra = parser.parse_known_args()
    steps = arguments.steps
    words = [f"data.name={arguments.data}", "data.download=null", "data.targets=[]"]
    words += [f"data.batch_size={arguments.batch}", f"trainer.max_steps={steps}"]
    words += ["trainer.tracker=none", f"trainer.log_every={max(1, steps // 20)}"]
    words += ["trainer.val_every_epochs=1000000", *extra]
    quiet = Console(quiet=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        vae = CrystalVAE(VAEConfig())
        vae.save_pretrained(folder / "start")
        path = f"ldm.vae_ckpt_path={folder / 'start'}"
        runs = {
            "vae": lambda out: api.vae_train(
                "mp_20/dng", [*words, "trainer.val_match_samples=0"], output=out, console=quiet
            ),
            "ldm": lambda out: api.ldm_train(
                "mp_20/null", [*words, path], output=out, console=quiet
            ),
        }
        rates = {}
        for stage, run in runs.items():
            if arguments.only in (None, stage):
                run(folder / stage)
                rates[stage] = statistics.median(logged(folder / stage))
        atoms = _mean_atoms(arguments.data)
        work = {"vae": 6 * atoms * linear_weights(vae)}
        if "ldm" in rates:
            model = LatentDiffusion.from_pretrained(folder / "ldm")
            layers: Any = model.denoiser.blocks
            modulations = sum(linear_weights(b.modulation) for b in layers)
            blocks = linear_weights(layers) - modulations
            work["ldm"] = 6 * (atoms * blocks + modulations) + 2 * atoms * linear_weights(
                vae.encoder
            )
    rounded = torch.bfloat16 if "trainer.precision=bf16" in extra else None
    rate = matrix_rate(round(arguments.batch * atoms), rounded)
    device = torch.cuda.get_device_name() if CUDA else f"{torch.get_num_threads()} CPU threads"
    print(f"torch {torch.__version__}, {device}, matrix rate {rate / 1e12:.3g} TFLOP/s")
    print(f"{arguments.data}, batch {arguments.batch}, {atoms:.1f} atoms, {' '.join(extra)}")
    for stage, value in rates.items():
        floor = work[stage] / rate
        print(
            f"{stage} {value:,.0f} crystals/s, step {1e3 * arguments.batch / value:.1f} ms; floor"
            f" {1e3 * arguments.batch * floor:.2f} ms, {floor * value:.0%} of it reached"
        )


def _mean_atoms(name: str) -> float:
    from chemeleon.config.presets import load_data
    from chemeleon.data.dataset import load_split

    return float(load_split(load_data(name), "train").num_atoms.float().mean())


if __name__ == "__main__":
    main()
