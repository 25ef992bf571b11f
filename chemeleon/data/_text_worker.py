"""Write files of a chunk of crystals; the body of a worker process, so it imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from chemeleon.crystals.texts import write_text


def write_chunk(job: tuple[Any, ...]) -> int:
    """Write crystals: (folder, formats, names, cells, atomic numbers, fractional coordinates and
    `cif_text`'s cell of each).
    """
    from pymatgen.core import Lattice, Structure

    folder, formats, *columns = job
    for name, cell, numbers, coords, symmetric in zip(*columns, strict=True):
        structure = Structure(Lattice(cell), numbers, coords)
        for form in formats:
            write_text(Path(folder), form, name, structure, symmetric)
    return len(columns[0])
