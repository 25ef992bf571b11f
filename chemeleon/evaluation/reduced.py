"""The reduced cell in which pymatgen compares a crystal: once per crystal instead of once per pair.

``StructureMatcher.fit`` begins by taking both crystals to their Niggli cell and then to a primitive
one. That depends on no tolerance and on no partner; so it is done here by pymatgen's own code, and
its result is kept to the last bit, because ties between images of an atom are broken by rounding.

Shapes: ``n`` atoms. Lattices ``(3, 3)`` angstrom, rows a, b, c. No torch here: workers import this.
"""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from chemeleon.data.parse import Crystal
from chemeleon.evaluation._match_worker import TimeUpError, time_limit
from chemeleon.evaluation.packed import Packed, pack

REDUCTION_VERSION = 1  # part of the key of cached references
EXTREME_RATIO = 100.0  # longest over shortest vector; compiled code there outlasts any alarm
MAX_REDUCED_ATOMS = 1000  # tables of pairs of atoms beyond this are too large to hold


class Reduced(NamedTuple):
    """A crystal as `StructureMatcher` compares it: Niggli-reduced, primitive, atoms in its order.

    Attributes:
        numbers: ``(n,)`` int64 atomic numbers.
        frac: ``(n, 3)`` float64 fractional coordinates.
        lattice: ``(3, 3)`` float64, angstrom.
    """

    numbers: NDArray[np.int64]
    frac: NDArray[np.float64]
    lattice: NDArray[np.float64]


def reduce_crystal(
    numbers: NDArray[Any], frac: NDArray[Any], lattice: NDArray[Any], seconds: float = 10.0
) -> Reduced | str:
    """Reduce a crystal as pymatgen's matcher does, or say why that cannot be.

    Args:
        numbers: ``(n,)`` atomic numbers.
        frac: ``(n, 3)`` fractional coordinates.
        lattice: ``(3, 3)`` angstrom.
        seconds: limit, after which the reason says so.
    """
    from pymatgen.analysis.structure_matcher import StructureMatcher
    from pymatgen.core import Structure

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
    return Reduced(
        np.array([site.specie.Z for site in found], dtype=np.int64),
        np.array(found.frac_coords, dtype=np.float64),
        np.array(found.lattice.matrix, dtype=np.float64),
    )


def reduce_chunk(job: tuple[Packed, float]) -> tuple[Packed, list[str | None]]:
    """Reduce crystals in a worker process; those that cannot be have no atoms, and a reason."""
    crystals, seconds = job
    found = [
        reduce_crystal(*crystals.crystal(i, start), seconds)
        for i, start in enumerate(crystals.starts.tolist())
    ]
    reduced = [None if isinstance(f, str) else Crystal(*f) for f in found]
    return pack(reduced), [f if isinstance(f, str) else None for f in found]
