"""Assignments of formulas by a model of them: the likeliest, or drawn without replacement.

All choices go level by level (formula units, space group, letter after letter), with a beam of
partial assignments for each formula. Choices after which the formula could not be met exactly have
probability 0, so that there are no dead ends. Drawn is by stochastic beam search (Kool et al.,
arXiv:1903.06059, algorithm 1): a beam of perturbed log-probabilities is a sample without
replacement.

Shapes: ``R`` partial assignments, ``N`` orbits.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from chemeleon.crystals.assignments import key_of
from chemeleon.crystals.batch import Array
from chemeleon.crystals.orbits import Assignment
from chemeleon.generation.partial_assignments import PartialAssignment, completed, tensors
from chemeleon.models.assignment import AssignmentModel

BEAM = 2  # partial assignments for each that is wanted: some describe the same crystals
ROWS = 1024  # of one evaluation of the model
Formula = dict[int, int]  # atomic number to atoms of the reduced formula


class Scored(NamedTuple):
    """An assignment in standard form, and the logarithm of its probability.

    Found by a search, the probability is the sum of those of all descriptions that were found.
    """

    assignment: Assignment
    log_probability: float


class LetterSearch:
    """Assignments that a model finds likely.

    Args:
        model: where it is to be evaluated.
        energy: above the hull, eV/atom, that assignments are conditioned on; NaN: on none.
        most_atoms: of a primitive cell; None: of the model's largest training cell.
    """

    def __init__(
        self, model: AssignmentModel, energy: float = 0.0, most_atoms: int | None = None
    ) -> None:
        self.model, self.energy = model.eval(), energy
        self.most = model.largest if most_atoms is None else most_atoms

    def search(
        self,
        formulas: Sequence[Formula],
        k: int,
        *,
        units: Sequence[Iterable[int] | None] | None = None,
        seed: int | None = None,
    ) -> list[list[Scored]]:
        """Return up to ``k`` distinct assignments of each formula; none of one that is too large.

        Args:
            formulas: of one reduced formula unit each.
            k: wanted of each.
            units: formula units per primitive cell that are allowed of each; None: all.
            seed: of a sample without replacement, in the order in which it is drawn; None: the
                likeliest that a beam finds, likeliest first.
        """
        generator = None if seed is None else np.random.default_rng(seed)
        allowed = [None] * len(formulas) if units is None else units
        beam = [PartialAssignment(tuple(sorted(one.items())), i) for i, one in enumerate(formulas)]
        done: dict[int, list[PartialAssignment]] = defaultdict(list)
        while beam:
            options = [node.choices(self.most, allowed[node.target]) for node in beam]
            logs = self._log_probabilities(beam, options)
            beam = _cut(beam, _children(beam, options, logs, generator), done, k * BEAM)
        return [_distinct(done[i], k) for i in range(len(formulas))]

    def log_probabilities(
        self,
        assignments: Sequence[Assignment],
        units: Sequence[Iterable[int] | None] | None = None,
    ) -> Array:
        """Return the logarithms of the probabilities of standard assignments, one each.

        Args:
            assignments: of any formulas.
            units: formula units per cell that were allowed for each; None: all.
        """
        allowed = [None] * len(assignments) if units is None else units
        found = np.zeros(len(assignments))
        whole = [completed(one) for one in assignments]
        for low in range(0, len(whole), ROWS):
            rows = range(low, min(low + ROWS, len(whole)))
            scores = self._scores([whole[i] for i in rows])
            for i, *logits in zip(rows, *scores, strict=True):
                found[i] = self._followed(whole[i], allowed[i], *logits)
        return found

    def _followed(
        self, whole: PartialAssignment, units: Iterable[int] | None, *logits: Array
    ) -> float:
        """Return the log-probability of all choices of one node."""
        node = PartialAssignment(whole.formula, 0)
        total = 0.0
        of_units, of_group, of_letters = logits
        choices = [whole.units, whole.group, *(letter for *_, letter in whole.steps)]
        for choice, own in zip(choices, [of_units, of_group, *of_letters], strict=False):
            options = node.choices(self.most, units)
            here = np.flatnonzero(options == choice)
            if not len(here):
                return -np.inf
            total += float(_normalised(own[options])[here[0]])
            node = node.chosen(choice, 0.0, 0.0)
        return total

    def _log_probabilities(
        self, nodes: Sequence[PartialAssignment], options: Sequence[Array]
    ) -> list[Array]:
        """Return the log-probabilities of the next choices of nodes that have made as many."""
        found: list[Array] = []
        for low in range(0, len(nodes), ROWS):
            part = nodes[low : low + ROWS]
            units, group, letters = self._scores(part)
            logits = letters[:, -1] if part[0].group else group if part[0].units else units
            own = zip(logits, options[low : low + ROWS], strict=True)
            found += [_normalised(one[choices]) for one, choices in own]
        return found

    @torch.no_grad()
    def _scores(self, nodes: Sequence[PartialAssignment]) -> list[Array]:
        """Return logits of 0, 1, ... units, of groups, and of all letters chosen and of the next.

        Their shapes are those of `Scores`, with one more for 0 units.
        """
        device = self.model.multiplicities.device
        found = self.model.score(*tensors(nodes, self.energy, device))
        units = F.pad(found.units, (1, 0))
        return [x.double().cpu().numpy() for x in (units, found.group, found.letters)]


def _normalised(logits: Array) -> Array:
    return logits - np.logaddexp.reduce(logits) if len(logits) else logits


def _children(
    beam: Sequence[PartialAssignment],
    options: Sequence[Array],
    logs: Sequence[Array],
    generator: np.random.Generator | None,
) -> list[tuple[float, float, int, int]]:
    """Return rank, log-probability, parent and choice of all children."""
    found = []
    for row, (node, choices, log) in enumerate(zip(beam, options, logs, strict=True)):
        own = node.log + log
        rank = own if generator is None else _perturbed(own, node.rank, generator)
        rows = (row for _ in choices)
        found += zip(rank.tolist(), own.tolist(), rows, choices.tolist(), strict=False)
    return found


def _perturbed(logs: Array, most: float, generator: np.random.Generator) -> Array:
    """Return log-probabilities with Gumbel noise whose largest sum is ``most`` (Kool et al.)."""
    if not len(logs):
        return logs
    noisy = logs + generator.gumbel(size=logs.shape)
    with np.errstate(divide="ignore"):  # of the largest itself
        ways = most - noisy + np.log1p(-np.exp(noisy - noisy.max()))
    return most - np.maximum(ways, 0.0) - np.log1p(np.exp(-np.abs(ways)))


def _cut(
    beam: Sequence[PartialAssignment],
    children: Sequence[tuple[float, float, int, int]],
    done: dict[int, list[PartialAssignment]],
    width: int,
) -> list[PartialAssignment]:
    """Return the best partial nodes of each formula; complete ones among the best go to done."""
    ranked: dict[int, list[tuple[float, float, int, int]]] = defaultdict(list)
    for child in children:
        ranked[beam[child[2]].target].append(child)
    left = []
    for target, own in ranked.items():
        whole = done[target]
        floor = sorted((node.rank for node in whole), reverse=True)
        own.sort(key=lambda child: (-child[0], child[2:]))
        kept = [child for i, child in enumerate(own[:width]) if i + _above(floor, child[0]) < width]
        new = [beam[row].chosen(choice, log, rank) for rank, log, row, choice in kept]
        done[target] = sorted(
            [*whole, *(node for node in new if node.complete)], key=lambda node: -node.rank
        )[:width]
        left += [node for node in new if not node.complete]
    return left


def _above(ranks: Sequence[float], rank: float) -> int:
    return sum(one > rank for one in ranks)


def _distinct(nodes: Sequence[PartialAssignment], k: int) -> list[Scored]:
    """Return the first k assignments, with the probabilities of all their descriptions here."""
    found: dict[tuple[int, bytes], Scored] = {}
    for node in nodes:
        assignment = node.assignment()
        key, log = key_of(assignment), node.log
        if key in found:
            log = float(np.logaddexp(found[key].log_probability, log))
        found[key] = Scored(assignment, log)
    return list(found.values())[:k]
