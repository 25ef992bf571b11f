"""New and distinct crystals: 1 if unique and novel, 0 if neither, else a distance.

A crystal that is only one of both earns its distance to the nearest other crystal of the same
reduced formula, generated or known: the Chebyshev distance of average minimum distances
(`evaluation.amd`), in angstrom. An exact copy earns 0.

Shapes: ``M`` crystals.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from chemeleon.config.bounds import Positive, Section
from chemeleon.evaluation.matching.amd import NEIGHBOURS, average_minimum_distances, chebyshev
from chemeleon.evaluation.matching.disordered import find_alike
from chemeleon.evaluation.matching.grouping import (
    composition_keys,
    find_groups,
    prepare,
    shared,
)
from chemeleon.evaluation.matching.lookup import Lookup
from chemeleon.evaluation.matching.pairs import TOLERANCES, MatcherName
from chemeleon.reinforcement.rewards.base import (
    Answer,
    Candidates,
    Context,
    Reward,
    needs_reference,
)
from chemeleon.workers import keep_workers


class CreativityOptions(Section):
    """Settings of `Creativity`."""

    matcher: MatcherName = Field(default="pymatgen", description="Tolerances of the matcher.")
    unique_within: Literal["batch", "group"] = Field(
        default="batch", description="Crystals among which the first of equal ones is unique."
    )
    disordered: bool = Field(
        default=False,
        description="Novel is only what is novel too if like elements may stand for each other, as"
        " `evaluate` tells (docs/evaluate.md): swaps of such elements earn nothing.",
    )
    neighbours: Positive = Field(default=NEIGHBOURS, description="Length of the AMD vectors.")
    seconds_per_pair: float = Field(
        default=2.0, gt=0, description="Limit of one comparison; beyond it there is no match."
    )


class Creativity(Reward):
    """1 for unique and novel crystals, 0 for neither, else the AMD distance to the nearest."""

    Options = CreativityOptions
    floor = 0.0
    busy = "cpu"

    def __init__(self, options: CreativityOptions, context: Context) -> None:
        super().__init__(options, context)
        assert context.reference is not None
        if context.jobs != 1:
            keep_workers()
        self.known = Lookup(context.reference, workers=context.jobs, neighbours=options.neighbours)
        self.known_keys = composition_keys(self.known.arrays) if options.disordered else []
        self.limits: dict[str, Any] = {"seconds": options.seconds_per_pair, "workers": context.jobs}

    @classmethod
    def problems(cls, options: CreativityOptions, context: Context) -> list[str]:
        """See `Reward`."""
        return needs_reference(context)

    def score(self, candidates: Candidates) -> Answer:
        """See `Reward`."""
        sound = candidates.sound.numpy()
        keys = composition_keys(candidates.arrays)
        keys = [key if good else b"" for key, good in zip(keys, sound, strict=True)]
        wanted = shared(keys, [self.known.rows])
        prepared = prepare(candidates.arrays, wanted, **self.limits)._replace(keys=keys)
        peers = keys  # crystals of equal key are held against each other
        if self.options.unique_within == "group":
            groups = candidates.group.tolist()
            peers = [k and k + b"%d" % g for k, g in zip(keys, groups, strict=True)]
        tolerances = TOLERANCES[self.options.matcher]
        unique = find_groups(prepared._replace(keys=peers), tolerances, **self.limits).unique
        novel = ~self.known.matches(prepared, tolerances, self.options.seconds_per_pair)
        if self.options.disordered:
            found = find_alike(
                candidates.arrays, keys, novel & sound, self.known.arrays, self.known_keys,
                tolerances, **self.limits,
            )  # fmt: skip
            novel &= found.match < 0
        values = (unique & novel).astype(np.float64)
        self._measure(candidates, np.flatnonzero((unique != novel) & sound), keys, peers, values)

        both = zip(candidates.problems, prepared.reasons, strict=True)
        reasons = {i: why for i, (broken, other) in enumerate(both) if (why := broken or other)}
        values[list(reasons)] = np.nan
        judged = np.isfinite(values)
        facts = {
            "unique": torch.from_numpy(unique & judged),
            "novel": torch.from_numpy(novel & judged),
        }
        return Answer(torch.from_numpy(values), reasons, facts)

    def _measure(
        self,
        candidates: Candidates,
        rows: NDArray[np.int64],
        keys: list[bytes],
        peers: list[bytes],
        values: NDArray[np.float64],
    ) -> None:
        """Set the values of some rows to the distance of the nearest other crystal alike."""
        members: dict[bytes, list[int]] = {}
        chosen = {peers[row] for row in rows.tolist()}
        for row, key in enumerate(peers):
            if key in chosen:
                members.setdefault(key, []).append(row)
        every = sorted(row for alike in members.values() for row in alike)
        place = {row: i for i, row in enumerate(every)}
        part = candidates.crystals.subset(torch.tensor(every, dtype=torch.int64))
        vectors = average_minimum_distances(part, self.options.neighbours)
        for row in rows.tolist():
            own = vectors[place[row], None]
            others = vectors[[place[i] for i in members[peers[row]] if i != row]]
            known = self.known.distances(self.known.of([keys[row]]))
            distances = chebyshev(own, torch.cat([others, known]))
            values[row] = float(distances[distances.isfinite()].min())
