"""Find a data set, parse it once, and give each experiment the crystals it asked for.

Shapes: ``M`` crystals of a split.
"""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from chemeleon.config import presets
from chemeleon.config.schema import DataConfig
from chemeleon.crystals.batch import Crystals
from chemeleon.data.building import parse_source
from chemeleon.data.cache import ParsedSet, cached
from chemeleon.data.limits import Limits
from chemeleon.data.names import OTHER_SUFFIXES, TABLE_SUFFIXES
from chemeleon.data.problems import check_reasons, problems_error
from chemeleon.data.selection import LoadReport, Partial, select
from chemeleon.data.sources import fingerprint, is_archive
from chemeleon.errors import DataError, nearest
from chemeleon.storage import at_home, settle

logger = logging.getLogger(__name__)
SPLITS = ("train", "val", "test")
_said: set[str] = set()  # lines of `load_split`, each once per process


def load_split(
    config: DataConfig, split: str, *, progress: bool = False, partial: Partial = False
) -> Crystals:
    """Return the usable crystals of one split, from the cache if its content was seen before.

    Left out are rows whose crystal cannot be used (as many as ``on_error`` allows), and those that
    are not wanted: by ``where``, ``max_atoms``, or for want of a requested target (but see
    ``partial``). One line says how many. Other columns may have any gaps. For training, crystals of
    the sets ``also`` follow.

    Args:
        config: names the set, its columns, targets and limits.
        split: ``train``, ``val`` or ``test``.
        progress: show a bar while parsing.
        partial: keep crystals that have some of the targets, or with ``any`` all crystals; what is
            missing is NaN, and sets ``also`` may lack the columns.

    Raises:
        DataError: if the set or a column is missing, nothing is left, or more rows are bad than
            ``on_error`` allows.
    """
    how: dict[str, Any] = {"progress": progress, "partial": partial}
    report = load_report(config, split, **how)
    line = report.told(f"{config.name} {split}", config.where)
    if line is not None and line not in _said:
        _said.add(line)
        logger.warning("%s", line)
    if split != "train" or not config.also:
        return report.crystals
    others = [_load_beside(config, name, **how) for name in config.also]
    return Crystals.join([report.crystals, *others])


def _load_beside(config: DataConfig, name: str, *, progress: bool, partial: Partial) -> Crystals:
    """Return the training crystals of a further set; with ``any`` it may lack wanted columns."""
    beside = _beside(config, name)
    if partial != "any":
        return load_split(beside, "train", progress=progress, partial=partial)
    found = load_report(beside.model_copy(update={"targets": []}), "train", progress=progress)
    there = {*found.columns, *found.labels}  # a target that is text there is refused
    targets = [target for target in config.targets if target in there]
    beside = beside.model_copy(update={"targets": targets})
    crystals = load_split(beside, "train", progress=progress, partial=partial)
    missing = torch.full((len(crystals),), torch.nan)
    return replace(crystals, targets={t: crystals.targets.get(t, missing) for t in config.targets})


def _beside(config: DataConfig, name: str) -> DataConfig:
    """Return the config of a further set, from which the same is wanted but for ``where``."""
    kept = ("root", "targets", "max_atoms", "niggli", "on_error", "limits")
    update = {field: getattr(config, field) for field in kept}
    if (folder := at_home(name)).is_absolute():
        name, update["root"] = folder.name, str(folder.parent)
    return presets.find_data(name).model_copy(update=update)


def load_report(
    config: DataConfig, split: str, *, progress: bool = False, partial: Partial = False
) -> LoadReport:
    """Like `load_split`, with the problems and all columns."""
    if split not in SPLITS:
        raise DataError(
            f"no split '{split}'; there are {', '.join(SPLITS)}{nearest(split, SPLITS)}"
        )
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
    reading = {"id_column": id_column, "cif_column": config.cif_column, "niggli": config.niggli}
    limits = Limits(**config.limits.model_dump())

    def parse() -> ParsedSet:
        return parse_source(path, **reading, limits=limits, progress=progress)

    # problems and row names carry the name
    options = {**reading, "name": path.name, "limits": list(limits)}
    # an archive opens as quickly as the cache would
    parsed = parse() if is_archive(path) else cached(fingerprint(path, limits), options, parse)
    return _select(config, parsed, path, partial)


def data_root(config: DataConfig) -> Path:
    """Return ``config.root``, else ``$CHEMELEON_DATA``, else ``./data``."""
    return at_home(config.root or os.environ.get("CHEMELEON_DATA") or "data")


def dataset_dir(config: DataConfig) -> Path:
    """Return the folder of the data set under the data root, which need not exist."""
    return data_root(config) / config.name


def packaged_root() -> Path:
    """Return the folder of the data sets inside the package, one folder each."""
    return Path(__file__).resolve().parents[1] / "datasets"


def packaged_sets() -> list[str]:
    """Return the names of the data sets inside the package; it may hold none."""
    root = packaged_root()
    return sorted(p.name for p in root.iterdir() if p.is_dir()) if root.is_dir() else []


def find_dir(config: DataConfig) -> Path:
    """Return the folder that the data set is read from, which need not exist.

    A folder under the data root comes before a set of the same name inside the package, as a
    whole: splits are never mixed. Which of them is read is said once per process.
    """
    folder = dataset_dir(config)
    if config.name not in packaged_sets():
        return folder
    own = folder.is_dir()
    _tell(config.name, folder if own else None)
    return folder if own else packaged_root() / config.name


@cache
def _tell(name: str, folder: Path | None) -> None:
    read = f"{folder}, which comes before the set of the package" if folder else "the package"
    logger.warning("data set %s is read from %s", name, read)


def split_path(config: DataConfig, split: str) -> Path:
    """Return the file or folder of a split.

    Raises:
        DataError: if there is none; the message says where it was looked for and how to get it.
    """
    folder = find_dir(config)
    settle(folder)
    for suffix in (*TABLE_SUFFIXES, *OTHER_SUFFIXES):
        if (folder / f"{split}{suffix}").is_file():
            return folder / f"{split}{suffix}"
    if (folder / split).is_dir():
        return folder / split
    if folder.parent == packaged_root():
        raise DataError(f"data set '{config.name}' of the package has no {split} split")
    what = f"data set '{config.name}'" if not folder.is_dir() else f"{split} split"
    remedy = (
        f"fetch it with `chemeleon data download {config.name}`"
        if config.download
        else f"make it with `chemeleon data prepare SOURCE -o {folder}`"
    )
    if config.instead:
        remedy += f", take {config.instead} instead"
    if config.name in packaged_sets():
        remedy = f"rename {folder}, so that the set of the package is read"
    raise DataError(
        f"no {what}: looked for {folder / split}.csv, .csv.gz, other formats or a folder of"
        f" structures; {remedy}, or say where it is with data.root=FOLDER or CHEMELEON_DATA"
    )


def _select(config: DataConfig, parsed: ParsedSet, path: Path, partial: Partial) -> LoadReport:
    source, problems = str(path), parsed.problems
    unusable = f"{path} has no usable crystal"
    _check_targets(config.targets, parsed, source)
    remedy = (
        f"data.on_error=skip (or --on-error skip) leaves them out; `chemeleon data describe {path}`"
        " lists them"
    )
    if problems and (config.on_error == "fail" or len(problems) == parsed.total):
        usable = len(problems) < parsed.total
        raise problems_error(problems, parsed.total, remedy if usable else unusable)
    reasons = [problem.reason for problem in problems]
    check_reasons(reasons, parsed.total, config.on_error, source, remedy)
    if not len(parsed.num_atoms):
        raise DataError(unusable)
    return select(config, parsed, source, partial)


def _check_targets(asked: list[str], parsed: ParsedSet, source: str) -> None:
    for name in asked:
        if name in parsed.text_columns:
            seen = [n for n in parsed.notes if n.startswith(f"column '{name}' ")]
            raise DataError(
                f"{source}: column '{name}' holds text, and a target must be a number"
                f"{''.join('; ' + n for n in seen)}"
            )
        if name not in parsed.columns:
            known = ", ".join(parsed.columns) or "none"
            raise DataError(
                f"{source} has no column '{name}'; its numeric columns: {known}"
                f"{nearest(name, parsed.columns)}"
            )
