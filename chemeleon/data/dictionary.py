"""pymatgen's dictionary of a structure, read by hand: lattice, species, coordinates, nothing else.

pymatgen would decode site properties, and for that import whatever module the file names. Here
nothing is imported, decoded or called.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from chemeleon.data.crystal import Array, BadCrystalError, Crystal, cell_from
from chemeleon.data.elements import elements, read_symbol
from chemeleon.data.limits import Limits
from chemeleon.data.niggli import cell_parameters, determinant

_PARAMETERS = ("a", "b", "c", "alpha", "beta", "gamma")
_TOLERANCE = 1e-3  # between two ways in which a dictionary gives one thing, relative or fractional
_FULL = 0.01  # an occupancy of 0.99 to 1.01 counts as 1, as in a CIF


def read_dictionary(content: Any, limits: Limits) -> Crystal:
    """Return the crystal of a dictionary of a Structure.

    Args:
        content: what JSON holds: ``lattice`` and ``sites``, as pymatgen writes them.
        limits: bounds the atoms.

    Raises:
        BadCrystalError: with what is missing, not ordered or no number.
    """
    if not isinstance(content, Mapping):
        raise BadCrystalError("not a structure dictionary")
    lattice, sites = content.get("lattice"), content.get("sites")
    if not isinstance(lattice, Mapping):
        raise BadCrystalError("not a structure dictionary: it has no lattice")
    if not isinstance(sites, list):
        raise BadCrystalError("not a structure dictionary: it has no list of sites")
    if len(sites) > limits.atoms:
        raise BadCrystalError(limits.over("atoms", len(sites)))
    if not sites:
        raise BadCrystalError("no atoms")
    _check_periods(lattice.get("pbc"))
    matrix = _matrix(lattice)
    read = [_site(site, at) for at, site in enumerate(sites, start=1)]
    _check_composition(content.get("composition"), [symbol for symbol, _, _ in read])
    numbers = np.array([elements()[symbol][0] for symbol, _, _ in read])
    return Crystal(numbers, _fractional(read, matrix), matrix)


def _check_periods(pbc: Any) -> None:
    if pbc is None or pbc is True:
        return
    if not isinstance(pbc, Sequence) or len(pbc) != 3 or not all(x in (True, 1) for x in pbc):
        raise BadCrystalError("not periodic in three directions")


def _matrix(lattice: Mapping[str, Any]) -> Array:
    given = lattice.get("matrix")
    present = [name for name in _PARAMETERS if lattice.get(name) is not None]
    if given is None and len(present) < len(_PARAMETERS):
        missing = next(name for name in _PARAMETERS if name not in present)
        raise BadCrystalError(f"the lattice has neither a matrix nor {missing}")
    if given is None:
        values = _vector([lattice[name] for name in _PARAMETERS], 6, "the lattice")
        return cell_from(values.tolist())
    if isinstance(given, list) and len(given) == 9:  # flat, in old files
        given = [given[:3], given[3:6], given[6:]]
    if not isinstance(given, list) or len(given) != 3:
        raise BadCrystalError("the lattice's matrix is not 3 x 3")
    matrix = np.array([_vector(row, 3, "the lattice's matrix") for row in given])
    volume = abs(determinant(matrix))
    if not volume:
        raise BadCrystalError("zero volume: the cell has 0 cubic angstrom")
    lengths, angles = cell_parameters(matrix)
    own = [*lengths.tolist(), *np.degrees(angles).tolist(), volume]
    for value, name in zip(own, (*_PARAMETERS, "volume"), strict=True):
        said, most = lattice.get(name), _TOLERANCE * value * (3 if name == "volume" else 1)
        if said is not None and not abs(_number(said, name) - value) <= most:
            raise BadCrystalError(f"the lattice's {name} is {said}, its matrix has {value:.6g}")
    return matrix


def _site(site: Any, at: int) -> tuple[str, Array | None, Array | None]:
    """Return element, fractional and Cartesian coordinates of a site."""
    name = f"site {at}"
    if not isinstance(site, Mapping):
        raise BadCrystalError(f"{name} is no dictionary")
    abc, xyz = site.get("abc"), site.get("xyz")
    if abc is None and xyz is None:
        raise BadCrystalError(f"{name} has no coordinates")
    return (
        _element(site, name),
        None if abc is None else _vector(abc, 3, f"{name}: abc"),
        None if xyz is None else _vector(xyz, 3, f"{name}: xyz"),
    )


def _element(site: Mapping[str, Any], name: str) -> str:
    species = site.get("species")
    if isinstance(species, list) and len(species) > 1:
        raise BadCrystalError(f"partial occupancy: {name} holds {_shown(species)}")
    if not isinstance(species, list) or not species or not isinstance(species[0], Mapping):
        raise BadCrystalError(f"{name} has no species")
    symbol, occupancy = species[0].get("element"), species[0].get("occu", 1)
    if not isinstance(symbol, str):
        raise BadCrystalError(f"{name}: its element is no word")
    if abs(_number(occupancy, f"{name}: its occupancy") - 1) > _FULL + 1e-9:
        raise BadCrystalError(f"partial occupancy: {name} holds {_shown(species)}")
    try:
        return read_symbol(re.sub(r",.*", "", symbol).strip())  # Fe3+,spin=5
    except BadCrystalError as error:
        raise BadCrystalError(f"{name}: {error}") from None


def _check_composition(stated: Any, symbols: list[str]) -> None:
    """Refuse sites that are not in proportion to the composition of an entry, if it has one."""
    if not isinstance(stated, Mapping) or not stated:
        return
    amounts: Counter[str] = Counter()
    for word, amount in stated.items():
        try:
            amounts[read_symbol(str(word))] += _number(amount, "composition")  # type: ignore[assignment]
        except BadCrystalError:
            return  # of something else
    found, total = Counter(symbols), sum(amounts.values())
    shares = {symbol: count / len(symbols) for symbol, count in found.items()}
    if any(abs(shares.get(s, 0) * total - n) > _FULL for s, n in amounts.items()):
        words = [" ".join(f"{s}{c[s]:g}" for s in sorted(c))[:80] for c in (found, amounts)]
        raise BadCrystalError(f"its sites are {words[0]}, its composition is {words[1]}")


def _shown(species: list[Any]) -> str:
    held = [s for s in species if isinstance(s, Mapping)]
    return ", ".join(f"{str(s.get('element'))[:8]}:{str(s.get('occu', 1))[:8]}" for s in held)[:80]


def _fractional(read: list[tuple[str, Array | None, Array | None]], matrix: Array) -> Array:
    """Return fractional coordinates; where Cartesian ones stand beside them, they must agree."""
    with np.errstate(all="ignore"):
        inverse = np.linalg.inv(matrix)
    coords = []
    for at, (_, abc, xyz) in enumerate(read, start=1):
        other = None if xyz is None else xyz @ inverse
        if abc is not None and other is not None:
            delta = abc - other
            if not (np.abs(delta - np.round(delta)) <= _TOLERANCE * 10).all():
                raise BadCrystalError(f"site {at}: abc and xyz are two different places")
        coords.append(other if abc is None else abc)
    return np.array(coords)


def _vector(given: Any, count: int, name: str) -> Array:
    if not isinstance(given, list) or len(given) != count:
        raise BadCrystalError(f"{name} is not {count} numbers")
    return np.array([_number(value, name) for value in given])


def _number(value: Any, name: str) -> float:
    # a bool is an int in Python, and a word such as "0.5" is no number in JSON
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadCrystalError(f"{name}: {str(value)[:20]!r} is no number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise BadCrystalError(f"{name} holds a number that is not finite")
    return number
