"""From a predictor and crystals in any form to numbers, or to the reason why there are none."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch

from chemeleon.crystals.batch import Crystals
from chemeleon.data.building import collect, parse_source
from chemeleon.data.cache import ParsedSet
from chemeleon.data.crystal import Record
from chemeleon.data.names import stem
from chemeleon.data.sources import has_column
from chemeleon.data.tables import write_rows
from chemeleon.errors import ConfigError, DataError, nearest
from chemeleon.evaluation.settings import Settings, Wanted
from chemeleon.models.predictor import Predictor
from chemeleon.models.pretrained import place
from chemeleon.storage import write_atomically

if TYPE_CHECKING:
    from pymatgen.core import Structure

ID_COLUMN, CIF_COLUMN = "material_id", "cif"


class Prediction(NamedTuple):
    """What a predictor says of one crystal.

    Attributes:
        id: name of the crystal.
        source: file, with ``:ROW`` where the file holds several; empty for a structure in memory.
        values: property to number in its unit; None if there is none.
        reason: why there are no values, or None.
    """

    id: str
    source: str
    values: dict[str, float] | None
    reason: str | None


def predict(
    model: Predictor,
    sources: Sequence[str | Path | Structure],
    *,
    id_column: str = ID_COLUMN,
    cif_column: str = CIF_COLUMN,
    progress: Callable[[int, int], None] | None = None,
) -> list[Prediction]:
    """Predict the properties of all crystals of some sources, in their order.

    Cells are reduced as those of the training set were. A crystal or file that cannot be used costs
    the others nothing: it is in the list with its reason.

    Args:
        model: the predictor, on the device to be used.
        sources: CIF, POSCAR, extxyz, JSON, CSV or zip files, folders of them, or structures.
        id_column: CSV column with names; rows are numbered where it is missing.
        cif_column: CSV column with CIF text.
        progress: called with the crystals done since the last call, and all there are.

    Raises:
        DataError: if a file does not exist.
    """
    for source in sources:
        if isinstance(source, str | Path) and not Path(source).exists():
            raise DataError(f"{source} does not exist")
    niggli = bool((model.origin.get("data") or {}).get("niggli", True))
    answers: list[list[Prediction]] = []
    found: list[Crystals] = []
    places: list[tuple[int, int]] = []  # of each good crystal: source and row of the answer
    for number, source in enumerate(sources):
        parsed = _parse(source, number, niggli, id_column, cif_column)
        if isinstance(parsed, str):
            answers.append([Prediction(stem(str(source)), str(source), None, parsed)])
            continue
        rows = sorted(_rows(parsed), key=lambda row: row[:2])
        names = _sources(source, [(file, row) for file, row, *_ in rows])
        answers.append(
            [
                Prediction(name, place, None, reason)
                for (_, _, name, reason, _), place in zip(rows, names, strict=True)
            ]
        )
        good = [(at, index) for at, (*_, index) in enumerate(rows) if index is not None]
        places += [(number, at) for at, _ in good]
        chosen = torch.tensor([index for _, index in good], dtype=torch.int64)
        found.append(parsed.crystals().subset(chosen))
    values = _values(model, found, progress)
    for (number, at), row in zip(places, values, strict=True):
        before = answers[number][at]
        if all(map(math.isfinite, row.values())):
            answers[number][at] = before._replace(values=row)
        else:
            answers[number][at] = before._replace(reason="the prediction is not a finite number")
    return [answer for group in answers for answer in group]


def wanting(settings: Settings) -> Settings:
    """Return settings of an evaluation with what predicts the properties that are wanted.

    Raises:
        ChemeleonError: if only one of both is given, or the predictor does not know a property.
    """
    properties, predictor = settings.properties, settings.predictor
    if not properties and predictor is None:
        return settings
    if not properties or predictor is None:
        raise ConfigError(
            "properties and predictor go together: --property band_gap=1.5..2.5 --predictor MODEL"
        )
    model = place(Predictor.from_pretrained(predictor), settings.device)
    known, wanted = model.config.targets, {}
    for name, asked in properties.items():
        if name not in known:
            raise ConfigError(
                f"the predictor knows no property '{name}'{nearest(name, known)};"
                f" it knows {', '.join(known)}"
            )
        low, high = asked if isinstance(asked, tuple | list) else (asked, asked)
        wanted[name] = Wanted(float(low), float(high), model.config.units.get(name) or "")

    def ask(structures: Sequence[Structure]) -> list[dict[str, float] | None]:
        return [found.values for found in predict(model, structures)]

    return replace(settings, wanted=wanted, predict=ask)


def write_predictions(path: Path, predictions: Sequence[Prediction], model: Predictor) -> None:
    """Write a CSV: id, source, each property with its unit in the header, reason."""
    names = model.config.targets
    units = [model.config.units.get(name) for name in names]
    titles = [f"{n} ({u})" if u else n for n, u in zip(names, units, strict=True)]

    def write(beside: Path) -> None:
        rows = [["id", "source", *titles, "reason"]]
        for p in predictions:
            numbers = [f"{p.values[n]:.6g}" if p.values else "" for n in names]
            rows.append([p.id, p.source, *numbers, p.reason or ""])
        with beside.open("w", newline="", encoding="utf-8", errors="backslashreplace") as handle:
            write_rows(handle, rows)

    write_atomically(path, write)


def _parse(
    source: str | Path | Structure, number: int, niggli: bool, id_column: str, cif_column: str
) -> ParsedSet | str:
    """Return the crystals of a source, or the reason why it cannot be read as a whole."""
    if not isinstance(source, str | Path):
        record = Record("", number, str(number), "dict", source.as_dict(), {})
        return collect(iter([record]), niggli)
    path = Path(source)
    try:
        named = id_column if has_column(path, id_column) else None
        return parse_source(path, id_column=named, cif_column=cif_column, niggli=niggli)
    except DataError as error:
        return str(error)


def _rows(parsed: ParsedSet) -> Iterator[tuple[str, int, str, str | None, int | None]]:
    """Yield file, row, id, and the reason or the index of each crystal."""
    where = zip(parsed.files.tolist(), parsed.rows.tolist(), parsed.ids, strict=True)
    for index, (file, row, name) in enumerate(where):
        yield parsed.file_names[file], row, name, None, index
    for problem in parsed.problems:
        yield problem.file, problem.row, problem.id, problem.reason, None


def _sources(source: str | Path | Structure, rows: list[tuple[str, int]]) -> list[str]:
    if not isinstance(source, str | Path):
        return [""] * len(rows)
    path = Path(source)
    many = path.is_dir() or path.suffix == ".zip"
    counts = Counter(file for file, _ in rows)
    files = [str(path / file) if many else str(path) for file, _ in rows]
    return [
        f"{name}:{row}" if counts[file] > 1 else name
        for name, (file, row) in zip(files, rows, strict=True)
    ]


def _values(
    model: Predictor, found: list[Crystals], progress: Callable[[int, int], None] | None
) -> list[dict[str, float]]:
    """Return the properties of the crystals of all sources, one after the other."""
    total = sum(map(len, found))
    if not total:
        return []
    together = Crystals.join(found)
    report = None if progress is None else lambda done: progress(done, total)
    columns = {k: v.tolist() for k, v in model.predict_all(together, report).items()}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
