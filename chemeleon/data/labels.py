"""Columns of text in little space. No torch here.

Shapes: ``M`` rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_MISSING = frozenset({"", "nan", "none", "null"})
_LETTERS_PER_ROW = 32  # on average; structures and long prose are not kept
_SOME_LETTERS = 1 << 16


class Labels(NamedTuple):
    """A column of text, each word once.

    Attributes:
        codes: ``(M,)`` int32, index into ``words``; -1 where there is no value.
        words: the different values, in the order of their first row.
    """

    codes: NDArray[np.int32]
    words: list[str]

    @classmethod
    def of(cls, values: Iterable[Any]) -> Labels:
        """Collect the different values; what is empty, nan, none or null is missing."""
        index: dict[str, int] = {}
        codes = []
        for value in values:
            word = "" if value is None else str(value).strip()
            known = word.lower() not in _MISSING
            codes.append(index.setdefault(word, len(index)) if known else -1)
        return cls(np.array(codes, dtype=np.int32), list(index))

    @property
    def small(self) -> bool:
        """Whether the words take little space beside the crystals of as many rows."""
        return sum(map(len, self.words)) <= _SOME_LETTERS + _LETTERS_PER_ROW * len(self.codes)

    def take(self, rows: NDArray[Any]) -> Labels:
        """Return the values of some rows."""
        return Labels(self.codes[rows], self.words)

    def values(self) -> list[str]:
        """Return ``M`` words, empty where there is none."""
        words = [*self.words, ""]  # which is where -1 leads
        return [words[code] for code in self.codes.tolist()]

    def among(self, wanted: Iterable[str]) -> NDArray[np.bool_]:
        """Return ``(M,)``: whether the value is one of these."""
        chosen = set(wanted)
        return np.array([word in chosen for word in self.words] + [False])[self.codes]
