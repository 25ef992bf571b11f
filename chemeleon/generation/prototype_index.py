"""What prototypes are found by: read off training crystals once, which takes seconds, and kept.

Shapes: ``M`` training crystals, ``K`` distinct patterns, ``s`` slots of a pattern, ``E`` = 100.
"""

from __future__ import annotations

import json
import logging
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np

from chemeleon.caching import cache_file, digest_of, keep
from chemeleon.crystals.assignments import assignments_of
from chemeleon.crystals.batch import Array, Crystals
from chemeleon.crystals.patterns import Order, Pattern, pattern_of
from chemeleon.generation.substitution import similarities
from chemeleon.generation.volumes import atomic_volumes

logger = logging.getLogger(__name__)
_VERSION = 1  # of all that is kept; what another has written is made again


class Index(NamedTuple):
    """Patterns of training crystals, and what these say of elements.

    Attributes:
        patterns: ``K``, in the order of the crystals.
        turns: of each pattern the orders of its slots that mean the same assignment.
        kinds: ``(M,)`` index into the patterns.
        elements: of all crystals, one after the other, the atomic number in each slot.
        similarities: ``(E, E)``, see `substitution.similarities`.
        volumes: ``(E,)`` angstrom^3, see `volumes.atomic_volumes`.
    """

    patterns: list[Pattern]
    turns: list[list[Order]]
    kinds: Array
    elements: Array
    similarities: Array
    volumes: Array

    @classmethod
    def of(cls, orbits: Crystals[Array]) -> Index:
        """Return the index of ``M`` crystals with sites."""
        found = [pattern_of(assignment) for assignment in assignments_of(orbits)]
        patterns: dict[Pattern, int] = {}
        turns: list[list[Order]] = []
        kinds = []
        for pattern, orders in found:
            if pattern not in patterns:
                patterns[pattern] = len(patterns)
                place = {element: i for i, element in enumerate(orders[0])}
                turns.append([tuple(place[element] for element in order) for order in orders])
            kinds.append(patterns[pattern])
        elements = np.concatenate([np.array(orders[0]) for _, orders in found])
        own = similarities(found), atomic_volumes(orbits)
        return cls(list(patterns), turns, np.array(kinds), elements, *own)

    @classmethod
    def kept(cls, orbits: Crystals[Array]) -> Index:
        """Return the same from the cache if it was made before, else put it there."""
        assert orbits.sites is not None
        read = digest_of(orbits.atomic_numbers, orbits.lattice, orbits.num_atoms, orbits.sites)
        key = [_VERSION, version("moyopy"), read]
        file = cache_file("prototypes", key, ".json")
        found = _read(file)
        if found is None:
            found = cls.of(orbits)
            content = [one.tolist() if isinstance(one, np.ndarray) else one for one in found]
            keep(file, json.dumps(content).encode(), "prototypes are")
        return found


def _read(file: Path) -> Index | None:
    if not file.is_file():
        return None
    try:
        patterns, turns, kinds, elements, *tables = json.loads(file.read_bytes())
        return Index(
            [Pattern(number, tuple((n, tuple(x)) for n, x in own)) for number, own in patterns],
            [[tuple(turn) for turn in own] for own in turns],
            np.array(kinds),
            np.array(elements),
            *map(np.array, tables),
        )
    except (OSError, ValueError, TypeError) as error:
        logger.warning("the cached prototypes %s are damaged (%s); made again", file, error)
        return None
