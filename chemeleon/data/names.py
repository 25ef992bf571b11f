"""What the name of a file says: of which kind it is, and what its crystal is called."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath

TABLE_SUFFIXES = (".csv", ".csv.gz")
ARCHIVE_SUFFIX = ".safetensors.xz"
OTHER_SUFFIXES = (ARCHIVE_SUFFIX, ".json", ".json.gz", ".zip", ".extxyz", ".cif")
KNOWN = "CSV (.csv, .csv.gz), CIF, POSCAR (or .vasp), extxyz, JSON of structures, a zip or a folder"
_KINDS = {
    ".cif": "cif",
    ".mcif": "cif",
    ".csv": "table",
    ".tsv": "table",
    ".vasp": "poscar",
    ".poscar": "poscar",
    ".extxyz": "extxyz",
    ".xyz": "extxyz",
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
    ".zip": "zip",
    ".txt": "words",
    ".md": "words",
}
_VASP = ("poscar", "contcar")


def kind_of(name: str) -> str | None:
    """Return ``table``, ``cif``, ``poscar``, ``extxyz``, ``json``, ``zip``, ``archive`` (of a data
    set), ``words`` (texts that hold no crystals) or None.
    """
    base = PurePosixPath(name).name.lower().removesuffix(".gz")
    if base.endswith(ARCHIVE_SUFFIX):
        return "archive"
    kind = _KINDS.get(PurePosixPath(base).suffix)
    if base.startswith(_VASP) and kind in (None, "words"):
        return "poscar"
    return kind


def stem(name: str) -> str:
    """Return the name without the suffixes that say its kind: Li0.5CoO2 of Li0.5CoO2.cif.gz."""
    base = PurePosixPath(name).name
    if base.lower().endswith(".gz"):
        base = base[:-3]
    suffix = PurePosixPath(base).suffix
    return base.removesuffix(suffix) if suffix.lower() in _KINDS else base


def plain_id(name: str) -> str:
    """Return what a crystal is called, on one line: as the cell of a table gives it back."""
    return name.replace("\r", " ").replace("\n", " ").strip()


def unique_stems(names: Sequence[str]) -> dict[str, str]:
    """Return a name of its own for each file of a folder: its stem, with the folder if need be.

    POSCAR and CONTCAR say nothing, so they always carry their folder.
    """
    found = {name: name if stem(name).lower() in _VASP else stem(name) for name in names}
    for longer in (lambda n: (PurePosixPath(n).parent / stem(n)).as_posix(), lambda n: n):
        counts = Counter(found.values())
        found = {n: s if counts[s] == 1 else longer(n) for n, s in found.items()}
    return found
