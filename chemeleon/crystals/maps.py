"""Affine maps of points, and the points, lines and planes that symmetry operations leave fixed.

All coordinates are fractional; a map takes a column x to ``rotation x + shift``. No torch here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from chemeleon.crystals.batch import Array
from chemeleon.crystals.lattice import whole_steps

ZERO = 1e-6  # fractional; what tells places apart is a twenty-fourth at least


@dataclass(frozen=True)
class Maps:
    """Affine maps of points: ``rotations (..., 3, 3)`` and ``shifts (..., 3)``."""

    rotations: Array
    shifts: Array

    def __call__(self, points: Array) -> Array:
        """Return the images of ``(..., 3)`` points."""
        return (self.rotations @ points[..., None])[..., 0] + self.shifts

    def __getitem__(self, rows: Any) -> Maps:
        """Return some of the maps."""
        return Maps(self.rotations[rows], self.shifts[rows])

    def after(self, first: Maps) -> Maps:
        """Return the maps that move as ``first`` does, and then as these do."""
        return Maps(self.rotations @ first.rotations, self(first.shifts))


def fixed_by(every: Maps) -> Maps:
    """Return the projections onto what each operation, with each translation, leaves fixed."""
    steps = whole_steps(1, 1, 1)
    moving = every[(every.rotations != np.eye(3)).any((1, 2))]
    shifts = (moving.shifts[:, None] + steps).reshape(-1, 3)
    moves = Maps(moving.rotations.repeat(len(steps), 0).astype(float), shifts)
    power = Maps(np.broadcast_to(np.eye(3), moves.rotations.shape), np.zeros_like(shifts))
    rotations, points = np.zeros(moves.rotations.shape), np.zeros_like(shifts)
    for _ in range(12):  # a multiple of the order of any operation
        rotations, points = rotations + power.rotations / 12, points + power.shifts / 12
        power = moves.after(power)
    found = Maps(rotations, points)[np.abs(power.shifts).max(1) < ZERO]
    rows = np.concatenate([found.rotations.reshape(-1, 9), found.shifts], 1)
    _, first = np.unique(np.round(rows, 6) + 0.0, axis=0, return_index=True)
    return found[first]


def meetings(lines: Maps) -> Array:
    """Return the points where two lines of different direction meet, one for each in the cell."""
    if not len(lines.shifts):
        return np.zeros((0, 3))
    largest = np.abs(lines.rotations).max(1).argmax(1)
    along = lines.rotations[np.arange(len(largest)), :, largest]
    normal = np.cross(along[:, None], along[None])
    between = lines.shifts[None] - lines.shifts[:, None]
    square = (normal * normal).sum(-1)
    meet = (square > ZERO) & (np.abs((between * normal).sum(-1)) < ZERO)
    first, second = np.nonzero(meet)
    way = (np.cross(between[meet], along[second]) * normal[meet]).sum(-1) / square[meet]
    points = lines.shifts[first] + way[:, None] * along[first]
    points = points % 1.0
    _, rows = np.unique(np.round(points, 6) % 1.0, axis=0, return_index=True)
    return points[rows]
