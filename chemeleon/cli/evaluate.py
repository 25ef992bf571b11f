"""`chemeleon evaluate`: say how good crystals are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from chemeleon.cli import options
from chemeleon.cli.options import say

if TYPE_CHECKING:
    from chemeleon.evaluation.report_data import Report


def evaluate(
    source: Annotated[
        Path,
        typer.Argument(
            help="Folder or zip of CIFs, extxyz, JSON of structures, or CSV with a cif column."
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for the report.", metavar="DIR")
    ] = Path("evaluation"),
    reference: Annotated[
        list[str] | None,
        typer.Option(
            "--reference",
            "-r",
            help="Set to be novel against: data set, NAME/SPLIT or path, or 'NAME where"
            " EXPRESSION'; repeatable. The first one is the training set.",
        ),
    ] = None,
    control: Annotated[
        str,
        typer.Option(
            "--control",
            help="Real crystals that pass through the same code; auto: test split of the first"
            " reference; or none.",
        ),
    ] = "auto",
    matcher: Annotated[
        str, typer.Option("--matcher", help="Tolerances: pymatgen, cdvae or lemat.")
    ] = "pymatgen",
    targets: Annotated[
        str | None,
        typer.Option("--targets", help="Crystals to be met, for structure prediction."),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option("--base", help="Crystals of the model before fine-tuning, to compare with."),
    ] = None,
    potential: Annotated[
        str, typer.Option("--potential", help="chgnet, chgnet:0.2.0, mace, none or pkg:thing.")
    ] = "none",
    hull: Annotated[
        str | None,
        typer.Option(
            "--hull",
            help="Convex hull: mp (default for chgnet), mp_all, or of `chemeleon data hull`.",
        ),
    ] = None,
    relax: Annotated[int, typer.Option("--relax", help="Most steps of relaxation.")] = 0,
    device: Annotated[
        str | None, typer.Option("--device", help="For energies: cpu, cuda; default: a GPU if any.")
    ] = None,
    jobs: Annotated[int | None, typer.Option("--jobs", help="Processes; default: cores.")] = None,
    seconds: Annotated[
        float,
        typer.Option(
            "--seconds-per-pair", help="Limit of one comparison, in seconds of processor time."
        ),
    ] = 10.0,
    coverage: Annotated[
        bool, typer.Option("--coverage", help="Also COV-R and COV-P; needs matminer, and time.")
    ] = False,
    control_energies: Annotated[
        int, typer.Option("--control-energies", help="Control crystals that get energies too.")
    ] = 1000,
    on_error: options.OnErrorWord = "few",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier evaluation in the folder.")
    ] = False,
) -> None:
    """Judge crystals one by one: validity, uniqueness, novelty, distributions, energies.

    [bold]Examples[/]

    \b
    chemeleon evaluate out/ --reference mp -o out/evaluation
    chemeleon evaluate samples.extxyz -r mp -r my_structures/ --matcher lemat
    chemeleon evaluate samples.csv.gz -r mp --potential chgnet --relax 50 --hull mp
    chemeleon evaluate csp.zip --targets mp/test -o csp_report
    """
    from chemeleon import api

    with progress_bar() as progress:
        report = api.evaluate(
            source,
            references=reference or [],
            control=control,
            matcher=matcher,
            targets=targets,
            base=base,
            potential=potential,
            hull=hull,
            relax_steps=relax,
            device=device,
            jobs=jobs,
            seconds_per_pair=seconds,
            coverage=coverage,
            control_energies=control_energies,
            on_error=options.on_error(on_error),
            output=output,
            overwrite=overwrite,
            progress=progress,
        )
    print_report(report, output)


@contextmanager
def progress_bar() -> Iterator[Callable[[str, float], None]]:
    """Give a function that shows a word and the share done, one bar for each word."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from chemeleon.terminal import Terminal

    console = Terminal(stderr=True)
    columns = (TextColumn("{task.description:<16}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        tasks: dict[str, Any] = {}

        def show(word: str, share: float) -> None:
            if word not in tasks:
                tasks[word] = bar.add_task(word, total=1.0)
            bar.update(tasks[word], completed=share)

        yield show


def print_report(report: Report, output: Path) -> None:
    """Print the headline and where the rest is."""
    from rich.table import Table

    from chemeleon.terminal import Terminal

    manifest = report.summary["manifest"]
    control = manifest["control"]
    table = Table(title=f"{manifest['requested']} crystals, matcher {manifest['matcher']['name']}")
    table.add_column("")
    for name in ("value", "95 % interval", control["name"] if control else "control"):
        table.add_column(name, justify="right")
    for entry in report.summary["headline"]:
        share = entry["of"] is not None
        low, high = entry["low"], entry["high"]
        interval = f"{100 * low:.1f} to {100 * high:.1f}" if share and low is not None else ""
        table.add_row(
            entry["label"],
            _figure(entry["value"], share),
            interval,
            _figure(entry["control"], share),
        )
    if "csp" in report.summary:
        csp = report.summary["csp"]
        for key, label in (("at_1", "match rate at 1"), ("at_k", f"match rate at {csp['k']}")):
            rate = csp[key]
            value = f"{_figure(rate['value'], True)} (RMSE {_figure(rate['rmse'], False)})"
            table.add_row(label, value, "", "")
    Terminal().print(table)
    failed = manifest["requested"] - manifest["parsed"]
    if failed:
        say(f"{failed} crystals could not be read; crystals.csv says why")
    if manifest["matcher"]["timed_out_pairs"]:
        say(f"{manifest['matcher']['timed_out_pairs']} comparisons had no verdict in time")
    say(f"written to {output}")


def _figure(value: float | None, share: bool) -> str:
    if value is None:
        return "-"
    return f"{100 * value:.1f} %" if share else f"{value:.4f}"
