"""From a formula to assignments of Wyckoff letters: hypotheses of its symmetry, likeliest first.

There are two sources: training crystals that the formula fits (`prototypes`), and a model of all
that it allows (`letter_search`). With both, the probability of an assignment is the weighted mean
of the share of the votes that it has and of its probability by the model.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from chemeleon.config.requests import MAX_CRYSTALS, check_range, check_seed, names_of
from chemeleon.crystals.assignments import key_of, written
from chemeleon.crystals.batch import Crystals
from chemeleon.crystals.formula import parse_formula, reduced
from chemeleon.crystals.orbit_sets import write_as_orbits
from chemeleon.crystals.orbits import Assignment
from chemeleon.data.named import find_set
from chemeleon.errors import ConfigError
from chemeleon.generation.letter_search import Formula, LetterSearch
from chemeleon.generation.prototype_index import Index
from chemeleon.generation.prototypes import Candidate, Prototypes
from chemeleon.models.assignment import ENERGY, AssignmentModel
from chemeleon.models.pretrained import place

MODEL_WEIGHT = 0.35  # of the model beside prototypes; chosen on mp/val
PROTOTYPE_SETS = ("mp/train",)  # where nothing else is named
POOL = 2  # prototypes for each assignment that is wanted
LEAST_POOL = 40


class Proposal(NamedTuple):
    """A hypothesis.

    Attributes:
        assignment: in standard form.
        probability: the weighted mean of what both sources say, of those that there are.
        by_model: what the model says; 0 without one.
        prototype: training crystals that have it, and the most typical or first of them; None if
            there are none.
    """

    assignment: Assignment
    probability: float
    by_model: float
    prototype: Candidate | None

    def to_manifest(self) -> dict[str, object]:
        """Return what a manifest says of a crystal that is made of it."""
        _, group, letters = written(self.assignment)
        found: dict[str, object] = {"space_group": group, "letters": letters}
        found["probability"] = self.probability
        if self.prototype is not None:
            found["prototype"] = self.prototype.name
        return found


def load_proposer(
    model: str | Path | None,
    prototypes: str | Sequence[str],
    device: str | None = None,
    *,
    letters_only: bool = False,
) -> Proposer:
    """Return the proposer of a model, of the crystals of data sets, or of both.

    Args:
        model: run or model folder, or a model's name.
        prototypes: names of sets; mp/train if neither they nor a model are given.
        device: of the model; a GPU if there is one.
        letters_only: see `Proposer`.

    Raises:
        CheckpointError: if there is no such model.
        DataError: if there is no such set.
    """
    search = None
    if model is not None:
        search = LetterSearch(place(AssignmentModel.from_pretrained(model), device))
    named = names_of(prototypes) or ([] if model else list(PROTOTYPE_SETS))
    known = load_prototypes(named) if named else None
    return Proposer(known, search, letters_only=letters_only)


def load_prototypes(names: Sequence[str]) -> Prototypes:
    """Return the index of the crystals of data sets, with the names of these.

    Raises:
        DataError: if there is no such set.
    """
    reports = [find_set(name).load() for name in names]
    orbits = [write_as_orbits(report.crystals).arrays() for report in reports]
    energies = [
        report.columns.get(ENERGY, torch.full((len(report.crystals),), torch.nan))
        for report in reports
    ]
    joined = Crystals.join(orbits)
    return Prototypes(joined, torch.cat(energies).numpy(), Index.kept(joined))


class Proposer:
    """Proposes assignments by prototypes, a model, or both.

    Args:
        prototypes: an index of training crystals.
        search: a model of assignments.
        weight: of the model's probability where there are both.
        letters_only: no crystals of the prototypes are wanted, so each stays that of the heaviest
            vote; to find the most typical takes most of the time.

    Raises:
        ConfigError: if there is neither.
    """

    def __init__(
        self,
        prototypes: Prototypes | None = None,
        search: LetterSearch | None = None,
        weight: float = MODEL_WEIGHT,
        *,
        letters_only: bool = False,
    ) -> None:
        if prototypes is None and search is None:
            raise ConfigError("assignments are proposed by prototypes, a model or both: give one")
        self.prototypes, self.search, self.letters_only = prototypes, search, letters_only
        self.weight = 0.0 if search is None else 1.0 if prototypes is None else weight

    def propose(
        self, formula: str, k: int, *, units: Sequence[int] | None = None, seed: int | None = None
    ) -> list[Proposal]:
        """Return up to ``k`` distinct assignments that give a formula exactly.

        Args:
            formula: of one formula unit; atoms are never divided, so ``Si8`` has 8, 16, ...
            k: how many.
            units: formula units per primitive cell; None: all that the sources know. Those that
                no known cell has room for are left out.
            seed: of a sample without replacement; None: the likeliest, likeliest first.

        Raises:
            ConfigError: for what is no formula, or one that no known cell has room for.
        """
        check_range("k", k, 1, MAX_CRYSTALS)
        if seed is not None:
            check_seed(seed)
        atoms = Counter(parse_formula(formula))
        formula_unit, times = reduced(atoms)
        most = self.most_atoms() // sum(atoms.values())
        if not most:
            raise ConfigError(
                f"formula '{formula}' has {sum(atoms.values())} atoms, and the cells that"
                f" assignments are known of have at most {self.most_atoms()}"
            )
        wanted = sorted(set(range(1, most + 1) if units is None else units))
        fitting = [n for n in wanted if 1 <= n <= most]
        if not fitting:
            raise ConfigError(
                f"formula '{formula}': formula units must be 1 to {most}, as the cells that"
                f" assignments are known of have at most {self.most_atoms()} atoms; got {wanted}"
            )
        allowed = [times * n for n in fitting]
        return self.propose_all([formula_unit], k, units=[allowed], seed=seed)[0]

    def most_atoms(self) -> int:
        """Return the atoms of the largest primitive cell that is known."""
        found = [] if self.search is None else [self.search.most]
        return max(found if self.prototypes is None else [*found, self.prototypes.most_atoms])

    def propose_all(
        self,
        formulas: Sequence[Formula],
        k: int,
        *,
        units: Sequence[Iterable[int] | None] | None = None,
        seed: int | None = None,
    ) -> list[list[Proposal]]:
        """Return proposals for many formulas, as `LetterSearch.search` takes them."""
        allowed = [None if some is None else list(some) for some in units or [None] * len(formulas)]
        pool = max(POOL * k, LEAST_POOL)
        sampled = seed if self.prototypes is None else None  # else the pool is sampled
        known: list[dict[tuple[int, bytes], Proposal]] = [{} for _ in formulas]
        if self.search is not None:
            found = self.search.search(formulas, k, units=allowed, seed=sampled)
            for own, scored in zip(known, found, strict=True):
                for one in scored:
                    chance = math.exp(one.log_probability)
                    new = Proposal(one.assignment, self.weight * chance, chance, None)
                    own[key_of(one.assignment)] = new
        if self.prototypes is not None:
            for own, formula, some in zip(known, formulas, allowed, strict=True):
                self._add_prototypes(own, self.prototypes.propose(formula, pool, some), some)
        if sampled is not None:
            return [list(own.values())[:k] for own in known]
        generator = None if seed is None else np.random.default_rng(seed)
        chosen = [_first(list(own.values()), k, generator) for own in known]
        return [[self._typical(one) for one in own] for own in chosen]

    def _typical(self, proposal: Proposal) -> Proposal:
        if self.letters_only or self.prototypes is None or proposal.prototype is None:
            return proposal
        return proposal._replace(prototype=self.prototypes.typical(proposal.prototype))

    def _add_prototypes(
        self,
        known: dict[tuple[int, bytes], Proposal],
        candidates: Sequence[Candidate],
        units: Sequence[int] | None,
    ) -> None:
        """Add candidates to the proposals of a formula, which are those of the model."""
        keys = [key_of(one.assignment) for one in candidates]
        new = [i for i, key in enumerate(keys) if key not in known]
        by_model = np.zeros(len(new))
        if self.search is not None and new:
            asked = [candidates[i].assignment for i in new]
            by_model = np.exp(self.search.log_probabilities(asked, [units] * len(new)))
        for i, chance in zip(new, by_model.tolist(), strict=True):
            known[keys[i]] = Proposal(candidates[i].assignment, self.weight * chance, chance, None)
        for key, candidate in zip(keys, candidates, strict=True):
            total = known[key].probability + (1 - self.weight) * candidate.share
            known[key] = known[key]._replace(probability=total, prototype=candidate)


def _first(
    proposals: list[Proposal], k: int, generator: np.random.Generator | None
) -> list[Proposal]:
    """Return the likeliest, or a sample without replacement in the order of its draws."""
    ranks = np.log(np.maximum([one.probability for one in proposals], 1e-300))
    if generator is not None:
        ranks = ranks + generator.gumbel(size=ranks.shape)
    return [proposals[i] for i in np.argsort(-ranks, kind="stable")[:k].tolist()]
