"""Pictures and tables of crystals for people: a contact sheet, and rows for the terminal."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from chemeleon.crystals import symmetry
from chemeleon.errors import DataError
from chemeleon.evaluation.report.picture import (
    BOND_RADIUS,
    Picture,
    ball_radii,
    element_colours,
    picture,
)

if TYPE_CHECKING:
    import pandas
    from PIL.ImageDraw import ImageDraw
    from pymatgen.core import Structure

MOST_SHOWN = 600
logger = logging.getLogger(__name__)
_MOST_COLUMNS = 100  # a picture has at most 2^16 pixels a side
_PANEL_PIXELS = 380
_DPI = 200
AZIMUTH, ELEVATION = 17.0, 13.0  # degrees by which a, then the eye, leave the line of sight
EDGE_PIECE = 0.3  # angstrom: an edge may run in front of one atom and behind the next
HIGHLIGHT = -0.35, -0.4  # of a ball, to the right and down of its middle, in radii
# shares of white, of black if negative; haze is that of what is farthest away
SHARES = {"light": 0.7, "rim": -0.45, "outline": -0.55, "haze": 0.35}
_RINGS = 24  # of different brightness on a ball
_SAMPLES = 3  # pixels painted per pixel and axis, averaged at the end
_EDGE_PIXELS = 1.6
_EDGE_COLOUR = np.full(3, 0.25)
_INK, _PALE = "#1f2430", "#6b7280"


def structure_table(
    structures: Sequence[Structure | None], reasons: Sequence[str | None]
) -> pandas.DataFrame:
    """Describe crystals: formula, space group, density, volume per atom, and what is wrong.

    Args:
        structures: crystals; None where there is none.
        reasons: what is wrong with each, None for sound ones (see `crystals.soundness`).

    Returns:
        A row for each; '-' and NaN for what cannot be said.

    Raises:
        DataError: if the two do not have the same length.
    """
    import pandas

    if len(structures) != len(reasons):
        raise DataError(f"{len(structures)} structures but {len(reasons)} reasons")
    rows = []
    for structure, reason in zip(structures, reasons, strict=True):
        formula, density, per_atom = "-", math.nan, math.nan
        if structure is not None and len(structure):
            formula = plain_formula(structure)
            volume = abs(float(structure.volume))
            if math.isfinite(volume) and volume > 1e-6:
                density, per_atom = float(structure.density), volume / len(structure)
        symbol = space_group(structure)
        rows.append((formula, symbol, round(density, 2), round(per_atom, 1), reason or "valid"))
    header = ["formula", "space group", "density g/cm³", "Å³/atom", "valid"]
    return pandas.DataFrame(rows, columns=header)


def plain_formula(structure: Structure) -> str:
    """Return the reduced formula without brackets, as MgAl2O4."""
    words = structure.composition.reduced_composition.formula.split()
    return "".join(re.sub(r"(?<=[A-Za-z])1$", "", word) for word in words)


def space_group(structure: Structure | None) -> str:
    """Return the Hermann-Mauguin symbol, or '-' where no group is found."""
    if structure is None or not structure.is_ordered:
        return "-"
    crystal = (structure.atomic_numbers, structure.frac_coords, structure.lattice.matrix)
    found = symmetry.space_group(*crystal)
    return "-" if found is None else found.symbol


def contact_sheet(
    structures: Sequence[Structure],
    path: str | Path,
    titles: Sequence[str] | None = None,
    columns: int = 6,
) -> Path:
    """Draw crystals side by side into one PNG.

    Each is shown in its conventional cell (atoms where they are, not idealised), with the atoms
    on faces and edges repeated. A crystal that cannot be drawn leaves a panel that says so. Of
    more than `MOST_SHOWN` the first are shown.

    Args:
        structures: ordered crystals.
        path: the PNG to write.
        titles: one line each, instead of formula and space group.
        columns: panels in a row.

    Raises:
        DataError: without structures, or with another number of titles.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if not structures:
        raise DataError("there are no structures to draw")
    if titles is not None and len(titles) != len(structures):
        raise DataError(f"{len(structures)} structures but {len(titles)} titles")
    if len(structures) > MOST_SHOWN:
        logger.warning("the picture shows %d of %d crystals", MOST_SHOWN, len(structures))
        structures = structures[:MOST_SHOWN]
    columns = max(1, min(columns, len(structures), _MOST_COLUMNS))
    rows = -(-len(structures) // columns)
    width, height = _PANEL_PIXELS / _DPI * 1.12, _PANEL_PIXELS / _DPI * 1.36
    figure = Figure(figsize=(columns * width, rows * height), dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)
    for index, structure in enumerate(structures):
        row, column = divmod(index, columns)
        bottom = 1 - (row + 1) / rows
        box = ((column + 0.05) / columns, bottom + 0.21 / rows, 0.9 / columns, 0.75 / rows)
        axes = figure.add_axes(box)
        axes.set_axis_off()
        try:
            axes.imshow(draw_structure(structure), interpolation="antialiased")
        except Exception as error:
            note = f"cannot be drawn\n({type(error).__name__})"
            axes.text(0.5, 0.5, note, ha="center", va="center", color=_PALE, fontsize=7)
        if titles is not None:
            lines = [(0.12, titles[index], _INK, 9)]
        else:
            symbol = _space_group_text(space_group(structure))
            formula = _formula_text(plain_formula(structure))
            lines = [(0.125, formula, _INK, 10), (0.045, symbol, _PALE, 7.5)]
        for height, text, colour, points in lines:
            figure.text((column + 0.5) / columns, bottom + height / rows, text, ha="center",
                        color=colour, fontsize=points)  # fmt: skip
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=_DPI, format="png")
    return target


def draw_structure(structure: Structure, pixels: int = _PANEL_PIXELS) -> np.ndarray:
    """Paint one crystal from back to front; ``(pixels, pixels, 3)`` RGB in 0 to 1 on white."""
    from PIL import Image, ImageDraw

    seen = picture(structure)
    radii = ball_radii()[seen.numbers]
    turn = view_matrix().T
    centres, corners = seen.centres @ turn, seen.corners @ turn
    low = np.minimum((centres - radii[:, None]).min(0), corners.min(0))
    high = np.maximum((centres + radii[:, None]).max(0), corners.max(0))
    size = pixels * _SAMPLES
    scale = 0.97 * size / max(float((high - low)[:2].max()), 1e-6)  # pixels per angstrom

    def place(point: np.ndarray) -> tuple[float, float]:
        x, y = (point - (low + high) / 2)[:2] * scale
        return size / 2 + x, size / 2 - y

    image = Image.new("RGB", (size, size), "white")
    brush = ImageDraw.Draw(image)
    balls = [(centre, centre, number) for centre, number in zip(centres, seen.numbers, strict=True)]
    rods = [(start @ turn, end @ turn, number) for start, end, number in _rods(seen, radii)]
    for start, end, number in sorted([*balls, *rods], key=lambda part: part[0][2] + part[1][2]):
        colour = element_colours()[number] if number else _EDGE_COLOUR
        depth = (high[2] - (start + end)[2] / 2) / max(high[2] - low[2], 1e-6)
        colour = colour + SHARES["haze"] * depth * (1 - colour)
        if start is end:
            _paint_ball(brush, place(start), scale * float(ball_radii()[number]), colour)
            continue
        width = 2 * BOND_RADIUS * scale
        bond = ((width + 2 * _SAMPLES, SHARES["outline"]), (width, 0.0),
                (width / 3, SHARES["light"] / 2))  # fmt: skip
        for wide, share in bond if number else ((_EDGE_PIXELS * _SAMPLES, 0.0),):
            ends, tone = [place(start), place(end)], _rgb(colour, share)
            brush.line(ends, fill=tone, width=max(round(wide), 1))
    return np.asarray(image.resize((pixels, pixels), Image.Resampling.BOX)) / 255


def _rods(seen: Picture, radii: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    """Yield start, end and atomic number of half bonds, and of pieces of cell edges with 0.

    Both end at the surface of balls, and are short, so that they can be sorted by depth.
    """
    for bond in seen.bonds:
        for i, j in (bond, bond[::-1]):
            way = seen.centres[j] - seen.centres[i]
            inside = min(0.9 * radii[i] / float(np.linalg.norm(way)), 0.5)
            yield seen.centres[i] + inside * way, seen.centres[i] + way / 2, int(seen.numbers[i])
    for i, j in seen.edges:
        way = seen.corners[j] - seen.corners[i]
        steps = np.linspace(0, 1, math.ceil(float(np.linalg.norm(way)) / EDGE_PIECE) + 1)
        points = seen.corners[i] + steps[:, None] * way
        middles = (points[:-1] + points[1:]) / 2
        hidden = np.linalg.norm(middles[:, None] - seen.centres, axis=-1) < radii
        for k in np.flatnonzero(~hidden.any(1)):
            yield points[k], points[k + 1], 0


def _paint_ball(
    brush: ImageDraw, middle: tuple[float, float], radius: float, colour: np.ndarray
) -> None:
    x, y = middle
    brush.ellipse((x - radius, y - radius, x + radius, y + radius),
                  fill=_rgb(colour, SHARES["outline"]))  # fmt: skip
    for way in np.linspace(0, 1, _RINGS, endpoint=False):  # from the rim to the highlight
        wide = (radius - _SAMPLES) * (1 - way)
        x, y = np.array(middle) + way * radius * np.array(HIGHLIGHT)
        share = np.interp(way, (0, 0.5, 1), (SHARES["rim"], 0, SHARES["light"]))
        brush.ellipse((x - wide, y - wide, x + wide, y + wide), fill=_rgb(colour, float(share)))


def _rgb(colour: np.ndarray, share: float) -> tuple[int, ...]:
    """Mix a colour with white, or with black where the share is negative."""
    mixed = colour + abs(share) * ((share > 0) - colour)
    return tuple(int(value) for value in 255 * mixed)


def view_matrix() -> np.ndarray:
    """Rows: right, up and towards the eye, which looks roughly along -a with c upright."""
    azimuth, elevation = math.radians(AZIMUTH), math.radians(ELEVATION)
    eye = np.array([math.cos(azimuth), math.sin(azimuth), 0]) * math.cos(elevation)
    eye[2] = math.sin(elevation)
    right = np.array([-math.sin(azimuth), math.cos(azimuth), 0])
    return np.stack([right, np.cross(eye, right), eye])


def _formula_text(formula: str) -> str:
    return re.sub(r"([0-9.]+)", r"$_{\\mathregular{\1}}$", formula)


def _space_group_text(symbol: str) -> str:
    """Set a Hermann-Mauguin symbol: bars over rotoinversions, subscripts for screw axes."""
    if symbol == "-":
        return "–"
    marked = re.sub(r"-(\d)", r"\\bar{\1}", symbol)
    marked = re.sub(r"_(\d)", r"_{\1}", marked)
    return f"${marked}$"
