"""What a worker process does with a chunk of crystals. No torch here: workers start quickly."""

from __future__ import annotations

from typing import Any

import numpy as np

from chemeleon.crystals.batch import Array, Crystals
from chemeleon.data.limits import Limits
from chemeleon.data.parse import BadCrystalError, Crystal, parse, wrap_float32

ParsedChunk = tuple[list[str | None], Crystals[Array]]


def parse_chunk(job: tuple[list[tuple[str, Any]], bool, Limits]) -> ParsedChunk:
    """Parse crystals given as (kind, content), see `parse.parse`; the flag asks for reduction.

    Returns:
        For every record None if it is good, or what is wrong; and the good crystals in float32.
    """
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
    found = Crystals.of(good)
    frac, lattice = wrap_float32(found.frac_coords), found.lattice.astype(np.float32)
    return reasons, found.with_geometry(frac, lattice)
