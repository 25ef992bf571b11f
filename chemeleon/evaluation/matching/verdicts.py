"""Whether one crystal is the same as any of many: pymatgen's verdicts, from prepared crystals.

A verdict is ``StructureMatcher.fit(first, second)``, in this order of arguments: what
`lattice_maps` cannot exclude is decided by pymatgen's own steps, on the same numbers to the bit
that ``fit`` would hand to them. No torch here: workers import this.

Shapes: ``C`` crystals of ``n`` atoms each.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chemeleon.crystals.batch import Array, Crystal, Crystals
from chemeleon.evaluation.matching.lattice_maps import Floats, possible_maps, unit_cells
from chemeleon.evaluation.matching.limits import (
    TimeUpError,
    Tolerances,
    matcher,
    quietly,
    time_limit,
)
from chemeleon.evaluation.matching.site_maps import maps_that_fit
from chemeleon.evaluation.work import TAME_ATOMS, Job, pieces

NO, YES, UNDECIDED = 0, 1, 2
Edges = NDArray[np.int64]  # (E, 3): first crystal, second, and the verdict, which is not NO


class _Scaled:
    """As much of a Structure as the matcher's steps look at."""

    def __init__(self, crystal: Crystal, factor: float) -> None:
        from pymatgen.core import Lattice

        self.lattice = Lattice(crystal.lattice * factor)
        self.frac_coords = crystal.frac_coords
        # one product per atom, as a Structure does it: a product of matrices may round otherwise
        self.cart_coords = np.array([np.dot(x, self.lattice.matrix) for x in crystal.frac_coords])
        self.species_and_occu = crystal.atomic_numbers.tolist()

    def __len__(self) -> int:
        return len(self.frac_coords)


def fits(
    first: Crystal, second: Crystal, tolerances: Tolerances, worth: set[bytes] | None = None
) -> bool:
    """Return ``StructureMatcher.fit`` of two crystals that are reduced already.

    Args:
        first: reduced crystal.
        second: reduced crystal of the same composition and number of atoms.
        tolerances: ltol, stol, angle_tol in degrees.
        worth: maps of the lattices (int64 as bytes) beyond which none can match; all if None.
    """
    from pymatgen.core import Lattice

    _, stol, _ = tolerances
    ratio = (Lattice(second.lattice).volume / Lattice(first.lattice).volume) ** (1 / 6)
    one, two = _Scaled(first, ratio), _Scaled(second, 1 / ratio)
    ask: Any = matcher(tolerances)
    mask, anchors, anchor = ask._get_mask(one, two, 1, True)
    other = np.array(two.frac_coords)
    # as `_get_supercells` and `_strict_match`, which takes the average lattice to its LLL form anew
    # for each anchor
    for lattice, scale in ask._get_lattices(two.lattice, one, 1):
        if worth is not None and np.asarray(scale, dtype=np.int64).tobytes() not in worth:
            continue
        own = lattice.get_fractional_coords(one.cart_coords)
        own -= np.floor(own)
        sides = (np.array(lattice.parameters) + np.array(two.lattice.parameters)) / 2
        average = Lattice.from_parameters(*sides)
        normalization = (len(own) / average.volume) ** (1 / 3)
        box = np.array(average.reciprocal_lattice.abc) * stol / (np.pi * normalization)
        short_box = None
        for i in anchors:
            moved = other + (own[i] - other[anchor])
            if not ask._cmp_fstruct(own, moved, box, mask):
                continue
            if short_box is None:
                short = np.array(average.get_lll_reduced_lattice().reciprocal_lattice.abc)
                short_box = short * stol / (np.pi * normalization)
            distances = ask._cart_dists(own, moved, average, mask, normalization, short_box)[0]
            if distances.max() < stol:
                return True
    return False


def verdicts(
    first: Crystal,
    others: Crystals[Array],
    cells: Floats,
    chosen: NDArray[np.int64],
    tolerances: Tolerances,
    seconds: float,
) -> Iterator[tuple[int, int]]:
    """Yield (index, verdict) for those of the chosen crystals that need or deserve one.

    Whoever is not yielded does not match. A pair is looked at when its turn comes, so a caller that
    stops early saves the rest.

    Args:
        first: the first argument of ``fit``.
        others: the second arguments, of the same composition and number of atoms.
        cells: lattices of ``others``, see `unit_cells`.
        chosen: indices of ``others`` to look at.
        tolerances: ltol, stol, angle_tol in degrees.
        seconds: limit per pair; beyond it the verdict is `UNDECIDED`.
    """
    ltol, stol, angle_tol = tolerances
    maps = possible_maps(first.lattice, cells[chosen], ltol, angle_tol)
    maps = maps._replace(owner=chosen[maps.owner])
    fit = maps_that_fit(first, others, cells, maps, stol)
    worth: dict[int, set[bytes] | None] = dict.fromkeys(chosen[maps.unknown].tolist())
    for index, scale in zip(maps.owner[fit].tolist(), maps.scale[fit], strict=True):
        worth.setdefault(index, set()).add(scale.tobytes())  # type: ignore[union-attr]
    possible = np.array(sorted(worth), dtype=np.int64)
    # the likeliest first, for callers that stop at a match
    lengths, angles = np.split(unit_cells(first.lattice), 2)
    unlike = np.abs(cells[possible, :3] / lengths - 1).sum(-1)
    unlike += np.abs(cells[possible, 3:] - angles).sum(-1) / (np.pi / 3)
    matcher(tolerances)  # imports, before the clock starts
    for index in possible[np.argsort(unlike, kind="stable")].tolist():
        try:
            with time_limit(seconds):
                second = others.crystal(index)
                verdict = YES if fits(first, second, tolerances, worth[index]) else NO
        except (TimeUpError, MemoryError):
            verdict = UNDECIDED
        yield index, verdict


@dataclass(frozen=True)
class MatchJob(Job):
    """Crystals to compare in one process, as the plain double loop would.

    What cannot change the result is left out. Within a set (``others`` is None) the matches join
    the same groups as all matches would, but a pair that is joined already is not asked. Against
    others, one match per row is enough.

    Attributes:
        rows: crystals of ``firsts``, and which others each is compared with.
        firsts: crystals of one composition and one number of atoms.
        others: crystals to compare with, or None for those of ``firsts``.
        tolerances: ltol, stol, angle_tol in degrees.
        seconds: limit per pair.
    """

    rows: Sequence[tuple[int, range]]
    firsts: Crystals[Array]
    others: Crystals[Array] | None
    tolerances: Tolerances
    seconds: float

    @property
    def is_tame(self) -> bool:
        return int(self.firsts.num_atoms.max(initial=0)) <= TAME_ATOMS

    def run(self) -> Edges:
        with quietly():
            matcher(self.tolerances)  # imports pymatgen, before any limit of time runs
            return _edges(self._compare())

    def _compare(self) -> Iterator[tuple[int, int, int]]:
        others = self.firsts if self.others is None else self.others
        cells = unit_cells(others.lattice)
        group = np.arange(len(others))
        for row, partners in self.rows:
            chosen = np.arange(partners.start, partners.stop)
            if self.others is None:
                chosen = chosen[group[chosen] != group[row]]
            first = self.firsts.crystal(row)
            for other, verdict in verdicts(
                first, others, cells, chosen, self.tolerances, self.seconds
            ):
                if verdict != NO:
                    yield row, other, verdict
                if verdict == YES:
                    if self.others is not None:
                        break
                    group[group == group[other]] = group[row]

    def split(self) -> list[MatchJob]:
        """Cut by rows, a single row by its partners."""
        if len(self.rows) > 1:
            return [replace(self, rows=part) for part in pieces(self.rows)]
        row, partners = self.rows[0]
        return [replace(self, rows=[(row, part)]) for part in pieces(partners)]

    def join(self, parts: Sequence[Edges]) -> Edges:
        return np.concatenate(parts)

    def give_up(self, reason: str) -> Edges:
        """Leave the pair without a verdict."""
        return _edges((row, other, UNDECIDED) for row, of in self.rows for other in of)


def _edges(found: Iterable[tuple[int, int, int]]) -> Edges:
    return np.array(list(found), dtype=np.int64).reshape(-1, 3)
