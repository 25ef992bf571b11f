"""What is done to crystals once they are made: relaxed, idealised, scored, put in their cells.

Shapes: ``M`` crystals of a batch, ``K`` of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from pymatgen.core import Structure
from torch import Tensor

from chemeleon.crystals.batch import Crystals
from chemeleon.crystals.convert import to_structures
from chemeleon.crystals.soundness import structural_problems, writable
from chemeleon.crystals.symmetry import SYMPREC, TIGHT, Axes, Cell
from chemeleon.energy.relax import Relaxed
from chemeleon.evaluation.idealise import Idealised, in_standard_cell
from chemeleon.generation.ranking import Scorer
from chemeleon.generation.redraw import Drawn
from chemeleon.generation.relaxation import Idealiser, Relaxer


@dataclass
class Sampled:
    """One requested crystal, and what became of it.

    Attributes:
        number: of the pipeline's, which decides its random numbers.
        structure: None where it cannot be written down.
        problem: what is wrong with it, or None.
        move: what relaxation did to it, or None without.
        ideal: what idealising did to it, or None without.
        score: by which it is ranked, the lower the better; NaN for none.
        redraws: how often it was drawn again; this and what follows see `redraw.Drawn`.
        close, invalid, known: what was still wrong with it then.
        symmetric: cell in which CIFs list its symmetry; None lists all atoms.
        repeats: number of a better candidate of its formula that has the same structure, or None.
    """

    number: int
    structure: Structure | None
    problem: str | None
    move: Relaxed | None
    ideal: Idealised | None
    score: float
    redraws: int
    close: bool
    invalid: bool
    known: bool
    symmetric: Axes | None = None
    repeats: int | None = None


class Finished(NamedTuple):
    """A batch as it will be written.

    Attributes:
        numbers: ``(M,)`` of the crystals.
        crystals: as made, or relaxed.
        moves: what relaxation did to each; empty without.
        ideals: what idealising did to each; empty without.
        scores: ``(M,)`` by which they are ranked, or None.
        said: of each ``(M,)`` redraws, close, invalid and known, see `redraw.Drawn`.
    """

    numbers: Tensor
    crystals: Crystals
    moves: list[Relaxed]
    ideals: list[Idealised]
    scores: Tensor | None
    said: tuple[Tensor, ...]

    def sampled(self, cell: Cell | None, symmetric: bool = False) -> list[Sampled]:
        """Return the crystals one by one.

        Args:
            cell: the requested one; None keeps their cells.
            symmetric: they were made on orbits, so CIFs list the symmetry that each has exactly,
                which relaxation may have changed.
        """
        problems = structural_problems(self.crystals)
        rows = torch.nonzero(torch.as_tensor(writable(self.crystals))).squeeze(-1)
        made = dict(zip(rows.tolist(), to_structures(self.crystals.subset(rows)), strict=True))
        nothing = [None] * len(problems)
        scores = [math.nan] * len(problems) if self.scores is None else self.scores.tolist()
        structures = [made.get(row) for row in range(len(problems))]
        columns = structures, problems, self.moves or nothing, self.ideals or nothing, scores
        said = [values.tolist() for values in self.said]
        found = [Sampled(*row) for row in zip(self.numbers.tolist(), *columns, *said, strict=True)]
        for one in found:
            _shape(one, cell, symmetric)
        return found


def _shape(one: Sampled, cell: Cell | None, symmetric: bool) -> None:
    """Put a crystal into the requested cell; an invalid one keeps its own."""
    if one.structure is None:
        return
    one.symmetric = "given" if symmetric else None
    if one.ideal is not None and one.ideal.ideal:
        ideal = one.ideal.structure(cell or "primitive")
        assert ideal is not None  # what has no atoms is not ideal
        ideal.properties = one.structure.properties
        one.structure, one.symmetric = ideal, cell or "conventional"
    elif cell is not None and one.problem is None:
        # a higher group was refused, or is not there
        symprec = TIGHT if symmetric or one.ideal is not None else SYMPREC
        one.structure = in_standard_cell(one.structure, cell, symprec)


class Finisher(NamedTuple):
    """What is done to crystals once they are made; each step only where requested."""

    relaxer: Relaxer | None
    idealiser: Idealiser | None
    scorer: Scorer | None

    def finish(self, drawn: Drawn) -> Finished:
        """Return a batch of the pipeline's finished."""
        numbers, crystals, *said = drawn
        moves: list[Relaxed] = []
        ideals: list[Idealised] = []
        if self.relaxer is not None:
            crystals, moves = self.relaxer(crystals)
        if self.idealiser is not None:
            crystals, ideals = self.idealiser(crystals)
        scores = None if self.scorer is None else self.scorer.score(crystals)
        return Finished(numbers, crystals, moves, ideals, scores, tuple(said))

    def to_manifest(self, made: Sequence[Sampled], names: Sequence[str]) -> dict[str, Any]:
        """Return what a manifest says of the steps that change crystals."""
        found: dict[str, Any] = {}
        if self.relaxer is not None:
            moves = [one.move for one in made if one.move is not None]
            found["relaxation"] = self.relaxer.to_manifest(moves, names)
        if self.idealiser is not None:
            ideals = [one.ideal for one in made if one.ideal is not None]
            found["symmetrization"] = self.idealiser.to_manifest(ideals, names)
        return found
