"""Pictures show what is there; tables say what is known and never stop on a broken crystal."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from energy_helpers import rocksalt_cube
from pymatgen.core import Lattice, Structure

from chemeleon.errors import DataError
from chemeleon.evaluation.report.draw import (
    contact_sheet,
    draw_structure,
    space_group,
    structure_table,
)
from chemeleon.evaluation.report.picture import picture

SALT = rocksalt_cube()
SPINEL = Structure.from_spacegroup(
    "Fd-3m:1", Lattice.cubic(8.08), ["Mg", "Al", "O"],
    [[0, 0, 0], [0.625, 0.625, 0.625], [0.3875, 0.3875, 0.3875]],
)  # fmt: skip
FLAT = Structure(np.diag([4.0, 4.0, 0.0]), ["C"], [[0, 0, 0]])


def test_table_rows() -> None:
    primitive = SPINEL.get_primitive_structure()
    rows = structure_table([SALT, primitive, None], [None, "atoms 0 and 1 are 0.20 A apart", "x"])
    assert rows.iloc[0].tolist() == ["NaCl", "Fm-3m", 2.16, 22.4, "valid"]
    assert rows.iloc[1, :2].tolist() == ["MgAl2O4", "Fd-3m"]
    assert rows["valid"].tolist()[1:] == ["atoms 0 and 1 are 0.20 A apart", "x"]
    assert rows.fillna("-").iloc[2, :4].tolist() == ["-"] * 4
    assert structure_table([FLAT], ["volume 0 A^3"]).iloc[0, 2:4].isna().all()
    with pytest.raises(DataError, match="2 structures but 1 reasons"):
        structure_table([SALT, SALT], [None])


def test_space_group_of_nothing() -> None:
    assert space_group(None) == "-"
    assert space_group(FLAT) == "-"
    nowhere = Structure(np.eye(3) * 4, ["C"], [[0, np.nan, 0]])
    assert space_group(nowhere) == "-"


def test_a_ball_hides_what_is_behind_it_and_edges_end_at_its_surface() -> None:
    # seen along a: oxygen in front of sodium, both on the line through the middle
    ends = [[0.85, 0.5, 0.5], [0.5, 0.5, 0.5]]
    pair = Structure(np.diag([6.0, 6.1, 6.2]), ["O", "Na"], ends)
    image, without = draw_structure(pair, 200), draw_structure(Structure.from_sites(pair[1:]), 200)
    assert image.shape == (200, 200, 3)
    assert image.min() >= 0
    assert image.max() <= 1
    assert np.all(image[2, 2] == 1)
    red = (image[..., 0] > 0.5) & (image[..., 1] < 0.4)
    assert red.sum() > 100
    blue = without[..., 2] > without[..., 0] + 0.15  # sodium is bluish where nothing hides it
    assert (blue & red).any()

    def edges(place: float) -> int:
        """Grey pixels of a cell with one oxygen atom on its diagonal."""
        shown = draw_structure(Structure(np.eye(3) * 6, ["O"], [[place] * 3]), 200)
        return int(((shown.max(-1) - shown.min(-1) < 0.05) & (shown.mean(-1) < 0.7)).sum())

    assert 100 < edges(0) < edges(0.5)  # eight balls hide the ends of all edges


def test_a_repeated_cell_shows_the_edges_of_each() -> None:
    slender = picture(Structure(np.diag([2.0, 3.0, 12.0]), ["C"], [[0.4, 0.4, 0.4]]))
    assert len(slender.centres) == 4  # twice along each short axis, and no more
    assert len(slender.corners) == 3 * 3 * 2
    lengths = slender.corners[slender.edges[:, 0]] - slender.corners[slender.edges[:, 1]]
    found = np.linalg.norm(lengths, axis=1)
    assert sorted(np.round(found, 6).tolist()) == [2.0] * 12 + [3.0] * 12 + [12.0] * 9
    assert np.allclose(slender.corners.mean(0), 0)


def test_primitive_and_conventional_cells_look_alike() -> None:
    whole = draw_structure(SALT, 80)
    primitive = draw_structure(SALT.get_primitive_structure(), 80)
    assert np.abs(whole - primitive).mean() < 0.01
    assert (whole < 0.95).any(-1).mean() > 0.2


def test_contact_sheet(tmp_path: Path) -> None:
    from matplotlib.image import imread

    start = time.perf_counter()
    path = contact_sheet([SALT, SPINEL, FLAT, SALT], tmp_path / "new" / "sheet.png", columns=3)
    assert time.perf_counter() - start < 10
    image = imread(path)
    height, width, _ = image.shape
    panel = image[: height // 2, : width // 3, :3]
    assert 0.1 < (panel < 0.9).any(-1).mean() < 0.9
    titled = contact_sheet([SALT], tmp_path / "one.png", titles=["table salt"])
    assert titled.exists()
    with pytest.raises(DataError, match="no structures"):
        contact_sheet([], tmp_path / "none.png")
    with pytest.raises(DataError, match="1 structures but 2 titles"):
        contact_sheet([SALT], tmp_path / "none.png", titles=["a", "b"])
