"""`chemeleon data hull`: what energies above hull are measured against."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from chemeleon.cli.words import OnErrorWord, Root

if TYPE_CHECKING:
    from chemeleon.data.problems import OnError
    from chemeleon.energy.hull import Hull

EXAMPLES = """[bold]Examples[/bold]\n
    chemeleon data hull formation_energies.csv.gz -o hull.json.gz\n
    chemeleon data hull energies.csv --references elements.json -o hull.json.gz\n
    chemeleon data hull entries.json.gz -o hull.json.gz\n
    chemeleon data hull demo --potential chgnet --relax 50 -o demo_hull.json.gz\n
    chemeleon data hull mp --split all --potential chgnet:0.2.0 -o hull.json.gz"""


def hull(
    source: Annotated[
        str,
        typer.Argument(
            help="CSV of formulas and formation energies, a folder with formation_energies.csv.gz,"
            " JSON of pymatgen entries, mp or mp_all (hulls of the package), or (with --potential)"
            " a data set."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="New file, e.g. hull.json.gz.")],
    references: Annotated[
        Path | None,
        typer.Option(help="JSON of the elements' total energies, to place a potential's on it."),
    ] = None,
    potential: Annotated[
        str | None,
        typer.Option(help="Take energies of a data set's crystals from chgnet, mace, pkg:thing."),
    ] = None,
    energy_scale: Annotated[
        str | None,
        typer.Option(
            help="Of a table or entries: mp2020 (the Materials Project's corrected energies), raw"
            " (without its corrections), or own (no potential's energies are placed on it)."
            " \\[mp2020]"
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(help="Split of the data set; all: every split that there is. \\[train]"),
    ] = None,
    relax: Annotated[
        int, typer.Option(min=0, help="Relax the data set's crystals by so many steps first.")
    ] = 0,
    formula_column: Annotated[str | None, typer.Option(help="CSV column of formulas.")] = None,
    energy_column: Annotated[
        str | None, typer.Option(help="CSV column of formation energies, eV/atom.")
    ] = None,
    root: Root = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; CUDA if there is any.")] = None,
    on_error: OnErrorWord = "few",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file.")] = False,
) -> None:
    """Make the convex hull that energies above hull are measured against."""
    from chemeleon.energy.scales import MP2020, check_scale
    from chemeleon.errors import ConfigError
    from chemeleon.storage import hold

    if energy_scale is not None:
        check_scale(energy_scale, "--energy-scale")
        if potential is not None:
            raise ConfigError("--energy-scale is of tables; a potential's hull is its own scale")
    if potential is not None and references is not None:
        raise ConfigError(
            "--references and --potential exclude each other: a potential's hull takes its"
            " elements' energies from the potential"
        )
    if relax and potential is None:
        raise ConfigError("--relax needs --potential, such as --potential chgnet")
    with hold(output, overwrite=overwrite):
        if potential is not None:
            made = _from_data_set(source, split, root, potential, relax, device, on_error)
        else:
            columns = formula_column, energy_column
            made = _from_file(source, references, columns, on_error, energy_scale or MP2020)
        made.save(output)
    _report(made, output)


def _from_file(
    source: str,
    references: Path | None,
    columns: tuple[str | None, str | None],
    on_error: OnError,
    energy_scale: str,
) -> Hull:
    from chemeleon.energy.hull_sources import find_hull
    from chemeleon.energy.hull_tables import from_entries, from_table
    from chemeleon.energy.scales import MP2020
    from chemeleon.errors import ConfigError, DataError

    if source.endswith((".json", ".json.gz")):
        return from_entries(source, on_error, energy_scale)
    try:
        found = find_hull(source)
    except ConfigError as error:
        wrong = str(error)
    else:
        if found.is_table:
            table = found.files[0]
            return from_table(table, references, *columns, on_error, energy_scale)
        if found.shipped and not (references or any(columns) or energy_scale != MP2020):
            return found.load()
        wrong = f"{source} is no CSV, nor a folder of one, nor JSON of entries"
    raise DataError(
        f"{wrong}; energies of a data set's crystals come from a potential:"
        f" chemeleon data hull {source} --potential chgnet -o hull.json.gz"
    )


def _from_data_set(
    source: str,
    split: str | None,
    root: Path | None,
    potential: str,
    relax: int,
    device: str | None,
    on_error: OnError,
) -> Hull:
    from chemeleon.crystals.batch import Crystals
    from chemeleon.data.dataset import load_split
    from chemeleon.data.named import find_set, find_sets, split_name
    from chemeleon.energy.hull_crystals import from_crystals
    from chemeleon.energy.potentials import load_potential

    if split == "all":
        sets = find_sets(source, root=root, on_error=on_error)
    else:
        sets = [find_set(source, split, root=root, on_error=on_error)]
    judge = load_potential(potential, device)
    crystals = Crystals.join(
        [
            one.load(progress=True).crystals
            if one.split is None
            else load_split(one.config, one.split, progress=True)
            for one in sets
        ]
    )
    own = split_name(source)[0].rpartition("/")[2]
    splits = [one.split for one in sets if one.split is not None and one.split != own]
    name = f"{source} {' + '.join(splits)}".strip()
    return from_crystals(crystals, judge, name, relax)


def _report(made: Hull, path: Path) -> None:
    from rich.table import Table

    from chemeleon.terminal import Terminal

    console = Terminal()
    table = Table(title=str(path), title_justify="left", box=None, show_header=False)
    for key, value in made.manifest.items():
        if key == "skipped_examples":
            value = "; ".join(value) or "none"
        elif isinstance(value, dict):
            value = "lowest of the set's own and of simple structures (each named in the file)"
        table.add_row(key, str(value))
    console.print(table)
    missing = sorted(s for s, energy in made.references.items() if energy is None)
    if missing:
        console.print(
            f"No total energy of {len(missing)} elements ({', '.join(missing[:8])}...): formation"
            " energies can be judged, a potential's total energies of these cannot."
        )
