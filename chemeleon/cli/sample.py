"""`chemeleon sample`: make crystals with a trained model."""

from __future__ import annotations

import math
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from chemeleon.cli import words
from chemeleon.cli.words import say
from chemeleon.config.launched import is_first
from chemeleon.generation.settings import Format, SampleSettings

if TYPE_CHECKING:
    from chemeleon.generation.sampling import SampleResult


Model = Annotated[str | None, typer.Option("--model", "-m")]
NumSamples = Annotated[int, typer.Option("--num-samples", "-n")]
Formula = Annotated[
    list[str] | None,
    typer.Option(help="Formula for a csp model to find structures of; repeatable."),
]
Prototypes = Annotated[
    list[str] | None,
    typer.Option(
        help="Data set whose crystals propose them, such as mp/train; repeatable. By default"
        " mp/train where no model is named."
    ),
]
NewTo = Annotated[
    list[str] | None,
    typer.Option(
        help="Data set whose crystals are drawn again, too, as evaluate tells what is novel, such"
        " as mp; repeatable. Needs --redraw."
    ),
]
Output = Annotated[
    Path, typer.Option("--output", "-o", help="Folder for the files.", metavar="DIR")
]
Formats = Annotated[
    str,
    typer.Option(
        "--format",
        help="Any of cif, poscar, extxyz, json, with commas.",
        parser=words.several("--format", get_args(Format)),
        metavar="TEXT",
    ),
]
BatchSize = Annotated[
    str, typer.Option(help="Crystals at a time, or auto.", parser=words.batch_size, metavar="TEXT")
]
Conditions = Annotated[
    list[str] | None,
    typer.Option(
        "--condition",
        metavar="NAME=VALUE",
        help="What crystals should have, as the model was trained for; repeatable.",
    ),
]
Table = Annotated[bool, typer.Option("--table/--no-table", help="Print a table of the crystals.")]
Evaluate = Annotated[
    bool, typer.Option("--evaluate", help="Also evaluate them, into the folder's evaluation/.")
]
Reference = Annotated[
    list[str] | None,
    typer.Option(help="With --evaluate: set to be novel against; repeatable."),
]


@words.of_settings(SampleSettings, "progress")
def sample(
    model: Model = None,
    num_samples: NumSamples = 10,
    formula: Formula = None,
    prototypes: Prototypes = None,
    new_to: NewTo = None,
    output: Output = Path("out"),
    formats: Formats = "cif",
    batch_size: BatchSize = "auto",
    conditions: Conditions = None,
    table: Table = False,
    evaluate: Evaluate = False,
    reference: Reference = None,
    **settings: Any,
) -> None:
    """Make crystals with a trained model: the one inside the package, or your own.

    [bold]Examples[/]

    \b
    chemeleon sample -n 10 --table
    chemeleon sample --model runs/my_ldm -n 24 --table --contact-sheet
    chemeleon sample --model runs/my_ldm --num-samples 1000 --output out/ --format cif,extxyz,json
    chemeleon sample --model hub:alex_mp_20_ldm -n 100
    chemeleon sample --model runs/my_ldm -n 1000 --evaluate --reference mp
    chemeleon sample -n 100 --redraw 8 --new-to mp
    chemeleon sample -n 100 --relax 50 --symmetrize --format cif,poscar
    chemeleon sample --model runs/my_ldm -n 100 --num-atoms 5,10 --scheduler dpm++ --steps 25
    chemeleon sample --model runs/csp --formula LiFePO4 --formula BaTiO3 -n 20
    chemeleon sample --model runs/csp --formula SiO2 --formula-units 3 -n 20 --rank-by model
    chemeleon sample --model runs/csp --formulas-from perov_5/val -n 1 -o out
    chemeleon sample --model runs/my_ldm -n 100 --allow-elements Li,Mn,Fe,O
    chemeleon sample --model runs/gap_ldm -n 100 --condition band_gap=2.0 --guidance 2
    """
    from chemeleon.errors import ConfigError

    settings |= {"prototypes": prototypes, "new_to": new_to}
    settings |= {"formula": formula, "output": output, "formats": formats, "batch_size": batch_size}
    example = "NAME=VALUE such as band_gap=2.0"
    settings["conditions"] = words.named("--condition", conditions or (), example, str) or None
    request = SampleSettings(model, num_samples, **settings)
    request.check()  # before imports that take seconds
    if reference and not evaluate:
        raise ConfigError("--reference is for --evaluate, which is not given")
    result = _make(request)
    if result.rank > 0:
        return
    if table:
        _print_table(result)
    valid = sum(problem is None for problem in result.problems)
    say(f"{len(result.problems)} crystals, {valid} structurally valid, in {output}")
    if valid < len(result.problems):
        say(f"the others and what is wrong with them are named in {output / 'manifest.json'}")
    if evaluate:
        _evaluate(result, output, reference or [])


def _make(settings: SampleSettings) -> SampleResult:
    """Make the crystals, and show how many there are."""
    from rich.progress import MofNCompleteColumn, TimeRemainingColumn

    from chemeleon import api
    from chemeleon.config.hubname import hub_name
    from chemeleon.generation.sampling import model_of
    from chemeleon.terminal import progress_bar

    model, notes = model_of(settings)
    for note in notes if is_first() else ():  # before the work, which may take long
        say(note, err=True)
    if hub_name(model):
        api.hub_pull(model)  # first, as two progress bars at once would disturb each other
    with progress_bar(MofNCompleteColumn(), TimeRemainingColumn()) as bar:
        task = bar.add_task("crystals", total=None if settings.formulas_from else settings.total)
        given = {field.name: getattr(settings, field.name) for field in fields(settings)}
        given |= {"model": model, "progress": lambda made: bar.advance(task, made)}
        return api.sample(**given)


def _evaluate(result: SampleResult, output: Path, references: list[str]) -> None:
    import json

    from chemeleon import api
    from chemeleon.cli.evaluate import print_figures
    from chemeleon.evaluation.origin import told
    from chemeleon.terminal import shares

    made = json.loads((output / "manifest.json").read_text(encoding="utf-8"))
    with shares() as progress:
        report = api.evaluate(
            result.structures,
            references=references,
            output=output / "evaluation",
            ids=result.names,
            manifest=told(made),
            progress=progress,
        )
    print_figures({"": report}, output / "evaluation")


def _print_table(result: SampleResult) -> None:
    from rich.table import Table

    from chemeleon.terminal import Terminal

    found = result.table()
    table = Table(title="generated crystals")
    table.add_column("#", justify="right")
    for name, kind in found.dtypes.items():
        table.add_column(str(name), justify="right" if kind.kind == "f" else "left")
    for number, row in enumerate(found.itertuples(index=False)):
        table.add_row(str(number), *map(_cell, row))
    Terminal().print(table)


def _cell(value: str | float) -> str:
    if isinstance(value, str):
        return value
    return "-" if math.isnan(value) else f"{value:.2f}"
