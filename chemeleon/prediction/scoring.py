"""How good a trained predictor is: scores and a parity plot in its run folder."""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
from rich.console import Console

from chemeleon.config.schema import DataConfig, PredictTrainConfig
from chemeleon.data.dataset import SPLITS, load_split
from chemeleon.errors import DataError
from chemeleon.models.predictor import Predictor
from chemeleon.prediction.regression import Parity, parity_plot, scores
from chemeleon.storage import write_text

SCORES, PLOT = "scores.json", "parity.png"


def with_targets(config: PredictTrainConfig) -> DataConfig:
    """Return the settings of the data, whose columns are the targets."""
    return config.data.model_copy(update={"targets": config.predict.targets})


def score(config: PredictTrainConfig, folder: Path, device: torch.device, console: Console) -> None:
    """Measure the best model of a run on validation and test split.

    Writes ``scores.json`` (split, property: MAE, RMSE, R2, count, unit) and ``parity.png``. A split
    that the data set does not have is left out, and the console says so.
    """
    model = Predictor.from_pretrained(folder).to(device)
    units = model.config.units
    rows: dict[str, dict[str, Parity]] = {}
    for split in SPLITS[1:]:
        try:
            crystals = load_split(with_targets(config), split, partial=True)
        except DataError as error:
            console.print(f"no scores on {split}: {str(error).splitlines()[0]}")
            continue
        found = model.predict_all(crystals)
        rows[split] = {
            name: Parity(values, crystals.targets[name], units.get(name, ""))
            for name, values in found.items()
        }
    table: dict[str, dict[str, dict[str, float | str | None]]] = {}
    for split, panels in rows.items():
        for name, (predicted, true, unit) in panels.items():
            mae, rmse, r2, count = scores(predicted, true)
            console.print(
                f"{split} {name}: MAE {mae:.4g} {unit}, RMSE {rmse:.4g}, R2 {r2:.4f} ({count})"
            )
            # JSON has no NaN; R2 is one where all true values are equal
            numbers = {"mae": mae, "rmse": rmse, "r2": r2}
            finite = {key: x if math.isfinite(x) else None for key, x in numbers.items()}
            table.setdefault(split, {})[name] = {**finite, "count": count, "unit": unit}
    write_text(folder / SCORES, json.dumps(table, indent=2) + "\n")
    parity_plot(rows, folder / PLOT)
