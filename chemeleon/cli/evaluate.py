"""`chemeleon evaluate`: say how good crystals are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from chemeleon.cli import words
from chemeleon.cli.words import say
from chemeleon.evaluation.settings import Settings

if TYPE_CHECKING:
    from rich.table import Table

    from chemeleon.evaluation.report.comparison import Comparison
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

    example = "NAME=LOW..HIGH or NAME=VALUE such as band_gap=1.5..2.5"
    settings |= {"references": references or [], "hull": hull or (), "relax_steps": relax_steps}
    settings["properties"] = words.named("--property", properties or (), example, _interval_of)
    settings |= {"predictor": predictor, "output": output, "overwrite": overwrite}
    with shares() as settings["progress"]:
        several = len(source) > 1
        found = api.compare(source, **settings) if several else api.evaluate(source[0], **settings)
    if isinstance(found, Comparison):
        print_comparison(found, output)
    else:
        print_report(found, output)


def _interval_of(text: str) -> float | tuple[float, float]:
    """Return what LOW..HIGH or VALUE say."""
    low, *high = (float(part) for part in text.split(".."))
    if not high:
        return low
    (top,) = high
    return low, top


@contextmanager
def shares() -> Iterator[Callable[[str, float], None]]:
    """Give a function that shows a word and the share done, one bar for each word."""
    from rich.progress import TimeElapsedColumn

    from chemeleon.terminal import progress_bar

    with progress_bar(TimeElapsedColumn(), text="{task.description:<16}") as bar:
        tasks: dict[str, Any] = {}

        def show(word: str, share: float) -> None:
            if word not in tasks:
                tasks[word] = bar.add_task(word, total=1.0)
            bar.update(tasks[word], completed=share)

        yield show


def print_report(report: Report, output: Path) -> None:
    """Print the headline and where the rest is."""
    from rich.table import Table

    from chemeleon.evaluation.metrics.csp import rates
    from chemeleon.evaluation.report.basis import basis
    from chemeleon.terminal import Terminal

    summary = report.summary
    manifest = summary["manifest"]
    control = manifest["control"]
    table = Table(title=f"{manifest['requested']} crystals, matcher {manifest['matcher']['name']}")
    table.add_column("")
    for name in ("value", "95 % interval", control["name"] if control else "control"):
        table.add_column(name, justify="right")
    _add_groups(table, summary["headline"], _row)
    if "csp" in summary:
        table.add_section()
        for _, label, rate, error in rates(summary["csp"]):
            value = f"{_figure(rate['value'], True)} ({error})"
            table.add_row(label, value, _interval(rate), "")
    Terminal().print(table)
    _say_basis(basis(manifest))
    failed = manifest["requested"] - manifest["parsed"]
    if failed:
        say(f"{failed} crystals could not be read; crystals.csv says why")
    if manifest["matcher"]["timed_out_pairs"]:
        say(f"{manifest['matcher']['timed_out_pairs']} comparisons had no verdict in time")
    for text in summary["warnings"]:
        say(f"warning: {text}")
    say(f"written to {output}")


def print_comparison(found: Comparison, output: Path) -> None:
    """Print the figures of several sets side by side."""
    from rich.table import Table

    from chemeleon.terminal import Terminal

    summary = found.summary
    table = Table(title=f"{len(found.reports)} sets of crystals, 95 % intervals below each share")
    table.add_column("")
    for name in (*found.reports, "control"):
        table.add_column(name, justify="right")
    _add_groups(table, summary["headline"], lambda entry: _row_of_sets(entry, list(found.reports)))
    Terminal().print(table)
    _say_basis(summary["manifest"]["basis"])
    for name, texts in summary["warnings"].items():
        for text in texts:
            say(f"warning: {name}: {text}")
    say(f"written to {output}: report.html, and the report of each set in sets/")


def _add_groups(
    table: Table, headline: list[Any], row: Callable[[Mapping[str, Any]], list[str]]
) -> None:
    from rich.text import Text

    from chemeleon.evaluation.metrics.base import GROUPS
    from chemeleon.evaluation.report.basis import grouped

    for group, entries in grouped(headline).items():
        table.add_section()
        table.add_row(Text(GROUPS.get(group, group), "bold"))
        for entry in entries:
            table.add_row(*row(entry))


def _row(entry: Mapping[str, Any]) -> list[str]:
    share = entry["of"] is not None
    value, control = (_figure(entry[key], share) for key in ("value", "control"))
    return [f"  {entry['label']}", value, _interval(entry), control]


def _row_of_sets(entry: Mapping[str, Any], names: list[str]) -> list[str]:
    cells, share = [], False
    for name in names:
        found = entry["sets"].get(name)
        if found is None:
            cells.append("-")
            continue
        share = found["of"] is not None
        interval = _interval(found)
        below = f"\n{interval}" if interval else ""
        cells.append(f"{_figure(found['value'], share)}{below}")
    return [f"  {entry['label']}", *cells, _figure(entry["control"], share)]


def _interval(entry: Mapping[str, Any]) -> str:
    low, high = entry["low"], entry["high"]
    if entry["of"] is None or low is None:
        return ""
    return f"{100 * low:.1f} to {100 * high:.1f}"


def _say_basis(found: Mapping[str, str]) -> None:
    from chemeleon.evaluation.metrics.base import GROUPS

    for group, text in found.items():
        say(f"{GROUPS[group]}: {text}")


def _figure(value: float | None, share: bool) -> str:
    if value is None:
        return "-"
    if share:
        return f"{100 * value:.1f} %"
    whole = value == round(value) or abs(value) >= 100
    return f"{value:,.0f}" if whole else f"{value:.4f}"
