"""A block of a CIF to arrays: read by gemmi, then held against what the file says of itself.

Ordinary files give what pymatgen's ``CifParser`` gives, order of atoms included (by
electronegativity, then symbol; sites of one element as in the file). What is not certain is
refused with the reason, see docs/data.md.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from chemeleon.crystals.symmetry import SYMPREC, TIGHT, space_group
from chemeleon.data.cif_items import Items, blocks, read_numbers, units
from chemeleon.data.crystal import Array, BadCrystalError, Crystal, cell_from
from chemeleon.data.elements import elements, read_label, read_symbol
from chemeleon.data.limits import Limits
from chemeleon.data.orbits import expand
from chemeleon.data.stated import check_stated, stated_formula
from chemeleon.data.symmetry import read_symmetry

_LENGTHS = [f"_cell_length_{x}" for x in "abc"]
_ANGLES = [f"_cell_angle_{x}" for x in ("alpha", "beta", "gamma")]
_COLUMNS = ["type_symbol", "label", "fract_x", "fract_y", "fract_z", "occupancy", "calc_flag",
            "disorder_group", "disorder_assembly"]  # fmt: skip
_FULL = 0.01  # an occupancy of 0.99 to 1.01 counts as 1
_THIRDS = 1e-4  # relative: 0.6667 is meant as 2/3
_SYMPREC_ANGSTROM = (TIGHT, SYMPREC)


def read_cif(text: str, limits: Limits) -> Crystal:
    """Return the crystal of a CIF as its file gives it: symmetry applied, no reduction.

    Args:
        text: a CIF of which one block holds a crystal.
        limits: bounds operations and atoms.

    Raises:
        BadCrystalError: with the reason.
    """
    if not text or not text.strip():
        raise BadCrystalError("no CIF text")
    found = blocks(text)
    if len(found) > 1:
        names = ", ".join(name or "?" for name, _ in found)[:80]
        raise BadCrystalError(f"{len(found)} blocks hold crystals ({names}), one is expected")
    items = Items(found[0][1])
    lattice = _cell(items)
    sites = _sites(items)
    if len(sites["fract_x"]) > limits.atoms:
        raise BadCrystalError(limits.over("atoms", len(sites["fract_x"])))
    formulas = stated_formula(items)
    symbols = _symbols(sites, {symbol for formula in formulas for symbol in formula})
    _check_sites(sites, symbols)
    axes = [sites[f"fract_{x}"] for x in "xyz"]
    frac = np.array([read_numbers(axis, "a coordinate of site {}") for axis in axes]).T
    if (np.abs(frac) > 1000).any():
        raise BadCrystalError("a fractional coordinate is over 1000")
    for ideal in (1 / 3, 2 / 3):
        frac[np.abs(frac / ideal - 1) <= _THIRDS] = ideal
    operations, unmet = read_symmetry(items, lattice, limits)
    if operations.size == 1:
        frac, owner = frac - np.floor(frac), list(range(len(frac)))
    else:
        off = np.array([units(axis) for axis in axes]).T
        frac, owner = expand(frac, off, operations, lattice, limits)
    check_stated(items, formulas, [symbols[i] for i in owner], lattice)
    keys = [(elements()[s][1], s) for s in symbols]
    order = sorted(range(len(owner)), key=lambda i: keys[owner[i]])
    numbers = np.array([elements()[symbols[owner[i]]][0] for i in order])
    crystal = Crystal(numbers, frac[order], lattice)
    if unmet:
        _check_group(crystal, unmet, operations.size)
    return crystal


def _cell(items: Items) -> Array:
    values = []
    for name in (*_LENGTHS, *_ANGLES):
        if name not in items:
            raise BadCrystalError(f"no cell: {name} is missing")
        value = items.value(name)
        values += read_numbers([value], name)
    return cell_from(values)


def _sites(items: Items) -> dict[str, list[str | None]]:
    sites = items.table("_atom_site_", _COLUMNS)
    if "fract_x" not in sites:
        if "_atom_site_cartn_x" in items:
            kind = "this is mmCIF: its" if "_atom_site_cartn_x" in items.dotted else "the"
            raise BadCrystalError(f"{kind} sites have Cartesian coordinates, fractional are read")
        raise BadCrystalError("unparsable CIF: no atoms (_atom_site_fract_x is missing)")
    for name in ("fract_y", "fract_z"):
        if name not in sites:
            raise BadCrystalError(f"unparsable CIF: _atom_site_{name} is missing")
    if not sites["fract_x"]:
        raise BadCrystalError("no atoms")
    if "type_symbol" not in sites and "label" not in sites:
        raise BadCrystalError("the sites have neither type symbols nor labels")
    return sites


def _symbols(sites: dict[str, list[str | None]], formula: set[str]) -> list[str]:
    count = len(sites["fract_x"])
    types = sites.get("type_symbol", [None] * count)
    labels = sites.get("label", [None] * count)
    found = []
    for at, (kind, label) in enumerate(zip(types, labels, strict=True), start=1):
        try:
            found.append(read_symbol(kind) if kind else read_label(label or "", formula))
        except BadCrystalError as error:
            raise BadCrystalError(f"site {at}: {error}") from None
    return found


def _check_sites(sites: dict[str, list[str | None]], symbols: Sequence[str]) -> None:
    """Refuse sites that are not one whole atom each."""
    given = sites.get("occupancy", [])
    known = [(at, value) for at, value in enumerate(given) if value not in (None, "1", "1.0")]
    if known:
        occupancies = read_numbers([value for _, value in known], "an occupancy")
        for (at, _), occupancy in zip(known, occupancies, strict=True):
            if abs(occupancy - 1) > _FULL + 1e-9:
                raise BadCrystalError(
                    f"partial occupancy: site {at + 1} holds {symbols[at]}:{occupancy:g}"
                )
    for at, flag in enumerate(sites.get("calc_flag", [])):
        if flag and flag.lower() == "dum":
            raise BadCrystalError(f"site {at + 1} is a dummy, not an atom")
    for name in ("disorder_group", "disorder_assembly"):
        for at, group in enumerate(sites.get(name, [])):
            if group not in (None, "", "0"):
                raise BadCrystalError(
                    f"site {at + 1} is one of alternatives ({name} {group[:10]}): disorder"
                )


def _check_group(crystal: Crystal, unmet: set[int], count: int) -> None:
    """Refuse a crystal that has not the group named beside operations of another one.

    Files whose atoms were written out in full keep the name of the group and list ``x,y,z``: the
    crystal itself must then have it.
    """
    groups = [space_group(*crystal, symprec) for symprec in _SYMPREC_ANGSTROM]
    found = {group.number for group in groups if group is not None}
    if not unmet <= found:
        said = ", ".join(map(str, sorted(unmet - found)))
        raise BadCrystalError(
            f"the file names space group {said}, but its operations ({count}) and atoms are"
            f" of {', '.join(map(str, sorted(found))) or 'another'}"
        )
