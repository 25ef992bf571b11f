"""`chemeleon data`: look into data sets, make them and fetch them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from chemeleon.cli import words
from chemeleon.cli.hull import EXAMPLES, hull
from chemeleon.cli.words import OnErrorWord, Root, say
from chemeleon.data.settings import PrepareSettings, SplitBy

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from chemeleon.data.dataset import LoadReport
    from chemeleon.data.describe import Description, Histogram
    from chemeleon.data.problems import Problem

Form = Literal["csv", "cif", "extxyz"]
Output = Annotated[Path, typer.Option("--output", "-o", help="New folder, e.g. data/mine.")]
Split = Annotated[str | None, typer.Option(help="Only train, val or test.")]
Where = Annotated[
    str | None, typer.Option(help="Only rows of which this is true, e.g. 'band_gap > 1'.")
]
Problems = Annotated[int, typer.Option(min=0, help="Bad rows that are listed.")]
app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Look into data sets, make them from your files, fetch public ones, make energy hulls.",
)
app.command(epilog=EXAMPLES)(hull)


@app.command(
    epilog="""[bold]Examples[/bold]\n
    chemeleon data describe mp\n
    chemeleon data describe demo --split val\n
    chemeleon data describe my_cifs/ --max-atoms 20\n
    chemeleon data describe mp_20 --where 'band_gap > 1 and "O" in elements'\n
    chemeleon data describe candidates.csv.gz --problems 50"""
)
def describe(
    name: Annotated[
        str, typer.Argument(help="Data set (mp, mp/val, 'mp where band_gap > 1'), file or folder.")
    ],
    split: Split = None,
    root: Root = None,
    max_atoms: Annotated[int | None, typer.Option(min=1, help="Leave out larger crystals.")] = None,
    where: Where = None,
    space_groups: Annotated[
        int, typer.Option(min=0, help="Crystals whose space group is found; it is slow.")
    ] = 500,
    problems: Problems = 20,
) -> None:
    """Show what is in a data set: sizes, elements, cells, properties, and rows with problems."""
    from chemeleon.data.describe import describe as measure
    from chemeleon.data.named import both, find_sets
    from chemeleon.terminal import Terminal

    reports = []
    for one in find_sets(name, split, root=root, on_error="skip"):
        wishes = {"where": both(one.where, where), "max_atoms": max_atoms or one.config.max_atoms}
        asked = one._replace(config=one.config.model_copy(update=wishes))
        reports.append((one.title, asked.load(progress=True)))
    console = Terminal()
    for title, found in reports:
        _show(console, title, measure(found, space_group_sample=space_groups), found, problems)


@app.command(
    epilog="""[bold]Examples[/bold]\n
    chemeleon data prepare my_cifs/ -o data/mine\n
    chemeleon data prepare my_cifs/ --properties gaps.csv -o data/mine\n
    chemeleon data prepare candidates.csv -o data/mine --max-atoms 20 --deduplicate\n
    chemeleon data prepare structures.json.gz -o data/mine --split 0.8,0.1,0.1 --by formula\n
    chemeleon vae train --preset mp_20/dng data.name=mine"""
)
@words.of_settings(PrepareSettings, "source", "output", "split", "limits", "progress")
def prepare(
    source: Annotated[
        Path,
        typer.Argument(help="CSV, CIF, POSCAR, extxyz or JSON; or a folder or zip of these."),
    ],
    output: Output,
    split: Annotated[str, typer.Option(help="Shares of train, val, test.")] = "0.9,0.05,0.05",
    split_by: Annotated[SplitBy, words.choice("--by", SplitBy, "")] = "random",
    seed: Annotated[int, typer.Option(min=0)] = 0,
    max_atoms: Annotated[int | None, typer.Option(min=1)] = None,
    properties: Annotated[Path | None, typer.Option()] = None,
    limit: Annotated[
        list[str] | None,
        typer.Option(help="Bounds on one file: bytes, atoms, operations or frames=NUMBER."),
    ] = None,
    problems: Problems = 20,
    **settings: Any,
) -> None:
    """Write train, val and test files in the project's layout, and a report."""
    from chemeleon.data.prepare import prepare as write
    from chemeleon.terminal import Terminal

    settings |= {"split_by": split_by, "seed": seed, "max_atoms": max_atoms}
    settings |= {"properties": properties, "limits": _limits(limit or []), "progress": True}
    report = write(source, output, _shares(split), **settings)
    console = Terminal()
    if report.problems:
        console.print(_problem_table(report.problems, problems))
    counts = ", ".join(f"{name} {count:,}" for name, count in report.written.items())
    console.print(
        _bold(f"{output}:"),
        f"{counts} of {report.total:,} crystals;"
        f" {len(report.problems):,} with problems, {len(report.duplicates):,} duplicates"
        " (all in report.json)",
    )
    for reason, count in report.left_out.items():
        console.print(f"left out: {count:,} {reason}")
    for note in report.notes:
        console.print(f"Note: {note}", highlight=False)
    # not by the console, which would break the line
    say(f"Next: {report.command}")


@app.command(
    epilog="""[bold]Examples[/bold]\n
    chemeleon data download perov_5\n
    chemeleon data download mp_20 --root /scratch/data\n
    CHEMELEON_DATA_URL=https://my.mirror chemeleon data download carbon_24"""
)
def download(
    name: Annotated[str, typer.Argument(help="mp_20, perov_5 or carbon_24.")],
    root: Root = None,
) -> None:
    """Fetch a public data set; an interrupted download is resumed."""
    from chemeleon.config.presets import load_data
    from chemeleon.data.download import download as fetch
    from chemeleon.terminal import Terminal

    folder = fetch(load_data(name), root, progress=True)
    Terminal().print(_bold(folder), f"is complete: chemeleon data describe {name}")


@app.command(
    epilog="""[bold]Examples[/bold]\n
    chemeleon data export mp -o data/mp\n
    chemeleon data export mp -o val_cifs --split val --format cif\n
    chemeleon data export mp -o stable --where 'e_above_hull <= 0.05 and mp_20 == 1'\n
    chemeleon data export mp_20 -o mp_20_xyz --format extxyz"""
)
def export(
    name: Annotated[str, typer.Argument(help="Data set: mp, mp/val, 'mp where band_gap > 1'.")],
    output: Output,
    split: Split = None,
    where: Where = None,
    form: Annotated[
        Form, words.choice("--format", Form, "csv (what data.root takes), cif or extxyz.")
    ] = "csv",
    root: Root = None,
    on_error: OnErrorWord = "few",
) -> None:
    """Write a data set to files, with all its columns."""
    from chemeleon.data.export import export as write
    from chemeleon.data.named import both, find_sets
    from chemeleon.errors import DataError
    from chemeleon.terminal import Terminal

    found = find_sets(name, split, root=root, on_error=on_error)
    splits = [one.split for one in found if one.split is not None]
    if not splits:
        raise DataError(f"{name} is no data set; `chemeleon data prepare` makes one of it")
    config = found[0].config.model_copy(update={"where": both(found[0].where, where)})
    written = write(config, output, splits, form, progress=True)
    counts = ", ".join(f"{part} {count:,}" for part, count in written.items())
    console = Terminal()
    console.print(_bold(f"{output}:"), f"{counts} crystals of {config.name}")
    if form == "csv":
        console.print(
            f"Use it with data.root={output.parent} data.name={output.name}", highlight=False
        )


def _bold(text: object) -> Text:
    from rich.text import Text

    return Text(str(text), "bold")


def _limits(given: list[str]) -> dict[str, int]:
    from chemeleon.config.requests import check_word
    from chemeleon.data.limits import Limits

    plain = [word.removeprefix("data.limits.") for word in given]
    example = f"NAME=NUMBER such as atoms=20000, of {', '.join(Limits._fields)}"
    found = words.named("--limit", plain, example, words.whole)
    for name in found:
        check_word("--limit", name, Limits._fields)
    return found


def _shares(text: str) -> list[float]:
    from chemeleon.errors import ConfigError

    try:
        return [float(word) for word in text.split(",")]
    except ValueError:
        raise ConfigError(f"--split {text}: three numbers like 0.9,0.05,0.05 are needed") from None


def _show(console: Console, title: str, found: Description, report: LoadReport, limit: int) -> None:
    from rich.columns import Columns

    bad, size, atoms = len(report.problems), len(report.crystals), report.crystals.num_atoms.sum()
    console.print(
        _bold(f"\n{title}"),
        f"({report.source}): {size:,} crystals, {int(atoms):,} atoms, {len(found.elements)}"
        f" elements, {bad:,} of {report.total:,} rows with problems",
    )
    for reason, count in report.left_out.items():
        console.print(f"left out: {count:,} {reason}")
    tables = [_histogram(h) for h in [*found.histograms, *found.targets]]
    tables.append(_counts("elements (crystals with)", found.elements, size))
    if found.sampled:
        head = f"space groups (of {found.sampled:,})"
        tables.append(_counts(head, found.space_groups, found.sampled))
    console.print(Columns(tables, padding=(1, 3)))
    if bad:
        console.print(_problem_table(report.problems, limit))


def _histogram(found: Histogram) -> Table:
    rows: list[tuple[str, int]] = []
    for low, high, count in zip(found.edges[:-1], found.edges[1:], found.counts, strict=True):
        last = high - 1 if found.discrete else high
        label = f"{low:g}" if found.discrete and last == low else f"{low:.4g} to {last:.4g}"
        rows.append((label, count))
    missing = f", {found.missing:,} missing" if found.missing else ""
    return _bars(found.name, rows, "cyan", f"mean {found.mean:.4g}{missing}")


def _counts(title: str, counts: dict[str, int], total: int, limit: int = 15) -> Table:
    rows = [(name, n, f"{100 * n / total:.1f} %") for name, n in list(counts.items())[:limit]]
    more = f"and {len(counts) - limit} more" if len(counts) > limit else None
    return _bars(title, rows, "green", more)


def _bars(title: str, rows: Sequence[tuple[Any, ...]], color: str, caption: str | None) -> Table:
    """Return a table of labels, counts as bars and as numbers, and what stands behind them."""
    from rich.bar import Bar
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=None, show_header=False)
    if not rows:
        table.add_row("no values")
        return table
    most = max(count for _, count, *_ in rows)
    for label, count, *behind in rows:
        table.add_row(label, Bar(most, 0, count, width=20, color=color), f"{count:,}", *behind)
    table.caption, table.caption_justify = caption, "left"
    return table


def _problem_table(problems: list[Problem], limit: int) -> Table:
    from rich.table import Table

    table = Table(title=f"{len(problems):,} rows with problems", title_justify="left")
    for column in ("file", "row", "id", "reason"):
        table.add_column(column, justify="right" if column == "row" else "left")
    for problem in problems[:limit]:
        table.add_row(*map(str, problem))
    if len(problems) > limit:
        table.caption = f"and {len(problems) - limit:,} more (--problems N)"
    return table
