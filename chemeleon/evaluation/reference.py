"""Reference sets: crystals to be novel against, indexed once and kept on disk.

An index holds what `collection` says of each crystal and its reduced cell. It is one safetensors
file of arrays and JSON text, never a pickle, named by the content of the source and the versions
of the code that made it, and put in place in one step.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from chemeleon.caching import cache_file, keep
from chemeleon.config.plain_json import parse_json
from chemeleon.crystals.batch import Array, Crystals
from chemeleon.data.named import find_set
from chemeleon.data.parse import PARSER_VERSION
from chemeleon.data.problems import OnError
from chemeleon.data.sources import fingerprint
from chemeleon.evaluation.collection import Collection, read_collection
from chemeleon.evaluation.describe import DESCRIPTION_VERSION, NUMBERS, TEXTS
from chemeleon.evaluation.matching.grouping import Prepared, composition_keys, prepare
from chemeleon.evaluation.matching.reduced import REDUCTION_VERSION
from chemeleon.evaluation.work import Progress

NOVEL, DISORDERED = "novel", "novel_disordered"  # columns of novelty against all references
logger = logging.getLogger(__name__)
_FORMAT = 2
_ARRAYS = {
    "numbers": "atomic_numbers",
    "frac": "frac_coords",
    "lattice": "lattice",
    "counts": "num_atoms",
}


@dataclass(frozen=True)
class Reference:
    """An indexed set of crystals.

    Attributes:
        name: as it was asked for.
        source: file or folder.
        fingerprint: sha256 of its content.
        collection: its crystals.
        prepared: the same as the matcher compares them.
        where: which of its rows.
    """

    name: str
    source: str
    fingerprint: str
    collection: Collection
    prepared: Prepared
    where: str | None = None

    @property
    def size(self) -> int:
        """Number of crystals that could be read."""
        return int((self.collection.crystals.num_atoms > 0).sum())


def load_reference(
    name: str,
    *,
    split: str = "train",
    seconds: float = 10.0,
    workers: int | None = None,
    progress: Progress | None = None,
    on_error: OnError = "few",
) -> Reference:
    """Read and index a reference set, or take its index from the cache.

    Args:
        name: data set, data set and split, or path, and an expression; see `data.named`.
        split: where the name has none.
        seconds: limit per crystal.
        workers: processes; all cores if None.
        progress: called with a word and the share done.
        on_error: how many rows may be bad.

    Raises:
        DataError: if there is no such set, or too many of its rows are bad.
    """
    source = find_set(name, default=split)
    path = source.path
    content = fingerprint(path)
    versions = [_FORMAT, PARSER_VERSION, DESCRIPTION_VERSION, REDUCTION_VERSION, path.name]
    versions += [source.where] if source.where else []
    versions += [version(package) for package in ("pymatgen", "moyopy", "smact")]
    file = cache_file("references", [content, versions], ".safetensors")
    found = _read(file)
    if found is None:
        collection = read_collection(path, where=source.where, workers=workers, progress=progress)
        collection.check(on_error, name)  # before the work
        prepared = prepare(collection.crystals, seconds=seconds, workers=workers, progress=progress)
        found = collection, prepared
        _write(file, collection, prepared)
    found[0].check(on_error, name)
    return Reference(name, str(path), content, *found, where=source.where)


def _write(file: Path, collection: Collection, prepared: Prepared) -> None:
    from safetensors.numpy import save

    arrays: dict[str, Any] = {"numbers": collection.numbers}
    for prefix, crystals in (("given", collection.crystals), ("reduced", prepared.crystals)):
        for name, field in _ARRAYS.items():
            arrays[f"{prefix}.{name}"] = np.ascontiguousarray(getattr(crystals, field))
    words = {
        "ids": collection.ids,
        "sources": collection.sources,
        "reasons": collection.reasons,
        "texts": collection.texts,
        "unreduced": prepared.reasons,
        "left_out": collection.left_out,
    }
    arrays["words"] = np.frombuffer(json.dumps(words).encode(), dtype=np.uint8)
    keep(file, save(arrays), "the reference index is")


def _read(file: Path) -> tuple[Collection, Prepared] | None:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    if not file.is_file() or not os.access(file, os.R_OK):
        return None
    try:
        arrays = load_file(file)
        words = parse_json(arrays["words"].tobytes())
        given, reduced = (_crystals(arrays, prefix) for prefix in ("given", "reduced"))
        collection = Collection(
            words["ids"],
            words["sources"],
            words["reasons"],
            given,
            arrays["numbers"],
            [tuple(row) for row in words["texts"]],
            words["left_out"],
        )
        _check(collection, reduced, words["unreduced"])
        return collection, Prepared(reduced, composition_keys(given), words["unreduced"])
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, AttributeError) as error:
        logger.warning("the cached index %s is damaged (%s); indexing again", file, error)
        return None


def _crystals(arrays: dict[str, Array], prefix: str) -> Crystals[Array]:
    numbers, frac, lattice, counts = (arrays[f"{prefix}.{name}"] for name in _ARRAYS)
    return Crystals(numbers, frac, lattice, counts, check=False)


def _check(found: Collection, reduced: Crystals[Array], unreduced: list[str | None]) -> None:
    """Raise ValueError for parts that do not belong together, as of a file that was changed."""
    count = len(found.crystals)
    for crystals in (found.crystals, reduced):
        parts = [getattr(crystals, name) for name in _ARRAYS.values()]
        counts, atoms = parts[3], len(parts[0])
        fits = [part.shape for part in parts] == [(atoms,), (atoms, 3), (count, 3, 3), (count,)]
        fits &= [part.dtype for part in parts] == [np.uint8, np.float64, np.float64, np.int64]
        if not fits or counts.min(initial=0) < 0 or counts.sum() != atoms:
            raise ValueError("sizes of crystals do not add up")
    if found.numbers.shape != (count, len(NUMBERS)) or found.numbers.dtype != np.float64:
        raise ValueError(f"numbers have type {found.numbers.dtype}, shape {found.numbers.shape}")
    lists = found.ids, found.sources, found.reasons, found.texts, unreduced
    if any(not isinstance(part, list) or len(part) != count for part in lists):
        raise ValueError("lists of words do not fit the crystals")
    if any(len(row) != len(TEXTS) for row in found.texts) or type(found.left_out) is not int:
        raise ValueError("words are missing")
    words = [*found.ids, *found.sources, *(word for row in found.texts for word in row)]
    if not all(isinstance(w, str) for w in words) or not all(
        isinstance(w, str | None) for w in [*found.reasons, *unreduced]
    ):
        raise ValueError("some words are none")


def column_word(name: str) -> str:
    """Return what stands for a name or path in columns."""
    return re.sub(r"\W+", "_", name).strip("_")


def novel_column(reference: str, kind: str = NOVEL) -> str:
    """Return the column of novelty against a reference set."""
    return f"{kind}_{column_word(reference)}"


def all_columns(references: Sequence[str]) -> list[str]:
    """Return the columns of novelty; two of one name cannot stand in one table."""
    names = [novel_column(name, kind) for kind in (NOVEL, DISORDERED) for name in references]
    return [*names, NOVEL, DISORDERED] if names else []
