"""One description of each crystal as orbits, among all that its space group allows.

The Euclidean normaliser says which there are in the standard setting (`wyckoff.Group.normaliser`);
handedness is kept. So a crystal gives the same orbits in whatever cell, origin and orientation it
comes. Rules, in turn:

1. Triclinic and monoclinic axes are reduced: as short as possible, then with the largest angles.
2. The Wyckoff letters, of all orbits together, come first in the alphabet; then those of the
   lightest elements do.
3. Cell lengths are smallest in the order a, b, c.
4. Along a polar axis an orbit of the rarest kind lies at 0.
5. Coordinates are smallest, those along polar axes before others: of the atoms of an orbit on its
   letter's place, and of all orbits.

Numbers count as equal within `SAME`, so rounding does not decide. Shapes: ``n`` orbits, ``C``
descriptions. No torch here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from chemeleon.crystals.axes import SAME_CELL, any_axes, cell_order, changes_of, first_rows
from chemeleon.crystals.batch import Array, Crystal, Crystals
from chemeleon.crystals.idealise import STEP, distortion
from chemeleon.crystals.lattice import cells_of
from chemeleon.crystals.orbits import Assignment, OrbitCrystal, basis_of, put_together
from chemeleon.crystals.symmetry import SYMPREC, TIGHT, dataset
from chemeleon.crystals.wyckoff import Changes, Group, group

SAME = 1e-5  # fractional coordinates of one place
_STRAIN = 1e-3  # relative, of a cell that is as good as symmetric
_LEAST = 1e-4  # angstrom, the smallest tolerance that is tried
_FLAT = 1e-3  # angstrom^3
_KINDS = 32  # more than a group has letters


def orbits_of(crystal: Crystal, symprec: float = SYMPREC) -> OrbitCrystal | None:
    """Return the canonical description of a crystal; None where numbers are not finite or flat.

    Atoms and cell are moved onto the symmetry that they have within the tolerance. It is lowered
    for crystals that would have another group at this tolerance then, or fewer atoms in the
    primitive cell than they have at `TIGHT`. Where `dataset` refuses to look for symmetry, each
    atom is an orbit of P1.

    Args:
        crystal: in any cell, origin and orientation.
        symprec: tolerance of its symmetry, angstrom.
    """
    given = found = dataset(*crystal, symprec)
    close = functools.cache(functools.partial(dataset, *crystal, TIGHT))  # one for all tolerances
    tolerance = symprec
    while found is not None and tolerance >= _LEAST:
        exact = found is given and _is_exact(crystal, found, symprec)
        if _keeps_cell(crystal, found, close) and (exact or _keeps_group(given, found, symprec)):
            return _read(crystal, found)
        tolerance *= STEP
        found = dataset(*crystal, tolerance)
    return _without_symmetry(crystal)


def in_orbits(crystals: Crystals[Array], symprec: float = SYMPREC) -> Crystals[Array]:
    """Return crystals as `orbits_of` writes them, in arrays; of one that has none there is none.

    Targets and names are left out.
    """
    return put_together([orbits_of(crystal, symprec) for crystal in crystals])


def in_assigned_orbits(crystals: Crystals[Array]) -> Crystals[Array]:
    """Return crystals as `in_orbits` does, in the settings of `by_letters`."""
    found = [orbits_of(crystal) for crystal in crystals]
    return put_together([None if one is None else by_letters(one) for one in found])


def standard(given: Assignment) -> Assignment:
    """Return the description of the same orbits that comes first by rule 2, sorted.

    Monoclinic axes may be any: `orbits_of` takes reduced ones, `by_letters` those that fit.
    """
    letters = tuple(np.asarray(given.letters, np.int64).tolist())
    kinds = np.asarray(given.atomic_numbers, np.int64) * _KINDS + equivalent(given.number, letters)
    kinds.sort(1)
    first = kinds[np.lexsort(kinds.T[::-1])[0]]
    return Assignment(given.number, first // _KINDS, first % _KINDS)


@functools.lru_cache(1 << 16)
def equivalent(number: int, letters: tuple[int, ...]) -> Array:
    """Return the ways to name the letters of orbits, ``(C, n)``, first in the alphabet together.

    Args:
        number: of the space group.
        letters: of ``n`` orbits.
    """
    ways = np.unique(any_axes(group(number)).letters[:, list(letters)], axis=0)
    return ways[first_rows(np.sort(ways, 1))]


def by_letters(crystal: OrbitCrystal) -> OrbitCrystal:
    """Return the description whose letters are `standard`, for models that are told the letters.

    So whoever knows the letters alone knows the setting. It differs from that of `orbits_of` in
    monoclinic groups: their axes are the shortest that give these letters.

    Args:
        crystal: as `orbits_of` returns it.
    """
    table, numbers, letters = group(crystal.number), crystal.atomic_numbers, crystal.letters
    if table.system != "monoclinic":
        return crystal
    if (standard(crystal.assignment).letters == letters).all():
        return crystal
    basis = basis_of(crystal.number, crystal.cell)
    changes, _ = _first_letters(any_axes(table), numbers, letters)
    cells = _moved_cells(changes, basis)
    sizes = (cells[:, :3] ** 2).sum(1)
    shortest = sizes <= sizes.min() * (1 + SAME_CELL)
    return _canonical(table, basis, numbers, letters, crystal.coords, changes[shortest])


def _is_exact(crystal: Crystal, found: Any, symprec: float) -> bool:
    """Tell whether a crystal is so near to its symmetry that it certainly keeps its group."""
    if found.symprec < symprec * (1 - 1e-9):
        return False  # other tolerances were tried, and disagreed
    moved, strain = distortion(crystal, found)
    return moved < TIGHT and strain < _STRAIN


def _keeps_group(given: Any, found: Any, symprec: float) -> bool:
    """Tell whether a crystal moved onto its symmetry has the group that it had before."""
    ideal = found.prim_std_cell
    again = dataset(ideal.numbers, ideal.positions, ideal.basis, symprec)
    return again is not None and again.number == given.number


def _keeps_cell(crystal: Crystal, found: Any, close: Callable[[], Any]) -> bool:
    """Tell whether all lattice translations are exact ones; `close` finds those at `TIGHT`."""
    atoms = len(found.prim_std_cell.numbers)
    if atoms == len(crystal.atomic_numbers):
        return True
    exact = close()
    return exact is None or len(exact.prim_std_cell.numbers) <= atoms


def _read(crystal: Crystal, found: Any) -> OrbitCrystal:
    table = group(found.number)
    _, first = np.unique(found.orbits, return_index=True)
    positions = np.array(found.prim_std_cell.positions) @ table.primitive
    positions = positions[np.array(found.mapping_std_prim)[first]]
    named = [place.letter for place in table.places]
    letters = np.array([named.index(found.wyckoffs[i]) for i in first])
    coords = np.stack([_placed(table, *pair) for pair in zip(letters, positions, strict=True)])
    numbers = np.asarray(crystal.atomic_numbers, np.int64)[first]
    basis = np.array(found.std_cell.basis)
    return _canonical(table, basis, numbers, letters, coords, changes_of(table, basis))


def _without_symmetry(crystal: Crystal) -> OrbitCrystal | None:
    numbers, coords, basis = crystal
    finite = len(numbers) and np.isfinite(basis).all() and np.isfinite(coords).all()
    if not finite or abs(np.linalg.det(basis)) < _FLAT:
        return None
    letters, hand = np.zeros(len(numbers), np.int64), np.sign(np.linalg.det(basis))
    # both turned round: the same atoms, with right-handed axes
    table, basis, numbers = group(1), hand * basis, np.asarray(numbers, np.int64)
    return _canonical(table, basis, numbers, letters, hand * coords, changes_of(table, basis))


def _placed(table: Group, letter: int, position: Array) -> Array:
    """Return the point of a letter's place that an atom is nearest to, but for the group."""
    project = table.places[letter].project
    settled, _ = table.settle(project, position[None])
    return project(settled(position))[0]


def _canonical(
    table: Group, basis: Array, numbers: Array, letters: Array, coords: Array, changes: Changes
) -> OrbitCrystal:
    """Return what rules 2 to 5 choose of these changes."""
    changes, kinds = _first_letters(changes, numbers, letters)
    cells = _moved_cells(changes, basis)
    chosen = first_rows(cell_order(cells), SAME_CELL)
    changes, kinds, cells = changes[chosen], kinds[chosen], cells[chosen]
    coords = changes.maps[:, letters](coords)
    if table.polar.any():
        coords, source = _anchored(table, kinds, coords)
        kinds, cells = kinds[source], cells[source]
    coords, ranks = _smallest(table, kinds % _KINDS, coords)
    order = np.lexsort((ranks, kinds))
    ranks = np.take_along_axis(ranks, order, 1)
    best = int(np.flatnonzero(first_rows(ranks))[0])
    order = order[best]
    kinds, coords = kinds[best, order], coords[best, order]
    return OrbitCrystal(table.number, cells[best], kinds // _KINDS, kinds % _KINDS, coords)


def _first_letters(changes: Changes, numbers: Array, letters: Array) -> tuple[Changes, Array]:
    """Return the changes that rule 2 allows, and elements and letters ``(C, n)`` after each."""
    kinds = numbers * _KINDS + changes.letters[:, letters]
    chosen = first_rows(np.concatenate([np.sort(kinds % _KINDS), np.sort(kinds)], 1))
    return changes[chosen], kinds[chosen]


def _moved_cells(changes: Changes, basis: Array) -> Array:
    return cells_of(np.swapaxes(np.linalg.inv(changes.axes), 1, 2) @ basis)


def _anchored(table: Group, kinds: Array, coords: Array) -> tuple[Array, Array]:
    """Return each description with each orbit of the rarest kind at 0 along polar axes.

    Returns:
        ``(C', n, 3)`` coordinates, and ``(C',)`` the description that each comes from.
    """
    seen, counts = np.unique(kinds[0], return_counts=True)  # the same for all descriptions
    rarest = seen[counts.argmin()]
    own = table.places[rarest % _KINDS].own.shifts * table.polar
    own = np.unique(np.round(own % 1.0, 6) % 1.0, axis=0)
    anchors = coords[kinds == rarest].reshape(len(kinds), -1, 1, 3) * table.polar + own
    anchors = anchors.reshape(len(kinds), -1, 3)
    moved = coords[:, None] - anchors[:, :, None]
    return moved.reshape(-1, *coords.shape[1:]), np.arange(len(kinds)).repeat(anchors.shape[1])


def _smallest(table: Group, letters: Array, coords: Array) -> tuple[Array, Array]:
    """Return the smallest coordinates of each orbit, and their ranks among those of its letter."""
    coords, ranks = coords.copy(), np.zeros(letters.shape, np.int64)
    axes = np.argsort(~table.polar, kind="stable")
    for letter in np.unique(letters):
        rows = letters == letter
        place = table.places[letter]
        images = place.wrapped(place.own(coords[rows][:, None]), SAME)
        numbers = np.zeros(images.shape[:2], np.int64)
        for axis in axes[place.free[axes]]:
            numbers = numbers << 21 | _ranks(images[..., axis])
        best = numbers.argmin(1)[:, None]
        ranks[rows] = np.take_along_axis(numbers, best, 1)[:, 0]
        coords[rows] = np.take_along_axis(images, best[..., None], 1)[:, 0]
    return coords, ranks


def _ranks(values: Array) -> Array:
    """Return the places of numbers in their order; those that lie close together share one."""
    order = values.argsort(axis=None)
    steps = np.diff(values.ravel()[order], prepend=values.min()) > SAME
    ranks = np.empty(values.size, np.int64)
    ranks[order] = steps.cumsum()
    return ranks.reshape(values.shape)


def redrawn(crystal: OrbitCrystal, generator: np.random.Generator) -> OrbitCrystal:
    """Return another description of the same crystal, for augmentation.

    Axes (triclinic and monoclinic ones stay reduced), origin and the atom that stands for each
    orbit are drawn; orbits are sorted again.

    Args:
        crystal: as `orbits_of` returns it.
        generator: of numpy.
    """
    table, basis = group(crystal.number), basis_of(crystal.number, crystal.cell)
    changes = changes_of(table, basis)
    change = changes[int(generator.integers(len(changes.axes)))]
    letters = change.letters[crystal.letters]
    coords = change.maps[crystal.letters](crystal.coords) + generator.random(3) * table.polar
    for row, letter in enumerate(letters):
        place = table.places[letter]
        own = place.own[int(generator.integers(len(place.own.shifts)))]
        coords[row] = place.wrapped(own(coords[row]), SAME)
    kinds = crystal.atomic_numbers * _KINDS + letters
    order = np.lexsort((*coords.T[::-1], kinds))
    cell = cells_of(np.linalg.inv(change.axes).T @ basis)
    kinds = kinds[order]
    return OrbitCrystal(table.number, cell, kinds // _KINDS, kinds % _KINDS, coords[order])
