"""What a worker process does with a chunk of crystals. No torch here: workers start quickly."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from chemeleon.data.limits import Limits
from chemeleon.data.parse import BadCrystalError, Crystal, parse, wrap_float32


class ParsedChunk(NamedTuple):
    """Arrays of the good crystals of a chunk, one after the other.

    Attributes:
        reasons: for every record None if it is good, or what is wrong.
        atomic_numbers: ``(A,)`` uint8.
        frac_coords: ``(A, 3)`` float32 in [0, 1).
        lattice: ``(M, 3, 3)`` float32, angstrom.
        num_atoms: ``(M,)`` int32.
    """

    reasons: list[str | None]
    atomic_numbers: NDArray[np.uint8]
    frac_coords: NDArray[np.float32]
    lattice: NDArray[np.float32]
    num_atoms: NDArray[np.int32]


def parse_chunk(job: tuple[list[tuple[str, Any]], bool, Limits]) -> ParsedChunk:
    """Parse crystals given as (kind, content), see `parse.parse`; the flag asks for reduction."""
    items, niggli, limits = job
    reasons: list[str | None] = []
    good: list[Crystal] = []
    for kind, content in items:
        if kind == "problem":  # found while reading; the content is the reason
            reasons.append(content)
            continue
        try:
            good.append(parse(kind, content, niggli, limits))
            reasons.append(None)
        except BadCrystalError as error:
            reasons.append(str(error))
    numbers = [c.atomic_numbers.astype(np.uint8) for c in good]
    coords = [wrap_float32(c.frac_coords) for c in good]
    return ParsedChunk(
        reasons,
        np.concatenate([np.zeros(0, np.uint8), *numbers]),
        np.concatenate([np.zeros((0, 3), np.float32), *coords]),
        np.array([c.lattice for c in good], dtype=np.float32).reshape(-1, 3, 3),
        np.array([len(c.atomic_numbers) for c in good], dtype=np.int32),
    )
