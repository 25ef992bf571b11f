"""What files write for elements: symbols of any spelling, ions, isotopes, labels of sites.

A spelling that could mean two things is never guessed: it comes back with all its meanings, and
only the formula of the file may choose between them.
"""

from __future__ import annotations

import functools
import re
import warnings
from collections.abc import Collection

from chemeleon.crystals.notation import ISOTOPES
from chemeleon.data.crystal import BadCrystalError

_SYMBOL = re.compile(
    r"([A-Za-z]{1,2})(?:\d{0,3}|[+-]\d{0,3}\.?\d{0,9}|\d{0,3}\.?\d{0,9}[+-])", re.A
)
_LETTERS = re.compile(r"[A-Za-z]+")
_MIXTURE = re.compile(r"[/,+:&\s]|\d\.\d")  # Al/Si, Al0.5Si0.5
# as symbols in capitals these are groups (PO4, a rare earth) as often as elements
_GROUPS = {"BH", "CF", "CN", "CO", "HO", "NH", "NO", "PO", "RE"}


@functools.cache
def elements() -> dict[str, tuple[int, float]]:
    """Return symbol to (atomic number, Pauling electronegativity), 1 to 118.

    Elements without electronegativity have infinity: they come last in the order of sites.
    """
    from pymatgen.core import Element

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table = [(e.symbol, e.Z, e.X) for e in (Element.from_Z(z) for z in range(1, 119))]
    return {symbol: (z, x if x == x else float("inf")) for symbol, z, x in table}


@functools.lru_cache(maxsize=10_000)
def read_symbol(text: str) -> str:
    """Return the element that a type symbol such as ``Fe3+``, ``O-2``, ``FE`` or ``D`` names.

    Raises:
        BadCrystalError: if it names none, or is a group of atoms.
    """
    match = _SYMBOL.fullmatch(text)
    if match and match[1] not in _GROUPS:
        symbol = match[1].capitalize()
        symbol = ISOTOPES.get(symbol, symbol)
        if symbol in elements():
            return symbol
    raise BadCrystalError(f"{text[:20]!r} is no element")


@functools.lru_cache(maxsize=10_000)
def meanings(label: str) -> tuple[tuple[str, ...], bool]:
    """Return the elements that a site's label may stand for, and whether it is certain.

    ``Fe1`` and ``O1A`` are certain. ``CA1`` may be calcium or carbon, ``T1`` tritium or the site of
    a tetrahedron; ``Wat`` and ``OW`` stand for more than an atom. Those need a formula.
    """
    match = _LETTERS.match(label)
    if match is None or _MIXTURE.search(label):
        return (), False
    letters = match[0]
    found = []
    if len(letters) >= 2 and letters[:2].capitalize() in elements():
        found.append(letters[:2].capitalize())
    if letters[0].upper() in elements() or letters[0] in ISOTOPES:
        found.append(ISOTOPES.get(letters[0], letters[0].upper()))
    as_written = letters in elements() or letters == "D"
    if as_written:
        return (found[0],), True
    alone = len(letters) == 2 and len(found) == 1 and letters[0].upper() not in elements()
    return tuple(found), alone


def read_label(label: str, formula: Collection[str]) -> str:
    """Return the element of a site of which only the label is known.

    Args:
        label: the site's name in the file.
        formula: the elements of the file's formula, which decides where the label alone does not.

    Raises:
        BadCrystalError: if that leaves none, or two.
    """
    found, certain = meanings(label)
    if certain:
        return found[0]
    fitting = [symbol for symbol in found if symbol in formula]
    if len(fitting) == 1:
        return fitting[0]
    words = " or ".join(found) or "no element"
    raise BadCrystalError(
        f"site {label[:20]!r} has no type symbol, and its label may mean {words}"
        if len(found) > 1
        else f"site {label[:20]!r} has no type symbol, and its label does not say its element"
    )
