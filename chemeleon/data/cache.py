"""Parsed data sets on disk: one safetensors file per source content, options and parser version.

Readers see all of a file or nothing. A lock lets one process parse while others that start at the
same time wait for its result.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from chemeleon.crystals.batch import FlatCrystals
from chemeleon.data.labels import Labels
from chemeleon.data.parse import PARSER_VERSION
from chemeleon.data.problems import Problem
from chemeleon.storage import hold, write_atomically

logger = logging.getLogger(__name__)
_FORMAT = 3


@dataclass(frozen=True)
class ParsedSet:
    """All usable crystals of a source, whatever the limits and targets of one experiment.

    Attributes:
        atomic_numbers: ``(A,)`` uint8, atoms of all crystals in a row.
        frac_coords: ``(A, 3)`` float32 in [0, 1).
        lattice: ``(M, 3, 3)`` float32, angstrom.
        num_atoms: ``(M,)`` int32.
        rows: ``(M,)`` int64, number of the crystal in its file.
        files: ``(M,)`` int32, index into ``file_names``.
        columns: property to ``(M,)`` float32; NaN where empty or not a number.
        ids: ``M`` names.
        file_names: files of the source.
        text_columns: columns without a single number.
        problems: rows that are no usable crystals.
        total: rows read.
        labels: the values of those text columns that take little space.
        notes: what is to be said of the source beside its problems.
    """

    atomic_numbers: Tensor
    frac_coords: Tensor
    lattice: Tensor
    num_atoms: Tensor
    rows: Tensor
    files: Tensor
    columns: dict[str, Tensor]
    ids: list[str]
    file_names: list[str]
    text_columns: list[str]
    problems: list[Problem]
    total: int
    labels: dict[str, Labels] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def crystals(self) -> FlatCrystals:
        """Return the crystals with every column as a target."""
        return FlatCrystals(
            atomic_numbers=self.atomic_numbers.to(torch.int64),
            frac_coords=self.frac_coords,
            lattice=self.lattice,
            num_atoms=self.num_atoms.to(torch.int64),
            targets=dict(self.columns),
            ids=self.ids,
        )


def cache_dir() -> Path:
    """Return ``$CHEMELEON_CACHE``, else ``~/.cache/chemeleon``."""
    given = os.environ.get("CHEMELEON_CACHE")
    return Path(given).expanduser() if given else Path.home() / ".cache" / "chemeleon"


def cached(source: str, options: dict[str, object], build: Callable[[], ParsedSet]) -> ParsedSet:
    """Return the parsed set from the cache, or build and keep it.

    Args:
        source: sha256 of the content of the source.
        options: everything else that changes the result.
        build: parses the source; called by one process at a time.
    """
    key = json.dumps([_FORMAT, PARSER_VERSION, source, options], sort_keys=True)
    folder = cache_dir() / "data"
    path = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.safetensors"
    found = _read(path)
    if found is not None:
        return found
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(f"{folder} is not writable")
    except OSError as error:
        logger.warning("parsed crystals are not cached: %s (set CHEMELEON_CACHE)", error)
        return build()
    with ExitStack() as held:
        # where it may not be locked, work may be done twice, and putting it in place is still safe
        with suppress(OSError):
            held.enter_context(hold(path, wait=True))
        found = _read(path)  # another process may have built it while we waited
        if found is None:
            found = build()
            try:
                _write(path, found)
            except OSError as error:
                logger.warning("parsed crystals are not cached: %s (set CHEMELEON_CACHE)", error)
    return found


def _text(lines: list[str]) -> Tensor:
    # one line per name, so 600,000 of them are read in a fraction of a second
    data = "\n".join(line.replace("\n", " ") for line in lines).encode()
    return torch.frombuffer(bytearray(data or b"\0"), dtype=torch.uint8)


def _lines(data: Tensor, count: int) -> list[str]:
    return data.numpy().tobytes().decode().split("\n") if count else []


def _write(path: Path, parsed: ParsedSet) -> None:
    from safetensors.torch import save

    details = {
        "problems": [list(p) for p in parsed.problems],
        "columns": list(parsed.columns),
        "text_columns": parsed.text_columns,
        "total": parsed.total,
        "words": {name: labels.words for name, labels in parsed.labels.items()},
        "notes": parsed.notes,
        "file_count": len(parsed.file_names),
    }
    tensors = {
        "atomic_numbers": parsed.atomic_numbers,
        "frac_coords": parsed.frac_coords,
        "lattice": parsed.lattice,
        "num_atoms": parsed.num_atoms,
        "rows": parsed.rows,
        "files": parsed.files,
        "ids": _text(parsed.ids),
        "file_names": _text(parsed.file_names),
        "details": _text([json.dumps(details)]),
        **{f"column:{name}": value for name, value in parsed.columns.items()},
        **{f"codes:{name}": torch.from_numpy(v.codes) for name, v in parsed.labels.items()},
    }
    content = save(tensors)
    write_atomically(path, lambda beside: beside.write_bytes(content))


def _read(path: Path) -> ParsedSet | None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        return None
    try:
        tensors = load_file(path)  # memory-mapped
        details = json.loads(tensors.pop("details").numpy().tobytes())
        num_atoms = tensors.pop("num_atoms")
        return ParsedSet(
            atomic_numbers=tensors.pop("atomic_numbers"),
            frac_coords=tensors.pop("frac_coords"),
            lattice=tensors.pop("lattice"),
            num_atoms=num_atoms,
            rows=tensors.pop("rows"),
            files=tensors.pop("files"),
            ids=_lines(tensors.pop("ids"), len(num_atoms)),
            file_names=_lines(tensors.pop("file_names"), details["file_count"]),
            columns={name: tensors[f"column:{name}"] for name in details["columns"]},
            text_columns=details["text_columns"],
            problems=[Problem(*p) for p in details["problems"]],
            total=details["total"],
            labels={
                name: Labels(tensors[f"codes:{name}"].numpy(), words)
                for name, words in details["words"].items()
            },
            notes=details["notes"],
        )
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        logger.warning("the cached data set %s is damaged (%s); parsing again", path, error)
        return None
