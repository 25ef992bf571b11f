"""What a user's word for a data set means: a name, a prepared folder, or files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chemeleon.config.schema import DataConfig


def named_set(name: str, root: Path | None) -> DataConfig:
    """Return the settings of a preset, or plain ones for a prepared folder without a preset."""
    from chemeleon.config.presets import data_config, load_data
    from chemeleon.data.dataset import find_dir
    from chemeleon.errors import ConfigError

    try:
        config = load_data(name)
    except ConfigError:
        config = data_config({"name": name, "root": str(root) if root else None})
        if not find_dir(config).is_dir():
            raise
    return config if root is None else config.model_copy(update={"root": str(root)})


def parts(name: str) -> tuple[str, str | None, str | None]:
    """Return set or path, split and expression of a name as `data.named` describes it."""
    from chemeleon.data.dataset import SPLITS
    from chemeleon.data.named import split_name
    from chemeleon.storage import at_home, is_there

    base, where = split_name(name)
    head, _, tail = base.rpartition("/")
    if head and tail in SPLITS and not is_there(at_home(base)):
        return head, tail, where
    return base, None, where


def looks_like_path(name: str) -> bool:
    """Tell a file or folder from the name of a data set."""
    if "/" in name or "." in name:
        return True
    from chemeleon.config.presets import list_data

    return name not in list_data() and Path(name).exists()


def path_config(path: Path) -> DataConfig:
    """Return plain settings for a file or folder."""
    from chemeleon.config.presets import data_config

    path = path.resolve()
    return data_config({"name": path.name, "root": str(path.parent)})


def holds_splits(path: Path) -> bool:
    """Tell a folder of train, val and test from a folder of crystals."""
    from chemeleon.storage import settle

    settle(path)
    return path.is_dir() and any(p.name.split(".")[0] == "train" for p in path.iterdir())


def splits_of(config: DataConfig) -> list[str]:
    """Return the splits that are there; all of them if none is, so that the error says so."""
    from chemeleon.data.dataset import SPLITS, split_path
    from chemeleon.errors import DataError

    there = []
    for split in SPLITS:
        try:
            split_path(config, split)
            there.append(split)
        except DataError:
            continue
    return there or list(SPLITS)
