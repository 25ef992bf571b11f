"""How well numbers are predicted: errors, and a parity plot.

Shapes: ``M`` crystals.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from chemeleon.evaluation.report.figures import plain_label
from chemeleon.storage import write_atomically

_PANEL_INCHES = 4.0
_POINT, _LINE = "#2f6f9f", "#6b7280"


class Scores(NamedTuple):
    """Errors of one property in its unit, coefficient of determination, and values compared."""

    mae: float
    rmse: float
    r2: float
    known: int


class Parity(NamedTuple):
    """What a panel of the plot shows: predictions and true values, ``(M,)`` each."""

    predicted: Tensor
    true: Tensor
    unit: str


def scores(predicted: Tensor, true: Tensor) -> Scores:
    """Compare predictions with true values, ``(M,)`` each; NaN among the true ones is left out.

    Without any true value the scores are NaN, and R2 also where all true values are equal.
    """
    known = torch.isfinite(true)
    found, wanted = predicted[known].double(), true[known].double()
    if not len(wanted):
        return Scores(math.nan, math.nan, math.nan, 0)
    error = found - wanted
    spread = float((wanted - wanted.mean()).square().sum())
    r2 = 1 - float(error.square().sum()) / spread if spread else math.nan
    return Scores(float(error.abs().mean()), float(error.square().mean().sqrt()), r2, len(wanted))


def parity_plot(rows: Mapping[str, Mapping[str, Parity]], path: Path) -> None:
    """Draw predicted against true values as a PNG: a row per split, a panel per property.

    Of more than a hundred properties the first are shown: a picture has at most 2^16 pixels a side.

    Args:
        rows: split to property to its numbers; every split has the same properties.
        path: file to write.
    """
    from matplotlib.figure import Figure

    rows = {split: dict(islice(panels.items(), 100)) for split, panels in rows.items()}
    columns = max(len(panels) for panels in rows.values())
    size = (_PANEL_INCHES * columns, _PANEL_INCHES * len(rows))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for line, (split, panels) in zip(axes, rows.items(), strict=True):
        for axis, (name, panel) in zip(line, panels.items(), strict=True):
            known = torch.isfinite(panel.true)
            true, predicted = panel.true[known].numpy(), panel.predicted[known].numpy()
            score = scores(panel.predicted, panel.true)
            axis.plot(true, predicted, ".", ms=3, alpha=0.4, color=_POINT, mew=0)
            if score.known:
                ends = min(true.min(), predicted.min()), max(true.max(), predicted.max())
                axis.plot(ends, ends, "-", lw=0.8, color=_LINE)
            unit = f" ({panel.unit})" if panel.unit else ""
            axis.set_xlabel(plain_label(f"true {name}{unit}"))
            axis.set_ylabel(plain_label(f"predicted{unit}"))
            title = f"{split}: MAE {score.mae:.3g}{unit}, R² {score.r2:.3f}"
            axis.set_title(plain_label(title), fontsize=10)
    write_atomically(path, lambda beside: figure.savefig(beside, format="png", dpi=150))
