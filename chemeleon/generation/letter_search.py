"""Assignments of formulas by a model of them: the likeliest, or drawn without replacement.

All choices go level by level (formula units, space group, letter after letter), with a beam of
partial assignments for each formula. Choices after which the formula could not be met exactly have
probability 0, so that there are no dead ends. Drawn is by stochastic beam search (Kool et al.,
arXiv:1903.06059, algorithm 1): a beam of perturbed log-probabilities is a sample without
replacement.

Shapes: ``R`` partial assignments, ``N`` orbits.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from chemeleon.crystals.assignments import (
    Counts,
    atoms_of,
    key_of,
    letters_of,
    next_letters,
    possible_groups,
    standard,
)
from chemeleon.crystals.batch import LETTERS, Array
from chemeleon.crystals.orbits import Assignment
from chemeleon.models.assignment import AssignmentModel, Formulas, Orbits, Scores

BEAM = 2  # partial assignments for each that is wanted: some describe the same crystals
ROWS = 1024  # of one evaluation of the model
Formula = dict[int, int]  # atomic number to atoms of the reduced formula


class Scored(NamedTuple):
    """An assignment in standard form, and the logarithm of its probability.

    Found by a search, the probability is the sum of those of all descriptions that were found.
    """

    assignment: Assignment
    log_probability: float


class _Node(NamedTuple):
    """A partial assignment.

    Attributes:
        formula: its elements and amounts, lightest first.
        target: number of the formula.
        log: logarithm of its probability.
        rank: what beams are cut by.
        units: formula units per primitive cell; 0 before they are chosen.
        group: space group; 0 before it is chosen.
        steps: of each orbit the place of its element in the formula, the atoms left of it before,
            and the letter.
        used: letters that one orbit may have and has, as bits.
    """

    formula: tuple[tuple[int, int], ...]
    target: int
    log: float = 0.0
    rank: float = 0.0
    units: int = 0
    group: int = 0
    steps: tuple[tuple[int, int, int], ...] = ()
    used: int = 0

    def next(self) -> tuple[int, int, int]:
        """Return the place and the atoms left of the next orbit's element, and the last letter.

        Behind the last orbit the place is that of no element.
        """
        place, left, last = 0, self.units * self.formula[0][1], 0
        if self.steps:
            place, before, last = self.steps[-1]
            left = before - letters_of(self.group).multiplicities[last]
            if not left:
                place, last = place + 1, 0
                left = self.units * self.formula[place][1] if place < len(self.formula) else 0
        return place, left, last

    def choices(self, most: int, units: Iterable[int] | None) -> Array:
        """Return what may be chosen next so that the formula can still be met exactly.

        Args:
            most: atoms of a cell.
            units: formula units that are allowed; None: all.
        """
        amounts = [count for _, count in self.formula]
        if not self.units:
            every = range(1, most // sum(amounts) + 1) if units is None else units
            return np.array(sorted(every), np.int64)
        if not self.group:
            return np.flatnonzero(possible_groups([self.units * count for count in amounts]))
        place, left, last = self.next()
        later: Counts = tuple(self.units * count for count in amounts[place + 1 :])
        return np.array(next_letters(self.group, (left, *later), last, self.used), np.int64)

    def chosen(self, choice: int, log: float, rank: float) -> _Node:
        """Return what this becomes by a choice."""
        new = self._replace(log=log, rank=rank)
        if not self.units:
            return new._replace(units=choice)
        if not self.group:
            return new._replace(group=choice)
        place, left, _ = self.next()
        used = self.used | letters_of(self.group).single[choice] << choice
        return new._replace(steps=(*self.steps, (place, left, choice)), used=used)

    @property
    def complete(self) -> bool:
        """Whether all atoms have letters."""
        return bool(self.steps) and self.next()[0] == len(self.formula)

    def assignment(self) -> Assignment:
        """Return a complete one in standard form."""
        numbers = np.array([self.formula[place][0] for place, _, _ in self.steps])
        letters = np.array([letter for *_, letter in self.steps])
        return standard(Assignment(self.group, numbers, letters))


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
        self.most = int(model.largest) if most_atoms is None else most_atoms

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
        beam = [_Node(tuple(sorted(one.items())), i) for i, one in enumerate(formulas)]
        done: dict[int, list[_Node]] = defaultdict(list)
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
        whole = [_node_of(one) for one in assignments]
        for low in range(0, len(whole), ROWS):
            rows = range(low, min(low + ROWS, len(whole)))
            scores = self._scores([whole[i] for i in rows])
            for i, *logits in zip(rows, *scores, strict=True):
                found[i] = self._followed(whole[i], allowed[i], *logits)
        return found

    def _followed(self, whole: _Node, units: Iterable[int] | None, *logits: Array) -> float:
        """Return the log-probability of all choices of one node."""
        node = _Node(whole.formula, 0)
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

    def _log_probabilities(self, nodes: Sequence[_Node], options: Sequence[Array]) -> list[Array]:
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
    def _scores(self, nodes: Sequence[_Node]) -> Scores:
        """Return the logits of all choices made and of the next; those of units begin at 0."""
        device = self.model.atoms.device
        formulas, units, group, orbits = _tensors(nodes, self.energy)
        formulas, orbits = (type(x)(*(t.to(device) for t in x)) for x in (formulas, orbits))
        found = self.model.score(formulas, units.to(device), group.to(device), orbits)
        shifted = torch.nn.functional.pad(found.units, (1, 0))
        return Scores(*(x.double().cpu().numpy() for x in (shifted, found.group, found.letters)))


def _normalised(logits: Array) -> Array:
    return logits - np.logaddexp.reduce(logits) if len(logits) else logits


def _tensors(nodes: Sequence[_Node], energy: float) -> tuple[Formulas, Tensor, Tensor, Orbits]:
    """Return what the model reads of nodes: what is given, units, groups and orbits."""
    size, most = len(nodes), max(len(node.formula) for node in nodes)
    elements, amounts = np.zeros((2, size, most), np.int64)
    steps = [[*node.steps, *_next_step(node)] for node in nodes]
    width = max(map(len, steps))
    owner, left, before = np.zeros((3, size, width), np.int64)
    mask = np.zeros((size, width), bool)
    for i, (node, own) in enumerate(zip(nodes, steps, strict=True)):
        elements[i, : len(node.formula)], amounts[i, : len(node.formula)] = zip(
            *node.formula, strict=True
        )
        for j, (place, rest, letter) in enumerate(own):
            owner[i, j], left[i, j], mask[i, j] = place, rest, True
            if j + 1 < width:
                before[i, j + 1] = LETTERS * node.group + letter
    units = torch.tensor([node.units for node in nodes])
    group = torch.tensor([node.group for node in nodes])
    arrays = (torch.from_numpy(x) for x in (owner, left, before, mask))
    energies = torch.full((size,), energy)
    formulas = Formulas(torch.from_numpy(elements), torch.from_numpy(amounts), energies)
    return formulas, units, group, Orbits(*arrays)


def _next_step(node: _Node) -> list[tuple[int, int, int]]:
    """Return the orbit whose letter is to be chosen, if one is."""
    if not node.group or node.complete:
        return []
    place, left, _ = node.next()
    return [(place, left, 0)]


def _node_of(assignment: Assignment) -> _Node:
    """Return the complete node of a standard assignment."""
    atoms = atoms_of(assignment)
    units = math.gcd(*atoms.values())
    formula = tuple((element, count // units) for element, count in atoms.items())
    node = _Node(formula, 0, units=units, group=assignment.number)
    for letter in assignment.letters.tolist():
        node = node.chosen(letter, 0.0, 0.0)
    return node


def _children(
    beam: Sequence[_Node],
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
    beam: Sequence[_Node],
    children: Sequence[tuple[float, float, int, int]],
    done: dict[int, list[_Node]],
    width: int,
) -> list[_Node]:
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


def _distinct(nodes: Sequence[_Node], k: int) -> list[Scored]:
    """Return the first k assignments, with the probabilities of all their descriptions here."""
    found: dict[tuple[int, bytes], Scored] = {}
    for node in nodes:
        assignment = node.assignment()
        key, log = key_of(assignment), node.log
        if key in found:
            log = float(np.logaddexp(found[key].log_probability, log))
        found[key] = Scored(assignment, log)
    return list(found.values())[:k]
