"""`chemeleon assign`: space groups and Wyckoff letters that a formula may have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from chemeleon.cli import train

if TYPE_CHECKING:
    from chemeleon.generation.assignments import Proposal

app = typer.Typer(
    no_args_is_help=True, help="Space groups and Wyckoff letters that a formula may have."
)

train.add_training(
    app,
    "assign",
    """Train a model that proposes space groups and Wyckoff letters for formulas.

    [bold]Examples[/]

    \b
    chemeleon assign train --preset mp/mini -o runs/assign
    chemeleon assign train -p mp/mini assign.width=256 assign.layers=6 trainer.max_minutes=30
    chemeleon assign train --resume runs/assign
    """,
    next_step="chemeleon assign propose LiFePO4 --model {folder}",
)


@app.command()
def propose(
    formulas: Annotated[list[str], typer.Argument(help="Formulas of one unit, such as LiFePO4.")],
    k: Annotated[int, typer.Option("-k", min=1, help="Assignments of each formula.")] = 10,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Run or model folder, or hub:NAME.")
    ] = None,
    prototypes: Annotated[
        list[str] | None,
        typer.Option(
            help="Data set whose crystals formulas are compared with; repeatable. mp/train without"
            " a model."
        ),
    ] = None,
    units: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Formula units per primitive cell; repeatable. Default: any."),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="Draw them without replacement, instead of the likeliest."),
    ] = None,
    device: Annotated[
        str | None, typer.Option("--device", help="cpu, cuda, cuda:1; default: GPU if there.")
    ] = None,
) -> None:
    """Print assignments of formulas: formula units, space group, letters of each element.

    Behind each stand its probability, and the training crystal that has it with other elements.

    [bold]Examples[/]

    \b
    chemeleon assign propose LiFePO4 -k 5 --prototypes mp/train --prototypes mp_52/train
    chemeleon assign propose MgAl2O4 SrTiO3 --model runs/assign
    chemeleon assign propose MgAl2O4 --model runs/assign --prototypes mp/train --units 2
    """
    from rich.table import Table

    from chemeleon import api
    from chemeleon.terminal import Terminal

    given = {"model": model, "prototypes": prototypes or [], "units": units, "seed": seed}
    found = api.assign_propose(formulas, k, device=device, **given)
    console = Terminal()
    for formula, proposals in zip(formulas, found, strict=True):
        table = Table(title=formula, title_justify="left")
        for column in ("", "space group", "units", "letters", "probability", "prototype"):
            table.add_column(column)
        for rank, proposal in enumerate(proposals, 1):
            table.add_row(str(rank), *_cells(proposal))
        if proposals:
            console.print(table)
        else:
            console.print(
                f"{formula}: no assignment is known; name further --prototypes or a --model"
            )


def _cells(proposal: Proposal) -> list[str]:
    """Return what a row of the table says."""
    from chemeleon.crystals.assignments import written

    units, group, letters = written(proposal.assignment)
    example = "" if proposal.prototype is None else proposal.prototype.name
    return [group, str(units), letters, f"{proposal.probability:.4f}", example]
