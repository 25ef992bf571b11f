"""Turn crystals in any known form into train, val and test files of the project's layout."""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import shlex
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from chemeleon.config.keywords import called_with
from chemeleon.config.presets import data_config
from chemeleon.crystals.convert import to_structures
from chemeleon.crystals.files import cif_text, write_structures
from chemeleon.data.dataset import SPLITS, LoadReport, load_source
from chemeleon.data.problems import Problem
from chemeleon.data.properties import join_properties
from chemeleon.data.settings import PrepareSettings
from chemeleon.data.sources import has_column
from chemeleon.data.tables import write_rows
from chemeleon.errors import DataError
from chemeleon.storage import SET_PARTS, is_ours, refuse_inside, replacing

if TYPE_CHECKING:
    from pymatgen.core import Structure
    from torch import Tensor


@dataclass(frozen=True)
class PrepareReport:
    """What was written, and what was left out and why; also ``report.json`` in the output.

    Attributes:
        source: file or folder read.
        output: folder written.
        total: crystals found in the source.
        written: crystals of each split.
        problems: rows that cannot be used.
        duplicates: name of a left-out crystal to the name of its equal that was kept.
        columns: properties written.
        left_out: why other crystals are not among those, and how many.
        notes: what else is to be said of the source: columns that are not of numbers, files that
            were not read, rows of properties without a crystal.
    """

    source: str
    output: str
    total: int
    written: dict[str, int]
    problems: list[Problem]
    duplicates: dict[str, str]
    columns: list[str]
    left_out: dict[str, int]
    notes: list[str]

    @property
    def words(self) -> list[str]:
        """The overrides with which a training takes these crystals, without their properties."""
        folder = Path(self.output)
        return [
            f"data.name={json.dumps(folder.name)}",
            f"data.root={json.dumps(str(folder.parent))}",
            "data.targets=[]",
            "data.where=null",
        ]

    @property
    def command(self) -> str:
        """A next command for a shell: a training, or a look at sets without a validation split."""
        if self.written["train"] and self.written["val"]:
            return shlex.join(["chemeleon", "vae", "train", "--preset", "mp_20/dng", *self.words])
        return shlex.join(["chemeleon", "data", "describe", str(Path(self.output).resolve())])


@called_with(PrepareSettings)
def prepare(settings: PrepareSettings) -> PrepareReport:
    """Write ``train.csv.gz``, ``val.csv.gz``, ``test.csv.gz`` and ``report.json``.

    Cells are written as found, not reduced: reduction belongs to loading. The arguments are those
    of `chemeleon data prepare`.

    Raises:
        ChemeleonError: if the output exists, the source is unusable, or ``split`` makes no sense.
    """
    source, split, output = settings.source, settings.split, Path(settings.output)
    settings.check()
    if len(split) != 3 or min(split) < 0 or not math.isclose(sum(split), 1, abs_tol=1e-6):
        raise DataError(f"split {tuple(split)} must be three shares of train, val, test, sum 1")
    check_output(output, settings.overwrite)
    if isinstance(source, str | Path):
        refuse_inside(Path(source), output, SET_PARTS)
    with replacing(output, SET_PARTS, settings.overwrite) as folder:
        found = _read(settings)
        if settings.properties is not None:
            found = join_properties(found, Path(settings.properties), settings.id_column)
        structures = to_structures(found.crystals)
        formulas = [s.composition.reduced_formula for s in structures]
        kept, duplicates = list(range(len(structures))), {}
        if settings.deduplicate:
            kept, duplicates = find_duplicates(structures, formulas, found.crystals.ids)
        groups = [formulas[i] for i in kept] if settings.split_by == "formula" else None
        parts = split_indices(len(kept), split, settings.seed, groups)
        members = {name: [kept[i] for i in part] for name, part in zip(SPLITS, parts, strict=True)}
        report = PrepareReport(
            source=str(source) if isinstance(source, str | Path) else "structures in memory",
            output=str(output),
            total=found.total,
            written={name: len(part) for name, part in members.items()},
            problems=found.problems,
            duplicates=duplicates,
            columns=[*found.columns, *found.labels],
            left_out=found.left_out,
            notes=found.notes,
        )
        _write(folder, report, found, structures, members)
        return report


def _read(settings: PrepareSettings) -> LoadReport:
    """Read the crystals of a file or folder, or structures; rows without a name get numbers."""
    id_column = settings.id_column
    names = ("cif_column", "max_atoms", "where", "on_error")
    given = {name: getattr(settings, name) for name in names}
    given |= {"niggli": False, "limits": dict(settings.limits or {})}
    config = data_config(given | ({"id_column": id_column} if id_column else {}))
    if isinstance(settings.source, str | Path):
        path = Path(settings.source)
        number_rows = id_column is None and not has_column(path, config.id_column)
        return load_source(config, path, progress=settings.progress, number_rows=number_rows)
    own = [structure.properties.get("material_id") for structure in settings.source]
    names = [f"crystal-{i:06d}" if name is None else str(name) for i, name in enumerate(own)]
    with tempfile.TemporaryDirectory() as beside:
        (path,) = write_structures(settings.source, beside, ["json"], names)
        return load_source(config, path, progress=settings.progress)


def _write(
    folder: Path,
    report: PrepareReport,
    found: LoadReport,
    structures: Sequence[Structure],
    members: Mapping[str, Sequence[int]],
) -> None:
    """Write a table for each split that has members, and the report."""
    columns = {
        **{name: number_cells(values) for name, values in found.columns.items()},
        **{name: labels.values() for name, labels in found.labels.items()},
    }
    for name in ("material_id", "cif"):
        columns.pop(name, None)
    for name, indices in members.items():
        if indices:
            write_table(
                folder / f"{name}.csv.gz",
                [found.crystals.ids[i] for i in indices],
                [structures[i] for i in indices],
                {column: [cells[i] for i in indices] for column, cells in columns.items()},
            )
    details = {**asdict(report), "problems": [p._asdict() for p in report.problems]}
    (folder / "report.json").write_text(json.dumps(details, indent=2) + "\n")


def split_indices(
    count: int, split: Sequence[float], seed: int, groups: Sequence[str] | None = None
) -> list[list[int]]:
    """Divide ``range(count)`` by shares; members of one group stay together.

    Args:
        count: number of crystals.
        split: shares that sum to 1.
        seed: of the shuffle.
        groups: a name for each crystal; each crystal by itself if not given.

    Returns:
        One sorted list of indices per share. With groups the sizes are approximate.
    """
    keys = [str(i) for i in range(count)] if groups is None else list(groups)
    by_group: dict[str, list[int]] = defaultdict(list)
    for index, key in enumerate(keys):
        by_group[key].append(index)
    names = list(by_group)
    if groups is not None:
        # a group's place depends on its name only, so adding crystals does not reshuffle the rest
        names.sort(key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())
    else:
        names = [names[i] for i in np.random.default_rng(seed).permutation(len(names))]
    order = [index for name in names for index in by_group[name]]
    ends = [round(count * share) for share in np.cumsum(split)]
    parts: list[list[int]] = [[] for _ in split]
    position = 0
    for name in names:
        size = len(by_group[name])
        middle = position + size / 2  # a group goes where its middle falls
        part = next((i for i, end in enumerate(ends) if middle <= end), len(ends) - 1)
        parts[part] += order[position : position + size]
        position += size
    return [sorted(part) for part in parts]


def find_duplicates(
    structures: Sequence[Structure], formulas: Sequence[str], ids: Sequence[str]
) -> tuple[list[int], dict[str, str]]:
    """Return the indices to keep, and the left-out names with the name of their equal.

    Crystals are compared within a reduced formula with StructureMatcher's default tolerances; the
    first one of the source is kept.
    """
    from pymatgen.analysis.structure_matcher import StructureMatcher

    matcher = StructureMatcher()
    kept_of: dict[str, list[int]] = defaultdict(list)
    kept: list[int] = []
    duplicates: dict[str, str] = {}
    for index, (structure, formula) in enumerate(zip(structures, formulas, strict=True)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            equal = next(
                (i for i in kept_of[formula] if matcher.fit(structures[i], structure)), None
            )
        if equal is None:
            kept_of[formula].append(index)
            kept.append(index)
        else:
            duplicates[ids[index]] = ids[equal]
    return kept, duplicates


def check_output(output: Path, overwrite: bool | None) -> None:
    """Refuse a folder that holds anything, but for what is to be overwritten.

    Args:
        output: where a set is to be written.
        overwrite: whether an earlier set may be replaced; None for commands that never do.

    Raises:
        DataError: naming the folder.
    """
    if not output.exists():
        return
    there = [p.name for p in output.iterdir()] if output.is_dir() else ["."]
    there = [name for name in there if not is_ours(name)]
    if there and not overwrite:
        more = "" if overwrite is None else ", or pass --overwrite"
        raise DataError(f"{output} exists already; choose another folder{more}")
    if others := [name for name in there if name not in SET_PARTS]:
        raise DataError(
            f"{output} holds {others[0]}, which `data prepare` did not write, so it is not"
            " overwritten; choose another folder"
        )


def write_table(
    path: Path,
    names: Sequence[str],
    structures: Sequence[Structure],
    columns: Mapping[str, Sequence[str]],
) -> None:
    """Write a gzipped CSV in the project's layout: ``material_id``, ``cif`` and the columns."""
    rows = zip(names, structures, *columns.values(), strict=True)
    cells = ([name, cif_text(structure), *values] for name, structure, *values in rows)
    # half of a pair of letters, which JSON may hold, is written as an escape
    with gzip.open(path, "wt", encoding="utf-8", errors="backslashreplace", newline="") as file:
        write_rows(file, chain([["material_id", "cif", *columns]], cells))


def number_cells(values: Tensor) -> list[str]:
    """Return numbers ``(M,)`` as the cells of a table: all digits of float32, a gap for NaN."""
    return ["" if math.isnan(x) else f"{x:.9g}" for x in values.tolist()]
