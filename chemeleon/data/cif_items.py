"""The grammar of CIF: text to blocks, blocks to named values, values to numbers.

gemmi reads the grammar. What is done before: characters that people's files have and the standard
has not (a mark of byte order, U+2212 for minus, non-breaking spaces, accents outside quotes).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from chemeleon.data.crystal import BadCrystalError

_CHARACTERS = {0xFEFF: None, 0x2212: "-", 0xA0: " ", 0x202F: " ", 0x2007: " "}
_HEADER = re.compile(r"[ \t]*data_(\S*)", re.IGNORECASE)
_CRYSTAL = re.compile(r"^\s*_(?:atom_site[._](?:fract|cartn)_x|cell[._]length_a)\b", re.I | re.M)
_NUMBER = re.compile(
    r"[+-]?(?:\d{1,400}(?:\.(\d{0,400}))?|\.(\d{1,400}))(?:[eE]([+-]?\d{1,3}))?(?:\((\d{1,9})\))?",
    re.ASCII,
)
_NULL = (".", "?")
# what makes a block more than a crystal of three dimensions
_SPECIAL = ("_magn", "_cell_modulation", "_cell_wave_vector", "_ssg")


def cleaned(text: str) -> str:
    """Return the text in ASCII; what has no place in a CIF becomes ``~``, which is no number."""
    if text.isascii():
        return text
    table = {c: _CHARACTERS.get(c, "~") for c in set(map(ord, text)) if c > 127}
    return text.translate(table)


def blocks(text: str) -> list[tuple[str, str]]:
    """Split a CIF into the blocks that may hold a crystal, as (name, text).

    Blocks without coordinates and without a cell (of authors, of measured points) are left out,
    unless there is nothing else. A block that cannot be read is there too, for its problem.
    """
    if text.lower().count("data_") <= 1:
        return [(_name(text), text)]
    found: list[tuple[str, list[str]]] = []
    inside = False  # a text field, whose lines mean nothing
    for line in cleaned(text).splitlines(keepends=True):
        if line.startswith(";"):
            inside = not inside
        match = None if inside else _HEADER.match(line)
        if match:
            found.append((match[1], [line]))
        elif found:
            found[-1][1].append(line)
    whole = [(name, "".join(lines)) for name, lines in found]
    if len(whole) == 1:
        return [(whole[0][0], text)]
    crystals = [(name, part) for name, part in whole if _CRYSTAL.search(part)]
    return crystals or whole[:1] or [("", text)]


def _name(text: str) -> str:
    match = re.search(r"^[ \t\ufeff]*data_(\S*)", text, re.IGNORECASE | re.MULTILINE)
    return match[1] if match else ""


class Items:
    """The values of one block by lower-case names with ``_`` for ``.`` (DDLm writes dots)."""

    def __init__(self, text: str) -> None:
        import gemmi

        try:
            document = gemmi.cif.read_string(cleaned(text))
        except (ValueError, RuntimeError) as error:
            reason = " ".join(str(error).removeprefix("string:").split())[:200]
            raise BadCrystalError(f"unparsable CIF: line {reason}") from error
        read = [block for block in document if len(list(block))]
        if not read:
            raise BadCrystalError("unparsable CIF: it holds no values")
        if len(read) > 1:
            names = ", ".join(block.name for block in read)[:80]
            raise BadCrystalError(f"unparsable CIF: one block is expected, not {names}")
        self._columns: dict[str, list[str]] = {}
        self._loops: dict[str, int] = {}
        self.dotted: set[str] = set()
        item: Any  # gemmi's stubs call what a block yields an object
        for number, item in enumerate(read[0]):
            if item.pair is not None:
                self._add(item.pair[0], [item.pair[1]], -1)
            elif item.loop is not None:
                tags, values = item.loop.tags, item.loop.values
                for at, tag in enumerate(tags):
                    self._add(tag, values[at :: len(tags)], number)
        self.special = {w for w in _SPECIAL if any(w in name for name in self._columns)}

    def _add(self, tag: str, values: list[str], loop: int) -> None:
        name = tag.lower().replace(".", "_")
        if name in self._columns:
            raise BadCrystalError(f"{tag} is given twice")
        if "." in tag:
            self.dotted.add(name)
        self._columns[name], self._loops[name] = values, loop

    def __contains__(self, name: str) -> bool:
        return name in self._columns

    def column(self, *names: str) -> list[str | None] | None:
        """Return the values of the first name that has any, None for ``.`` and ``?``."""
        for name in names:
            values = self._columns.get(name)
            if values and any(v not in _NULL for v in values):
                return [_string(v) for v in values]
        return None

    def value(self, *names: str) -> str | None:
        """Return the only value of the first name that has one.

        Raises:
            BadCrystalError: if it has several.
        """
        for name in names:
            values = self._columns.get(name)
            if values and len(values) > 1:
                raise BadCrystalError(f"{name} has {len(values)} values, not one")
            found = _string(values[0]) if values else None
            if found not in (None, "", *_NULL):  # '?' in quotes is meant as ?
                return found
        return None

    def every(self, *names: str) -> list[str]:
        """Return the values of all names that have one, equal ones once."""
        found = [self.value(name) for name in names]
        return list(dict.fromkeys(value for value in found if value is not None))

    def table(self, prefix: str, names: list[str]) -> dict[str, list[str | None]]:
        """Return those of the columns that are there; they must stand in one loop."""
        present = [name for name in names if prefix + name in self._columns]
        if len({self._loops[prefix + name] for name in present}) > 1:
            raise BadCrystalError(f"the columns {prefix}* stand in several loops")
        return {name: [_string(v) for v in self._columns[prefix + name]] for name in present}


def _string(raw: str) -> str | None:
    if raw in _NULL:
        return None
    if raw[0] not in "'\";":
        return raw
    import gemmi

    text = gemmi.cif.as_string(raw)
    if raw.startswith(";\\"):  # a folded text: a backslash ends what goes on in the next line
        text = re.sub(r"\\[ \t]*\r?\n", "", text.removeprefix("\\").lstrip("\r\n"))
    return text.strip()


def read_numbers(values: Sequence[str | None], what: str) -> list[float]:
    """Return numbers; the uncertainty in brackets is dropped.

    Args:
        values: as `Items` gives them.
        what: their name in messages, with ``{}`` for the place in the list.

    Raises:
        BadCrystalError: for what is no number or not known.
    """
    found = []
    for value in values:
        if value is None or not _NUMBER.fullmatch(value):
            name = what.format(len(found) + 1)
            raise BadCrystalError(
                f"{name} is not known" if value is None else f"{name} {value[:20]!r} is no number"
            )
        found.append(float(value if value[-1] != ")" else value[: value.index("(")]))
    return found


def units(values: Sequence[str | None]) -> list[float]:
    """Return what numbers can be off: a unit of the last digit, or the uncertainty in brackets."""
    found = []
    for value in values:
        match = _NUMBER.fullmatch(value or "")
        assert match is not None, "read_numbers comes first"
        after, only, power, uncertainty = match.groups()
        unit = 10.0 ** min(300, int(power or 0) - len(after or only or ""))
        found.append(unit * max(1, int(uncertainty or 1)))
    return found
