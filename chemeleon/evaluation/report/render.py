"""A small ray caster: lit spheres and rods with a depth buffer, in numpy.

Coordinates are those of the viewer: x to the right, y up, z towards the eye; parallel projection.
Colours are RGB in 0 to 1.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

_SAMPLES = 2  # rays per pixel and axis, averaged at the end
_LIGHT = np.array([-0.42, 0.58, 0.70])
_AMBIENT, _DIFFUSE, _SHINE, _GLOSS = 0.50, 0.56, 0.38, 36
_HAZE = 0.28  # share of the background in what lies farthest away
_OUTLINE_DEPTH = 0.45  # a step in depth that gets a dark line
_OUTLINE_SHADE = 0.45


@dataclass
class Scene:
    """What is to be seen. Lengths are in angstrom, or whatever unit the caller draws in."""

    spheres: list[tuple[np.ndarray, float, np.ndarray]] = field(default_factory=list)
    rods: list[tuple[np.ndarray, np.ndarray, float, np.ndarray]] = field(default_factory=list)

    def sphere(self, centre: np.ndarray, radius: float, colour: np.ndarray) -> None:
        """Add a ball."""
        self.spheres.append((centre, radius, colour))

    def rod(self, start: np.ndarray, end: np.ndarray, radius: float, colour: np.ndarray) -> None:
        """Add a cylinder without caps."""
        self.rods.append((start, end, radius, colour))

    def extent(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the lower and upper corner of all that is in the scene."""
        low = [c - r for c, r, _ in self.spheres] + [
            np.minimum(a, b) - r for a, b, r, _ in self.rods
        ]
        high = [c + r for c, r, _ in self.spheres] + [
            np.maximum(a, b) + r for a, b, r, _ in self.rods
        ]
        return np.min(low, axis=0), np.max(high, axis=0)

    def render(self, pixels: int, background: float = 1.0) -> np.ndarray:
        """Draw into a square, scaled to fit; ``(pixels, pixels, 3)`` in 0 to 1, top row first."""
        canvas = _Canvas(self.extent(), pixels * _SAMPLES)
        for centre, radius, colour in self.spheres:
            canvas.sphere(centre, radius, colour)
        for start, end, radius, colour in self.rods:
            canvas.rod(start, end, radius, colour)
        return canvas.finish(background)


class _Canvas:
    def __init__(self, extent: tuple[np.ndarray, np.ndarray], size: int) -> None:
        low, high = extent
        self.scale = 0.97 * size / max(float((high - low)[:2].max()), 1e-6)  # pixels per length
        self.centre = (low + high)[:2] / 2
        self.range = float(low[2]), float(high[2])
        self.size = size
        self.depth = np.full((size, size), -np.inf, dtype=np.float32)
        self.normal = np.zeros((size, size, 3), dtype=np.float32)
        self.colour = np.zeros((size, size, 3), dtype=np.float32)

    def _window(
        self, low: np.ndarray, high: np.ndarray
    ) -> tuple[slice, slice, np.ndarray, np.ndarray]:
        """Return rows, columns, and the x and y of their pixels, for a box in the plane."""
        corner = self.size / 2 - 0.5
        first = np.floor((low[:2] - self.centre) * self.scale + corner).astype(int)
        last = np.ceil((high[:2] - self.centre) * self.scale + corner).astype(int) + 1
        first, last = np.clip(first, 0, self.size), np.clip(last, 0, self.size)
        x = (np.arange(first[0], last[0]) - corner) / self.scale + self.centre[0]
        y = (np.arange(first[1], last[1]) - corner) / self.scale + self.centre[1]
        return slice(first[1], last[1]), slice(first[0], last[0]), x[None, :], y[:, None]

    def _write(
        self, rows: slice, columns: slice, hit: np.ndarray, z: np.ndarray, normal: np.ndarray,
        colour: np.ndarray,
    ) -> None:  # fmt: skip
        front = hit & (z > self.depth[rows, columns])
        self.depth[rows, columns][front] = z[front]
        self.normal[rows, columns][front] = normal[front]
        self.colour[rows, columns][front] = colour

    def sphere(self, centre: np.ndarray, radius: float, colour: np.ndarray) -> None:
        rows, columns, x, y = self._window(centre - radius, centre + radius)
        dx, dy = (x - centre[0]) / radius, (y - centre[1]) / radius
        squared = 1 - dx**2 - dy**2
        height = np.sqrt(np.maximum(squared, 0))
        normal = np.stack(np.broadcast_arrays(dx, dy, height), axis=-1)
        self._write(rows, columns, squared > 0, centre[2] + radius * height, normal, colour)

    def rod(self, start: np.ndarray, end: np.ndarray, radius: float, colour: np.ndarray) -> None:
        length = float(np.linalg.norm(end - start))
        axis = (end - start) / max(length, 1e-12)
        flat = float(np.hypot(axis[0], axis[1]))
        if flat < 1e-3:  # seen end on
            return
        along, across = axis[:2] / flat, np.array([-axis[1], axis[0]]) / flat
        upward = np.array([-along[0] * axis[2], -along[1] * axis[2], flat])
        rows, columns, x, y = self._window(
            np.minimum(start, end) - radius, np.maximum(start, end) + radius
        )
        side = ((x - start[0]) * across[0] + (y - start[1]) * across[1]) / radius
        squared = 1 - side**2
        height = np.sqrt(np.maximum(squared, 0))
        travelled = (x - start[0]) * along[0] + (y - start[1]) * along[1]
        travelled = (travelled + radius * height * axis[2]) / flat
        z = start[2] + travelled * axis[2] + radius * height * flat
        inside = (squared > 0) & (travelled >= 0) & (travelled <= length)
        normal = side[..., None] * np.array([*across, 0.0]) + height[..., None] * upward
        self._write(rows, columns, inside, z, normal, colour)

    def finish(self, background: float) -> np.ndarray:
        light = _LIGHT / np.linalg.norm(_LIGHT)
        half = light + np.array([0.0, 0.0, 1.0])
        half /= np.linalg.norm(half)
        seen = np.isfinite(self.depth)
        normal, depth = self.normal[seen], self.depth[seen]
        lit = _AMBIENT + _DIFFUSE * np.maximum(normal @ light, 0)
        shine = _SHINE * np.maximum(normal @ half, 0) ** _GLOSS
        colour = self.colour[seen] * lit[:, None] + shine[:, None]
        colour *= self._outline()[seen][:, None]
        low, high = self.range
        haze = _HAZE * (high - depth) / max(high - low, 1e-6)
        colour += (background - colour) * haze[:, None]
        image = np.full((self.size, self.size, 3), background, dtype=np.float32)
        image[seen] = np.clip(colour, 0, 1)
        small = self.size // _SAMPLES
        return image.reshape(small, _SAMPLES, small, _SAMPLES, 3).mean((1, 3))[::-1]

    def _outline(self) -> np.ndarray:
        """Darken pixels just behind a nearer thing, so that overlapping atoms stand apart."""
        floor = np.where(np.isfinite(self.depth), self.depth, self.range[0] - 1)
        nearest = floor.copy()
        for shift in (-2, -1, 1, 2):
            for axis in (0, 1):
                nearest = np.maximum(nearest, np.roll(floor, shift, axis))
        behind = np.clip((nearest - floor) / _OUTLINE_DEPTH - 0.5, 0, 1)
        return 1 - _OUTLINE_SHADE * behind
