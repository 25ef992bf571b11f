"""CIF text (or another description of one crystal) to arrays, without torch.

The fast route reads with gemmi and gives what pymatgen's ``CifParser`` would give, atom order
included. Whatever it is not sure about (site symmetry by name only, partial occupancies, water,
deuterium, magnetic files, ...) goes to pymatgen itself, which is about 50 times slower.

Shapes: ``N`` atoms of one crystal. Lattices are (3, 3), angstrom, rows a, b, c.
"""

from __future__ import annotations

import functools
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from chemeleon.data.niggli import cell_matrix, cell_parameters, determinant, niggli_matrix

if TYPE_CHECKING:
    from pymatgen.core import Structure

PARSER_VERSION = 1  # raise it when the same text gives other numbers: it is part of the cache key
MAX_ATOMIC_NUMBER = 99  # as in crystals.batch, which workers do not import because of torch
MIN_THICKNESS_ANGSTROM = 0.01  # pymatgen's limit too
MIN_DISTANCE_ANGSTROM = 0.01

Array = NDArray[np.float64]
_SYMOP_TAGS = ("_symmetry_equiv_pos_as_xyz", "_space_group_symop_operation_xyz")
_GROUP_TAGS = re.compile(r"_(symmetry_space_group|space_group_name|space_group_IT|symmetry_Int)")
# gemmi would read these files, but pymatgen gives them another meaning
_SPECIAL = ("_magn", "_atom_site_moment", "_atom_type_oxidation_number", "powder_pattern")
_SYMBOL = re.compile(r"([A-Z][a-z]?)(?:\d*[+-])?")


class BadCrystalError(ValueError):
    """The text is not a crystal that can be used; the message is the reason."""


class Crystal(NamedTuple):
    """One crystal: ``atomic_numbers (N,)``, ``frac_coords (N, 3)`` and ``lattice (3, 3)``."""

    atomic_numbers: NDArray[np.int64]
    frac_coords: Array
    lattice: Array


class _NotSureError(Exception):
    """The fast route cannot promise pymatgen's answer."""


@functools.cache
def _elements() -> dict[str, tuple[int, float]]:
    """Return symbol to (atomic number, electronegativity), without those that lack the latter."""
    from pymatgen.core import Element

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table = {e.symbol: (e.Z, e.X) for e in (Element.from_Z(z) for z in range(1, 119))}
    return {symbol: (z, x) for symbol, (z, x) in table.items() if x == x}


def parse(kind: str, content: Any, niggli: bool = True) -> Crystal:
    """Turn one description of a crystal into checked arrays in the standard setting.

    Args:
        kind: ``cif`` or ``poscar`` (text), ``dict`` (pymatgen's dictionary of a Structure) or
            ``arrays`` (atomic numbers, fractional coordinates, lattice).
        content: what ``kind`` says.
        niggli: reduce the cell.

    Raises:
        BadCrystalError: with the reason.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return standardise(_read(kind, content), niggli)
    except BadCrystalError:
        raise
    except Exception as error:  # pymatgen raises nearly every class on broken text
        raise _unparsable(kind, error) from error


def parse_as_given(kind: str, content: Any) -> Crystal:
    """Like `parse`, but return atoms and cell just as the description has them, in float64.

    Raises:
        BadCrystalError: for all that `parse` refuses.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            crystal = _read(kind, content)
            standardise(crystal, niggli=False)  # for its checks
            return crystal
    except BadCrystalError:
        raise
    except Exception as error:
        raise _unparsable(kind, error) from error


def _read(kind: str, content: Any) -> Crystal:
    if kind == "cif":
        return parse_cif(content)
    if kind == "arrays":
        return Crystal(*content)
    return _from_pymatgen(kind, content)


def _unparsable(kind: str, error: Exception) -> BadCrystalError:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return BadCrystalError(f"unparsable {kind.upper()}: {reason}")


def parse_cif(text: str) -> Crystal:
    """Read the first crystal of a CIF as its file gives it (symmetry applied, no reduction)."""
    if not text or not text.strip():
        raise BadCrystalError("no CIF text")
    try:
        return _parse_fast(text)
    except _NotSureError:
        return _from_pymatgen("cif", text)


def standardise(crystal: Crystal, niggli: bool = True) -> Crystal:
    """Check a crystal, reduce its cell, and put c along z with coordinates in [0, 1).

    The order of the atoms and the handedness of the crystal are kept.
    """
    numbers, frac, lattice = crystal
    if len(numbers) == 0:
        raise BadCrystalError("no atoms")
    if not (np.isfinite(frac).all() and np.isfinite(lattice).all()):
        raise BadCrystalError("a coordinate or cell parameter is not a finite number")
    if numbers.min() < 1 or numbers.max() > MAX_ATOMIC_NUMBER:
        worst = int(numbers.min()) if numbers.min() < 1 else int(numbers.max())
        raise BadCrystalError(f"atomic number {worst} is outside 1 to {MAX_ATOMIC_NUMBER}")
    volume = determinant(lattice)
    # the columns of the inverse are the reciprocal vectors: 1 / length is the distance of planes
    inverse = np.linalg.inv(lattice) if volume != 0 else np.full((3, 3), np.inf)
    if (np.sqrt((inverse * inverse).sum(0)) * MIN_THICKNESS_ANGSTROM > 1).any():
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
    _check_distances(frac, lattice)
    return Crystal(numbers, frac, lattice)


def wrap_float32(frac: Array) -> NDArray[np.float32]:
    """Return coordinates as float32 in [0, 1); 0.99999999 would round to 1, which is 0."""
    rounded = frac.astype(np.float32)
    rounded[rounded >= 1] = 0
    return rounded


def _check_distances(frac: Array, lattice: Array) -> None:
    if len(frac) < 2:
        return
    delta = frac[:, None] - frac[None]
    delta -= np.round(delta)
    delta = delta @ lattice
    squared = (delta * delta).sum(-1)
    np.fill_diagonal(squared, np.inf)
    if squared.min() < MIN_DISTANCE_ANGSTROM**2:
        i, j = sorted(int(x) for x in np.unravel_index(squared.argmin(), squared.shape))
        raise BadCrystalError(
            f"atoms {i + 1} and {j + 1} are on top of each other ({squared.min() ** 0.5:.4f} A)"
        )


def _numbers(values: Sequence[str]) -> Array:
    """Return CIF numbers; brackets with the uncertainty are dropped."""
    try:
        numbers = np.array([float(v) for v in values])
    except ValueError:
        import gemmi

        numbers = np.array([gemmi.cif.as_number(v) for v in values])
    if not np.isfinite(numbers).all():
        raise _NotSureError
    return numbers


def _parse_fast(text: str) -> Crystal:
    import gemmi

    if any(tag in text for tag in _SPECIAL):
        raise _NotSureError
    try:
        block = gemmi.cif.read_string(text).sole_block()
    except (ValueError, RuntimeError) as error:
        raise _NotSureError from error
    cell = [block.find_value(f"_cell_length_{x}") for x in "abc"]
    cell += [block.find_value(f"_cell_angle_{x}") for x in ("alpha", "beta", "gamma")]
    if any(value is None for value in cell):
        raise _NotSureError
    parameters = _numbers(cell)
    tags = ["type_symbol", "fract_x", "fract_y", "fract_z", "?occupancy"]
    table = block.find("_atom_site_", tags)
    if len(table) == 0 or not ((parameters > 0).all() and (parameters[3:] < 180).all()):
        raise _NotSureError
    matches = [_SYMBOL.fullmatch(gemmi.cif.as_string(s)) for s in table.column(0)]
    symbols = [m.group(1) if m else "" for m in matches]
    if not all(s in _elements() for s in symbols):
        raise _NotSureError
    if table.has_column(4) and (_numbers(list(table.column(4))) != 1).any():
        raise _NotSureError
    frac = np.stack([_numbers(list(table.column(i))) for i in (1, 2, 3)], axis=1)
    for ideal in (1 / 3, 2 / 3):
        frac[np.abs(frac / ideal - 1) <= 1e-4] = ideal  # 0.6667 is meant as 2/3
    frac, owner = _expand(frac, _symmetry(block, text))
    delta = frac[:, None] - frac[None]
    delta -= np.round(delta)
    if (np.abs(delta) < 1e-4).all(-1).sum() > len(frac):
        raise _NotSureError  # two sites in one place: pymatgen adds their occupancies
    elements = [_elements()[symbols[i]] for i in owner]
    # pymatgen sorts sites by electronegativity, then symbol; the sort is stable
    order = sorted(range(len(owner)), key=lambda i: (elements[i][1], symbols[owner[i]]))
    lattice = cell_matrix(parameters[:3], np.radians(parameters[3:]))
    return Crystal(np.array([elements[i][0] for i in order]), frac[order], lattice)


def _symmetry(block: Any, text: str) -> list[tuple[Array, Array]]:
    """Return rotations and translations; an empty list stands for P1."""
    import gemmi

    for tag in _SYMOP_TAGS:
        values = [gemmi.cif.as_string(v) for v in block.find_values(tag)]
        if not values:
            continue
        if len(values) == 1 and values[0].replace(" ", "").lower() == "x,y,z":
            return []
        if any("." in v for v in values):
            raise _NotSureError  # decimal translations: gemmi rounds them, pymatgen does not
        try:
            operations = [gemmi.Op(v) for v in values]
        except (ValueError, RuntimeError) as error:
            raise _NotSureError from error
        return [(np.array(o.rot) / o.DEN, np.array(o.tran) / o.DEN) for o in operations]
    if _GROUP_TAGS.search(text):
        raise _NotSureError
    return []


def _expand(frac: Array, operations: list[tuple[Array, Array]]) -> tuple[Array, list[int]]:
    """Return all atoms of the cell in pymatgen's order, and the site each one comes from."""
    if not operations:
        return frac - np.floor(frac), list(range(len(frac)))
    coords: list[Array] = []
    owner: list[int] = []
    for site, position in enumerate(frac):
        orbit: list[Array] = []
        for rotation, translation in operations:
            image = rotation @ position + translation
            image = image - np.floor(image)
            delta = np.array(orbit).reshape(-1, 3) - image
            if not (np.abs(delta - np.round(delta)) < 1e-4).all(-1).any():
                orbit.append(image)
        coords += orbit
        owner += [site] * len(orbit)
    return np.array(coords), owner


def _from_pymatgen(kind: str, content: str | Mapping[str, Any]) -> Crystal:
    from pymatgen.core import Structure

    if isinstance(content, Mapping):
        structure = Structure.from_dict(dict(content))
    elif kind == "poscar":
        from pymatgen.io.vasp import Poscar

        structure = Poscar.from_str(content).structure
    else:
        from pymatgen.io.cif import CifParser

        parser = CifParser.from_str(content)
        try:
            structure = parser.parse_structures(primitive=False, on_error="ignore")[0]
        except ValueError as error:
            reason = parser.warnings[-1] if parser.warnings else str(error)
            raise BadCrystalError(f"unparsable CIF: {' '.join(reason.split())[:200]}") from error
    return from_structure(structure)


def from_structure(structure: Structure) -> Crystal:
    """Return the arrays of a pymatgen structure; partial occupancy is refused, naming the site."""
    for index, site in enumerate(structure):
        if not site.is_ordered:
            raise BadCrystalError(
                f"partial occupancy: site {index + 1} holds {site.species_string}"
            )
    numbers = np.array([getattr(site.specie, "Z", 0) for site in structure], dtype=np.int64)
    return Crystal(numbers, np.array(structure.frac_coords), np.array(structure.lattice.matrix))
