"""Pictures and tables of crystals for people: a contact sheet, and rows for the terminal."""

from __future__ import annotations

import itertools
import logging
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from chemeleon.crystals import symmetry
from chemeleon.errors import DataError
from chemeleon.evaluation.report.picture import (
    BOND_RADIUS,
    EDGE_SHARE,
    ball_radii,
    element_colours,
    picture,
)
from chemeleon.evaluation.report.render import Scene

if TYPE_CHECKING:
    from pymatgen.core import Structure

MOST_SHOWN = 600
logger = logging.getLogger(__name__)
_MOST_COLUMNS = 100  # a picture has at most 2^16 pixels a side
_PANEL_PIXELS = 380
_DPI = 200
AZIMUTH, ELEVATION = 17.0, 13.0  # degrees by which a, then the eye, leave the line of sight
_EDGE_COLOUR = np.full(3, 0.38)
_INK, _PALE = "#1f2430", "#6b7280"


class StructureRow(NamedTuple):
    """One crystal in words; '-' for what cannot be said."""

    formula: str
    space_group: str
    density: str  # g/cm3
    volume_per_atom: str  # cubic angstrom
    verdict: str  # 'valid' or the reason why not


def structure_table(
    structures: Sequence[Structure | None], reasons: Sequence[str | None]
) -> list[StructureRow]:
    """Describe crystals in rows for a table.

    Args:
        structures: crystals; None where there is none.
        reasons: what is wrong with each, None for sound ones (see `crystals.soundness`).

    Raises:
        DataError: if the two do not have the same length.
    """
    if len(structures) != len(reasons):
        raise DataError(f"{len(structures)} structures but {len(reasons)} reasons")
    rows = []
    for structure, reason in zip(structures, reasons, strict=True):
        formula = density = per_atom = "-"
        if structure is not None and len(structure):
            formula = plain_formula(structure)
            volume = abs(float(structure.volume))
            if math.isfinite(volume) and volume > 1e-6:
                density = f"{float(structure.density):.2f}"
                per_atom = f"{volume / len(structure):.1f}"
        symbol = space_group(structure)
        rows.append(StructureRow(formula, symbol, density, per_atom, reason or "valid"))
    return rows


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
        middle = (column + 0.5) / columns
        if titles is not None:
            figure.text(middle, bottom + 0.12 / rows, titles[index], ha="center", color=_INK,
                        fontsize=9)  # fmt: skip
            continue
        formula = _formula_text(plain_formula(structure))
        figure.text(middle, bottom + 0.125 / rows, formula, ha="center", color=_INK, fontsize=10)
        symbol = _space_group_text(space_group(structure))
        figure.text(middle, bottom + 0.045 / rows, symbol, ha="center", color=_PALE, fontsize=7.5)
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=_DPI, format="png")
    return target


def draw_structure(structure: Structure, pixels: int = _PANEL_PIXELS) -> np.ndarray:
    """Draw one crystal; ``(pixels, pixels, 3)`` RGB in 0 to 1 on white."""
    seen = picture(structure)
    palette, radii = element_colours(), ball_radii()
    turn = view_matrix().T
    cell, centres = seen.cell @ turn, seen.centres @ turn
    scene = Scene()
    for centre, number in zip(centres, seen.numbers, strict=True):
        scene.sphere(centre, float(radii[number]), palette[number])
    for i, j in seen.bonds:
        middle = (centres[i] + centres[j]) / 2
        scene.rod(centres[i], middle, BOND_RADIUS, palette[seen.numbers[i]])
        scene.rod(middle, centres[j], BOND_RADIUS, palette[seen.numbers[j]])
    edge = EDGE_SHARE * float(np.linalg.norm(cell.sum(0)))
    for corner in itertools.product((0, 1), repeat=3):
        for axis in range(3):
            if corner[axis] == 0:
                start = np.array(corner) @ cell
                scene.rod(start, start + cell[axis], edge, _EDGE_COLOUR)
    return scene.render(pixels)


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
