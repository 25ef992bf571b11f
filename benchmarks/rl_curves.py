"""Draw what rollouts were like over the updates of several runs of `chemeleon rl train`.

    python benchmarks/rl_curves.py "published=runs/f" "larger=runs/a" --plot docs/images/x.png

RUN is a run folder. Curves are means over the crystals of an update,
smoothed over ten updates. Prints the means of the first and the last ten.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

from chemeleon.training.tracking import read_metrics

PANELS = {
    "fact/msun": "MSUN",
    "fact/metastable": "at most 0.1 eV/atom above the hull",
    "fact/novel": "new",
    "fact/unique": "unique within the update",
    "fact/valid": "valid structure",
    "rollout/element_drift": "atoms that became other elements",
}
SMOOTH = 10


def read(path: Path) -> pd.DataFrame:
    """Return the panels' columns of a run by update."""
    rows = [row for row in read_metrics(path) if "rollout/reward" in row]
    return pd.DataFrame([{name: row.get(name) for name in PANELS} for row in rows]).astype(float)


def main() -> None:
    """Print and draw."""
    from matplotlib.figure import Figure

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("runs", nargs="+", metavar="TITLE=RUN")
    parser.add_argument("--plot", type=Path, required=True)
    words = parser.parse_args()
    figure = Figure(figsize=(11, 5.6), layout="constrained")
    axes = figure.subplots(2, 3).flat
    panels = dict(zip(PANELS, axes, strict=True))
    for word in words.runs:
        title, _, path = word.partition("=")
        table = read(Path(path))
        for name, axis in panels.items():
            smooth = table[name].rolling(SMOOTH, min_periods=1).mean()
            axis.plot(range(1, len(table) + 1), smooth, label=title)
        ends = {"first": table.head(SMOOTH).mean(), "last": table.tail(SMOOTH).mean()}
        for when, means in ends.items():
            shown = ", ".join(f"{PANELS[name]} {means[name]:.3f}" for name in PANELS)
            print(f"{title}, {len(table)} updates, {when} {SMOOTH}: {shown}")
    for name, axis in panels.items():
        axis.set(title=PANELS[name], xlabel="update", ylim=(0, 1))
    panels["fact/msun"].legend(fontsize=8)
    figure.savefig(words.plot, dpi=110)


if __name__ == "__main__":
    main()
