"""The shapes in which crystals come as JSON: whose they are, their names and their properties.

Known are pymatgen's structures and computed entries, alone, in lists, mappings, tables (pandas),
answers of REST interfaces or lines; OPTIMADE's structures; JARVIS' atoms. Each crystal becomes
pymatgen's dictionary of a structure, which `parse` reads and checks; nothing is decoded by class.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from chemeleon.data.crystal import BadCrystalError
from chemeleon.data.stated import formula_amounts

_IDS = ("material_id", "entry_id", "id", "jid", "immutable_id")
_ANSWERS = ("data", "response", "results", "structures", "entries", "materials")
_SPACE = re.compile(r"[ \t\r\n\x1e]*")  # 1e: records of RFC 7464
_LONGEST_INTEGER = 400


class Found(NamedTuple):
    """One crystal: its name if it has one, pymatgen's dictionary or the problem, and properties."""

    id: str | None
    content: Mapping[str, Any] | str
    values: dict[str, Any]


def crystals(text: str) -> Iterator[Found]:
    """Yield the crystals of a JSON text, and a problem (a text) where there is none.

    What follows broken JSON cannot be found, so the last problem says so.
    """
    try:
        for item in _values(text):
            yield from _crystals(item)
    except RecursionError:
        yield Found(None, "unparsable JSON: nested too deeply", {})
    except ValueError as error:
        yield Found(None, f"{_reason(error)}; what follows is not read", {})


class _Broken(str):
    """A line that is no JSON: the reason."""


def _reason(error: ValueError) -> str:
    return f"unparsable JSON: {' '.join(str(error).split())[:200]}"


def _values(text: str) -> Iterator[Any]:
    """Yield the items of a list, or the values that stand one after the other (JSON lines).

    One at a time, so a large list is never held as objects, and a cut one keeps its beginning.
    """
    decode = json.JSONDecoder(object_pairs_hook=_unique, parse_int=_integer).raw_decode
    at = _after_space(text, 0)
    if at == len(text):
        raise ValueError("the file is empty")
    if text[at] != "[":
        while at < len(text):
            try:
                value, at = decode(text, at)
            except ValueError as error:
                if (line := text.find("\n{", at)) < 0:
                    raise
                value, at = _Broken(_reason(error)), line
            yield value
            at = _after_space(text, at)
        return
    at = _after_space(text, at + 1)
    if text[at : at + 1] == "]":
        at = _after_space(text, at + 1)
    else:
        while True:
            value, at = decode(text, at)
            yield value
            at = _after_space(text, at)
            mark, at = text[at : at + 1], _after_space(text, at + 1)
            if mark == "]":
                break
            if mark != ",":
                raise ValueError(f"a list is not closed at letter {at}" if not mark else
                                 f"'{mark}' at letter {at}, where a comma should be")  # fmt: skip
    if at < len(text):
        raise ValueError(f"more text after the list, at letter {at + 1}")


def _after_space(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key '{twice[:40]}' stands twice in one object")
    return found


def _integer(word: str) -> float | int:
    return int(word) if len(word) < _LONGEST_INTEGER else float(word)


def _crystals(item: Any) -> Iterator[Found]:
    """Yield the crystals of one value: itself, or those that it holds."""
    if isinstance(item, _Broken):
        yield Found(None, str(item), {})
    elif not isinstance(item, dict):
        yield Found(None, f"{_kind(item)} is no crystal", {})
    elif _is_crystal(item):
        yield _crystal(item)
    elif (rows := _table(item)) is not None:
        for name, row in rows:
            yield _named(_crystal(row), name)
    elif (held := _answer(item)) is not None:
        for value in held:
            if isinstance(value, dict) and _is_crystal(value):
                yield _crystal(value)
            else:
                yield Found(None, f"{_told(value)}: not read", {})
    elif _all_dicts(item) and any(_is_crystal(value) for value in item.values()):
        for name, value in item.items():
            if _is_crystal(value):
                yield _named(_crystal(value), name)
            else:
                yield Found(name, f"{_told(value)}: not read", {})
    else:
        yield Found(None, f"{_told(item)}: not read", {})


def _named(found: Found, name: str) -> Found:
    return found if found.id is not None else found._replace(id=name)


def _is_crystal(item: dict[str, Any]) -> bool:
    return any(known(item) for known, _ in _SHAPES)


def _crystal(item: dict[str, Any]) -> Found:
    read = next((read for known, read in _SHAPES if known(item)), None)
    if read is None:
        return Found(None, f"{_told(item)}: not read", {})
    content: Mapping[str, Any] | str
    values = _properties(item)
    # a name of its own goes before one in `data`
    key = next((k for held in (item, values) for k in _IDS if k in held and k in values), None)
    name = None if key is None else str(values.pop(key))
    try:
        content = read(item)
    except BadCrystalError as error:
        content = str(error)
    return Found(name, content, values)


def _properties(item: dict[str, Any]) -> dict[str, Any]:
    """Return the numbers and words beside a crystal, and in its ``properties`` and ``data``."""
    nested = [item.get(key) for key in ("data", "properties", "attributes")]
    for key in ("structure", "properties"):
        if isinstance(inner := item.get(key), dict):
            nested.append(inner.get("properties"))
    found: dict[str, Any] = {}
    for part in (*nested, item):
        if isinstance(part, dict):
            found |= {
                k: v
                for k, v in part.items()
                if isinstance(v, int | float | str) and not k.startswith("@")
            }
    if "lattice" in item or "lattice_vectors" in item:  # what is said of the crystal itself
        found.pop("charge", None)
    if "attributes" in item:
        found.pop("type", None)
    return found


def _held(item: dict[str, Any]) -> Mapping[str, Any]:
    structure = item["structure"]
    if not isinstance(structure, dict):
        raise BadCrystalError(f"its structure is {_kind(structure)}: only a dictionary is read")
    if not _has_sites(structure):
        read = next((read for known, read in _SHAPES if known(structure)), None)
        if read is None or read is _held:
            raise BadCrystalError(f"its structure: {_told(structure)}: not read")
        return read(structure)
    return {**structure, "composition": item.get("composition")}


def _optimade(item: dict[str, Any]) -> Mapping[str, Any]:
    held = item.get("attributes", item)
    kinds = {}
    for kind in _list(held.get("species"), "species"):
        if not isinstance(kind, dict) or not isinstance(kind.get("name"), str):
            raise BadCrystalError("an item of species has no name")
        if kind["name"] in kinds:
            raise BadCrystalError(f"species {kind['name'][:20]!r} is there twice")
        if any(n != 0 for n in _list(kind.get("nattached") or [], "nattached")):
            raise BadCrystalError(
                f"species {kind['name'][:20]!r} has attached atoms without a place"
            )
        symbols = _list(kind.get("chemical_symbols"), "chemical_symbols")
        shares = _list(kind.get("concentration"), "concentration")
        if len(symbols) != len(shares):
            raise BadCrystalError(f"species {kind['name'][:20]}: symbols and shares do not pair")
        kinds[kind["name"]] = list(zip(symbols, shares, strict=True))
    species = []
    for name in _list(held.get("species_at_sites"), "species_at_sites"):
        if not isinstance(name, str) or name not in kinds:
            raise BadCrystalError(f"species_at_sites names {str(name)[:20]!r}, no species")
        species.append(kinds[name])
    if held.get("nsites", len(species)) not in (None, len(species)):
        raise BadCrystalError(f"it has {len(species)} sites, but nsites is {held['nsites']}")
    periodic = [d == 1 for d in _list(held.get("dimension_types") or [1] * 3, "dimension_types")]
    positions = held.get("cartesian_site_positions")
    crystal = _as_dict(held.get("lattice_vectors"), species, positions, True, periodic)
    formula = str(held.get("chemical_formula_reduced") or "")
    return {**crystal, "composition": formula_amounts(formula)}


def _jarvis(item: dict[str, Any]) -> Mapping[str, Any]:
    held = item.get("atoms", item)
    species = [[(symbol, 1)] for symbol in _list(held.get("elements"), "elements")]
    cartesian = held.get("cartesian", False)
    if not isinstance(cartesian, bool):
        raise BadCrystalError(f"cartesian is {_kind(cartesian)}, neither true nor false")
    return _as_dict(
        held.get("lattice_mat"), species, held.get("coords"), cartesian, [True, True, True]
    )


def _as_dict(
    lattice: Any, species: list[Any], coords: Any, cartesian: bool, periodic: list[bool]
) -> Mapping[str, Any]:
    """Return pymatgen's dictionary; what is in it is checked where those are read."""
    coords = _list(coords, "positions")
    if len(coords) != len(species):
        raise BadCrystalError(f"{len(species)} elements, but {len(coords)} positions")
    place = "xyz" if cartesian else "abc"
    sites = [
        {"species": [{"element": s, "occu": o} for s, o in kinds], place: at}
        for kinds, at in zip(species, coords, strict=True)
    ]
    return {"lattice": {"matrix": lattice, "pbc": periodic}, "sites": sites}


def _list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise BadCrystalError(f"{what} is {_kind(value)}, no list")
    return value


def _has_sites(item: dict[str, Any]) -> bool:
    return "lattice" in item and "sites" in item


def _is_optimade(item: dict[str, Any]) -> bool:
    held = item.get("attributes", item)
    return isinstance(held, dict) and "cartesian_site_positions" in held


def _is_jarvis(item: dict[str, Any]) -> bool:
    held = item.get("atoms", item)
    return isinstance(held, dict) and "lattice_mat" in held


_SHAPES = (
    (_has_sites, lambda item: item),
    (lambda item: "structure" in item and not isinstance(item["structure"], dict | list), _held),
    (lambda item: isinstance(item.get("structure"), dict) and _one(item["structure"]), _held),
    (_is_optimade, _optimade),
    (_is_jarvis, _jarvis),
)


def _one(structure: dict[str, Any]) -> bool:
    """Tell one structure from a column of a table, row to structure."""
    return not _all_dicts(structure)


def _all_dicts(item: dict[str, Any]) -> bool:
    return bool(item) and all(isinstance(value, dict) for value in item.values())


def _answer(item: dict[str, Any]) -> list[Any] | None:
    """Return the crystals that an answer of a REST interface holds, or None."""
    for key in _ANSWERS:
        held = item.get(key)
        held = [held] if isinstance(held, dict) and _is_crystal(held) else held
        if isinstance(held, list) and held and all(isinstance(v, dict) for v in held):
            return held
    return None


def _table(item: dict[str, Any]) -> list[tuple[str, dict[str, Any]]] | None:
    """Return the rows of a pandas table (``split`` or by columns) with structures, or None."""
    names, rows = item.get("columns"), item.get("data")
    if isinstance(names, list) and isinstance(rows, list) and "structure" in names:
        labels = item.get("index")
        labels = labels if isinstance(labels, list) else list(range(len(rows)))
        if len(labels) == len(rows) and all(isinstance(r, list) for r in rows):
            paired = zip(labels, rows, strict=True)
            return [(str(label), dict(zip(names, row, strict=False))) for label, row in paired]
    held = item.get("structure")
    if not isinstance(held, dict) or not _all_dicts(held):
        return None
    columns = {k: v for k, v in item.items() if isinstance(v, dict)}
    return [(key, {k: v.get(key) for k, v in columns.items()}) for key in held]


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false"}
    return "nothing" if value is None else names.get(type(value), "a number")


def _told(value: Any) -> str:
    """Say what something that is no crystal seems to be."""
    if not isinstance(value, dict):
        return f"this is {_kind(value)}"
    if isinstance(name := value.get("@class"), str):
        return f"this is pymatgen's {name[:40]}"
    if "nextid" in value and "ids" in value:
        return "this is a database of ASE"
    if "error" in value or "errors" in value or "detail" in value:
        return "this is the answer of a server that met an error"
    if value.get("type") in ("FeatureCollection", "Feature"):
        return "this is GeoJSON"
    keys = ", ".join(str(key)[:20] for key in list(value)[:5])
    return f"this is an object with the keys {keys}" if keys else "this is an empty object"
