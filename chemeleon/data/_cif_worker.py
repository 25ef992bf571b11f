"""Write CIF files of a chunk of crystals; the body of a worker process, so it imports no torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np

Chunk = tuple[str, list[str], list[np.ndarray], list[list[int]], list[np.ndarray]]


def write_chunk(job: Chunk) -> int:
    """Write crystals given as (folder, names, cells, atomic numbers, fractional coordinates)."""
    from pymatgen.core import Lattice, Structure
    from pymatgen.io.cif import CifWriter

    folder, *columns = job
    for name, cell, numbers, coords in zip(*columns, strict=True):
        structure = Structure(Lattice(cell), numbers, coords)
        (Path(folder) / f"{name}.cif").write_text(str(CifWriter(structure)))
    return len(columns[0])
