"""The grammar of ``data.where``: an expression becomes a tree of a few kinds of nodes.

Python's own grammar is read node by node; nothing is compiled or run, and whatever is not named
here is refused with its place. What the words mean for rows is in `chemeleon.data.where`.
"""

from __future__ import annotations

import ast
import math
import re
import warnings
from dataclasses import dataclass
from typing import Any

from chemeleon.errors import ConfigError

LONGEST = 10_000  # characters
DEEPEST = 40  # nodes within nodes
COMPUTED = ("num_atoms", "num_elements", "elements")  # of the crystal, not of a column
_OPERATORS = {
    ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!=",
    ast.In: "in", ast.NotIn: "not in",
}  # fmt: skip
_ALLOWED = "comparisons, in, and, or, not, known(COLUMN) and parentheses"


@dataclass(frozen=True)
class Column:
    """A column, or one of ``COMPUTED`` (unless ``quoted``); ``at`` is its place in the text."""

    name: str
    at: int
    quoted: bool = False


@dataclass(frozen=True)
class Members:
    """A list or set of numbers and texts."""

    values: tuple[float | str, ...]


Value = Column | Members | float | str


@dataclass(frozen=True)
class Comparison:
    """Two values and one of ``< <= > >= == != in``, ``not in``; at least one is a column."""

    left: Value
    operator: str
    right: Value
    at: int


@dataclass(frozen=True)
class Known:
    """Whether a column has a value."""

    column: Column


@dataclass(frozen=True)
class Not:
    """The opposite."""

    part: Condition


@dataclass(frozen=True)
class Both:
    """All of the parts, or any of them."""

    parts: tuple[Condition, ...]
    every: bool


Condition = Comparison | Known | Not | Both


def refuse(text: str, at: int, reason: str) -> ConfigError:
    """Return the error that shows where in an expression something is wrong."""
    rest = text[at : at + 24]
    place = f"at character {at + 1}, '{rest}{'...' if at + 24 < len(text) else ''}'"
    return ConfigError(f"where: {reason} ({place if rest else 'at its end'})")


def read_where(text: str) -> Condition:
    """Read an expression such as ``e_above_hull <= 0.1 and "Li" in elements``.

    Raises:
        ConfigError: with the place, if it is anything but such an expression.
    """
    if len(text) > LONGEST:
        raise ConfigError(f"where: {len(text):,} characters, and at most {LONGEST:,} are read")
    line = one_line(text)
    if not line:
        raise ConfigError("where: the expression is empty; null takes every row")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of grammar, such as an odd escape in a text
            tree = ast.parse(line, mode="eval")
    except SyntaxError as error:
        hint = "; == compares" if re.search(r"(?<![<>=!])=(?!=)", line) else ""
        at = min(max((error.offset or 1) - 1, 0), len(line))
        raise refuse(line, at, f"not an expression of {_ALLOWED}{hint}") from None
    except (ValueError, MemoryError, RecursionError):
        raise refuse(line, 0, "cannot be read; it is too deeply nested, or has a NUL") from None
    return _Reader(line).condition(tree.body, 0)


def one_line(text: str) -> str:
    """Return an expression on one line, as errors and reports show it."""
    return " ".join(text.splitlines()).strip()


class _Reader:
    def __init__(self, text: str) -> None:
        self.text = text

    def condition(self, node: ast.expr, depth: int) -> Condition:
        if depth > DEEPEST:
            raise self.refused(node, f"more than {DEEPEST} levels of parentheses and words")
        match node:
            case ast.BoolOp():
                parts = tuple(self.condition(part, depth + 1) for part in node.values)
                return Both(parts, isinstance(node.op, ast.And))
            case ast.UnaryOp(op=ast.Not()):
                return Not(self.condition(node.operand, depth + 1))
            case ast.Compare():
                return self.comparison(node)
            case ast.Call(func=ast.Name(id="known"), args=[asked], keywords=[]):
                column = self.value(asked)
                if not isinstance(column, Column):
                    raise self.refused(asked, "known(...) takes a column, as in known(band_gap)")
                return Known(column)
            case ast.BinOp():
                raise self.refused(node, "write `and`, `or` and `not` between comparisons")
            case ast.Name() | ast.Attribute():
                raise self.refused(
                    node, "a column alone says nothing: compare it, or ask known(...)"
                )
        raise self.refused(node, f"only {_ALLOWED} can be used")

    def comparison(self, node: ast.Compare) -> Condition:
        sides = [node.left, *node.comparators]
        values = [self.value(side) for side in sides]
        parts = []
        for i, kind in enumerate(node.ops):
            operator = _OPERATORS.get(type(kind))
            if operator is None:
                raise self.refused(sides[i], "`is` is not read: == compares, known(...) asks")
            if not any(isinstance(value, Column) for value in values[i : i + 2]):
                raise self.refused(sides[i], "this compares no column")
            parts.append(Comparison(values[i], operator, values[i + 1], self.place(sides[i])))
        return parts[0] if len(parts) == 1 else Both(tuple(parts), True)

    def value(self, node: ast.expr) -> Value:
        match node:
            case ast.List() | ast.Tuple() | ast.Set():
                members = [self.value(member) for member in node.elts]
                for member, at in zip(members, node.elts, strict=True):
                    if not isinstance(member, float | str):
                        raise self.refused(at, "a list holds numbers and texts in quotes")
                return Members(tuple(m for m in members if isinstance(m, float | str)))
            case ast.Call(func=ast.Name(id="column"), args=[ast.Constant(value=str(name))]):
                if not node.keywords:
                    return Column(name, self.place(node), quoted=True)
            case ast.Name() | ast.Attribute():
                return Column(self.dotted(node), self.place(node))
            case ast.Constant():
                return self.constant(node, node.value)
            case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=ast.Constant(value=value)):
                number = self.constant(node, value)
                if isinstance(number, float):
                    return -number if isinstance(node.op, ast.USub) else number
            case ast.BinOp(op=ast.BitAnd() | ast.BitOr()):
                raise self.refused(node, "write `and` and `or` for & and |")
            case ast.BinOp():
                raise self.refused(node, "arithmetic is not read: compare columns as they are")
        raise self.refused(node, 'expected a column, column("odd name"), a number or a "text"')

    def dotted(self, node: ast.expr) -> str:
        names: list[str] = []
        while isinstance(node, ast.Attribute):
            names.append(node.attr)
            node = node.value
        if not isinstance(node, ast.Name):
            raise self.refused(node, 'not the name of a column; column("odd name") takes any')
        return ".".join([node.id, *reversed(names)])

    def constant(self, node: ast.expr, value: Any) -> float | str:
        if isinstance(value, str):
            return value
        if value is None:
            raise self.refused(node, "None is no value: known(COLUMN) asks whether there is one")
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.refused(node, 'expected a number or a "text"; 1 is true and 0 false')
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise self.refused(node, "this number is too large")
        return number

    def place(self, node: ast.expr) -> int:
        # the grammar counts bytes
        return len(self.text.encode()[: node.col_offset].decode(errors="ignore"))

    def refused(self, node: ast.expr, reason: str) -> ConfigError:
        return refuse(self.text, self.place(node), reason)
