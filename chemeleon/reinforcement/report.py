"""``report.html`` of a run of reinforcement learning: warnings, curves, crystals, settings.

One file that opens without a network, made from metrics.jsonl and the pictures in the run folder.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from chemeleon.config.requests import whole_number
from chemeleon.config.schema import RLTrainConfig
from chemeleon.evaluation.metrics.statistics import evenly
from chemeleon.evaluation.report.figures import CONTROL, LINE, OURS, chart, svg
from chemeleon.evaluation.report.page import (
    Section,
    card,
    cards,
    definition_list,
    escape,
    number,
    page,
    table,
)
from chemeleon.reinforcement.cautions import cautions
from chemeleon.reinforcement.notes import PICTURES
from chemeleon.reinforcement.rewards.base import HIT
from chemeleon.storage import write_text
from chemeleon.training.tracking import read_metrics

REPORT = "report.html"
MOST_PICTURES = 5  # pairs; one has a megabyte
_MARKED = 60  # of more updates than these a line shows the points well enough
SHARES = ("valid", "unique", "novel", "stable", "metastable", "msun")
MADE = {
    **{f"fact/{name}": f"{name}, share of crystals" for name in SHARES},
    "fact/e_hull": "mean energy above hull, eV/atom",
    "fact/p1": "space group P1, share of crystals",
    "rollout/distinct_formulas": "distinct formulas, share of crystals",
    "rollout/distinct_elements": "distinct elements",
    "rollout/element_drift": "element drift from the first rollout",
    "rollout/num_elements_distance": "number of elements, distance from the first rollout",
}
POLICY = {
    "train/ratio": "mean probability ratio",
    "train/ratio_off_by_most": "largest |ratio - 1|",
    "train/clipped": "share of clipped steps",
    "train/kl": "KL from the rollout's policy",
    "train/reference_kl": "KL to the model before tuning",
    "train/entropy": "entropy, nats per channel",
    "train/mse": "error of the noise",
    "train/grad_norm": "gradient norm",
}
Point = tuple[float, float]


def write_report(
    config: RLTrainConfig, folder: Path, *, compositions_given: bool = False
) -> tuple[Path, list[str]]:
    """Write the report of a run folder; return its path, and what it warns of, see `cautions`."""
    rows = read_metrics(folder)
    updates = [row for row in rows if "formulas" in row]
    sections = [
        Section("Rewards", _rewards(config, rows), "Means over each update's crystals;"
                " the band is one standard deviation. Dots: validation, always from the same"
                " noise."),
        Section("What is made", _charts(rows, {**_hits(rows), **MADE}), "Dots: validation."),
        Section("What the judges say", _charts(rows, _judged(config)), "Of validation crystals;"
                " nothing is learned from it."),
        Section("Policy", _charts(updates, POLICY)),
        Section("Most frequent formulas", _formulas(updates)),
        Section("Best and random crystals", _pictures(folder), "Best: highest weighted reward of"
                " an update, one of each formula. Random: any crystals of the same update, which"
                " is what sampling gives. Behind each formula stands its reward."),
        Section("Settings", card("", definition_list(config.model_dump(mode="json")))),
    ]  # fmt: skip
    title = f"Reinforcement learning: {folder.name}"
    target = folder / REPORT
    found = cautions(updates, compositions_given=compositions_given)
    write_text(target, page(title, _facts(config, updates), sections, warnings=found))
    return target, found


def _facts(config: RLTrainConfig, updates: Sequence[Mapping[str, Any]]) -> list[str]:
    parts = [f"<b>{len(updates):,}</b> updates", f"algorithm <b>{escape(config.rl.algorithm)}</b>"]
    for name in ("rollout", "rewards", "learning"):
        times = [row[f"seconds/{name}"] for row in updates if row.get(f"seconds/{name}")]
        if times:
            middle = sorted(times)[len(times) // 2]
            parts.append(f"{name} <b>{number(middle)}</b> s per update")
    return parts


def _points(rows: Sequence[Mapping[str, Any]], key: str) -> list[Point]:
    return [(float(row["epoch"]), float(row[key])) for row in rows if row.get(key) is not None]


def _rewards(config: RLTrainConfig, rows: Sequence[Mapping[str, Any]]) -> str:
    charts = []
    for name in ("reward", *config.rl.rewards):
        line = _points(rows, f"rollout/{name}")
        spread = dict(_points(rows, f"rollout/{name}_std"))
        label = "weighted sum" if name == "reward" else name
        charts.append(curve(label, line, spread, _points(rows, f"val/{name}")))
    return cards("grid", charts)


def _charts(rows: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> str:
    charts = [
        curve(label, _points(rows, key), dots=_points(rows, f"val/{key}"))
        for key, label in names.items()
    ]
    return cards("grid", charts)


def _hits(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the shares of crystals that have what `goal: range` of a predictor asks for."""
    names = sorted({key for row in rows for key in row if key.startswith(f"fact/{HIT}")})
    words = {"": "within the range", "metastable_": "within the range, E above hull ≤ 0.1"}
    return {
        f"fact/{kind}{name}": f"{name.removeprefix(HIT).replace('_', ' ')} {word}, share"
        for name in (key.removeprefix("fact/") for key in names)
        for kind, word in words.items()
    }


def _judged(config: RLTrainConfig) -> dict[str, str]:
    found = {f"val/{name}": name for name in config.rl.judges}
    shares = SHARES if config.rl.judges else ()
    return found | {f"val/judge/{name}": f"{name}, share of crystals" for name in shares}


def curve(
    label: str,
    line: Sequence[Point],
    spread: Mapping[float, float] | None = None,
    dots: Sequence[Point] = (),
) -> str:
    """Return a card with a number over updates and its last value; nothing without a value.

    Args:
        label: what it is.
        line: (update, value) in order.
        spread: half width of the band around the line, by update.
        dots: further points.
    """
    if not line:
        return ""
    from matplotlib.ticker import MaxNLocator

    figure, axes = chart()
    updates, values = np.array(line).T
    half = np.array([(spread or {}).get(update, 0.0) for update in updates])
    if len(line) == 1:  # a band has no width
        axes.errorbar(updates, values, half, color=LINE, elinewidth=1)
    elif spread:
        axes.fill_between(updates, values - half, values + half, color=OURS, alpha=0.22)
    axes.plot(updates, values, "-o", color=LINE, lw=1.6, ms=3 if len(line) < _MARKED else 0)
    if dots:
        axes.plot(*np.array(dots).T, "o", color=CONTROL, ms=4)
    axes.set_xlim(0, max([1.0, *updates, *(x for x, _ in dots)]) * 1.03)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.set_xlabel("update")
    edges = [0.0, *(updates[1:] + updates[:-1]) / 2, axes.get_xlim()[1]]
    texts = [f"update {number(update)}\n{number(value)}" for update, value in line]
    drawn = svg(figure, label, list(zip(edges[:-1], edges[1:], texts, strict=True)))
    return card(f"{label}: {texts[-1].splitlines()[-1]}", drawn)


def _formulas(updates: Sequence[Mapping[str, Any]]) -> str:
    if not updates:
        return ""
    chosen = {0: "first update", len(updates) // 2: "in the middle", len(updates) - 1: "last"}
    columns = [list(updates[i]["formulas"].items()) for i in sorted(chosen)]
    rows = [
        [f"{escape(c[i][0])} ({c[i][1]})" if i < len(c) else "" for c in columns]
        for i in range(max(map(len, columns)))
    ]
    return table([chosen[i] for i in sorted(chosen)], rows)


def _pictures(folder: Path) -> str:
    numbers = {p: whole_number(p.stem[7:]) for p in (folder / PICTURES).glob("update-*.png")}
    files = sorted(path for path, update in numbers.items() if update is not None)
    parts = []
    for path in (files[i] for i in evenly(len(files), MOST_PICTURES)):
        for kind in ("best", "random"):
            shown = path if kind == "best" else path.with_stem(f"{path.stem}-{kind}")
            if shown.is_file():  # earlier versions drew the best alone
                parts.append(card(f"update {numbers[path]}, {kind}", _picture(shown, kind)))
    return cards("halves", parts)


def _picture(path: Path, kind: str) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<img style="width:100%" src="data:image/png;base64,{data}" alt="{kind} crystals">'
