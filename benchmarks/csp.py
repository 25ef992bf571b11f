"""Crystal structure prediction of a whole split: sample every formula, match, print the rates.

    CHEMELEON_DATA=data python benchmarks/csp.py runs/csp perov_5/val -k 1
    python benchmarks/csp.py runs/csp mp/val -k 20 --sampler ddim:50:1 --sampler dpm++:25:0

Matcher `cdvae`; RMSE is the mean over the targets met, of the first sample (at 1) or of the best of
k. Choose on val; test is for the last run. Models of the package know the crystals of mp/val:
judge them on mp/test.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch

from chemeleon.config.presets import load_data
from chemeleon.config.schedulers import SamplerConfig
from chemeleon.data.dataset import load_split
from chemeleon.evaluation.matching.pairs import Pair, match_pairs
from chemeleon.evaluation.metrics.csp import rate
from chemeleon.generation.pipeline import Pipeline

BINS = ((1, 4), (5, 8), (9, 12), (13, 16), (17, 20), (21, 10_000))
PAIRS = 20_000  # held at a time


def sampler(text: str) -> SamplerConfig:
    """Read SCHEDULER:STEPS:ETA[:TEMPERATURE[:COMPOSITION_PENALTY[:REDRAW]]]."""
    scheduler, steps, eta, *more = text.split(":")
    values: dict[str, object] = {"scheduler": scheduler, "steps": int(steps), "eta": float(eta)}
    names = ("temperature", "composition_penalty", "redraw")[: len(more)]
    values |= {name: float(word) for name, word in zip(names, more, strict=True)}
    return SamplerConfig.model_validate(values)


def match(pairs: list[Pair], jobs: int | None) -> tuple[np.ndarray, int]:
    """Return the RMSE of every pair, inf where it does not match, and how many ran out of time."""
    rmse, late = [], 0
    for begin in range(0, len(pairs), PAIRS):
        found = match_pairs(pairs[begin : begin + PAIRS], "cdvae", jobs)
        rmse.append(np.where(found.matched, found.rmse, np.inf))
        late += int(found.timed_out.sum())
    return np.concatenate(rmse), late


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", help="run or model folder")
    parser.add_argument("split", help="DATASET/SPLIT")
    parser.add_argument("-k", type=int, default=1, help="samples per target")
    parser.add_argument(
        "--sampler", action="append", type=sampler, help="SCHEDULER:STEPS:ETA[:TEMPERATURE]"
    )
    parser.add_argument("--limit", type=int, help="only so many targets, evenly spread")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32", "bf16"))
    parser.add_argument("--jobs", type=int, help="matching processes; default: all cores")
    parser.add_argument("--out", type=Path, help="JSON lines to append to")
    args = parser.parse_args()

    name, _, split = args.split.partition("/")
    targets = load_split(load_data(name), split)
    if args.limit and args.limit < len(targets):
        targets = targets.subset(torch.linspace(0, len(targets) - 1, args.limit).long())
    wanted = list(targets)
    atoms = [numbers.tolist() for numbers, _, _ in wanted for _ in range(args.k)]
    pipeline = Pipeline.from_pretrained(args.model)
    size = sum(p.numel() for p in pipeline.model.parameters()) / 1e6
    print(f"{args.model}: {size:.1f} M parameters on {pipeline.device}; {len(targets)} x {args.k}")
    for settings in args.sampler or [pipeline.model.config.sampler]:
        start = time.perf_counter()
        made = pipeline.generate(
            len(atoms),
            atoms=atoms,
            seed=args.seed,
            sampler=settings,
            precision=args.precision,
        )
        sampled = time.perf_counter()
        pairs = [(sample, wanted[i // args.k]) for i, sample in enumerate(made)]
        flat, late = match(pairs, args.jobs)
        matched = time.perf_counter()
        rmse = flat.reshape(len(targets), args.k)
        first, best = rmse[:, 0], rmse.min(1)
        chance = np.isfinite(rmse).mean()
        sizes = targets.num_atoms.numpy()
        bins = {
            f"{low}-{high}": [float(np.isfinite(first[inside]).mean()), int(inside.sum())]
            for low, high in BINS
            if (inside := (sizes >= low) & (sizes <= high)).any()
        }
        row = {
            "model": args.model,
            "split": args.split,
            "k": args.k,
            "sampler": settings.model_dump(),
            "at_1": rate(first),
            "at_k": rate(best),
            "any_sample": float(chance),
            "at_1_by_atoms": bins,
            "timed_out": late,
            "sampling_s": sampled - start,
            "matching_s": matched - sampled,
        }
        print(
            f"{settings.scheduler} {settings.steps} eta {settings.eta:g}"
            f" temperature {settings.temperature:g}:"
            f" at 1 {100 * row['at_1']['value']:.2f} % RMSE {row['at_1']['rmse'] or 0:.4f},"
            f" at {args.k} {100 * row['at_k']['value']:.2f} % RMSE {row['at_k']['rmse'] or 0:.4f},"
            f" mean of all samples {100 * chance:.2f} %;"
            f" sampling {sampled - start:.1f} s, matching {matched - sampled:.1f} s, {late} late"
        )
        print("  at 1 by atoms: " + ", ".join(f"{k} {100 * v:.1f} %" for k, (v, _) in bins.items()))
        if args.out:
            with args.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
