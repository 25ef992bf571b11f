"""Tables of the 230 space groups, for crystals written as orbits: operations, Wyckoff positions and
normalisers, as arrays.

Each group has one setting, the standard one of the International Tables (`symmetry.dataset`).
moyopy knows letters and normalisers of crystals, not of groups: so they are asked of a crystal
that is made to have atoms on every special position of the group.

All coordinates refer to the conventional cell; a map takes a column x to ``rotation x + shift``.
Shapes: ``G`` operations modulo lattice translations, ``L`` Wyckoff letters, ``m`` atoms of an orbit
in the primitive cell, ``K`` changes of axes and origin. No torch here.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from chemeleon.crystals.batch import Array
from chemeleon.crystals.lattice import whole_steps
from chemeleon.crystals.maps import ZERO, Maps, fixed_by, meetings
from chemeleon.crystals.symmetry import TIGHT, crystal_system, dataset, operations

_GENERIC = np.array([0.137283, 0.292871, 0.418934])  # on no special position
_GRID = 48  # all origins of normalisers are multiples of 1/48
_MOST_KEPT = 1000  # sets of changes; reduced cells of real crystals need fewer


class Place(NamedTuple):
    """The points that the first triplet of a Wyckoff position stands for, such as ``x,2x,z``.

    Attributes:
        letter: ``a`` to ``z``, then ``A``.
        free: ``(3,)`` bool: coordinates that may be chosen.
        follow: ``(3, 3)``: how all coordinates change with the free ones.
        project: the map onto these points, mean of the operations that leave them where they are.
        generic: ``(3,)`` one of these points, of no higher symmetry.
        images: ``m`` maps, from a point to all points of its orbit in the primitive cell.
        own: maps from a point to the points of its orbit that are of this place.
    """

    letter: str
    free: Array
    follow: Array
    project: Maps
    generic: Array
    images: Maps
    own: Maps

    def wrapped(self, points: Array, tolerance: float = 0.0) -> Array:
        """Return points ``(..., 3)`` of this place with free coordinates in [0, 1).

        What follows from them may lie outside, as 2x does. What is less than the tolerance below
        1 becomes a number just below 0.
        """
        return points - (np.floor(points + tolerance) * self.free) @ self.follow.T


@dataclass(frozen=True)
class Changes:
    """Changes of axes and origin after which a group has the same operations.

    Attributes:
        axes: ``(K, 3, 3)``: what they do to coordinates, but for the shift.
        letters: ``(K, L)``: what becomes of each letter.
        maps: ``(K, L)`` maps, from points of a letter's place to those of what it becomes.
    """

    axes: Array
    letters: Array
    maps: Maps

    def __getitem__(self, rows: Any) -> Changes:
        """Return some of the changes."""
        return Changes(self.axes[rows], self.letters[rows], self.maps[rows])


class Group:
    """The table of one space group.

    Attributes:
        number: 1 to 230.
        system: crystal system, in lower case.
        operations: ``G`` maps, the group modulo lattice translations.
        centring: ``(C, 3)`` lattice points of the conventional cell.
        primitive: ``(3, 3)``, rows are the vectors of the standard primitive cell.
        polar: ``(3,)`` bool: axes along which the origin may be anywhere.
        places: the ``L`` Wyckoff positions, by letter.
        multiplicities: ``(L,)`` int64, atoms in the primitive cell.
        normaliser: ``K`` maps: changes of axes and origin that keep the group and handedness, one
            of those that differ by its operations and by shifts along polar axes. Monoclinic and
            triclinic groups have infinitely many: what a reduced cell leaves open is here, for
            monoclinic ones changes of axes modulo 2.
    """

    def __init__(self, number: int) -> None:
        self.number, self.system = number, crystal_system(number)
        every = Maps(*operations(number, primitive=False))
        identity = (every.rotations == np.eye(3)).all((1, 2))
        self.centring = every.shifts[identity] % 1.0
        _, first = np.unique(every.rotations, axis=0, return_index=True)
        first.sort()
        self.operations = Maps(every.rotations[first].astype(float), every.shifts[first] % 1.0)
        self.polar = np.abs(self.operations.rotations.mean(0) - np.eye(3)).max(0) < ZERO
        steps = whole_steps(2, 2, 2)[:, None] + self.centring
        self._lattice = steps.reshape(-1, 3).astype(float)
        self._known: dict[bytes, tuple[Array, Array]] = {}
        self._changes: dict[bytes, Changes] = {}
        found = _ask(self, every)
        self.primitive = (np.linalg.inv(found.std_linear) @ found.prim_std_linear).T
        asked = found.normalizer_wyckoff_positions(preserve_chirality=True)
        named = {p.letter: p.coordinates for _, row in asked.coset_representatives for p in row}
        letters = sorted(named, key=lambda letter: (letter.isupper(), letter))
        if letters != [chr(ord("a") + i) if i < 26 else "A" for i in range(len(letters))]:
            raise RuntimeError(f"Wyckoff letters {letters} of space group {number} have gaps")
        self.places = [self._place(letter, named[letter]) for letter in letters]
        self.multiplicities = np.array([len(place.images.shifts) for place in self.places])
        self.normaliser = self._reduced(_all_changes(asked))

    def on_lattice(self, vectors: Array) -> tuple[Array, Array]:
        """Return which of ``(..., 3)`` vectors are lattice translations, and the nearest ones."""
        ways = vectors[..., None, :] - self.centring
        whole = np.round(ways)
        best = np.abs(ways - whole).max(-1).argmin(-1)[..., None, None]
        nearest = np.take_along_axis(whole, best, -2)[..., 0, :] + self.centring[best[..., 0, 0]]
        return np.abs(vectors - nearest).max(-1) < ZERO, nearest

    def settle(self, project: Maps, points: Array) -> tuple[Maps, Array]:
        """Return the operations that bring points nearest to a place, and how far off they stay.

        Args:
            project: onto the points of the place.
            points: ``(Q, 3)``.

        Returns:
            ``Q`` maps, and ``(Q, 3)`` fractional distances.
        """
        off = np.eye(3) - project.rotations
        images = self.operations(points[:, None])  # (Q, G, 3)
        query = np.arange(len(points))
        if not project.rotations.any():
            _, steps = self.on_lattice(project.shifts - images)
            ways = images + steps - project.shifts
            index = (ways * ways).sum(-1).argmin(1)
            chosen = self.operations[index]
            return Maps(chosen.rotations, chosen.shifts + steps[query, index]), ways[query, index]
        seen, rows = self._returns(off)
        whole = np.floor(images)
        ways = ((images - whole) @ off.T - project.shifts)[:, :, None] + seen
        best = (ways * ways).sum(-1).reshape(len(points), whole.shape[1] * len(seen)).argmin(1)
        index, step = np.divmod(best, len(seen))
        chosen = self.operations[index]
        shifts = self._lattice[rows[step]] - whole[query, index]
        return Maps(chosen.rotations, chosen.shifts + shifts), ways[query, index, step]

    def nearest(self, place: Place, points: Array) -> Array:
        """Return the points of a place that are nearest to ``(Q, 3)``, modulo lattice translations.

        Near is meant in fractional coordinates.
        """
        off = np.eye(3) - place.project.rotations
        seen, rows = self._returns(off)
        inside = points - np.floor(points)
        ways = (inside @ off.T - place.project.shifts)[:, None] + seen
        best = (ways * ways).sum(-1).argmin(1)
        return place.project(inside + self._lattice[rows[best]])

    def _returns(self, off: Array) -> tuple[Array, Array]:
        """Return the distinct effects of lattice translations, and one translation for each."""
        key = off.tobytes()
        if key not in self._known:
            ways = np.round(self._lattice @ off.T, 6)
            self._known[key] = np.unique(ways, axis=0, return_index=True)
        return self._known[key]

    def changes(self, maps: Maps) -> Changes:
        """Return what changes of axes and origin do to letters and points.

        Args:
            maps: ``K`` changes that keep the group; results are remembered.
        """
        key = maps.rotations.tobytes() + maps.shifts.tobytes()
        if key not in self._changes:
            if len(self._changes) >= _MOST_KEPT:
                self._changes.clear()
            found = [self._moved(place, maps) for place in self.places]
            letters = np.stack([letters for letters, _ in found], 1)
            rotations = np.stack([moves.rotations for _, moves in found], 1)
            shifts = np.stack([moves.shifts for _, moves in found], 1)
            self._changes[key] = Changes(maps.rotations, letters, Maps(rotations, shifts))
        return self._changes[key]

    def _moved(self, place: Place, maps: Maps) -> tuple[Array, Maps]:
        """Return what becomes of a letter by each map, and the ``K`` maps onto its new place."""
        points = maps(place.generic)
        letters = np.full(len(points), -1)
        moves = Maps(maps.rotations.copy(), maps.shifts.copy())
        for letter, target in enumerate(self.places):
            if len(target.images.shifts) != len(place.images.shifts):
                continue
            rows = np.flatnonzero(letters < 0)
            settled, off = self.settle(target.project, points[rows])
            there = np.abs(off).max(-1) < ZERO
            rows = rows[there]
            letters[rows] = letter
            whole = settled[there].after(maps[rows])
            moves.rotations[rows], moves.shifts[rows] = whole.rotations, whole.shifts
        if (letters < 0).any():
            raise RuntimeError(f"space group {self.number} is not kept by a change of axes")
        return letters, moves

    def _place(self, letter: str, triplet: str) -> Place:
        import gemmi

        operation = gemmi.Op(re.sub(r"2([xyz])", r"\1+\1", triplet))
        linear, origin = np.array(operation.rot) / operation.DEN, np.array(operation.tran)
        free, follow = np.zeros(3, bool), np.zeros((3, 3))
        for variable in np.flatnonzero(linear.any(0)):
            alone = (np.abs(linear) == np.eye(3)[variable]).all(1)
            row = int(alone.argmax())
            free[row] = True
            follow[:, row] = linear[:, variable] * linear[row, variable]
        fixed = origin / operation.DEN
        fixed = fixed - follow @ (fixed * free)
        generic = fixed + follow @ (_GENERIC * free)
        images = self.operations(generic)
        stay, back = self.on_lattice(images - generic)
        fixing = self.operations[stay]
        project = Maps(fixing.rotations.mean(0), (fixing.shifts - back[stay]).mean(0))
        same, _ = self.on_lattice(images[:, None] - images[None])
        distinct = same.argmax(1) == np.arange(len(images))
        own = self._own(project, generic, free, follow)
        return Place(letter, free, follow, project, generic, self.operations[distinct], own)

    def _own(self, project: Maps, generic: Array, free: Array, follow: Array) -> Maps:
        images = self.operations(generic)
        whole = images[:, None] - np.floor(images)[:, None] + self._lattice
        index, step = np.nonzero(np.abs(project(whole) - whole).max(-1) < ZERO)
        reached = whole[index, step]
        inside = reached - (np.floor(reached) * free) @ follow.T
        _, first = np.unique(np.round(inside, 6), axis=0, return_index=True)
        first.sort()
        chosen = self.operations[index[first]]
        return Maps(chosen.rotations, chosen.shifts + reached[first] - images[index[first]])

    def _reduced(self, maps: Maps) -> Maps:
        """Return one of those changes that differ by the group's operations and polar shifts."""
        maps = Maps(maps.rotations, np.where(self.polar, 0.0, maps.shifts))
        every = self.operations.after(maps[:, None])  # (K, G)
        ways = every.shifts[:, :, None] - self.centring
        grid = np.round(np.where(self.polar, 0.0, ways) * _GRID).astype(np.int64) % _GRID
        origin = (grid @ _GRID ** np.arange(3)).min(-1)
        axes = np.round(every.rotations).astype(np.int64).reshape(*origin.shape, 9) + 1
        names = (axes @ 3 ** np.arange(9) * _GRID**3 + origin).min(1)
        return maps[np.sort(np.unique(names, return_index=True)[1])]


@functools.cache
def group(number: int) -> Group:
    """Return the table of a space group, 1 to 230; made when it is first asked for."""
    return Group(number)


def _all_changes(asked: Any) -> Maps:
    """Return the whole normaliser from its stabiliser and cosets; some of it twice."""
    parts = []
    for changes in ([c for c, _ in asked.coset_representatives], asked.stabilizer):
        linear = np.array([change.linear for change in changes], float)
        parts.append(Maps(linear, np.array([change.origin_shift for change in changes])))
    found = [one[:, None].after(two[None]) for one, two in (parts, parts[::-1])]
    rotations = np.concatenate([one.rotations.reshape(-1, 3, 3) for one in found])
    return Maps(rotations, np.concatenate([one.shifts.reshape(-1, 3) for one in found]))


def _ask(table: Group, every: Maps) -> Any:
    """Return moyopy's dataset of a crystal with atoms on all positions of a group.

    Its cell is as regular as the system allows, so that its normaliser has all exchanges of axes.
    """
    points = [*_special_points(table, every), _GENERIC, np.array([0.0513, 0.8117, 0.6729])]
    numbers, coords = [], []
    for kind, point in enumerate(points, 1):
        images = every(point)
        ways = images[:, None] - images[None]
        same = (np.abs(ways - np.round(ways)) < ZERO).all(-1)
        images = images[same.argmax(1) == np.arange(len(images))]
        coords.append(images)
        numbers += [kind] * len(images)
    found = dataset(numbers, np.concatenate(coords), _REGULAR[table.system], TIGHT)
    if found is None or found.number != table.number:
        raise RuntimeError(f"moyopy does not find space group {table.number} where it was made")
    return found


_HEXAGONAL = np.array([[20.0, 0, 0], [-10, 10 * 3**0.5, 0], [0, 0, 23]])
_REGULAR = {
    "triclinic": np.array([[20.0, 0, 0], [3, 21, 0], [4, 5, 23]]),
    "monoclinic": np.array([[20.0, 0, 0], [0, 23, 0], [-10, 0, 10 * 3**0.5]]),
    "orthorhombic": 20 * np.eye(3),
    "tetragonal": np.diag([20.0, 20, 23]),
    "trigonal": _HEXAGONAL,
    "hexagonal": _HEXAGONAL,
    "cubic": 20 * np.eye(3),
}


def _special_points(table: Group, every: Maps) -> list[Array]:
    """Return a point of each special position, none of them on one of higher symmetry.

    A site symmetry has a rotation, reflection or rotoinversion that leaves no more points fixed
    than it does, or it has two rotations about axes that meet there.
    """
    places = fixed_by(every)
    sizes = np.round(np.trace(places.rotations, axis1=1, axis2=2))
    points = meetings(places[sizes == 1])
    nothing = np.zeros((len(points), 3, 3))
    places = Maps(
        np.concatenate([nothing, places.rotations]), np.concatenate([points, places.shifts])
    )
    sizes = np.concatenate([np.zeros(len(points)), sizes])
    found: list[Array] = []
    for size in range(3):
        left = places[sizes == size]
        while len(left.shifts):
            found.append(left[0](_GENERIC))
            _, off = table.settle(left[0], left(_GENERIC))
            left = left[np.abs(off).max(-1) > ZERO]
    return found
