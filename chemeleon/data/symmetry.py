"""The symmetry that a CIF states: a list of operations, a Hall symbol, a name or a number.

Operations are taken first, and must be a group that fits the cell and is the group named beside
them. A name is taken only where it says one setting: ``F d -3 m`` alone does not say its origin.
"""

from __future__ import annotations

import functools
import re
from typing import Any

import numpy as np

from chemeleon.data.cif_items import Items
from chemeleon.data.crystal import Array, BadCrystalError
from chemeleon.data.limits import Limits
from chemeleon.data.operations import (
    Operations,
    check_closed,
    fits,
    from_triplets,
    group_number,
    identity,
    same,
)

_OPERATIONS = ("_space_group_symop_operation_xyz", "_symmetry_equiv_pos_as_xyz",
               "_space_group_symop_xyz", "_symmetry_equiv_pos_as_xyz_")  # fmt: skip
_NAMES = ("_space_group_name_h-m_alt", "_symmetry_space_group_name_h-m",
          "_space_group_name_h-m_full", "_space_group_name_h-m", "_symmetry_space_group_name_h_m",
          "_space_group_name_h_m", "_space_group_name_h-m_alt_", "_symmetry_space_group_name_h-m_",
          "_space_group_name_h_m_alt", "_space_group_name_h-m_ref")  # fmt: skip
_HALL = ("_space_group_name_hall", "_symmetry_space_group_name_hall")
_NUMBERS = ("_space_group_it_number", "_symmetry_int_tables_number")
_CODES = ("_space_group_it_coordinate_system_code",)
_SYSTEMS = ("_space_group_crystal_system", "_symmetry_cell_setting")
_MAGNETIC = ("_space_group_symop_magn_operation_xyz", "_space_group_symop_magn_operation_mxmymz")
_CENTRING = ("_space_group_symop_magn_centering_xyz",)
# P2(1)/c is P 21/c; P n m a (No. 62) is P n m a; P 21212(a) is a setting of its own
_SCREW = re.compile(r"(2(?=\(1)|3(?=\([12])|4(?=\([1-3])|6(?=\([1-5]))\((\d)\)")
_NUMBER = re.compile(r"\s*\((?:no\.?|nr\.?|#)?\s*(\d{1,3})\)\s*$", re.IGNORECASE)
_SUFFIX = re.compile(r":\s*(\S{1,6})\s*$|\s(HR|[HRSZ])\s*$")


def read_symmetry(items: Items, lattice: Array, limits: Limits) -> tuple[Operations, set[int]]:
    """Return the operations of a block, and the groups that it names but that these are not.

    Args:
        items: the block.
        lattice: its cell, which decides between hexagonal and rhombohedral axes.
        limits: bounds the operations.

    Raises:
        BadCrystalError: if what is stated is incomplete or contradicts itself.
    """
    if items.special - {"_magn"} and items.column("_cell_modulation_dimension") != ["0"]:
        raise BadCrystalError("a modulated structure has no three-dimensional cell")
    listed = _listed(items, limits)
    magnetic = "_magn" in items.special
    named = set() if magnetic else _named(items)
    if listed is None and magnetic:
        raise BadCrystalError("a magnetic structure without its symmetry operations is not read")
    if listed is None:
        listed = _from_names(items, lattice, named)
        if listed is None:
            system = items.value(*_SYSTEMS)
            if system and system.lower() not in ("triclinic", "anorthic"):
                raise BadCrystalError(
                    f"the file says {system[:20]}, but gives neither space group nor operations"
                )
            return identity(), set()
        named = set()
    elif listed.size > 1:
        check_closed(listed)
    if listed.size > 1 and not fits(listed, lattice):
        raise BadCrystalError("the cell does not fit its symmetry operations")
    if not named:
        return listed, named
    own = 1 if listed.size == 1 else group_number(listed, lattice)
    return listed, {number for number in named if own is not None and number != own}


def _listed(items: Items, limits: Limits) -> Operations | None:
    words = items.column(*_MAGNETIC)
    if words is not None:
        # the last part is the reversal of time, which moves no atom
        words = [_without_time(word) for word in words]
        centring = [_without_time(word) for word in items.column(*_CENTRING) or ["x,y,z"]]
        count, others = len(words) * len(centring), []
    else:
        words, centring = items.column(*_OPERATIONS), ["x,y,z"]
        count = len(words or ())
        others = [c for name in _OPERATIONS if (c := items.column(name)) not in (None, words)]
    if words is None:
        return None
    if count > limits.operations:
        raise BadCrystalError(limits.over("operations", count))
    if None in words:
        raise BadCrystalError("one of the symmetry operations is not known")
    listed = [word for word in words if word]
    for other in others:
        if len(other) > limits.operations or not same(listed, [word or "" for word in other]):
            raise BadCrystalError("two lists of symmetry operations are not the same")
    if count == 1 and re.sub(r"[\s'+]", "", words[0] or "").lower() == "x,y,z":
        return identity()
    found = from_triplets(listed)
    if centring != ["x,y,z"]:
        found = _product(from_triplets(centring), found)
    return found


def _without_time(word: str | None) -> str:
    return ",".join((word or "").split(",")[:3])


def _product(first: Operations, second: Operations) -> Operations:
    """Return all products of two lists, equal ones once."""
    denominator = int(np.lcm(first.denominator, second.denominator))
    first, second = (
        o._replace(
            translations=o.translations * (denominator // o.denominator), denominator=denominator
        )
        for o in (first, second)
    )
    moved = (first.translations[:, None] + second.translations).reshape(-1, 3) % denominator
    rotations = np.tile(second.rotations, (first.size, 1, 1))
    return Operations(rotations, moved, denominator).distinct()


def _named(items: Items) -> set[int]:
    """Return the numbers of the groups that a block names in any way."""
    found = set()
    for number in items.every(*_NUMBERS):
        if number == "0":
            continue
        if not re.fullmatch(r"\d{1,3}", number) or not 1 <= int(number) <= 230:
            raise BadCrystalError(f"{number[:20]!r} is no number of a space group")
        found.add(int(number))
    for name in items.every(*_NAMES):
        found |= {group.number for group in _settings(_split(name)[0])}
        beside = _NUMBER.search(_SCREW.sub("", name))
        found |= {int(beside[1])} if beside else set()
    for hall in items.every(*_HALL):
        operations = _hall(hall)
        own = None if operations is None else group_number(operations, np.eye(3))
        found |= {own} if own else set()
    return found


def _from_names(items: Items, lattice: Array, named: set[int]) -> Operations | None:
    """Return the operations of the one setting that is named; None if no group is."""
    name, number, hall = items.value(*_NAMES), items.value(*_NUMBERS), items.value(*_HALL)
    if len(named) > 1:
        said = ", ".join(items.every(*_NAMES, *_NUMBERS, *_HALL))
        raise BadCrystalError(
            f"the space group is {' and '.join(map(str, sorted(named)))} at once: {said[:120]}"
        )
    if hall is not None:
        operations = _hall(hall)
        if operations is None:
            raise BadCrystalError(f"{hall[:30]!r} is no Hall symbol, and no operations are listed")
        return operations
    if name is None and not named:
        return None
    base, suffix = _split(name) if name is not None else ("", "")
    suffix = suffix or (items.value(*_CODES) or "").lower()
    shown = f"space group {name!r}" if name else f"space group {number}"
    candidates = _settings(base) if base else [g for g in _table() if g.number in named]
    if not candidates:
        raise BadCrystalError(f"{shown} is not known, and no operations are listed")
    candidates = _fitting(candidates, suffix, lattice)
    for other in items.every(*_NAMES[:-1]):  # all but the name of the reference setting
        base, suffix = _split(other)
        allowed = {g.hall for g in _fitting(_settings(base), suffix, lattice)}
        candidates = [g for g in candidates if g.hall in allowed or not _settings(base)]
    found = {g.hall: g for g in candidates}
    if len(found) != 1:
        kinds = ", ".join(g.xhm() for g in found.values()) or "none that fits"
        raise BadCrystalError(
            f"{shown} does not say its setting ({kinds[:120]}): operations or a Hall symbol are"
            " needed"
        )
    operations = _hall(next(iter(found)))
    assert operations is not None
    return operations


def _fitting(candidates: list[Any], suffix: str, lattice: Array) -> list[Any]:
    """Return the settings that the suffix of a name allows, and of R and H the one of the cell."""
    if suffix in ("z", "s"):
        # Z is the origin at the centre of inversion; S means several things
        suffix = "2" if suffix == "z" else suffix
    if suffix in ("h", "r", "hr") and not any(g.ext in "HR" for g in candidates):
        return []
    if suffix and suffix != "hr":
        candidates = [g for g in candidates if suffix in (g.ext.lower(), g.qualifier)
                      or (g.ext in "12" and f"{g.ext}{g.qualifier}" == suffix)]  # fmt: skip
    if any(g.ext in ("H", "R") for g in candidates):
        candidates = [g for g in candidates if _fits_axes(g, lattice)]
    return candidates


def _fits_axes(group: Any, lattice: Array) -> bool:
    operations = _hall(group.hall)
    return operations is not None and fits(operations, lattice)


def _split(name: str) -> tuple[str, str]:
    """Return a name without blanks, and the suffix that says its setting."""
    name = _SCREW.sub(r"\1\2", name.strip())
    name = _NUMBER.sub("", name)
    match = _SUFFIX.search(name)
    suffix = ""
    if match:
        name, suffix = name[: match.start()], (match[1] or match[2]).lower()
    compact = re.sub(r"[\s_]", "", name)
    if not suffix and compact not in _by_name() and compact[-1:] in ("H", "R", "S", "Z"):
        compact, suffix = compact[:-1], compact[-1].lower()
    return compact, suffix


@functools.cache
def _table() -> list[Any]:
    import gemmi

    return list(gemmi.spacegroup_table())


@functools.cache
def _by_name() -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for group in _table():
        for name in {group.hm.replace(" ", ""), group.short_name()}:
            found.setdefault(name, []).append(group)
    return found


def _settings(name: str) -> list[Any]:
    """Return all settings that a name (without blanks) may mean."""
    import gemmi

    for spelling in (name, name.capitalize()):
        if spelling in _by_name():
            return _by_name()[spelling]
        group = gemmi.find_spacegroup_by_name(spelling)  # knows older names
        if group is not None:
            return [g for g in _table() if g.hm == group.hm]
    return []


@functools.lru_cache(maxsize=1000)
def _hall(symbol: str) -> Operations | None:
    import gemmi

    try:
        words = [op.triplet() for op in gemmi.symops_from_hall(symbol.replace("_", " "))]
    except (ValueError, RuntimeError):
        return None
    return from_triplets(words)
