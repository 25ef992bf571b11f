"""Write many crystals: CIF files, one each, by all cores."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from chemeleon.crystals.convert import write_structures
from chemeleon.data.pool import run_parallel, worker_count

if TYPE_CHECKING:
    from pymatgen.core import Structure

_MANY = 1000  # fewer are written by this process before others have started
_CHUNK = 100


def write_many(
    structures: Sequence[Structure],
    folder: str | Path,
    formats: Iterable[str],
    names: Sequence[str],
) -> None:
    """Write crystals as ``write_structures`` does, whose arguments and errors these are."""
    folder, formats = Path(folder), list(formats)
    workers = worker_count()
    if "cif" not in formats or len(structures) < _MANY or workers < 2:
        write_structures(structures, folder, formats, names)
        return
    write_structures(structures[:1], folder, ["cif"], names[:1])  # checks and makes the folder
    write_structures(structures, folder, [f for f in formats if f != "cif"], names)
    chunks = (
        (
            str(folder / "cif"),
            list(names[start : start + _CHUNK]),
            [s.lattice.matrix for s in structures[start : start + _CHUNK]],
            [list(s.atomic_numbers) for s in structures[start : start + _CHUNK]],
            [s.frac_coords for s in structures[start : start + _CHUNK]],
        )
        for start in range(0, len(structures), _CHUNK)
    )
    for _ in run_parallel("chemeleon.data._cif_worker:write_chunk", chunks, workers):
        pass
