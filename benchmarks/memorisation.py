"""Whether more training is memorisation: novelty and nearest-training distance against steps.

    python benchmarks/memorisation.py run/at-*/ [-n 2000] \
        [--plot docs/images/memorisation.png] [--out memorisation.jsonl]

Each MODEL is the same model after another number of steps (copies of `last/` during one training).
New: no training crystal matches (`pymatgen` tolerances); unknown formula: no training crystal has
the reduced formula; unique: among those made; distance: to the nearest training crystal whatever
its elements, the largest difference of average minimum distances (Widdowson et al. 2022), angstrom,
median, in which crystals that cannot be written down count as infinitely far. The row of the
validation split says what crystals look like that were not learned by heart. --from FILE draws
what --out wrote, without sampling.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from csp import sampler

from chemeleon.config.presets import load_data
from chemeleon.crystals.batch import Crystals
from chemeleon.crystals.soundness import writable
from chemeleon.data.dataset import load_split
from chemeleon.evaluation.matching.amd import average_minimum_distances, chebyshev
from chemeleon.evaluation.matching.grouping import (
    composition_keys,
    find_groups,
    find_known,
    prepare,
    shared,
)
from chemeleon.evaluation.matching.lookup import Lookup
from chemeleon.evaluation.matching.pairs import TOLERANCES
from chemeleon.generation.pipeline import Pipeline

CHUNK = 500
PANELS = (("new", "new, %"), ("unknown_formula", "unknown formula, %"), ("distance", "distance, Å"))


class Judge:
    """Holds crystals against the training set."""

    def __init__(self, train: Crystals, jobs: int | None) -> None:
        self.known = Lookup(train, workers=jobs)
        self.formulas = set(composition_keys(train.arrays()))
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.vectors = average_minimum_distances(train, device=device)
        self.limits: dict[str, Any] = {"seconds": 2.0, "workers": jobs}

    def __call__(self, crystals: Crystals) -> dict[str, float]:
        """Return the shares of all crystals, and the median distance."""
        count = len(crystals)
        crystals = crystals.subset(writable(crystals).nonzero().flatten())
        packed = crystals.arrays()
        keys = composition_keys(packed)
        prepared = prepare(packed, shared(keys, [self.known.rows]), **self.limits)
        prepared = prepared._replace(keys=keys)
        tolerances = TOLERANCES["pymatgen"]
        known = self.known.prepared({key for key in keys if key in self.known.rows})
        new = find_known(prepared, known, tolerances, **self.limits).match < 0
        unique = find_groups(prepared, tolerances, **self.limits).unique
        vectors = average_minimum_distances(crystals)
        nearest = [torch.full((count - len(crystals),), torch.inf, dtype=vectors.dtype)]
        nearest += [
            chebyshev(part, self.vectors).nan_to_num(torch.inf).amin(1)
            for part in vectors.split(CHUNK)
        ]
        return {
            "new": float(new.sum()) / count,
            "unique": float(unique.sum()) / count,
            "unknown_formula": sum(key not in self.formulas for key in keys) / count,
            "distance": float(np.median(torch.cat(nearest).numpy())),
        }


def plot(rows: list[dict[str, Any]], control: dict[str, Any], path: Path) -> None:
    """Draw the three panels."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3), layout="constrained")
    for axis, (name, title) in zip(figure.subplots(1, 3), PANELS, strict=True):
        scale = 1 if name == "distance" else 100
        axis.plot([r["steps"] for r in rows], [scale * r[name] for r in rows], "o-", label="model")
        axis.axhline(scale * control[name], color="grey", ls="--", label="validation split")
        axis.set(xlabel="optimizer steps", ylabel=title, xlim=(0, None), ylim=(0, None))
    figure.axes[0].legend(loc="lower left")
    figure.savefig(path, dpi=120)


def main() -> None:
    """Print a line per model, and draw them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("models", nargs="*", metavar="MODEL")
    parser.add_argument("-n", "--num", type=int, default=2000)
    parser.add_argument("--data", default="mp")
    parser.add_argument("--sampler", type=sampler)
    parser.add_argument("--jobs", type=int)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--from", dest="source", type=Path)
    parser.add_argument("--plot", type=Path)
    words = parser.parse_args()
    rows: list[dict[str, Any]] = []
    if words.source:
        lines = words.source.read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
    else:
        config = load_data(words.data)
        judge = Judge(load_split(config, "train"), words.jobs)
        rows.append({"steps": None, **judge(load_split(config, "val"))})
        for model in words.models:
            pipeline = Pipeline.from_pretrained(model)
            crystals = pipeline.generate(words.num, sampler=words.sampler)
            trained = pipeline.model.origin.get("trained") or {}
            rows.append({"steps": trained.get("steps", 0), "model": model, **judge(crystals)})
    for row in rows:
        print(
            ", ".join(
                f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()
            )
        )
    if words.out:
        text = "".join(json.dumps(row) + "\n" for row in rows)
        words.out.write_text(text, encoding="utf-8")
    if words.plot:
        made = sorted((r for r in rows if r["steps"] is not None), key=lambda r: r["steps"])
        plot(made, next(r for r in rows if r["steps"] is None), words.plot)


if __name__ == "__main__":
    main()
