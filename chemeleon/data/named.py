"""What a set of crystals is called wherever one is asked for.

``NAME`` is a data set (its train split, or the one that a command says), ``NAME/SPLIT`` one of its
splits, anything else a file or folder; ``where EXPRESSION`` behind it takes some of the rows, as
``data.where`` does.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from chemeleon.config import presets
from chemeleon.config.schema import DataConfig
from chemeleon.config.where import read_where
from chemeleon.data.dataset import (
    SPLITS,
    LoadReport,
    find_dir,
    load_report,
    load_source,
    split_path,
)
from chemeleon.data.problems import OnError
from chemeleon.data.sources import has_column
from chemeleon.errors import ConfigError, DataError, nearest
from chemeleon.storage import at_home, is_there, settle


class NamedSet(NamedTuple):
    """A set that was found.

    Attributes:
        name: as it was asked for.
        path: file or folder.
        split: of a data set; None for a file or folder.
        config: settings of the data set with the expression of the name, and no targets.
    """

    name: str
    path: Path
    split: str | None
    config: DataConfig

    @property
    def title(self) -> str:
        """Data set and split, or the name of a file or folder."""
        return self.name if self.split is None else f"{self.config.name} {self.split}"

    @property
    def where(self) -> str | None:
        """The expression, if there is one."""
        return self.config.where

    def load(self, *, progress: bool = False) -> LoadReport:
        """Return the crystals, under the rules of ``config``."""
        if self.split is not None:
            return load_report(self.config, self.split, progress=progress)
        number_rows = not has_column(self.path, self.config.id_column)
        return load_source(self.config, self.path, progress=progress, number_rows=number_rows)


def find_set(
    name: str,
    split: str | None = None,
    *,
    default: str = "train",
    root: Path | None = None,
    on_error: OnError = "few",
) -> NamedSet:
    """Find ``NAME``, ``NAME/SPLIT`` or a path, with or without ``where EXPRESSION``.

    Args:
        name: as a user wrote it.
        split: of a data set; the one in its name is no other.
        default: the split where neither the name nor ``split`` says one.
        root: folder of data sets, see `DataConfig`.
        on_error: what bad rows may do.

    Raises:
        ConfigError: if the expression cannot be read, or there are two splits.
        DataError: if there is neither a file nor a data set of that name.
    """
    base, where = split_name(name)
    head, _, tail = base.rpartition("/")
    given = bool(head) and tail in SPLITS and not is_there(at_home(base))
    if given:
        base, split = head, _agreed(name, tail, split)
    path = at_home(base)
    own = {"root": None if root is None else str(root), "on_error": on_error, "where": where}
    settle(path)
    if path.is_dir():  # of splits, or of crystals
        config = presets.data_config(
            own | {"name": path.resolve().name, "root": str(path.resolve().parent)}
        )
        if _has_splits(config):
            split = split or default
            return NamedSet(name, split_path(config, split), split, config)
    if is_there(path) and not given:
        return NamedSet(name, path, None, presets.data_config(own))
    dataset, _, other = base.partition("/")
    known = presets.list_data()
    config = presets.find_data(dataset)
    config = config.model_copy(
        update={
            "targets": [],
            "on_error": on_error,
            "where": both(config.where, where),
            "root": config.root if root is None else str(root),
        }
    )
    if is_there(path) and (other or not (dataset in known or _has_splits(config))):
        raise DataError(f"{base} is one set without splits: leave out /{tail}")
    chosen = (_agreed(name, other, split) if other else split) or default
    if chosen not in SPLITS:
        close = nearest(chosen, SPLITS)
        raise DataError(f"no file {base}, and no split '{chosen}': {', '.join(SPLITS)}{close}")
    if dataset not in known and not find_dir(config).is_dir():
        raise DataError(
            f"no file or folder {base}, and no data set of that name{presets.nearest_set(dataset)};"
            f" known: {', '.join(known)}. To add one, see docs/adding-a-data-set.md"
        )
    return NamedSet(name, split_path(config, chosen), chosen, config)


def find_sets(
    name: str, split: str | None = None, *, root: Path | None = None, on_error: OnError = "few"
) -> list[NamedSet]:
    """Find the split that is named, else every one that there is; of a file or folder the whole.

    Arguments and errors are those of `find_set`.
    """
    found: dict[Path, NamedSet] = {}
    missing: list[DataError] = []
    for part in SPLITS if split is None else (split,):
        try:
            one = find_set(name, split, default=part, root=root, on_error=on_error)
            found[one.path] = one
        except DataError as error:
            missing.append(error)
    if not found:
        raise missing[0]
    return list(found.values())


def _agreed(name: str, own: str, split: str | None) -> str:
    """Return the split in a name, unless another one is asked for."""
    if split not in (None, own):
        raise ConfigError(f"{name} names the split {own}, and {split} is requested: leave out one")
    return own


def _has_splits(config: DataConfig) -> bool:
    for split in SPLITS:
        with suppress(DataError):
            return bool(split_path(config, split))
    return False


def split_name(name: str) -> tuple[str, str | None]:
    """Return the name of a set and its expression, which is None if there is none.

    Raises:
        ConfigError: if the expression cannot be read.
    """
    base, word, where = name.partition(" where ")
    if not word or is_there(at_home(name)):
        return name.strip(), None
    read_where(where)
    return base.strip(), where.strip()


def both(first: str | None, second: str | None) -> str | None:
    """Return the expression of which both are true."""
    return f"({first}) and ({second})" if first and second else first or second
