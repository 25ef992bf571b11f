"""Charts as SVG text. Colours come from the page's style sheet, so they follow its theme.

Elements with ``data-tip`` show that text when pointed at (base.js).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from chemeleon.evaluation.report.histograms import Histogram
from chemeleon.evaluation.report.page import escape

WIDTH, HEIGHT = 400, 216
_LEFT, _RIGHT, _TOP, _BOTTOM = 40, 10, 12, 40


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Return round numbers from low to high, about that many."""
    if not high > low:
        return [low]
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(i * step, 12) + 0.0 for i in range(first, last + 1)]


def number(value: float | None, digits: int = 3) -> str:
    """Return a number in about that many significant digits, with a true minus; '–' for none."""
    if value is None or not math.isfinite(value):
        return "–"
    if value == int(value) and abs(value) < 1e6:
        return f"{int(value):,}".replace("-", "−")
    if 10**digits <= abs(value) < 1e6:
        return f"{value:,.0f}".replace("-", "−")
    return f"{value:.{digits}g}".replace("-", "−")


class Frame:
    """Axes of one chart: scales from data to the drawing, and the axes as SVG."""

    def __init__(self, x_range: tuple[float, float], y_range: tuple[float, float]) -> None:
        self._x, self._y = x_range, y_range

    def x(self, value: float) -> float:
        """Horizontal place of a value."""
        low, high = self._x
        return round(_LEFT + (value - low) / (high - low) * (WIDTH - _LEFT - _RIGHT), 2)

    def y(self, value: float) -> float:
        """Vertical place of a value."""
        low, high = self._y
        return round(HEIGHT - _BOTTOM - (value - low) / (high - low) * self.height, 2)

    @property
    def height(self) -> float:
        """Height of the plotted area."""
        return HEIGHT - _BOTTOM - _TOP

    def axes(self, x_ticks: Sequence[float], y_ticks: Sequence[float], x_label: str, y_unit: str
             ) -> str:  # fmt: skip
        """Grid, ticks and labels."""
        base = HEIGHT - _BOTTOM
        parts = []
        for i, value in enumerate(y_ticks):
            at, unit = self.y(value), y_unit if i == len(y_ticks) - 1 else ""
            parts.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{at}" '
                         f'y2="{at}"/><text class="tick" x="{_LEFT - 6}" y="{at + 3.5}" '
                         f'text-anchor="end">{number(value)}{escape(unit)}</text>')  # fmt: skip
        for value in x_ticks:
            at = self.x(value)
            parts.append(f'<text class="tick" x="{at}" y="{base + 15}" text-anchor="middle">'
                         f"{number(value, 4)}</text>")  # fmt: skip
        parts.append(f'<line class="axis" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{base}" '
                     f'y2="{base}"/>')  # fmt: skip
        middle = (_LEFT + WIDTH - _RIGHT) / 2
        parts.append(f'<text class="label" x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">'
                     f"{escape(x_label)}</text>")  # fmt: skip
        return "".join(parts)


def svg(body: str, label: str, width: int = WIDTH, height: int = HEIGHT) -> str:
    """Wrap SVG elements into a drawing that scales with its place; label is for screen readers."""
    return (
        f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(label)}">{body}</svg>'
    )


def histogram_chart(bins: Histogram, label: str, unit: str = "") -> str:
    """Bars for the sample, a stepped line for the reference, in percent of each set."""
    tallest = max(float(bins.sample.max()), 0.0 if bins.reference is None else
                  float(bins.reference.max()), 1e-9)  # fmt: skip
    edges = bins.edges
    frame = Frame((float(edges[0]), float(edges[-1])), (0.0, tallest * 1.06))
    parts = []
    gap = 0.8 if bins.discrete else 0.4
    for left, right, share in zip(edges[:-1], edges[1:], bins.sample, strict=True):
        if share > 0:
            top, x = frame.y(share), frame.x(left)
            width = max(frame.x(right) - x - gap, 0.5)
            parts.append(f'<rect class="ours" x="{x + gap / 2:.2f}" y="{top}" '
                         f'width="{width:.2f}" height="{frame.y(0) - top:.2f}"/>')  # fmt: skip
    if bins.reference is not None:
        steps = zip(edges[1:], bins.reference, strict=True)
        path = f"M{frame.x(edges[0])} {frame.y(0)}" + "".join(
            f"V{frame.y(share)}H{frame.x(right)}" for right, share in steps
        )
        parts.append(f'<path class="theirs" d="{path}V{frame.y(0)}"/>')
    suffix = f" {unit}" if unit else ""
    for i, (left, right) in enumerate(itertools.pairwise(edges)):
        whole = bins.discrete
        span = number((left + right) / 2) if whole else f"{number(left)} to {number(right)}"
        tip = f"{span}{suffix}\nours {bins.sample[i]:.1f} %"
        if bins.reference is not None:
            tip += f"\nreference {bins.reference[i]:.1f} %"
        parts.append(f'<rect class="hit" x="{frame.x(left)}" y="{_TOP}" '
                     f'width="{frame.x(right) - frame.x(left):.2f}" height="{frame.height}" '
                     f'data-tip="{escape(tip)}"/>')  # fmt: skip
    named = f"{label} ({unit})" if unit else label
    x_ticks = ticks(float(edges[0]), float(edges[-1]), 6)
    if bins.discrete:
        x_ticks = [value for value in x_ticks if value == int(value)]
    axes = frame.axes(x_ticks, ticks(0, tallest, 4), named, " %")
    return svg(axes + "".join(parts), named)


def paired_bars(
    labels: Sequence[str], sample: Sequence[float], reference: Sequence[float] | None
) -> str:
    """Horizontal bars for categories, shares in percent: ours thick, the reference thin below."""
    left, row, width = 110, 23, 620
    shares = [*sample, *(reference or ())]
    longest = max([*shares, 1e-9])
    scale = (width - left - 52) / longest
    parts = []
    for i, label in enumerate(labels):
        y = 4 + i * row
        tip = f"{label}\nours {sample[i]:.1f} %"
        parts.append(f'<text class="tick" x="{left - 8}" y="{y + 12}" text-anchor="end">'
                     f"{escape(label)}</text>")  # fmt: skip
        parts.append(f'<rect class="ours" x="{left}" y="{y + 1}" height="10" '
                     f'width="{max(sample[i] * scale, 0.6):.1f}"/>')  # fmt: skip
        reach = sample[i]
        if reference is not None:
            tip += f"\nreference {reference[i]:.1f} %"
            reach = max(reach, reference[i])
            parts.append(f'<rect class="beside" x="{left}" y="{y + 12}" height="4" '
                         f'width="{max(reference[i] * scale, 0.6):.1f}"/>')  # fmt: skip
        parts.append(f'<text class="tick" x="{left + reach * scale + 6:.1f}" y="{y + 12}">'
                     f"{sample[i]:.1f} %</text>")  # fmt: skip
        parts.append(f'<rect class="hit" x="0" y="{y}" width="{width}" height="{row}" '
                     f'data-tip="{escape(tip)}"/>')  # fmt: skip
    drawn = svg("".join(parts), "shares of categories", width, 8 + len(labels) * row)
    return f'<div class="bars">{drawn}</div>'


def interval_bar(
    value: float, low: float | None, high: float | None, control: float | None = None
) -> str:
    """A share in 0 to 1 with its interval and the control's mark, on a scale from 0 to 1."""
    width, height = 220, 22

    def x(share: float) -> float:
        return round(4 + float(np.clip(share, 0, 1)) * (width - 8), 2)

    parts = [f'<line class="track" x1="{x(0)}" x2="{x(1)}" y1="11" y2="11"/>',
             f'<line class="fill" x1="{x(0)}" x2="{x(value)}" y1="11" y2="11"/>']  # fmt: skip
    if low is not None and high is not None:
        parts.append(f'<line class="whisker" x1="{x(low)}" x2="{x(high)}" y1="11" y2="11"/>')
    if control is not None:
        parts.append(f'<line class="control" x1="{x(control)}" x2="{x(control)}" y1="3" y2="19"/>')
    parts.append(f'<circle class="dot" cx="{x(value)}" cy="11" r="4.5"/>')
    return svg("".join(parts), f"{100 * value:.1f} percent", width, height)
