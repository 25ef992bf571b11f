"""The reduced cell in which pymatgen compares a crystal: once per crystal instead of once per pair.

``StructureMatcher.fit`` begins by taking both crystals to their Niggli cell and then to a primitive
one. That depends on no tolerance and on no partner; so it is done here by pymatgen's own code, and
its result is kept to the last bit, because ties between images of an atom are broken by rounding.

Shapes: ``n`` atoms. Lattices ``(3, 3)`` angstrom, rows a, b, c. No torch here: workers import this.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

from chemeleon.crystals.batch import Crystal
from chemeleon.evaluation.matching.limits import TimeUpError, time_limit
from chemeleon.evaluation.work import TAME_ATOMS, Each

REDUCTION_VERSION = 1  # part of the key of cached references
EXTREME_RATIO = 100.0  # longest over shortest vector; compiled code there outlasts any alarm
MAX_REDUCED_ATOMS = 1000  # tables of pairs of atoms beyond this are too large to hold


def reduce_crystal(crystal: Crystal, seconds: float = 10.0) -> Crystal | str:
    """Reduce a crystal as pymatgen's matcher does, atoms in its order, or say why not.

    Args:
        crystal: in any cell.
        seconds: limit, after which the reason says so.
    """
    from pymatgen.analysis.structure_matcher import StructureMatcher
    from pymatgen.core import Structure

    numbers, frac, lattice = crystal
    lengths = np.linalg.norm(lattice, axis=-1)
    if not lengths.max() <= EXTREME_RATIO * lengths.min():
        return f"longest cell vector is over {EXTREME_RATIO:g} times the shortest"
    if len(numbers) > MAX_REDUCED_ATOMS:
        return f"{len(numbers)} atoms are over {MAX_REDUCED_ATOMS}"
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"), time_limit(seconds):
            warnings.simplefilter("ignore")
            structure = Structure(
                np.asarray(lattice, float), np.asarray(numbers).tolist(), np.asarray(frac, float)
            )
            found = StructureMatcher()._get_reduced_structure(structure)
    except TimeUpError:
        return f"not reduced within {seconds:g} s"
    except Exception as error:  # pymatgen and LAPACK raise nearly every class
        return f"{type(error).__name__}: {error}"
    return Crystal(
        np.array([site.specie.Z for site in found], dtype=np.int64),
        np.array(found.frac_coords, dtype=np.float64),
        np.array(found.lattice.matrix, dtype=np.float64),
    )


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
