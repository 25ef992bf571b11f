"""Pictures and tables of crystals for people: a contact sheet, and rows for the terminal."""

from __future__ import annotations

import itertools
import math
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from chemeleon.errors import DataError
from chemeleon.evaluation.render import Scene

if TYPE_CHECKING:
    from pymatgen.core import Structure

SYMPREC = 0.1
_PANEL_PIXELS = 380
_DPI = 200
_AZIMUTH, _ELEVATION = 17.0, 13.0  # degrees by which a, then the eye, leave the line of sight
_BOUNDARY = 0.03  # fractional: atoms this near a face are drawn on the opposite one too
_BOND_FACTOR = 1.15  # bonds are shorter than this times the sum of covalent radii,
_NEIGHBOUR_FACTOR = 1.25  # and than this times the nearest neighbour of either atom
_MOST_ATOMS = 60  # larger conventional cells are drawn as given
_ROD = 0.11  # radius of bonds, angstrom
_EDGE = 0.0028  # radius of cell edges, in cell diagonals
_SLENDER = 3.6  # a cell this many times longer than wide is repeated sideways
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
        reasons: what is wrong with each, None for sound ones (see `validity`).

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
    """Return the Hermann-Mauguin symbol within 0.1 angstrom, or '-' where none is found."""
    from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

    if structure is None:
        return "-"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return SpacegroupAnalyzer(structure, symprec=SYMPREC).get_space_group_symbol()
    except Exception:  # spglib and pymatgen raise many kinds on broken cells
        return "-"


def contact_sheet(
    structures: Sequence[Structure],
    path: str | Path,
    titles: Sequence[str] | None = None,
    columns: int = 6,
) -> Path:
    """Draw crystals side by side into one PNG.

    Each is shown in its conventional cell (atoms where they are, not idealised), with the atoms
    on faces and edges repeated. A crystal that cannot be drawn leaves a panel that says so.

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
    columns = max(1, min(columns, len(structures)))
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
    from ase.data import covalent_radii
    from ase.data.colors import jmol_colors
    from pymatgen.core import Lattice

    shown = _conventional(structure)
    # upright in the picture: c along z, a in the xz plane
    lattice = Lattice.from_parameters(*shown.lattice.parameters).matrix @ _view().T
    repeats = _repeats(shown.lattice.abc)
    source, coords = _with_boundary(np.asarray(shown.frac_coords, float), repeats)
    numbers = np.array(shown.atomic_numbers)
    radii, palette = covalent_radii[numbers], 0.90 * jmol_colors[numbers] + 0.08
    centres = coords @ lattice
    scene = Scene()
    for centre, atom in zip(centres, source, strict=True):
        scene.sphere(centre, float(0.22 + 0.27 * radii[atom]), palette[atom])
    for i, j in _bonds(shown, centres, source, radii):
        middle = (centres[i] + centres[j]) / 2
        scene.rod(centres[i], middle, _ROD, palette[source[i]])
        scene.rod(middle, centres[j], _ROD, palette[source[j]])
    edge = _EDGE * float(np.linalg.norm(lattice.sum(0)))
    for corner in itertools.product((0, 1), repeat=3):
        for axis in range(3):
            if corner[axis] == 0:
                start = np.array(corner) @ lattice
                scene.rod(start, start + lattice[axis], edge, _EDGE_COLOUR)
    return scene.render(pixels)


def _view() -> np.ndarray:
    """Rows: right, up and towards the eye, which looks roughly along -a with c upright."""
    azimuth, elevation = math.radians(_AZIMUTH), math.radians(_ELEVATION)
    eye = np.array([math.cos(azimuth), math.sin(azimuth), 0]) * math.cos(elevation)
    eye[2] = math.sin(elevation)
    right = np.array([-math.sin(azimuth), math.cos(azimuth), 0])
    return np.stack([right, np.cross(eye, right), eye])


def _conventional(structure: Structure) -> Structure:
    """Return the conventional cell with the atoms where they are, or the crystal as given."""
    import spglib

    cell = (
        structure.lattice.matrix.tolist(),
        np.asarray(structure.frac_coords, float).tolist(),
        list(structure.atomic_numbers),
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = spglib.get_symmetry_dataset(cell, symprec=SYMPREC)
        if found is None:
            return structure
        # (a b c) = (as bs cs) P, so the standard cell has P^-1 in units of the given one
        cells = np.linalg.inv(found.transformation_matrix).T
        whole = np.round(cells)
        if np.abs(cells - whole).max() > 1e-3 or not np.linalg.det(whole) > 0.5:
            return structure
        if np.linalg.det(whole) * len(structure) > _MOST_ATOMS:
            return structure
        larger = structure.make_supercell(whole.astype(int), in_place=False)
        return larger.translate_sites(
            list(range(len(larger))), found.origin_shift, frac_coords=True
        )
    except Exception:  # a crystal beyond spglib is still worth a picture
        return structure


def _repeats(lengths: Sequence[float]) -> tuple[int, ...]:
    """How often a slender cell is shown along each axis."""
    return tuple(2 if max(lengths) / length >= _SLENDER else 1 for length in lengths)


def _with_boundary(coords: np.ndarray, repeats: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Fill the cells, faces included: ``(K,)`` indices of atoms and ``(K, 3)`` coordinates."""
    inside = coords - np.floor(coords + _BOUNDARY)
    source, places = [], []
    for shift in itertools.product(*(range(count + 1) for count in repeats)):
        moved = inside + shift
        kept = (moved <= np.array(repeats) + _BOUNDARY).all(1)
        source.append(np.flatnonzero(kept))
        places.append(moved[kept])
    return np.concatenate(source), np.concatenate(places)


def _bonds(
    structure: Structure, centres: np.ndarray, source: np.ndarray, radii: np.ndarray
) -> list[tuple[int, int]]:
    """Return pairs of drawn atoms that are bonded; metals only where there is nothing else."""
    nearest = _nearest_neighbours(structure)
    distance = np.linalg.norm(centres[:, None] - centres[None], axis=-1)
    reach = _BOND_FACTOR * (radii[source][:, None] + radii[source][None])
    close = _NEIGHBOUR_FACTOR * np.minimum(nearest[source][:, None], nearest[source][None])
    metal = np.array([site.specie.is_metal or site.specie.is_metalloid for site in structure])
    allowed = ~(metal[source][:, None] & metal[source][None]) | metal.all()
    bonded = np.triu(allowed & (distance < reach) & (distance < close) & (distance > 0.3), 1)
    return [(int(i), int(j)) for i, j in np.argwhere(bonded)]


def _nearest_neighbours(structure: Structure) -> np.ndarray:
    """Distance from each atom to the nearest other atom or image, among adjacent cells."""
    coords = np.asarray(structure.frac_coords, float)
    shifts = np.array(list(itertools.product((-1, 0, 1), repeat=3)))
    delta = coords[:, None] - coords[None]
    vectors = (delta - np.round(delta))[:, :, None] + shifts
    distance = np.linalg.norm(vectors @ structure.lattice.matrix, axis=-1)
    distance[distance < 1e-6] = np.inf
    return distance.min((1, 2))


def _formula_text(formula: str) -> str:
    return re.sub(r"([0-9.]+)", r"$_{\\mathregular{\1}}$", formula)


def _space_group_text(symbol: str) -> str:
    """Set a Hermann-Mauguin symbol: bars over rotoinversions, subscripts for screw axes."""
    if symbol == "-":
        return "–"
    marked = re.sub(r"-(\d)", r"\\bar{\1}", symbol)
    marked = re.sub(r"_(\d)", r"_{\1}", marked)
    return f"${marked}$"
