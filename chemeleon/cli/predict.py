"""`chemeleon predict`: properties of crystals."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from chemeleon.cli import train
from chemeleon.cli.words import say

app = typer.Typer(no_args_is_help=True, help="Properties of crystals: train a model, use it.")

train.add_training(
    app,
    "predict",
    """Train a predictor of one or more columns; it ends with scores and a parity plot.

    [bold]Examples[/]

    \b
    chemeleon predict train --preset demo/density predict.vae_ckpt_path=runs/demo_vae
    chemeleon predict train --preset mp/band_gap -o runs/gap
    chemeleon predict train -p mp/band_gap 'predict.targets=\\[band_gap, e_above_hull]'
    chemeleon predict train --resume runs/predict-mp-band_gap
    """,
    next_step="chemeleon predict run {folder} FILES -o out.csv",
)


@app.command()
def run(
    model: Annotated[str, typer.Argument(help="Run or model folder, or hub:NAME.")],
    files: Annotated[
        list[Path],
        typer.Argument(help="CIF, POSCAR, extxyz, JSON, CSV or zip files, and folders of them."),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="CSV to write.", metavar="FILE.csv")
    ] = Path("predictions.csv"),
    id_column: Annotated[str, typer.Option(help="CSV column of names.")] = "material_id",
    cif_column: Annotated[str, typer.Option(help="CSV column of CIF text.")] = "cif",
    device: Annotated[
        str | None, typer.Option("--device", help="cpu, cuda, cuda:1; default: GPU if there.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the CSV.")] = False,
) -> None:
    """Predict the properties of crystals; one row for each, or the reason why there is none.

    [bold]Examples[/]

    \b
    chemeleon predict run runs/gap out/cif -o gaps.csv
    chemeleon predict run runs/gap a.cif b.cif sampled.extxyz -o gaps.csv
    chemeleon predict run runs/gap candidates.csv --id-column name -o gaps.csv
    """
    from rich.progress import MofNCompleteColumn

    from chemeleon import api
    from chemeleon.terminal import progress_bar

    with progress_bar(MofNCompleteColumn()) as bar:
        task = bar.add_task("crystals", total=None)
        found = api.predict_run(
            model,
            files,
            output=output,
            id_column=id_column,
            cif_column=cif_column,
            device=device,
            overwrite=overwrite,
            progress=lambda done, total: bar.update(task, advance=done, total=total),
        )
    failed = [p for p in found if p.values is None]
    say(f"{len(found) - len(failed)} of {len(found)} crystals predicted, in {output}")
    for p in failed[:5]:
        say(f"  {p.source}, {p.id or 'no id'}: {p.reason}", err=True)
    if len(failed) > 5:
        say(f"  and {len(failed) - 5} more, with their reasons in {output}", err=True)
    if len(failed) == len(found):
        raise typer.Exit(1)
