"""Distributions as PNG, one file each, for papers and slides."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from chemeleon.errors import printable
from chemeleon.evaluation.report.histograms import Histogram, histogram

_OURS, _THEIRS, _INK, _GRID = "#7ba6f0", "#33394a", "#1b2230", "#e3e7ee"
_DPI = 200


def write_figures(summary: Mapping[str, Any], folder: str | Path) -> list[Path]:
    """Write ``figures/NAME.png`` for every distribution of a report that has values.

    Args:
        summary: of a report; ``distributions`` is read.
        folder: the report's folder.

    Returns:
        The files, in the order of the distributions.
    """
    target = Path(folder) / "figures"
    paths = []
    for name, entry in (summary.get("distributions") or {}).items():
        bins = histogram(entry.get("sample") or (), entry.get("reference") or ())
        if bins is None:
            continue
        target.mkdir(parents=True, exist_ok=True)
        label, unit = str(entry.get("label") or name), str(entry.get("unit") or "")
        path = target / f"{re.sub(r'[^A-Za-z0-9_.-]+', '_', str(name)).strip('.') or 'figure'}.png"
        _draw(bins, f"{label} ({unit})" if unit else label, path)
        paths.append(path)
    return paths


def _draw(bins: Histogram, label: str, path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(4.2, 2.8), dpi=_DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    widths = np.diff(bins.edges)
    axes.bar(bins.edges[:-1], bins.sample, widths, align="edge", color=_OURS, edgecolor="white",
             linewidth=0.4, label=f"these crystals (n = {bins.counts[0]:,})")  # fmt: skip
    if bins.reference is not None:
        axes.stairs(bins.reference, bins.edges, color=_THEIRS, linewidth=1.2,
                    label=f"reference (n = {bins.counts[1]:,})")  # fmt: skip
    axes.set_xlim(bins.edges[0], bins.edges[-1])
    if bins.discrete:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel(plain_label(label), color=_INK)
    axes.set_ylabel("share (%)", color=_INK)
    axes.grid(axis="y", color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path)


def plain_label(text: str) -> str:
    """Return text of any origin as matplotlib can draw it, with no formulas in it."""
    return printable(text).replace("$", r"\$")
