"""Find a data set, parse it once, and give each experiment the crystals it asked for.

Shapes: ``M`` crystals of a split.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor

from chemeleon.config.schema import DataConfig
from chemeleon.crystals.batch import FlatCrystals
from chemeleon.data.building import parse_source
from chemeleon.data.cache import ParsedSet, cache_dir, cached
from chemeleon.data.problems import Problem, problems_error
from chemeleon.data.sources import OTHER_SUFFIXES, TABLE_SUFFIXES, fingerprint
from chemeleon.errors import DataError, nearest

logger = logging.getLogger(__name__)
SPLITS = ("train", "val", "test")
Partial = bool | Literal["any"]


@dataclass(frozen=True)
class LoadReport:
    """One split as it was found.

    Attributes:
        crystals: usable crystals with the targets of the config.
        problems: rows left out, with the reason.
        total: rows read.
        source: file or folder, or ``demo``.
        columns: every numeric column, ``(M,)`` float32 with NaN where missing.
    """

    crystals: FlatCrystals
    problems: list[Problem]
    total: int
    source: str
    columns: dict[str, Tensor] = field(repr=False)


def load_split(
    config: DataConfig, split: str, *, progress: bool = False, partial: Partial = False
) -> FlatCrystals:
    """Return the usable crystals of one split, from the cache if its content was seen before.

    A row is bad if its crystal cannot be used, if it has more atoms than ``max_atoms``, or if one
    of the requested targets is missing (but see ``partial``). Columns that were not requested
    may have any gaps.

    Args:
        config: names the set, its columns, targets and limits.
        split: ``train``, ``val`` or ``test``.
        progress: show a bar while parsing.
        partial: keep crystals that have some of the targets, or with ``any`` all crystals; what is
            missing is NaN.

    Raises:
        DataError: if the set or a column is missing, nothing is usable, or ``on_error=fail`` and
            a row is bad.
    """
    report = load_report(config, split, progress=progress, partial=partial)
    if report.problems:
        logger.warning(
            "%s: %d of %d rows left out, the first is %s (`chemeleon data describe` lists them)",
            report.source,
            len(report.problems),
            report.total,
            report.problems[0],
        )
    return report.crystals


def load_report(
    config: DataConfig, split: str, *, progress: bool = False, partial: Partial = False
) -> LoadReport:
    """Like `load_split`, with the problems and all columns."""
    if split not in SPLITS:
        raise DataError(
            f"no split '{split}'; there are {', '.join(SPLITS)}{nearest(split, SPLITS)}"
        )
    if config.source == "demo":
        from chemeleon.crystals.prototypes import demo_crystals

        return _select_demo(config, demo_crystals(cast(Any, split)))
    return load_source(config, split_path(config, split), progress=progress, partial=partial)


def load_source(
    config: DataConfig,
    path: Path,
    *,
    progress: bool = False,
    number_rows: bool = False,
    partial: Partial = False,
) -> LoadReport:
    """Load the crystals of a file or folder under the rules of a config.

    Args:
        config: columns, targets and limits; its name and root are not used.
        path: any source that `sources.read_records` knows.
        progress: show a bar while parsing.
        number_rows: name the crystals of a CSV by row instead of by ``id_column``.
        partial: see `load_split`.
    """
    id_column = None if number_rows else config.id_column
    options = {"id": id_column, "cif": config.cif_column, "niggli": config.niggli}
    options["name"] = path.name  # problems and row names carry it
    parsed = cached(
        fingerprint(path),
        options,
        lambda: parse_source(
            path,
            id_column=id_column,
            cif_column=config.cif_column,
            niggli=config.niggli,
            progress=progress,
        ),
    )
    return _select(config, parsed, path, partial)


def data_root(config: DataConfig) -> Path:
    """Return ``config.root``, else ``$CHEMELEON_DATA``, else ``./data``."""
    return Path(config.root or os.environ.get("CHEMELEON_DATA") or "data").expanduser()


def dataset_dir(config: DataConfig) -> Path:
    """Return the folder of the data set, which need not exist."""
    return data_root(config) / config.name


def split_path(config: DataConfig, split: str) -> Path:
    """Return the file or folder of a split; the demo set is written to the cache for it.

    Raises:
        DataError: if there is none; the message says where it was looked for and how to get it.
    """
    if config.source == "demo":
        return _demo_file(split)
    folder = dataset_dir(config)
    for suffix in (*TABLE_SUFFIXES, *OTHER_SUFFIXES):
        if (folder / f"{split}{suffix}").is_file():
            return folder / f"{split}{suffix}"
    if (folder / split).is_dir():
        return folder / split
    what = f"data set '{config.name}'" if not folder.is_dir() else f"{split} split"
    remedy = (
        f"fetch it with `chemeleon data download {config.name}`"
        if config.download
        else f"make it with `chemeleon data prepare SOURCE -o {folder}`"
    )
    raise DataError(
        f"no {what}: looked for {folder / split}.csv, .csv.gz, other formats or a folder of"
        f" structures; {remedy}, or say where it is with data.root=FOLDER or CHEMELEON_DATA"
    )


def _demo_file(split: str) -> Path:
    """Write a split of the demo set as extxyz, for what reads files; once, as it never changes."""
    from chemeleon.crystals.convert import to_structures, write_structures
    from chemeleon.crystals.prototypes import demo_crystals

    crystals = demo_crystals(cast(Any, split))
    content = hashlib.sha256(crystals.frac_coords.numpy().tobytes())
    content.update(crystals.lattice.numpy().tobytes())
    content.update(crystals.atomic_numbers.numpy().tobytes())
    path = cache_dir() / "demo" / f"{split}-{content.hexdigest()[:16]}.extxyz"
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=path.parent) as beside:
                structures = to_structures(crystals)
                (written,) = write_structures(structures, beside, ["extxyz"], crystals.ids)
                written.replace(path)
        except OSError as error:
            raise DataError(
                f"the demo set cannot be written: {error}; set CHEMELEON_CACHE to a folder where"
                " it can"
            ) from error
    return path


def _select(config: DataConfig, parsed: ParsedSet, path: Path, partial: Partial) -> LoadReport:
    _check_targets(config.targets, parsed.columns, parsed.text_columns, str(path))
    problems = list(parsed.problems)
    good = torch.ones(len(parsed.num_atoms), dtype=torch.bool)
    checks: list[tuple[Tensor, str]] = []
    if config.max_atoms is not None:
        limit = f"atoms are more than max_atoms={config.max_atoms}"
        checks.append((parsed.num_atoms > config.max_atoms, limit))
    wanted = [] if partial == "any" else config.targets
    missing = {name: parsed.columns[name].isnan() for name in wanted}
    if partial and missing:
        none = torch.stack(list(missing.values())).all(0)
        checks.append((none, f"no number in any of the columns {', '.join(missing)}"))
    else:
        checks += [(gaps, f"no number in column '{name}'") for name, gaps in missing.items()]
    for bad, reason in checks:
        for i in torch.nonzero(bad & good).flatten().tolist():
            file = parsed.file_names[int(parsed.files[i])]
            count = f"{int(parsed.num_atoms[i])} " if reason.startswith("atoms") else ""
            problems.append(Problem(file, int(parsed.rows[i]), parsed.ids[i], count + reason))
        good &= ~bad
    problems.sort(key=lambda p: (p.file, p.row))
    if problems and config.on_error == "fail":
        remedy = "data.on_error=skip leaves them out"
        raise problems_error(problems, parsed.total, remedy)
    if not good.any():
        remedy = f"{path} has no usable crystal"
        if problems:
            raise problems_error(problems, parsed.total, remedy)
        raise DataError(remedy)
    crystals = parsed.crystals()
    if not good.all():
        crystals = crystals.subset(torch.nonzero(good).flatten())
    return _report(config, crystals, problems, parsed.total, str(path))


def _select_demo(config: DataConfig, crystals: FlatCrystals) -> LoadReport:
    _check_targets(config.targets, crystals.targets, [], "the demo set")
    total = len(crystals)
    if config.max_atoms is not None:
        fits = torch.nonzero(crystals.num_atoms <= config.max_atoms).flatten()
        if len(fits) == 0:
            raise DataError(f"no demo crystal has at most max_atoms={config.max_atoms} atoms")
        crystals = crystals.subset(fits)
    return _report(config, crystals, [], total, "demo")


def _report(
    config: DataConfig, crystals: FlatCrystals, problems: list[Problem], total: int, source: str
) -> LoadReport:
    columns = crystals.targets
    asked = FlatCrystals(
        crystals.atomic_numbers,
        crystals.frac_coords,
        crystals.lattice,
        crystals.num_atoms,
        {name: columns[name] for name in config.targets},
        crystals.ids,
    )
    return LoadReport(asked, problems, total, source, columns)


def _check_targets(
    asked: list[str], columns: dict[str, Tensor], text_columns: list[str], source: str
) -> None:
    for name in asked:
        if name in text_columns:
            raise DataError(f"{source}: column '{name}' holds text, and a target must be a number")
        if name not in columns:
            known = ", ".join(columns) or "none"
            raise DataError(
                f"{source} has no column '{name}'; its numeric columns: {known}"
                f"{nearest(name, columns)}"
            )
