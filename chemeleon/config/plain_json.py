"""JSON that anybody may have changed: whatever is wrong with it is a ValueError."""

from __future__ import annotations

import json
import math
from typing import Any


def parse_json(text: str | bytes, *, finite: bool = False) -> Any:
    """Return what a JSON text says.

    Args:
        text: letters, or bytes of UTF-8.
        finite: give None for numbers that are none: NaN, infinity and what is too large to compute.

    Raises:
        ValueError: if it is no JSON, no text, or nested too deeply.
    """
    try:
        if finite:
            return json.loads(text, parse_constant=lambda name: None, parse_float=_finite)
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _finite(word: str) -> float | None:
    number = float(word)
    return number if math.isfinite(number) else None
