"""Parsed data sets on disk: one safetensors file per source content, options and parser version.

Readers see all of a file or nothing. A lock lets one process parse while others that start at the
same time wait for its result.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from chemeleon.caching import cache_file, keep
from chemeleon.config.plain_json import parse_json
from chemeleon.crystals.batch import Crystals
from chemeleon.data.labels import Labels
from chemeleon.data.parse import PARSER_VERSION
from chemeleon.data.problems import Problem
from chemeleon.storage import hold

logger = logging.getLogger(__name__)
_FORMAT = 4
# of a `ParsedSet`
_TENSORS = ("atomic_numbers", "frac_coords", "lattice", "num_atoms", "rows", "files")


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

    def crystals(self) -> Crystals:
        """Return the crystals with every column as a target."""
        return Crystals(
            atomic_numbers=self.atomic_numbers.to(torch.int64),
            frac_coords=self.frac_coords,
            lattice=self.lattice,
            num_atoms=self.num_atoms.to(torch.int64),
            targets=dict(self.columns),
            ids=self.ids,
        )


def cached(source: str, options: dict[str, object], build: Callable[[], ParsedSet]) -> ParsedSet:
    """Return the parsed set from the cache, or build and keep it.

    Args:
        source: sha256 of the content of the source.
        options: everything else that changes the result.
        build: parses the source; called by one process at a time.
    """
    path = cache_file("data", [_FORMAT, PARSER_VERSION, source, options], ".safetensors")
    found = _read(path)
    if found is not None:
        return found
    with ExitStack() as held:
        # where it may not be locked, work may be done twice, and putting it in place is still safe
        with suppress(OSError):
            held.enter_context(hold(path, wait=True))
        found = _read(path)  # another process may have built it while we waited
        if found is None:
            found = build()
            keep(path, _content(found), "parsed crystals are")
    return found


def _text(lines: list[str]) -> Tensor:
    # one line per name, so 600,000 of them are read in a fraction of a second
    data = "\n".join(line.replace("\n", " ") for line in lines).encode(errors="surrogatepass")
    return torch.frombuffer(bytearray(data or b"\0"), dtype=torch.uint8)


def _lines(data: Tensor, count: int) -> list[str]:
    text = data.numpy().tobytes().decode(errors="surrogatepass")
    return text.split("\n") if count else []


def _content(parsed: ParsedSet) -> bytes:
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
        **{name: getattr(parsed, name) for name in _TENSORS},
        "ids": _text(parsed.ids),
        "file_names": _text(parsed.file_names),
        "details": _text([json.dumps(details)]),
        **{f"column:{i}": value for i, value in enumerate(parsed.columns.values())},
        **{f"codes:{i}": torch.from_numpy(v.codes) for i, v in enumerate(parsed.labels.values())},
    }
    return save(tensors)


def _read(path: Path) -> ParsedSet | None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        return None
    try:
        tensors = load_file(path)  # memory-mapped
        details = parse_json(tensors["details"].numpy().tobytes())
        found = ParsedSet(
            **{name: tensors[name] for name in _TENSORS},
            ids=_lines(tensors["ids"], len(tensors["num_atoms"])),
            file_names=_lines(tensors["file_names"], details["file_count"]),
            columns={name: tensors[f"column:{i}"] for i, name in enumerate(details["columns"])},
            text_columns=details["text_columns"],
            problems=[Problem(*p) for p in details["problems"]],
            total=details["total"],
            labels={
                name: Labels(tensors[f"codes:{i}"].numpy(), words)
                for i, (name, words) in enumerate(details["words"].items())
            },
            notes=details["notes"],
        )
        _check(found)
        return found
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, AttributeError) as error:
        logger.warning("the cached data set %s is damaged (%s); parsing again", path, error)
        return None


def _check(found: ParsedSet) -> None:
    """Raise ValueError for parts that do not belong together, as of a file that was changed."""
    count, atoms = len(found.num_atoms), len(found.atomic_numbers)
    codes = {name: torch.from_numpy(labels.codes) for name, labels in found.labels.items()}
    tensors = [
        ("atomic_numbers", found.atomic_numbers, torch.uint8, (atoms,)),
        ("frac_coords", found.frac_coords, torch.float32, (atoms, 3)),
        ("lattice", found.lattice, torch.float32, (count, 3, 3)),
        ("num_atoms", found.num_atoms, torch.int32, (count,)),
        ("rows", found.rows, torch.int64, (count,)),
        ("files", found.files, torch.int32, (count,)),
        *((f"column {name}", x, torch.float32, (count,)) for name, x in found.columns.items()),
        *((f"column {name}", x, torch.int32, (count,)) for name, x in codes.items()),
    ]
    for name, tensor, kind, shape in tensors:
        if tensor.dtype != kind or tensor.shape != shape:
            raise ValueError(f"{name} has type {tensor.dtype} and shape {tuple(tensor.shape)}")
    ranges = [(found.files, 0, len(found.file_names))]
    ranges += [(codes[name], -1, len(labels.words)) for name, labels in found.labels.items()]
    if count and not all(low <= int(x.min()) <= int(x.max()) < end for x, low, end in ranges):
        raise ValueError("a file or a word is named that is not there")
    sizes = found.num_atoms.sum(dtype=torch.int64)
    if len(found.ids) != count or sizes != atoms or (count and found.num_atoms.min() < 1):
        raise ValueError("numbers of atoms or names do not add up")
    words = [*found.text_columns, *found.notes]
    words += [word for labels in found.labels.values() for word in labels.words]
    words += [word for p in found.problems for word in (p.file, p.id, p.reason)]
    rows = [found.total, *(p.row for p in found.problems)]
    if not all(isinstance(word, str) for word in words) or not all(type(n) is int for n in rows):
        raise ValueError("words and numbers are mixed up")
