"""Reference sets: crystals to be novel against, indexed once and kept on disk.

An index holds what `collection` says of each crystal and its reduced cell. It is one safetensors
file of arrays and JSON text, never a pickle, named by the content of the source and the versions
of the code that made it, and put in place in one step.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from chemeleon.checkpoints.store import write_atomically
from chemeleon.config import presets
from chemeleon.config.schema import DataConfig
from chemeleon.data.cache import cache_dir
from chemeleon.data.dataset import SPLITS, dataset_dir, split_path
from chemeleon.data.parse import PARSER_VERSION
from chemeleon.data.sources import fingerprint
from chemeleon.errors import DataError, nearest
from chemeleon.evaluation.collection import Collection, Progress, read_collection
from chemeleon.evaluation.describe import DESCRIPTION_VERSION
from chemeleon.evaluation.grouping import Prepared, composition_keys, prepare
from chemeleon.evaluation.packed import Packed
from chemeleon.evaluation.reduced import REDUCTION_VERSION

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reference:
    """An indexed set of crystals.

    Attributes:
        name: as it was asked for.
        source: file or folder.
        fingerprint: sha256 of its content.
        collection: its crystals.
        prepared: the same as the matcher compares them.
    """

    name: str
    source: str
    fingerprint: str
    collection: Collection
    prepared: Prepared

    @property
    def size(self) -> int:
        """Number of crystals that could be read."""
        return int((self.collection.crystals.counts > 0).sum())


def find_source(name: str, split: str = "train") -> Path:
    """Return the file of ``mp_20_open`` (its train split), ``mp_20_open/test``, or a path.

    Raises:
        DataError: if there is neither a file nor a data set of that name.
    """
    path = Path(name).expanduser()
    if path.exists():
        return path
    dataset, _, given = name.partition("/")
    config = DataConfig(name=dataset)
    known = presets.list_data()
    if given and given not in SPLITS:
        raise DataError(f"no file {name}, and no split '{given}': {', '.join(SPLITS)}")
    if dataset not in known and not dataset_dir(config).is_dir():
        raise DataError(
            f"no file or folder {name}, and no data set of that name{nearest(dataset, known)};"
            f" known: {', '.join(known)}"
        )
    return split_path(presets.load_data(dataset) if dataset in known else config, given or split)


def load_reference(
    name: str,
    *,
    split: str = "train",
    seconds: float = 10.0,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Reference:
    """Read and index a reference set, or take its index from the cache.

    Args:
        name: data set, data set and split, or path; see `find_source`.
        split: where the name has none.
        seconds: limit per crystal.
        workers: processes; all cores if None.
        progress: called with a word and the share done.

    Raises:
        DataError: if there is no such set.
    """
    path = find_source(name, split)
    content = fingerprint(path)
    versions = [PARSER_VERSION, DESCRIPTION_VERSION, REDUCTION_VERSION, path.name]
    versions += [version(package) for package in ("pymatgen", "moyopy", "smact")]
    key = hashlib.sha256(json.dumps([content, versions]).encode()).hexdigest()[:32]
    file = cache_dir() / "references" / f"{key}.safetensors"
    found = _read(file)
    if found is None:
        collection = read_collection(path, workers=workers, progress=progress)
        prepared = prepare(collection.crystals, seconds=seconds, workers=workers, progress=progress)
        found = collection, prepared
        _write(file, collection, prepared)
    return Reference(name, str(path), content, *found)


def _write(file: Path, collection: Collection, prepared: Prepared) -> None:
    from safetensors.numpy import save

    arrays: dict[str, Any] = {"numbers": collection.numbers}
    for prefix, packed in (("given", collection.crystals), ("reduced", prepared.crystals)):
        arrays |= {f"{prefix}.{k}": np.ascontiguousarray(v) for k, v in packed._asdict().items()}
    words = {
        "ids": collection.ids,
        "sources": collection.sources,
        "reasons": collection.reasons,
        "texts": collection.texts,
        "unreduced": prepared.reasons,
    }
    arrays["words"] = np.frombuffer(json.dumps(words).encode(), dtype=np.uint8)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, lambda path: _write_bytes(path, save(arrays)))
    except OSError as error:
        logger.warning("the reference index is not cached: %s (set CHEMELEON_CACHE)", error)


def _write_bytes(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def _read(file: Path) -> tuple[Collection, Prepared] | None:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    if not file.is_file() or not os.access(file, os.R_OK):
        return None
    try:
        arrays = load_file(file)
        words = json.loads(arrays["words"].tobytes())
        given, reduced = (
            Packed(*(arrays[f"{prefix}.{field}"] for field in Packed._fields))
            for prefix in ("given", "reduced")
        )
        collection = Collection(
            words["ids"],
            words["sources"],
            words["reasons"],
            given,
            arrays["numbers"],
            [tuple(row) for row in words["texts"]],
        )
        return collection, Prepared(reduced, composition_keys(given), words["unreduced"])
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        logger.warning("the cached index %s is damaged (%s); indexing again", file, error)
        return None
