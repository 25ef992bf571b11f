"""Files to pymatgen structures, by the readers of data sets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from chemeleon.data.parse import BadCrystalError, parse_as_given
from chemeleon.data.problems import Problem
from chemeleon.data.sources import has_column, read_records
from chemeleon.errors import DataError

if TYPE_CHECKING:
    from pymatgen.core import Structure


def read_structures(path: str | Path, id_column: str = "material_id") -> list[Structure]:
    """Read all crystals of a file, folder or zip, with cell and atoms as they stand there.

    Args:
        path: any source that `data.sources` knows.
        id_column: CSV column with names.

    Returns:
        Structures with their name and properties in ``properties``.

    Raises:
        DataError: if the source or one of its crystals cannot be read, or there is none.
    """
    from pymatgen.core import Structure

    path = Path(path)
    found = []
    for record in read_records(path, id_column if has_column(path, id_column) else None, "cif"):
        try:
            if record.kind == "problem":
                raise BadCrystalError(record.content)
            numbers, frac, lattice = parse_as_given(record.kind, record.content)
        except BadCrystalError as error:
            problem = Problem(record.file, record.row, record.id, str(error))
            raise DataError(f"{path} cannot be used: {problem}") from error
        properties = {**record.values, "material_id": record.id}
        found.append(Structure(lattice, numbers.tolist(), frac, properties=properties))
    if not found:
        raise DataError(f"{path} holds no crystal")
    return found
