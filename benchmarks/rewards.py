"""Time each reward of the dng mix, alone and together, for the crystals of one update.

    python benchmarks/rewards.py [--device cuda] [--crystals 320]

Crystals are those of mp/val with 0.1 A of noise on each coordinate, other ones in each
round; the reference is mp/train; the hull is mp; the VAE has the published sizes
(on a CPU: tiny ones, unless --full-vae) and random weights. ``collapsed`` is the worst case of
creativity: five crystals, each 64 times with 0.02 A of noise, so that whole groups must be matched.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import time
from dataclasses import replace

import torch

from chemeleon.config.architecture import VAEConfig
from chemeleon.config.rl import RewardConfig
from chemeleon.config.schema import DataConfig
from chemeleon.crystals.batch import Crystals
from chemeleon.data.dataset import load_split
from chemeleon.models.vae import CrystalVAE
from chemeleon.reinforcement.rewards.mix import Mix
from chemeleon.workers import worker_count

DNG = {
    "creativity": RewardConfig(reward="creativity"),
    "energy": RewardConfig(reward="energy", normalise="minmax", options={"hull": "mp"}),
    "structure_diversity": RewardConfig(
        reward="structure_diversity", weight=0.1, normalise="minmax"
    ),
    "composition_diversity": RewardConfig(reward="composition_diversity", normalise="minmax"),
}
OTHERS = {
    "validity": RewardConfig(reward="validity"),
    "elements": RewardConfig(reward="elements", options={"forbid": ["Pb"]}),
}


def shaken(crystals: Crystals, angstrom: float, seed: int) -> Crystals:
    """Return the crystals with Gaussian noise on their positions."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(crystals.frac_coords.shape, generator=generator) * angstrom
    cells = torch.repeat_interleave(crystals.lattice, crystals.num_atoms, dim=0)
    frac = torch.linalg.solve(cells, noise.unsqueeze(-2), left=False).squeeze(-2)
    return replace(crystals, frac_coords=(crystals.frac_coords + frac) % 1)


def draw(crystals: Crystals, count: int, seed: int) -> Crystals:
    """Return some crystals, shaken."""
    order = torch.randperm(len(crystals), generator=torch.Generator().manual_seed(seed))
    return shaken(crystals.subset(order[:count]), 0.1, seed)


def median(mix: Mix, batches: list[Crystals], device: torch.device) -> tuple[float, str]:
    """Return seconds of a call, the first not counted, and how they are spent."""
    times, parts = [], []
    for crystals in batches:
        moved = crystals.to(device)
        group = torch.arange(len(crystals), device=device) // 64
        begin = time.perf_counter()
        scores = mix.score(moved, group)
        scores.total.cpu()
        times.append(time.perf_counter() - begin)
        parts.append(scores.seconds)
    names = {name: statistics.median(p[name] for p in parts[1:]) for name in parts[0]}
    words = ", ".join(f"{name} {seconds:.3f}" for name, seconds in names.items())
    return statistics.median(times[1:]), words


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--crystals", type=int, default=320)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=None, help="worker processes")
    parser.add_argument("--full-vae", action="store_true", help="published sizes on a CPU too")
    words = parser.parse_args()
    logging.disable(logging.WARNING)
    device = torch.device(words.device)
    train = load_split(DataConfig(name="mp"), "train")
    val = load_split(DataConfig(name="mp"), "val")
    config = VAEConfig()
    if device.type == "cpu" and not words.full_vae:
        config = VAEConfig(width=64, encoder_layers=2, decoder_layers=1, heads=2, feedforward=128)
    torch.manual_seed(0)
    vae = CrystalVAE(config).to(device).eval()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    jobs = words.jobs or worker_count()
    print(f"{name}, torch {torch.__version__}, {jobs} worker processes, {words.crystals} crystals")
    batches = [draw(val, words.crystals, seed) for seed in range(words.rounds + 1)]
    for label, configs in {
        **{name: {name: config} for name, config in {**DNG, **OTHERS}.items()},
        "dng mix": DNG,
    }.items():
        begin = time.perf_counter()
        mix = Mix(configs, reference=train, device=device, jobs=words.jobs, vae=vae)
        built = time.perf_counter() - begin
        seconds, parts = median(mix, batches, device)
        print(f"{label:<24}{seconds:>9.3f} s   made in {built:.2f} s   ({parts})", flush=True)
        if label == "creativity":
            five = val.subset(torch.arange(5).repeat_interleave(64))
            alike = [shaken(five, 0.02, seed) for seed in range(3)]
            seconds, _ = median(mix, alike, device)
            print(f"{'creativity, collapsed':<24}{seconds:>9.3f} s", flush=True)


if __name__ == "__main__":
    main()
