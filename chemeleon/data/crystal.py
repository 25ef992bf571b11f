"""One crystal as arrays, and the error of what is none. No torch here: workers import it.

Shapes: ``N`` atoms of one crystal. Lattices are (3, 3), angstrom, rows a, b, c.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from chemeleon.crystals.batch import Crystal as Crystal
from chemeleon.crystals.notation import MAX_ATOMIC_NUMBER as MAX_ATOMIC_NUMBER
from chemeleon.data.niggli import cell_matrix

if TYPE_CHECKING:
    from pymatgen.core import Structure

Array = NDArray[np.float64]


class BadCrystalError(ValueError):
    """The text is not a crystal that can be used; the message is the reason."""


class Record(NamedTuple):
    """One crystal as found: ``kind`` and ``content`` are the arguments of `parse.parse`."""

    file: str
    row: int
    id: str
    kind: str
    content: Any
    values: Mapping[str, Any]


def structure_of(crystal: Crystal) -> Structure:
    """Return pymatgen's structure of a crystal."""
    from pymatgen.core import Structure

    numbers, frac, lattice = crystal
    return Structure(lattice, numbers.tolist(), np.asarray(frac, float))


def cell_from(parameters: Sequence[float]) -> Array:
    """Return the cell of three lengths in angstrom and three angles in degree, c along z.

    Raises:
        BadCrystalError: if there is no such cell.
    """
    lengths, angles = parameters[:3], [math.radians(x) for x in parameters[3:]]
    shown = ", ".join(f"{x:g}" for x in parameters)
    if not all(0 < x < math.inf for x in lengths) or not all(0 < x < math.pi for x in angles):
        raise BadCrystalError(f"{shown} are no lengths and angles of a cell")
    x, y, z = map(math.cos, angles)
    if 1 - x * x - y * y - z * z + 2 * x * y * z <= 0:
        raise BadCrystalError(f"zero volume: no cell has the angles of {shown}")
    return cell_matrix(np.array(lengths), np.array(angles))
