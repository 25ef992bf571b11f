"""Charts by matplotlib: PNG files for papers and slides, SVG for pages.

Colours are those of the page's style sheet; in a page they follow its theme.
"""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from chemeleon.errors import printable
from chemeleon.evaluation.metrics.sections import Bars
from chemeleon.evaluation.report.page import escape, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OURS, LINE, THEIRS, CONTROL = "#7ba6f0", "#2f6fde", "#33394a", "#c7731a"
_INK, _GRID, _PAPER = "#5b6576", "#e3e7ee", "#ffffff"
_VARIABLES = {OURS: "ours-fill", LINE: "ours", THEIRS: "theirs", CONTROL: "control", _INK: "soft",
              _GRID: "line", _PAPER: "card"}  # fmt: skip
_DPI = 200
_BINS = 36
_TAIL = 0.005  # share of each set that may lie beyond either end of the axis
_MOST_DISCRETE = 60  # wider ranges of whole numbers are binned


class Histogram(NamedTuple):
    """Shares in percent of the finite values of each set; `H` bins."""

    edges: np.ndarray  # (H + 1,)
    sample: np.ndarray  # (H,)
    reference: np.ndarray | None  # (H,), None without a reference
    discrete: bool  # one bin per whole number, in the middle of its bin
    beyond: tuple[float, float]  # percent outside the axis: sample, reference
    counts: tuple[int, int]  # finite values


def histogram(sample: Sequence[float], reference: Sequence[float] = ()) -> Histogram | None:
    """Bin two sets on common edges; None where neither has a finite value.

    Whole numbers within a range of 60 get a bin each; otherwise 36 bins span all but the outermost
    half percent of each set at either end.
    """
    ours, theirs = (np.array(values, float) for values in (sample, reference))  # None is NaN
    ours, theirs = ours[np.isfinite(ours)], theirs[np.isfinite(theirs)]
    both = [values for values in (ours, theirs) if len(values)]
    if not both:
        return None
    low = min(float(values.min()) for values in both)
    high = max(float(values.max()) for values in both)
    whole = all(np.array_equal(values, np.round(values)) for values in both)
    discrete = whole and high - low <= _MOST_DISCRETE
    if discrete:
        edges = np.arange(low - 0.5, high + 1)
    else:
        low = min(float(np.quantile(values, _TAIL)) for values in both)
        high = max(float(np.quantile(values, 1 - _TAIL)) for values in both)
        pad = 0.02 * (high - low) or max(abs(low), 1.0) * 0.05
        low = 0.0 if 0 <= low < 0.15 * high else low - pad
        edges = np.linspace(low, high + pad, _BINS + 1)
    sets = (ours, theirs)
    shares = [100 * np.histogram(values, edges)[0] / max(len(values), 1) for values in sets]
    beyond = [max(0.0, 100 - float(s.sum())) if s.any() else 0.0 for s in shares]
    beside, counts = shares[1] if len(theirs) else None, (len(ours), len(theirs))
    return Histogram(edges, shares[0], beside, discrete, (beyond[0], beyond[1]), counts)


def chart(width: float = 4.2, height: float = 2.3) -> tuple[Figure, Axes]:
    """Return an empty figure of this size in inches, and its axes in the style of the reports."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(_INK)
    axes.grid(axis="y", color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8, color=_INK, labelcolor=_INK)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.label.set(color=_INK, size=9)
    axes.yaxis.label.set(color=_INK, size=9)
    return figure, axes


def svg(
    figure: Figure, label: str, tips: Sequence[tuple[float, float, str]] = (), along: str = "x"
) -> str:
    """Return a figure as an SVG element of a page.

    Args:
        figure: with one pair of axes.
        label: for screen readers.
        tips: from where to where on an axis which text is shown when that part is pointed at.
        along: this axis, ``x`` or ``y``.
    """
    from matplotlib import rc_context

    file = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "chemeleon"}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    drawn = file.getvalue()
    # styles would hold for the whole page, and names are the same in every chart
    drawn = re.sub(r"<(metadata|style)\b.*?</\1>|font-family:[^;]*;| id=\"\w+_\d+\"", "", drawn,
                   flags=re.DOTALL)  # fmt: skip
    for colour, variable in _VARIABLES.items():
        drawn = drawn.replace(colour, f"var(--{variable})")
    box = re.search(r'viewBox="[^"]*"', drawn)
    body = drawn[drawn.index("<defs>") : drawn.rindex("</svg>")]
    head = f'<svg class="chart" {box and box[0]} role="img" aria-label="{escape(label)}">'
    return f"{head}{body}{''.join(_hits(figure, tips, along))}</svg>"


def _hits(figure: Figure, tips: Sequence[tuple[float, float, str]], along: str) -> Iterator[str]:
    """Yield a rectangle over the whole width or height of the axes for each text."""
    axes, points = figure.axes[0], 72 / figure.dpi
    area = axes.get_window_extent()
    for low, high, text in tips:
        ends = axes.transData.transform(np.array([(low, low), (high, high)]))
        x, y = sorted(ends[:, 0]), sorted(ends[:, 1])
        left, right = x if along == "x" else (area.x0, area.x1)
        bottom, top = y if along == "y" else (area.y0, area.y1)
        place = (left, figure.bbox.height - top, right - left, top - bottom)
        sides = zip(("x", "y", "width", "height"), place, strict=True)
        size = " ".join(f'{side}="{points * value:.1f}"' for side, value in sides)
        yield f'<rect class="hit" {size}><title>{escape(text)}</title></rect>'


def histogram_figure(bins: Histogram, label: str, unit: str = "", legend: bool = False) -> Figure:
    """Bars for the sample, a stepped line for the reference, in percent of each set."""
    from matplotlib.ticker import MaxNLocator

    figure, axes = chart(height=2.8 if legend else 2.3)
    widths, named = np.diff(bins.edges), f"these crystals (n = {bins.counts[0]:,})"
    axes.bar(bins.edges[:-1], bins.sample, widths, align="edge", color=OURS, edgecolor=_PAPER,
             linewidth=0.4, label=named)  # fmt: skip
    if bins.reference is not None:
        axes.stairs(bins.reference, bins.edges, color=THEIRS, linewidth=1.2,
                    label=f"reference (n = {bins.counts[1]:,})")  # fmt: skip
    axes.set_xlim(bins.edges[0], bins.edges[-1])
    axes.xaxis.set_major_locator(MaxNLocator(7, integer=bins.discrete))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.set_xlabel(plain_label(f"{label} ({unit})" if unit else label))
    axes.set_ylabel("share (%)")
    if legend:
        axes.legend(frameon=False, fontsize=8)
    return figure


def histogram_chart(bins: Histogram, label: str, unit: str = "") -> str:
    """The same for a page."""
    tips = []
    for i, (low, high) in enumerate(itertools.pairwise(bins.edges)):
        span = number((low + high) / 2) if bins.discrete else f"{number(low)} to {number(high)}"
        text = f"{span} {unit}".rstrip() + f"\nours {bins.sample[i]:.1f} %"
        if bins.reference is not None:
            text += f"\nreference {bins.reference[i]:.1f} %"
        tips.append((low, high, text))
    return svg(histogram_figure(bins, label, unit), label, tips)


def paired_bars(bars: Bars) -> str:
    """Horizontal bars for categories, shares in percent: ours thick, those of others thin below."""
    figure, axes = chart(6.4, 0.2 + 0.24 * len(bars.names))
    rows = np.arange(len(bars.names))
    ours, theirs = ([by.get(x, 0.0) for x in bars.names] for by in (bars.ours, bars.theirs))
    furthest = np.maximum(ours, theirs)
    axes.barh(rows, ours, 0.45, color=OURS)
    axes.barh(rows + 0.34, theirs, 0.2, color=THEIRS, alpha=0.55)
    tips = []
    for i, name in enumerate(bars.names):
        axes.annotate(f"{ours[i]:.1f} %", (furthest[i], i), (5, 0), textcoords="offset points",
                      va="center", color=_INK, size=8)  # fmt: skip
        beside = f"\n{bars.others} {theirs[i]:.1f} %" if bars.theirs else ""
        tips.append((i - 0.4, i + 0.6, f"{name}\nours {ours[i]:.1f} %{beside}"))
    axes.set_yticks(rows, [plain_label(name) for name in bars.names])
    axes.set_ylim(len(rows) - 0.4, -0.5)
    axes.set_xlim(0, float(furthest.max(initial=1e-9)) * 1.12)
    axes.xaxis.set_visible(False)
    axes.spines["bottom"].set_visible(False)
    axes.grid(visible=False)
    return svg(figure, "shares of categories", tips, "y")


def distributions(summary: Mapping[str, Any]) -> Iterator[tuple[str, str, str, Histogram]]:
    """Yield name, label, unit and histogram of each distribution of a report that has values."""
    for name, entry in (summary.get("distributions") or {}).items():
        bins = histogram(entry.get("sample") or (), entry.get("reference") or ())
        if bins is not None:
            yield name, str(entry.get("label") or name), str(entry.get("unit") or ""), bins


def write_figures(summary: Mapping[str, Any], folder: str | Path) -> list[Path]:
    """Write ``figures/NAME.png`` into a report's folder for each of its `distributions`."""
    target = Path(folder) / "figures"
    paths = []
    for name, label, unit, bins in distributions(summary):
        target.mkdir(parents=True, exist_ok=True)
        path = target / f"{re.sub(r'[^A-Za-z0-9_.-]+', '_', name).strip('.') or 'figure'}.png"
        histogram_figure(bins, label, unit, legend=True).savefig(path)
        paths.append(path)
    return paths


def plain_label(text: str) -> str:
    """Return text of any origin as matplotlib can draw it, with no formulas in it."""
    return printable(text).replace("$", r"\$")
