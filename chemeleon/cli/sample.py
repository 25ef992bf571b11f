"""`chemeleon sample`: make crystals with a trained model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from chemeleon.cli import options
from chemeleon.cli import sample_words as words
from chemeleon.cli.options import say
from chemeleon.config.launched import is_first

if TYPE_CHECKING:
    from chemeleon.generation.result import SampleResult


def sample(
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="Run or model folder, hub:NAME or shipped:NAME; default: that of the package.",
        ),
    ] = None,
    num_samples: Annotated[
        int, typer.Option("--num-samples", "-n", help="How many crystals to make, or per formula.")
    ] = 10,
    formula: Annotated[
        list[str] | None,
        typer.Option("--formula", help="Ask a csp model for a formula; repeatable."),
    ] = None,
    formula_units: Annotated[
        str | None,
        typer.Option(
            "--formula-units", help="Formula units per cell, such as 1,2,4; default: likely ones."
        ),
    ] = None,
    formulas_from: Annotated[
        str | None,
        typer.Option(
            "--formulas-from", help="Ask for the atoms of a data set's crystals: NAME/SPLIT."
        ),
    ] = None,
    on_error: options.OnErrorWord = "few",
    rank_by: Annotated[
        str,
        typer.Option("--rank-by", help="Order of a formula's crystals: energy, model, auto, none."),
    ] = "auto",
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for the files.", metavar="DIR")
    ] = Path("out"),
    form: Annotated[
        str, typer.Option("--format", help="Any of cif, poscar, extxyz, json, with commas.")
    ] = "cif",
    seed: Annotated[int, typer.Option("--seed", help="Same seed, same crystals.")] = 0,
    batch_size: Annotated[
        str, typer.Option("--batch-size", help="Crystals at a time, or auto.")
    ] = "auto",
    num_atoms: Annotated[
        str | None,
        typer.Option(
            "--num-atoms", help="Allowed atoms per cell, such as 5,8; default as trained."
        ),
    ] = None,
    condition: Annotated[
        list[str] | None,
        typer.Option(
            "--condition",
            metavar="NAME=VALUE",
            help="What crystals should have, as the model was trained for; repeatable.",
        ),
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option(
            "--guidance", help="Push towards conditions: 0 none, 1 as trained; default 2."
        ),
    ] = None,
    guidance_interval: Annotated[
        str | None,
        typer.Option("--guidance-interval", help="Push in this part of the walk, such as 0.2,0.8."),
    ] = None,
    allow_elements: Annotated[
        str | None,
        typer.Option("--allow-elements", help="No other elements than these, such as Li,Mn,O."),
    ] = None,
    forbid_elements: Annotated[
        str | None, typer.Option("--forbid-elements", help="None of these, such as Pb,Tl.")
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option("--scheduler", help="ddim, ddpm, dpm++, unipc, or euler for flow models."),
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", help="Evaluations of the denoiser.")
    ] = None,
    eta: Annotated[
        float | None, typer.Option("--eta", help="Share of fresh noise: 0 none, 1 full.")
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option("--temperature", help="Scale of noise: below 1 likelier, less varied."),
    ] = None,
    element_price: Annotated[
        float | None,
        typer.Option("--element-price", help="Fewer stray elements; 0 none, 1 to 6 are usual."),
    ] = None,
    relax: Annotated[
        int, typer.Option("--relax", min=0, help="Relax crystals by so many steps; 0 is none.")
    ] = 0,
    potential: Annotated[
        str | None,
        typer.Option(
            "--potential", help="For --relax and --symmetrize: chgnet (default), mace, pkg:thing."
        ),
    ] = None,
    symmetrize: Annotated[
        bool,
        typer.Option(
            "--symmetrize", help="Idealise: the highest symmetry that costs a crystal no energy."
        ),
    ] = False,
    symprec: Annotated[
        float | None,
        typer.Option("--symprec", metavar="TOL", help="Its largest tolerance in A; default 0.3."),
    ] = None,
    cell: Annotated[
        str | None,
        typer.Option("--cell", help="Write the primitive or the conventional cell of the group."),
    ] = None,
    device: Annotated[
        str | None, typer.Option("--device", help="cpu, cuda, cuda:1; default: a GPU if any.")
    ] = None,
    precision: Annotated[
        str, typer.Option("--precision", help="fp32, bf16, or auto: bf16 where a GPU has it.")
    ] = "auto",
    table: Annotated[
        bool, typer.Option("--table/--no-table", help="Print a table of the crystals.")
    ] = False,
    contact_sheet: Annotated[
        bool, typer.Option("--contact-sheet", help="Draw the crystals into one PNG.")
    ] = False,
    evaluate: Annotated[
        bool, typer.Option("--evaluate", help="Also judge them, into the folder's evaluation/.")
    ] = False,
    reference: Annotated[
        list[str] | None,
        typer.Option("--reference", help="With --evaluate: set to be novel against; repeatable."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier sample in the folder.")
    ] = False,
) -> None:
    """Make crystals with a trained model: the one inside the package, or your own.

    [bold]Examples[/]

    \b
    chemeleon sample -n 10 --table
    chemeleon sample --model runs/my_ldm -n 24 --table --contact-sheet
    chemeleon sample --model runs/my_ldm --num-samples 1000 --output out/ --format cif,extxyz,json
    chemeleon sample --model hub:alex_mp_20_ldm -n 100
    chemeleon sample --model runs/my_ldm -n 1000 --evaluate --reference mp
    chemeleon sample -n 100 --relax 50 --symmetrize --format cif,poscar
    chemeleon sample --model runs/my_ldm -n 100 --num-atoms 5,10 --scheduler dpm++ --steps 25
    chemeleon sample --model runs/csp --formula LiFePO4 --formula BaTiO3 -n 20
    chemeleon sample --model runs/csp --formula SiO2 --formula-units 3 -n 20 --rank-by model
    chemeleon sample --model runs/csp --formulas-from perov_5/val -n 1 -o out
    chemeleon sample --model runs/my_ldm -n 100 --allow-elements Li,Mn,Fe,O
    chemeleon sample --model runs/gap_ldm -n 100 --condition band_gap=2.0 --guidance 2
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    from chemeleon.config.requests import check_sample
    from chemeleon.crystals.symbols import formula_amounts
    from chemeleon.errors import ConfigError
    from chemeleon.terminal import Terminal

    # before imports that take seconds
    sizes = words.whole_numbers(num_atoms, "--num-atoms")
    units = words.whole_numbers(formula_units, "--formula-units")
    total = num_samples * max(1, len(formula or ()))
    check_sample(total, sizes, units, seed, guidance, relax)
    for text in formula or ():
        formula_amounts(text)

    from chemeleon import api
    from chemeleon.checkpoints.shipped import default_model
    from chemeleon.config.hubname import hub_name

    if reference and not evaluate:
        raise ConfigError("--reference is for --evaluate, which is not given")
    if symprec is not None and not symmetrize:
        raise ConfigError("--symprec is the tolerance of --symmetrize, which is not given")
    if potential is not None and not relax and not symmetrize:
        raise ConfigError("--potential is for --relax and --symmetrize, neither of which is given")
    shape = None if cell is None else options.choice("--cell", cell, "primitive", "conventional")
    formats = words.formats(form)
    size = words.batch_size(batch_size)
    conditions, interval = words.conditions(condition), words.interval(guidance_interval)
    if model is None:
        shipped = default_model(bool(formula or formulas_from))
        model = shipped.reference
        if is_first():  # before the work, which may take long
            say(shipped.remark, err=True)
    if hub_name(model):
        api.hub_pull(model)  # first, as two progress bars at once would disturb each other
    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Terminal(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("crystals", total=None if formulas_from else total)
        result = api.sample(
            model,
            num_samples,
            formula=formula,
            formula_units=units,
            formulas_from=formulas_from,
            on_error=options.on_error(on_error),
            rank_by=options.choice("--rank-by", rank_by, "auto", "energy", "model", "none"),
            output=output,
            formats=formats,
            seed=seed,
            batch_size=size,
            num_atoms=sizes,
            conditions=conditions,
            guidance=guidance,
            guidance_interval=interval,
            allow_elements=words.symbols(allow_elements),
            forbid_elements=words.symbols(forbid_elements),
            scheduler=scheduler,
            steps=steps,
            eta=eta,
            temperature=temperature,
            element_price=element_price,
            relax=relax,
            potential=potential,
            symmetrize=symmetrize,
            symprec=symprec,
            cell=shape,
            device=device,
            precision=options.choice("--precision", precision, "auto", "fp32", "bf16"),
            contact_sheet=contact_sheet,
            overwrite=overwrite,
            progress=lambda made: bar.advance(task, made),
        )
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


def _evaluate(result: SampleResult, output: Path, references: list[str]) -> None:
    import json

    from chemeleon import api
    from chemeleon.cli.evaluate import print_report, progress_bar
    from chemeleon.evaluation.origin import told

    made = json.loads((output / "manifest.json").read_text(encoding="utf-8"))
    with progress_bar() as progress:
        report = api.evaluate(
            result.structures,
            references=references,
            output=output / "evaluation",
            ids=result.names,
            manifest=told(made),
            progress=progress,
        )
    print_report(report, output / "evaluation")


def _print_table(result: SampleResult) -> None:
    from rich.table import Table

    from chemeleon.evaluation.draw import structure_table
    from chemeleon.terminal import Terminal

    table = Table(title="generated crystals")
    for name, side in (("#", "right"), ("formula", "left"), ("space group", "left")):
        table.add_column(name, justify=side)  # pyright: ignore[reportArgumentType]
    for name in ("density g/cm³", "Å³/atom"):
        table.add_column(name, justify="right")
    table.add_column("valid")
    for number, row in enumerate(structure_table(result.structures, result.problems)):
        table.add_row(str(number), *row)
    Terminal().print(table)
