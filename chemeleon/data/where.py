"""Which rows an expression such as ``e_above_hull <= 0.1 and "Li" in elements`` keeps.

The logic has three values, as in SQL: a comparison with a missing value is neither true nor false,
``not`` leaves it so, and only rows of which the whole is true are kept. Numbers are compared as
float32, as columns are stored: ``x <= 0.1`` keeps a row with 0.1.

Shapes: ``M`` rows, ``A`` atoms of all rows.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from chemeleon.config.where import (
    COMPUTED,
    Both,
    Column,
    Comparison,
    Condition,
    Known,
    Members,
    Not,
    Value,
    one_line,
    read_where,
    refuse,
)
from chemeleon.data.labels import Labels
from chemeleon.errors import DataError, nearest

Flags = NDArray[np.bool_]
_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "==": operator.eq,
    "!=": operator.ne,
}  # fmt: skip
_MIRRORED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "==": "==", "!=": "!="}
_SIZES = 128  # more than there are elements
_ROWS_AT_A_TIME = 100_000


@dataclass(frozen=True)
class Rows:
    """What an expression can ask of rows.

    Attributes:
        numbers: column to ``(M,)`` float32, NaN where missing.
        labels: column of text to its values.
        unkept: columns of text too long to be kept.
        atomic_numbers: ``(A,)`` atoms of all rows, one row after the other.
        num_atoms: ``(M,)``; 0 where the crystal is not known (yet).
        ids: ``M`` names.
        id_column: name of the column of names.
    """

    numbers: Mapping[str, NDArray[np.float32]]
    labels: Mapping[str, Labels]
    unkept: Sequence[str]
    atomic_numbers: NDArray[Any]
    num_atoms: NDArray[Any]
    ids: Sequence[str]
    id_column: str | None = None

    def __len__(self) -> int:
        return len(self.num_atoms)

    @cached_property
    def ends(self) -> NDArray[np.int64]:
        """``(M + 1,)`` index of the first atom of each row, and of the end."""
        return np.concatenate([[0], np.cumsum(self.num_atoms, dtype=np.int64)])

    def any(self, atoms: Flags) -> Flags:
        """Return in which rows an atom is flagged, ``(M,)``."""
        found, filled = np.zeros(len(self), dtype=bool), np.flatnonzero(self.num_atoms)
        if len(filled):
            found[filled] = np.logical_or.reduceat(atoms, self.ends[filled])
        return found

    @cached_property
    def num_elements(self) -> NDArray[np.float32]:
        """``(M,)`` number of different elements."""
        found = np.empty(len(self), dtype=np.float32)
        for start in range(0, len(self), _ROWS_AT_A_TIME):
            stop = min(start + _ROWS_AT_A_TIME, len(self))
            there = np.zeros((stop - start, _SIZES), dtype=bool)
            row = np.repeat(np.arange(stop - start), self.num_atoms[start:stop])
            there[row, self.atomic_numbers[self.ends[start] : self.ends[stop]]] = True
            found[start:stop] = there.sum(1)
        return found


class Truth(NamedTuple):
    """What is true and what is false of ``M`` rows; the rest is unknown."""

    yes: Flags
    no: Flags


class _Elements(NamedTuple):
    """The composition, as a value of an expression."""


def judge(text: str, rows: Rows, source: str) -> Truth:
    """Return of which rows an expression is true, and of which it is false.

    Args:
        text: the expression.
        rows: what is known of them.
        source: named in errors.

    Raises:
        ConfigError: if the expression cannot be read, or compares numbers with text.
        DataError: if there is no such column.
    """
    return _Judge(one_line(text), rows, source).truth(read_where(text))


@dataclass
class _Judge:
    text: str
    rows: Rows
    source: str
    used: dict[Column, Any] = field(default_factory=dict)

    def truth(self, node: Condition) -> Truth:
        match node:
            case Not(part):
                yes, no = self.truth(part)
                return Truth(no, yes)
            case Both(parts, every):
                yes, no = self.truth(parts[0])
                for part in parts[1:]:
                    more = self.truth(part)
                    yes = yes & more.yes if every else yes | more.yes
                    no = no | more.no if every else no & more.no
                return Truth(yes, no)
            case Known(column):
                known = self.known(self.column(column))
                return Truth(known, ~known)
        return self.compared(node)

    def known(self, value: Any) -> Flags:
        if isinstance(value, Labels):
            return value.codes >= 0
        if isinstance(value, _Elements):
            return self.rows.num_atoms > 0
        return ~np.isnan(value)

    def column(self, column: Column) -> Any:
        """Return float32 numbers, labels, or elements."""
        if column not in self.used:
            self.used[column] = self.find(column)
        return self.used[column]

    def find(self, column: Column) -> Any:
        rows, name = self.rows, column.name
        if name in COMPUTED and not column.quoted:
            if name == "elements":
                return _Elements()
            of_row = rows.num_atoms if name == "num_atoms" else rows.num_elements
            return np.where(rows.num_atoms > 0, of_row, np.nan).astype(np.float32)
        if name in rows.numbers:
            return np.asarray(rows.numbers[name], dtype=np.float32)
        if name in rows.labels:
            return rows.labels[name]
        if name == rows.id_column:
            return Labels(np.arange(len(rows), dtype=np.int32), list(rows.ids))
        if name in rows.unkept:
            reason = f"column '{name}' of {self.source} holds long texts, which are not kept"
            raise DataError(str(refuse(self.text, column.at, reason)))
        there = [*COMPUTED, *rows.numbers, *rows.labels]
        reason = f"{self.source} has no column '{name}'{nearest(name, there)}"
        raise DataError(f"{refuse(self.text, column.at, reason)}; there are {', '.join(there)}")

    def compared(self, node: Comparison) -> Truth:
        sign = node.operator
        left, right = (
            self.column(side) if isinstance(side, Column) else side
            for side in (node.left, node.right)
        )
        if sign in ("in", "not in"):
            found = self.contained(node, left, right)
        elif isinstance(left, _Elements) or isinstance(right, _Elements):
            if isinstance(right, _Elements):
                left, right, sign = right, left, _MIRRORED[sign]
            found = self.composed(node, sign, right)
        elif _is_text(left) or _is_text(right):
            found = self.equal_texts(node, left, right)
        elif isinstance(left, Members) or isinstance(right, Members):
            raise refuse(self.text, node.at, f"a list is compared by `in`, not by {sign}")
        else:
            sides = [v if isinstance(v, np.ndarray) else _float32(v) for v in (left, right)]
            known = ~np.isnan(sides[0]) & ~np.isnan(sides[1])
            found = _COMPARE[sign](*sides), known
        yes, known = found
        if sign == "not in":
            yes = ~yes
        return Truth(yes & known, ~yes & known)

    def contained(self, node: Comparison, left: Any, right: Any) -> tuple[Flags, Flags]:
        if isinstance(right, _Elements):
            if not isinstance(left, str):
                reason = 'elements holds symbols, as in "Li" in elements'
                raise refuse(self.text, node.at, reason)
            return self.rows.any(self.are(node, [left])), self.known(right)
        if not isinstance(right, Members) or not isinstance(left, Labels | np.ndarray):
            reason = '`in` asks elements, or a list: "Li" in elements, COLUMN in ["a", "b"]'
            raise refuse(self.text, node.at, reason)
        known = self.known(left)
        texts = [value for value in right.values if isinstance(value, str)]
        numbers = [_float32(value) for value in right.values if not isinstance(value, str)]
        if isinstance(left, Labels):
            self.one_kind(node, not numbers, "text, and the list has numbers")
            return left.among(texts), known
        self.one_kind(node, not texts or not known.any(), "numbers, and the list has texts")
        return np.isin(left, np.array(numbers, dtype=np.float32)), known

    def composed(self, node: Comparison, sign: str, other: Any) -> tuple[Flags, Flags]:
        """Compare the elements with a set of symbols: the same, some of them, more than them."""
        if not isinstance(other, Members):
            reason = 'elements is compared with a set of symbols, as in elements <= {"Li", "O"}'
            raise refuse(self.text, node.at, reason)
        symbols = list(dict.fromkeys(other.values))
        within = ~self.rows.any(~self.are(node, symbols))
        has = [self.rows.any(self.are(node, [symbol])) for symbol in symbols]
        covers = np.all(has, axis=0) if has else np.ones(len(self.rows), dtype=bool)
        found = {
            "<=": within,
            "<": within & ~covers,
            ">=": covers,
            ">": covers & ~within,
            "==": within & covers,
            "!=": ~(within & covers),
        }[sign]
        return found, self.rows.num_atoms > 0

    def are(self, node: Comparison, symbols: Sequence[Any]) -> Flags:
        """Return ``(A,)``: whether an atom is of one of these elements."""
        from ase.data import atomic_numbers, chemical_symbols

        table = np.zeros(_SIZES, dtype=bool)
        for symbol in symbols:
            if symbol not in chemical_symbols[1:]:
                close = nearest(str(symbol).capitalize(), chemical_symbols[1:])
                reason = f"'{symbol}' is not the symbol of an element{close}"
                raise refuse(self.text, node.at, reason)
            table[atomic_numbers[symbol]] = True
        return table[self.rows.atomic_numbers]

    def equal_texts(self, node: Comparison, *sides: Any) -> tuple[Flags, Flags]:
        if node.operator not in ("==", "!="):
            raise refuse(self.text, node.at, "texts are compared by == and != only")
        columns = [side for side in sides if isinstance(side, Labels)]
        words = [side for side in sides if isinstance(side, str)]
        for numbers in (side for side in sides if isinstance(side, np.ndarray)):
            # without any value, it may be the text column of another split
            self.one_kind(node, not self.known(numbers).any(), "numbers: compare it with a number")
            return np.zeros(len(numbers), bool), np.zeros(len(numbers), bool)
        self.one_kind(node, len(columns) + len(words) == 2, 'text: compare it with a "text"')
        column, known = columns[0], self.known(columns[0])
        if words:
            same = column.among(words)
        else:
            index = {word: code for code, word in enumerate(column.words)}
            other = columns[1]
            codes = np.array([index.get(word, -2) for word in other.words] + [-2])[other.codes]
            same, known = column.codes == codes, known & self.known(other)
        return (same if node.operator == "==" else ~same), known

    def one_kind(self, node: Comparison, fits: bool, held: str) -> None:
        if not fits:
            raise refuse(self.text, node.at, f"the column holds {held}")


def _is_text(value: Any) -> bool:
    return isinstance(value, Labels | str)


def _float32(value: Value) -> np.float32:
    with np.errstate(over="ignore"):
        return np.float32(value)  # type: ignore[arg-type]
