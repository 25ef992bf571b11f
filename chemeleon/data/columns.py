"""Properties as files have them to columns of numbers; what is no number is named, not lost."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chemeleon.data.labels import Labels

MISSING = {"", "nan", "none", "null", "na", "n/a", "-", "--"}
_BOOLEANS = {"true": 1.0, "false": 0.0, ".true.": 1.0, ".false.": 0.0}
_COMMA = re.compile(r"[+-]?\d+,\d+(?:[eE][+-]?\d+)?", re.ASCII)
_THOUSANDS = re.compile(r"[+-]?\d{1,3},\d{3}", re.ASCII)
_LARGEST = float(np.finfo(np.float32).max)


class Columns(NamedTuple):
    """Properties of ``M`` crystals.

    Attributes:
        numbers: name to ``(M,)`` float32, NaN where there is none.
        labels: the columns without any number.
        notes: what was made of values that are no plain numbers.
    """

    numbers: dict[str, Tensor]
    labels: dict[str, Labels]
    notes: list[str]


def columns_of(rows: Sequence[Mapping[str, Any]], places: Sequence[str] | None = None) -> Columns:
    """Return the properties of rows.

    Args:
        rows: values by name.
        places: where each row stands, such as ``a.csv, row 3``; its number if not given.
    """
    places = places or [f"row {i}" for i in range(1, len(rows) + 1)]
    found = Columns({}, {}, [])
    for name in dict.fromkeys(name for row in rows for name in row):
        given = [row.get(name) for row in rows]
        numbers, odd = _read(given)
        note = ""
        if odd:
            numbers, odd, note = _second_look(given, numbers, odd)
        if odd:
            first = f"'{_shown(given[odd[0]])}' ({places[odd[0]]})"
            if np.isnan(numbers).all():
                found.labels[name] = Labels.of(given)
                found.notes.append(f"column '{name}' is not of numbers: {first}")
                continue
            more = f" and {len(odd) - 1:,} more" if len(odd) > 1 else ""
            note = f"{first}{more} are no finite numbers and count as missing"
        if note:
            found.notes.append(f"column '{name}': {note}")
        found.numbers[name] = torch.from_numpy(numbers.astype(np.float32))
    return found


def _shown(value: Any) -> str:
    return " ".join(str(value)[:400].split())[:40]


def _read(given: list[Any]) -> tuple[NDArray[np.float64], list[int]]:
    """Return numbers (NaN where there is none), and where a value is given that is none."""
    numbers = np.full(len(given), np.nan)
    odd = []
    for i, value in enumerate(given):
        if value is None:
            continue
        if isinstance(value, str) and (value == "" or value.strip().lower() in MISSING):
            continue
        try:
            number = math.nan if isinstance(value, bool) or "_" in str(value) else float(value)
        except (ValueError, OverflowError):
            number = math.nan
        if abs(number) <= _LARGEST:
            numbers[i] = number
        elif not (isinstance(value, float) and math.isnan(value)):
            odd.append(i)
    return numbers, odd


def _second_look(
    given: list[Any], numbers: NDArray[np.float64], odd: list[int]
) -> tuple[NDArray[np.float64], list[int], str]:
    """Read booleans and decimal commas where all odd values of a column are such."""
    words = [str(given[i]).strip() for i in odd]
    plain = numbers[~np.isnan(numbers)]
    if all(word.lower() in _BOOLEANS for word in words) and np.isin(plain, (0, 1)).all():
        numbers[odd] = [_BOOLEANS[word.lower()] for word in words]
        return numbers, [], "true and false were read as 1 and 0"
    # 1,234 alone may be 1.234 or 1234; one value that can only be a decimal settles it
    commas = all(_COMMA.fullmatch(word) for word in words)
    if commas and not all(_THOUSANDS.fullmatch(word) for word in words):
        numbers[odd] = [float(word.replace(",", ".")) for word in words]
        return numbers, [], "decimal commas were read as points"
    return numbers, odd, ""
