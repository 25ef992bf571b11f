"""`chemeleon evaluate`: say how good crystals are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from chemeleon.cli import words
from chemeleon.cli.words import say
from chemeleon.evaluation.settings import Settings

if TYPE_CHECKING:
    from chemeleon.evaluation.report.data import Report


Source = Annotated[
    list[Path],
    typer.Argument(
        help="Folder or zip of CIFs, extxyz, JSON of structures, or CSV with a cif column;"
        " several are put side by side."
    ),
]
Output = Annotated[
    Path, typer.Option("--output", "-o", help="Folder for the report.", metavar="DIR")
]
References = Annotated[
    list[str] | None,
    typer.Option(
        "--reference",
        "-r",
        help="Set to be novel against: data set, NAME/SPLIT or path, or 'NAME where"
        " EXPRESSION'; repeatable. Novel is against all of them.",
    ),
]
Hulls = Annotated[
    list[str] | None,
    typer.Option(
        help="Convex hull: mp (the default), mp_all, or of `chemeleon data hull`; repeatable:"
        " what counts must hold on every one."
    ),
]
Properties = Annotated[
    list[str] | None,
    typer.Option(
        "--property",
        metavar="NAME=LOW..HIGH",
        help="What crystals should have, an interval or a value; repeatable.",
    ),
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace an earlier evaluation in the folder.")
]


@words.of_settings(Settings, "wanted", "predict")
def evaluate(
    source: Source,
    output: Output = Path("evaluation"),
    references: References = None,
    hull: Hulls = None,
    relax_steps: Annotated[int, typer.Option("--relax")] = 0,
    properties: Properties = None,
    predictor: Annotated[str | None, typer.Option()] = None,
    overwrite: Overwrite = False,
    **settings: Any,
) -> None:
    """Evaluate crystals one by one: validity, uniqueness, novelty, distributions, energies.

    [bold]Examples[/]

    \b
    chemeleon evaluate out/ --reference mp -o out/evaluation
    chemeleon evaluate samples.extxyz -r mp -r my_structures/ --matcher lemat
    chemeleon evaluate samples.csv.gz -r mp --potential chgnet --relax 50 --hull mp
    chemeleon evaluate csp.zip --targets mp/test -o csp_report
    chemeleon evaluate out/ -r mp --property band_gap=1.5..2.5 --predictor runs/my_predictor
    chemeleon evaluate ours/ theirs.csv.gz tuned/ -r mp --potential sevennet -o out
    """
    from chemeleon import api
    from chemeleon.evaluation.report.comparison import Comparison
    from chemeleon.terminal import shares

    example = "NAME=LOW..HIGH or NAME=VALUE such as band_gap=1.5..2.5"
    settings |= {"references": references or [], "hull": hull or (), "relax_steps": relax_steps}
    settings["properties"] = words.named("--property", properties or (), example, _interval_of)
    settings |= {"predictor": predictor, "output": output, "overwrite": overwrite}
    with shares() as settings["progress"]:
        several = len(source) > 1
        found = api.compare(source, **settings) if several else api.evaluate(source[0], **settings)
    print_figures(found.reports if isinstance(found, Comparison) else {"": found}, output)


def _interval_of(text: str) -> float | tuple[float, float]:
    """Return what LOW..HIGH or VALUE say."""
    low, *high = (float(part) for part in text.split(".."))
    if not high:
        return low
    (top,) = high
    return low, top


def print_figures(reports: Mapping[str, Report], output: Path) -> None:
    """Print the figures of one set, or of several side by side, and where the rest is."""
    from rich.table import Table
    from rich.text import Text

    from chemeleon.evaluation.metrics.base import GROUPS
    from chemeleon.evaluation.report.basis import grouped
    from chemeleon.evaluation.report.comparison import Comparison
    from chemeleon.evaluation.report.page import figure_text, interval_text
    from chemeleon.terminal import Terminal

    found = Comparison(reports).summary
    manifests = found["manifest"]["sets"]
    first, alone = next(iter(manifests.values())), len(manifests) == 1
    if alone:
        title = f"{first['requested']} crystals, matcher {first['matcher']['name']}"
    else:
        title = f"{len(manifests)} sets of crystals, 95 % intervals below each share"
    table = Table(title=title)
    table.add_column("")
    control = first["control"]["name"] if first["control"] else "control"
    for name in (*(["value", "95 % interval"] if alone else manifests), control):
        table.add_column(name, justify="right")
    for group, entries in grouped(found["headline"]).items():
        table.add_section()
        table.add_row(Text(GROUPS.get(group, group), "bold"))
        for entry in entries:
            sets = [entry["sets"].get(name, {}) for name in manifests]
            cells = [[figure_text(one), interval_text(one)] for one in sets]
            shown = cells[0] if alone else ["\n".join(filter(None, pair)) for pair in cells]
            real = {**next(iter(entry["sets"].values())), "value": entry["control"]}
            table.add_row(f"  {entry['label']}", *shown, figure_text(real))
    Terminal().print(table)
    for group, text in found["manifest"]["basis"].items():
        say(f"{GROUPS.get(group, group)}: {text}")
    for name, manifest in manifests.items():
        of = "" if alone else f"{name}: "
        if failed := manifest["requested"] - manifest["parsed"]:
            say(f"{of}{failed} crystals could not be read; crystals.csv says why")
        if late := manifest["matcher"]["timed_out_pairs"]:
            say(f"{of}{late} comparisons had no verdict in time")
        for text in found["warnings"][name]:
            say(f"warning: {of}{text}")
    where = "" if alone else ": report.html, and the report of each set in sets/"
    say(f"written to {output}{where}")
