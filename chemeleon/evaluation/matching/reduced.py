"""The reduced cell in which pymatgen compares a crystal: once per crystal instead of once per pair.

``StructureMatcher.fit`` begins by taking both crystals to their Niggli cell and then to a primitive
one. That depends on no tolerance and on no partner; so it is done here by pymatgen's own code, and
its result is kept to the last bit, because ties between images of an atom are broken by rounding.

Shapes: ``n`` atoms. Lattices ``(3, 3)`` angstrom, rows a, b, c. No torch here: workers import this.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from chemeleon.crystals.batch import Crystal
from chemeleon.crystals.symmetry import MAX_RATIO
from chemeleon.data.crystal import structure_of
from chemeleon.evaluation.matching.limits import TimeUpError, quietly, time_limit
from chemeleon.evaluation.work import TAME_ATOMS, Each

REDUCTION_VERSION = 1  # part of the key of cached references
MAX_REDUCED_ATOMS = 1000  # tables of pairs of atoms beyond this are too large to hold


def reduce_crystal(crystal: Crystal, seconds: float = 10.0) -> Crystal | str:
    """Reduce a crystal as pymatgen's matcher does, atoms in its order, or say why not.

    Args:
        crystal: in any cell.
        seconds: limit, after which the reason says so.
    """
    from pymatgen.analysis.structure_matcher import StructureMatcher

    if is_extreme(crystal):
        return f"longest cell vector is over {MAX_RATIO:g} times the shortest"
    atoms = len(crystal.atomic_numbers)
    if atoms > MAX_REDUCED_ATOMS:
        return f"{atoms} atoms are over {MAX_REDUCED_ATOMS}"
    try:
        with quietly(), time_limit(seconds):
            found = StructureMatcher()._get_reduced_structure(structure_of(crystal))
    except TimeUpError:
        return f"not reduced within {seconds:g} s"
    except Exception as error:  # pymatgen and LAPACK raise nearly every class
        return f"{type(error).__name__}: {error}"
    return Crystal(
        np.array([site.specie.Z for site in found], dtype=np.int64),
        np.array(found.frac_coords, dtype=np.float64),
        np.array(found.lattice.matrix, dtype=np.float64),
    )


def is_extreme(crystal: Crystal) -> bool:
    """Tell whether a cell is so long that compiled code outlasts any alarm."""
    lengths = np.linalg.norm(crystal.lattice, axis=-1)
    return not lengths.max() <= MAX_RATIO * lengths.min()


@dataclass(frozen=True)
class Reduce(Each):
    """Reduce crystals in a worker process; the answer is the reduced one, or a reason."""

    seconds: float
    size = 32

    @property
    def is_tame(self) -> bool:
        return max((len(one.atomic_numbers) for one in self.items), default=0) <= TAME_ATOMS

    def lost(self, reason: str) -> str:
        return reason

    def answer(self, item: Crystal) -> Crystal | str:
        return reduce_crystal(item, self.seconds)
