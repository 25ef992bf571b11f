"""The reduced cell in which pymatgen compares a crystal: once per crystal instead of once per pair.

``StructureMatcher.fit`` begins by taking both crystals to their Niggli cell and then to a primitive
one. That depends on no tolerance and on no partner; so it is done here by pymatgen's own code, and
its result is kept to the last bit, because ties between images of an atom are broken by rounding.

Shapes: ``n`` atoms. Lattices ``(3, 3)`` angstrom, rows a, b, c. No torch here: workers import this.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from chemeleon.crystals.batch import Array, Crystal, Crystals
from chemeleon.data.pool import Rescue
from chemeleon.evaluation.matching._match_worker import TimeUpError, time_limit

REDUCTION_VERSION = 1  # part of the key of cached references
EXTREME_RATIO = 100.0  # longest over shortest vector; compiled code there outlasts any alarm
TAME_ATOMS = 100  # up to here compiled code is quick enough to run without a process of its own
MAX_REDUCED_ATOMS = 1000  # tables of pairs of atoms beyond this are too large to hold
_Job = tuple[Crystals[Array], float]
_Found = tuple[Crystals[Array], list[str | None]]


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


def reduce_chunk(job: _Job) -> _Found:
    """Reduce crystals in a worker process; those that cannot be have no atoms, and a reason."""
    crystals, seconds = job
    found = [reduce_crystal(crystal, seconds) for crystal in crystals]
    reduced = [None if isinstance(f, str) else f for f in found]
    return Crystals.of(reduced), [f if isinstance(f, str) else None for f in found]


def is_tame(job: _Job) -> bool:
    """Tell whether no crystal here is so large that compiled code could take long over it."""
    return int(job[0].num_atoms.max(initial=0)) <= TAME_ATOMS


def _split(job: _Job) -> list[_Job]:
    crystals, seconds = job
    rows = np.arange(len(crystals))
    return [(crystals.subset(part), seconds) for part in np.array_split(rows, 8) if len(part)]


def _join(
    parts: Sequence[_Found],
) -> _Found:
    return Crystals.join([p for p, _ in parts]), [
        reason for _, reasons in parts for reason in reasons
    ]


def _give_up(job: _Job, reason: str) -> _Found:
    count = len(job[0])
    return Crystals.of([None] * count), [reason] * count


RESCUE = Rescue(_split, _join, _give_up)
