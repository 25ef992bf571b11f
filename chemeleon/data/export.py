"""Write a data set to files that other programs, and people, can read."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from chemeleon.config.schema import DataConfig
from chemeleon.crystals.convert import to_structures
from chemeleon.crystals.files import write_structures
from chemeleon.data.dataset import SPLITS, LoadReport, load_report, split_path
from chemeleon.data.limits import Limits
from chemeleon.data.prepare import check_output, number_cells, write_table
from chemeleon.data.sources import read_records
from chemeleon.data.tables import write_rows
from chemeleon.storage import replacing

ExportFormat = Literal["csv", "cif", "extxyz"]
_ENDS = (".csv.gz", "", "-properties.csv", ".extxyz")


def export(
    config: DataConfig,
    output: str | Path,
    splits: Sequence[str],
    form: ExportFormat = "csv",
    *,
    progress: bool = False,
) -> dict[str, int]:
    """Write the usable crystals of a data set, their cells as in the source, with all columns.

    ``csv`` gives the project's layout (``train.csv.gz``); ``cif`` one file per crystal in a folder
    per split, and ``train-properties.csv`` beside the folder, as `prepare` takes them; ``extxyz``
    one file per split, columns of numbers and text on the comment lines. ``data.root`` takes each,
    ``cif`` without the columns.

    Args:
        config: the set, and which crystals of it; its targets and ``niggli`` are not used.
        output: new folder; what is in it is complete.
        splits: of train, val and test.
        form: of the files.
        progress: show bars.

    Returns:
        Split to number of crystals.

    Raises:
        DataError: if the output exists, a split is missing, or none of its crystals is usable.
    """
    plain = config.model_copy(update={"targets": [], "niggli": False})
    written = {}
    check_output(Path(output), overwrite=None)
    parts = [f"{split}{end}" for split in SPLITS for end in _ENDS]
    with replacing(Path(output), parts, overwrite=False) as folder:
        for split in splits:
            found = load_report(plain, split, progress=progress)
            columns = _columns(plain, split, found)
            _write(folder, split, found, columns, form)
            written[split] = len(found.crystals)
    return written


def _columns(config: DataConfig, split: str, found: LoadReport) -> dict[str, list[str]]:
    """Return every column of the source as text for each crystal, in the order of the source.

    Numbers have the nine digits of float32; text is only in the source, so that is read once more.
    """
    numbers = {name: number_cells(values) for name, values in found.columns.items()}
    rows = {name: i for i, name in enumerate(found.crystals.ids)}
    columns: dict[str, list[str]] = {}
    limits = Limits(**config.limits.model_dump())
    path = split_path(config, split)
    records = read_records(path, config.id_column, config.cif_column, limits=limits)
    for record in records:
        at = rows.pop(record.id, None)  # the first of its name, as in loading
        for name, value in record.values.items():
            if name not in columns:
                columns[name] = numbers.get(name, [""] * len(found.crystals))
            if at is not None and name not in numbers:
                columns[name][at] = "" if value is None else str(value)
    return {name: values for name, values in columns.items() if name not in {"material_id", "cif"}}


def _write(
    folder: Path, split: str, found: LoadReport, columns: dict[str, list[str]], form: ExportFormat
) -> None:
    crystals = replace(found.crystals, targets={})
    structures, names = to_structures(crystals), crystals.ids
    if form == "csv":
        write_table(folder / f"{split}.csv.gz", names, structures, columns)
        return
    if form == "extxyz":
        for i, structure in enumerate(structures):
            filled = {n: v[i] for n, v in columns.items() if v[i]}
            structure.properties |= {
                name: float(value) if name in found.columns else value
                for name, value in filled.items()
            }
    with tempfile.TemporaryDirectory(dir=folder) as beside:
        written = write_structures(structures, beside, [form], names)
        if form == "extxyz":
            written[0].rename(folder / f"{split}.extxyz")
            return
        (Path(beside) / "cif").rename(folder / split)
    # not among the crystals, of which it is none
    table = folder / f"{split}-properties.csv"
    with table.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        write_rows(file, [["material_id", *columns], *zip(names, *columns.values(), strict=True)])
