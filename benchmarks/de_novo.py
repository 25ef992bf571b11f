"""Judge unconditional models by samplers: one line for each, by the code of `chemeleon evaluate`.

    python benchmarks/de_novo.py runs/a runs/b --hull mp
        [-n 1000] [--sampler ddim:50:1:1 --sampler dpm++:20:0:1] [--relax 50] [--split val]

A sampler is SCHEDULER:STEPS:ETA:TEMPERATURE:COMPOSITION_PENALTY. Shares are of the crystals asked
for; distances are to the split; novelty is against the train split; elements and chemical systems
are counted over all crystals. Choose on val; test is for the last run. With --out
each line is also appended to a file of JSON lines.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from csp import sampler

from chemeleon.crystals.convert import to_structures
from chemeleon.crystals.soundness import writable
from chemeleon.evaluation.evaluate import Settings, evaluate
from chemeleon.generation.pipeline import Pipeline

SHARES = {
    "valid_structure": "structure",
    "valid_composition": "SMACT",
    "unique": "unique",
    "novel": "novel",
    "stable": "stable",
    "metastable": "<= 0.1",
    "msun": "MSUN",
    "relaxed_msun": "MSUN relaxed",
}


def judge(
    model: str, pipeline: Pipeline, settings: Any, words: argparse.Namespace
) -> dict[str, Any]:
    """Sample and evaluate; return the figures of one line."""
    start = time.perf_counter()
    crystals = pipeline.generate(words.num, seed=words.seed, sampler=settings)
    sampled = time.perf_counter()
    whole = writable(crystals)
    made = iter(to_structures(crystals.subset(torch.from_numpy(np.flatnonzero(whole)))))
    structures = [next(made) if good else None for good in whole]
    energies: dict[str, Any] = {}
    if words.hull is not None:
        energies = {"potential": words.potential, "hull": str(words.hull)}
        energies |= {"relax_steps": words.relax}
    report = evaluate(
        structures,
        Settings(
            references=[words.data],
            control=f"{words.data}/{words.split}",
            control_energies=0,
            jobs=words.jobs,
            **energies,
        ),
        manifest={"model": model, "sampler": settings.model_dump(), "seed": words.seed},
    )
    found = {entry["name"]: entry["value"] for entry in report.summary["headline"]}
    row: dict[str, Any] = {"model": model, "sampler": settings.model_dump(), "num": words.num}
    row |= {name: found.get(name) for name in SHARES}
    row["novel"] = next((v for n, v in found.items() if n.startswith("novel_")), None)
    row["density"] = found["wasserstein_density"]
    row["elements"] = found["wasserstein_elements"]
    for name in ("e_above_hull_ev", "relaxed_e_above_hull_ev", "relax_rmsd_a"):
        if name in report.crystals:
            values = report.crystals[name].to_numpy(dtype=float)
            # what has no value is worse than what has
            row[name] = float(np.median(np.nan_to_num(values, nan=np.inf)))
    systems = [s.chemical_system_set for s in structures if s is not None]
    row["distinct_systems"] = len(set(map(frozenset, systems)))
    row["distinct_elements"] = len(set().union(*systems))
    groups = report.crystals["space_group"].to_numpy(dtype=float, na_value=np.nan)
    row["p1"] = float(np.mean(groups == 1))
    row |= {"sampling_s": sampled - start, "judging_s": time.perf_counter() - sampled}
    return row


def show(row: dict[str, Any]) -> None:
    """Print a line."""
    s = row["sampler"]
    words = [f"{row['model']} {s['scheduler']}:{s['steps']}:{s['eta']:g}:{s['temperature']:g}"]
    words[0] += f":{s['composition_penalty']:g}:{s['redraw']}"
    words += [f"{label} {100 * row[n]:.1f}" for n, label in SHARES.items() if row[n] is not None]
    words += [f"density {row['density']:.3f}", f"elements {row['elements']:.3f}"]
    for name, label in (
        ("e_above_hull_ev", "E_hull"),
        ("relaxed_e_above_hull_ev", "relaxed"),
        ("relax_rmsd_a", "RMSD"),
    ):
        words += [f"{label} {row[name]:.3f}"] if name in row else []
    words += [f"{row['distinct_elements']} elements, {row['distinct_systems']} systems"]
    words += [f"P1 {100 * row['p1']:.0f}"]
    words += [f"({row['sampling_s']:.1f} + {row['judging_s']:.1f} s)"]
    print(", ".join(words), flush=True)


def main() -> None:
    """Judge every model with every sampler."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("-n", "--num", type=int, default=1000)
    parser.add_argument("--sampler", action="append", type=sampler)
    parser.add_argument("--data", default="mp")
    known = "models of the package know the crystals of mp/val: judge them on test"
    parser.add_argument("--split", default="val", choices=("val", "test"), help=known)
    parser.add_argument("--hull", type=Path, help="of `chemeleon data hull`; no energies without")
    parser.add_argument("--potential", default="chgnet")
    parser.add_argument("--relax", type=int, default=0, help="steps of relaxation")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int)
    parser.add_argument("--out", type=Path, help="JSON lines to append to")
    words = parser.parse_args()
    for model in words.models:
        pipeline = Pipeline.from_pretrained(model)
        for settings in words.sampler or [pipeline.model.config.sampler]:
            row = judge(model, pipeline, settings, words)
            show(row)
            if words.out:
                with words.out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
