"""Predictors beside a baseline that sees the formula alone, on the same split.

    python benchmarks/predictor.py [RUN ...] [--split val]

Baseline: scikit-learn's random forest on the fractions of the elements; it needs
`pip install scikit-learn`. RUN is the folder of a predictor; those of its targets that the data set
has are measured. Prints MAE, RMSE and R2 of every target.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from pathlib import Path

import torch

from chemeleon.config.presets import load_data
from chemeleon.crystals.batch import Crystals
from chemeleon.data.dataset import load_split
from chemeleon.models.conditions import element_counts
from chemeleon.models.predictor import Predictor
from chemeleon.prediction.regression import Scores, scores

TARGETS = ("formation_energy_per_atom", "band_gap")
TREES = 300


def element_fractions(crystals: Crystals) -> torch.Tensor:
    """Return the fraction of every element, ``(M, 100)``."""
    counts = torch.cat(
        [element_counts(crystals.batch(part)) for part in torch.arange(len(crystals)).split(1024)]
    )
    return counts / counts.sum(-1, keepdim=True)


def forest(train: Crystals, test: Crystals, target: str) -> Scores:
    """Fit the baseline on one split and score it on another."""
    from sklearn.ensemble import RandomForestRegressor  # pyright: ignore[reportMissingImports]

    model = RandomForestRegressor(TREES, random_state=0, n_jobs=-1)
    model.fit(element_fractions(train).numpy(), train.targets[target].numpy())
    found = model.predict(element_fractions(test).numpy())
    return scores(torch.from_numpy(found), test.targets[target])


def main() -> None:
    """Run the baseline and the given predictors, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN")
    parser.add_argument("--data", default="mp")
    parser.add_argument("--split", default="test", choices=("val", "test"))
    parser.add_argument("--targets", nargs="+", default=TARGETS)
    words = parser.parse_args()
    config = load_data(words.data)
    config = config.model_copy(update={"targets": list(words.targets)})
    train, test = load_split(config, "train"), load_split(config, words.split)
    print(f"{words.data}: {len(train)} training crystals, {len(test)} of {words.split}")
    print(f"{'model':32} {'target':28} {'MAE':>8} {'RMSE':>8} {'R2':>8}")

    def show(model: str, target: str, found: Scores, seconds: float) -> None:
        unit = config.units.get(target, "")
        print(
            f"{model[-32:]:32} {target:28} {found.mae:8.4f} {found.rmse:8.4f} {found.r2:8.4f}"
            f"  {unit}, {seconds:.0f} s",
            flush=True,
        )

    if importlib.util.find_spec("sklearn") is None:
        print("no baseline: pip install scikit-learn")
    else:
        for target in words.targets:
            start = time.perf_counter()
            found = forest(train, test, target)
            show("forest on element fractions", target, found, time.perf_counter() - start)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for run in words.runs:
        model = Predictor.from_pretrained(run).to(device)
        start = time.perf_counter()
        values = model.predict_all(test)
        taken = time.perf_counter() - start
        for target in set(values) & set(words.targets):
            show(str(run), target, scores(values[target], test.targets[target]), taken)


if __name__ == "__main__":
    main()
