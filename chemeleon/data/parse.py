"""A description of one crystal (CIF text, a dictionary, arrays) to checked arrays, without torch.

Shapes: ``N`` atoms of one crystal. Lattices are (3, 3), angstrom, rows a, b, c.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chemeleon.crystals.batch import Crystals
from chemeleon.crystals.lattice import plane_spacings
from chemeleon.data.cif import read_cif
from chemeleon.data.crystal import MAX_ATOMIC_NUMBER, Array, BadCrystalError, Crystal
from chemeleon.data.dictionary import read_dictionary
from chemeleon.data.distances import closest_pair
from chemeleon.data.extxyz import read_frame
from chemeleon.data.limits import Limits
from chemeleon.data.niggli import cell_matrix, cell_parameters, determinant, niggli_matrix
from chemeleon.data.orbits import MIN_DISTANCE_ANGSTROM
from chemeleon.data.poscar import read_poscar

if TYPE_CHECKING:
    from pymatgen.core import Structure

ParsedChunk = tuple[list[str | None], Crystals[NDArray[Any]]]
PARSER_VERSION = 2  # raise it when the same text gives other numbers: it is part of the cache key
MIN_THICKNESS_ANGSTROM = 0.01  # pymatgen's limit too
ON_TOP_ANGSTROM = 0.01
_LONGEST_ANGSTROM = 1e6  # volumes and squares of lengths are far from the ends of float32
_FURTHEST = 1000  # cells from the first; a number beyond is no place


def parse(kind: str, content: Any, niggli: bool = True, limits: Limits | None = None) -> Crystal:
    """Turn one description of a crystal into checked arrays in the standard setting.

    Args:
        kind: ``cif``, ``poscar`` or ``extxyz`` (text; of one frame), ``dict`` (pymatgen's
            dictionary of a Structure) or ``arrays`` (atomic numbers, fractional coordinates,
            lattice).
        content: what ``kind`` says.
        niggli: reduce the cell.
        limits: what the text may ask for.

    Raises:
        BadCrystalError: with the reason; also for atoms within 0.5 A, as validity counts them.
    """
    return _checked(kind, content, limits, niggli, MIN_DISTANCE_ANGSTROM)[1]


def parse_as_given(kind: str, content: Any, limits: Limits | None = None) -> Crystal:
    """Like `parse`, but return atoms and cell just as the description has them, in float64.

    Made crystals are to be judged, not refused: atoms may be close, unless they are on top of each
    other.

    Raises:
        BadCrystalError: with the reason.
    """
    return _checked(kind, content, limits, False, ON_TOP_ANGSTROM)[0]


def parse_chunk(job: tuple[list[tuple[str, Any]], bool, Limits]) -> ParsedChunk:
    """Parse crystals given as (kind, content) in a worker process; the flag asks for reduction.

    Returns:
        For every record None if it is good, or what is wrong; and the good crystals in float32.
    """
    items, niggli, limits = job
    reasons: list[str | None] = []
    good: list[Crystal] = []
    for kind, content in items:
        if kind == "problem":  # found while reading; the content is the reason
            reasons.append(content)
            continue
        try:
            good.append(parse(kind, content, niggli, limits))
            reasons.append(None)
        except BadCrystalError as error:
            reasons.append(str(error))
    found = Crystals.of(good)
    frac, lattice = wrap_float32(found.frac_coords), found.lattice.astype(np.float32)
    return reasons, found.with_geometry(frac, lattice)


def _checked(
    kind: str, content: Any, limits: Limits | None, niggli: bool, apart: float
) -> tuple[Crystal, Crystal]:
    """Return a crystal as given, and in the standard setting."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            crystal = _read(kind, content, limits or Limits())
            return crystal, standardise(crystal, niggli, apart)
    except BadCrystalError:
        raise
    except Exception as error:  # libraries raise nearly every class on broken text
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise BadCrystalError(f"unparsable {kind.upper()}: {reason}") from error


def _read(kind: str, content: Any, limits: Limits) -> Crystal:
    if kind == "cif":
        return read_cif(content, limits)
    if kind == "arrays":
        return Crystal(*content)
    if kind == "dict":
        return read_dictionary(content, limits)
    if kind == "poscar":
        return read_poscar(content, limits)
    if kind == "extxyz":
        return read_frame(content, limits)
    raise BadCrystalError(f"of unknown kind {kind}")


def standardise(
    crystal: Crystal, niggli: bool = True, apart: float = MIN_DISTANCE_ANGSTROM
) -> Crystal:
    """Check a crystal, reduce its cell, and put c along z with coordinates in [0, 1).

    The order of the atoms and the handedness of the crystal are kept.

    Args:
        crystal: any cell and coordinates.
        niggli: reduce the cell.
        apart: atoms that are not further apart than this are refused, angstrom.

    Raises:
        BadCrystalError: with the reason.
    """
    numbers, frac, lattice = crystal
    if len(numbers) == 0:
        raise BadCrystalError("no atoms")
    if not (np.isfinite(frac).all() and np.isfinite(lattice).all()):
        raise BadCrystalError("a coordinate or cell parameter is not a finite number")
    if (np.abs(frac) > _FURTHEST).any():
        raise BadCrystalError(f"a fractional coordinate is over {_FURTHEST}")
    if numbers.min() < 1 or numbers.max() > MAX_ATOMIC_NUMBER:
        worst = int(numbers.min()) if numbers.min() < 1 else int(numbers.max())
        raise BadCrystalError(f"atomic number {worst} is outside 1 to {MAX_ATOMIC_NUMBER}")
    if (longest := float(np.abs(lattice).max())) > _LONGEST_ANGSTROM:
        raise BadCrystalError(f"a cell vector is {longest:.3g} angstrom long")
    volume = determinant(lattice)
    if volume == 0 or (plane_spacings(lattice) < MIN_THICKNESS_ANGSTROM).any():
        raise BadCrystalError(f"zero volume: the cell has {abs(volume):.3g} cubic angstrom")
    if niggli:
        reduced = niggli_matrix(lattice)
        # np.allclose, as pymatgen has it
        if (np.abs(reduced - lattice) > 1e-8 + 1e-5 * np.abs(lattice)).any():
            frac = frac @ lattice @ np.linalg.inv(reduced)
            lattice = reduced
    elif volume < 0:
        # parameters always give a right-handed cell; so turn the axes, not the crystal
        frac, lattice = -frac, -lattice
    lattice = cell_matrix(*cell_parameters(lattice))
    frac = frac - np.floor(frac)
    standard = Crystal(numbers, frac, lattice)
    _check_distances(standard, apart)
    return standard


def wrap_float32(frac: Array) -> NDArray[np.float32]:
    """Return coordinates as float32 in [0, 1); 0.99999999 would round to 1, which is 0."""
    rounded = frac.astype(np.float32)
    rounded[rounded >= 1] = 0
    return rounded


def _check_distances(crystal: Crystal, limit: float) -> None:
    found = closest_pair(crystal.frac_coords, crystal.lattice, limit)
    if found is None:
        return
    i, j, distance = found
    if i == j:
        raise BadCrystalError(f"atom {i + 1} is {distance:.4f} A from its own image")
    how = "on top of each other" if distance <= ON_TOP_ANGSTROM else f"within {limit:g} A"
    raise BadCrystalError(f"atoms {i + 1} and {j + 1} are {how} ({distance:.4f} A)")


def from_structure(structure: Structure) -> Crystal:
    """Return the arrays of a pymatgen structure.

    Raises:
        BadCrystalError: for partial occupancy, naming the site, or fewer than three periods.
    """
    if not all(structure.lattice.pbc):
        raise BadCrystalError("not periodic in three directions")
    for index, site in enumerate(structure):
        if not site.is_ordered:
            raise BadCrystalError(
                f"partial occupancy: site {index + 1} holds {site.species_string}"
            )
    numbers = np.array([getattr(site.specie, "Z", 0) for site in structure], dtype=np.int64)
    return Crystal(numbers, np.array(structure.frac_coords), np.array(structure.lattice.matrix))
