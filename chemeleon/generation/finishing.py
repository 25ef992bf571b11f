"""Crystals from the model's batches to what is written: relaxed, idealised, scored, in their cells.

Shapes: ``M`` crystals of a batch, ``K`` of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from chemeleon.crystals.batch import Crystals
from chemeleon.crystals.convert import to_structures
from chemeleon.crystals.symmetry import SYMPREC, TIGHT, Cell
from chemeleon.evaluation.idealise import Idealised, in_standard_cell

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from chemeleon.generation.ranking import Scorer
    from chemeleon.generation.relaxation import Idealiser, Note, Relaxer


class Finished(NamedTuple):
    """A batch as it will be written.

    Attributes:
        numbers: ``(M,)`` of the crystals.
        crystals: as made, or relaxed.
        moves: what relaxation did to each; empty without.
        ideals: what idealising did to each; empty without.
        scores: ``(M,)`` by which they are ranked, or None.
    """

    numbers: Tensor
    crystals: Crystals
    moves: list[Note]
    ideals: list[Idealised]
    scores: Tensor | None


def finish(
    stream: Iterable[tuple[Tensor, Crystals]],
    relaxer: Relaxer | None,
    idealiser: Idealiser | None,
    scorer: Scorer | None,
) -> Iterator[Finished]:
    """Relax, idealise and score batches ``(numbers, crystals)``, each step only where asked for."""
    for numbers, crystals in stream:
        moves: list[Note] = []
        ideals: list[Idealised] = []
        if relaxer is not None:
            crystals, moves = relaxer(crystals)
        if idealiser is not None:
            crystals, ideals = idealiser(crystals)
        scores = None if scorer is None else scorer.score(crystals)
        yield Finished(numbers, crystals, moves, ideals, scores)


def shape(
    crystals: Crystals,
    ideals: Sequence[Idealised],
    rows: Tensor,
    problems: Sequence[str | None],
    cell: Cell | None,
) -> list[tuple[Structure, Cell | None]]:
    """Return some crystals in the cell asked for, and the cell of CIFs that list their symmetry.

    Args:
        crystals: of a batch.
        ideals: what idealising did to each, or nothing.
        rows: ``(K,)`` which of them.
        problems: ``K``, what is wrong with them; the broken ones keep their cells.
        cell: asked for, None to keep them.
    """
    shaped: list[tuple[Structure, Cell | None]] = []
    made = to_structures(crystals.subset(rows))
    for row, structure, problem in zip(rows.tolist(), made, problems, strict=True):
        ideal = ideals[row].structure(cell or "primitive") if ideals else None
        if ideal is not None and ideals[row].ideal:
            ideal.properties = structure.properties
            shaped.append((ideal, cell or "conventional"))
        elif cell is not None and problem is None:
            symprec = TIGHT if ideals else SYMPREC  # a higher group was refused
            shaped.append((in_standard_cell(structure, cell, symprec), None))
        else:
            shaped.append((structure, None))
    return shaped
