"""A set of known crystals that is asked again and again, by composition.

Only crystals whose composition has been asked for are ever reduced or fingerprinted, and each of
them once; so nothing has to be built before the first question.

Shapes: ``C`` known crystals, ``K`` neighbours.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chemeleon.crystals.batch import Crystal, Crystals
from chemeleon.evaluation.matching.amd import NEIGHBOURS, average_minimum_distances
from chemeleon.evaluation.matching.grouping import (
    Prepared,
    composition_keys,
    find_known,
    prepare,
    rows_of,
)
from chemeleon.evaluation.matching.pairs import TOLERANCES, Tolerances

_NONE = np.zeros(0, dtype=np.int64)


class Lookup:
    """Known crystals by reduced composition.

    Args:
        crystals: ``C`` crystals on the CPU.
        seconds: limit of a reduction.
        workers: processes; all cores if None.
        neighbours: ``K`` of the average minimum distances.
    """

    def __init__(
        self,
        crystals: Crystals,
        *,
        seconds: float = 10.0,
        workers: int | None = None,
        neighbours: int = NEIGHBOURS,
    ) -> None:
        self.crystals = crystals
        self.arrays = crystals.arrays()
        self.seconds, self.workers, self.neighbours = seconds, workers, neighbours
        self.rows = rows_of(composition_keys(self.arrays))
        self._reduced: dict[int, tuple[Crystal, str | None]] = {}
        self._distances: dict[int, Tensor] = {}

    def of(self, keys: Iterable[bytes]) -> NDArray[np.int64]:
        """Return the rows of all crystals of these compositions."""
        return np.concatenate([_NONE, *(self.rows.get(key, _NONE) for key in keys)])

    def prepared(self, keys: Iterable[bytes]) -> Prepared:
        """Return the crystals of these compositions as the matcher compares them.

        Args:
            keys: compositions, each once.
        """
        chosen = {key: self.rows[key] for key in keys if key in self.rows}
        rows = self.of(chosen)
        missing = [row for row in rows.tolist() if row not in self._reduced]
        if missing:
            part = self.arrays.subset(missing)
            made = prepare(part, seconds=self.seconds, workers=self.workers)
            both = zip(made.crystals, made.reasons, strict=True)
            self._reduced.update(zip(missing, both, strict=True))
        found = [self._reduced[row] for row in rows.tolist()]
        labels = [key for key, members in chosen.items() for _ in members]
        return Prepared(Crystals.of([c for c, _ in found]), labels, [why for _, why in found])

    def holds(self, crystals: Crystals) -> NDArray[np.bool_]:
        """Return which of ``B`` valid crystals match a known one, by pymatgen's tolerances."""
        arrays, how = crystals.arrays(), {"seconds": self.seconds, "workers": self.workers}
        keys = composition_keys(arrays)
        ours = prepare(arrays, np.array([key in self.rows for key in keys], bool), **how)
        return self.matches(ours, TOLERANCES["pymatgen"], self.seconds)

    def matches(
        self, prepared: Prepared, tolerances: Tolerances, seconds: float
    ) -> NDArray[np.bool_]:
        """Return which prepared crystals match a known one, pairs in at most so many seconds."""
        known = self.prepared(set(prepared.keys))
        found = find_known(prepared, known, tolerances, seconds=seconds, workers=self.workers)
        return found.match >= 0

    def distances(self, rows: NDArray[np.int64]) -> Tensor:
        """Return average minimum distances of some of the crystals, ``(len(rows), K)``."""
        missing = [row for row in rows.tolist() if row not in self._distances]
        if missing:
            part = self.crystals.subset(missing)
            made = average_minimum_distances(part, self.neighbours)
            self._distances.update(zip(missing, made, strict=True))
        found = [self._distances[row] for row in rows.tolist()]
        return torch.stack(found) if found else torch.zeros(0, self.neighbours).double()
