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
from chemeleon.evaluation.report.render import Scene

SALT = rocksalt_cube()
SPINEL = Structure.from_spacegroup(
    "Fd-3m:1", Lattice.cubic(8.08), ["Mg", "Al", "O"],
    [[0, 0, 0], [0.625, 0.625, 0.625], [0.3875, 0.3875, 0.3875]],
)  # fmt: skip
FLAT = Structure(np.diag([4.0, 4.0, 0.0]), ["C"], [[0, 0, 0]])


def test_table_rows() -> None:
    primitive = SPINEL.get_primitive_structure()
    rows = structure_table([SALT, primitive, None], [None, "atoms 0 and 1 are 0.20 A apart", "x"])
    assert rows[0] == ("NaCl", "Fm-3m", "2.16", "22.4", "valid")
    assert rows[1][:2] == ("MgAl2O4", "Fd-3m")
    assert rows[1].verdict == "atoms 0 and 1 are 0.20 A apart"
    assert rows[2] == ("-", "-", "-", "-", "x")
    assert structure_table([FLAT], ["volume 0 A^3"])[0][1:] == ("-", "-", "-", "volume 0 A^3")
    with pytest.raises(DataError, match="2 structures but 1 reasons"):
        structure_table([SALT, SALT], [None])


def test_space_group_of_nothing() -> None:
    assert space_group(None) == "-"
    assert space_group(FLAT) == "-"
    nowhere = Structure(np.eye(3) * 4, ["C"], [[0, np.nan, 0]])
    assert space_group(nowhere) == "-"


def test_a_ball_is_drawn_where_it_is_and_hides_what_is_behind() -> None:
    scene = Scene()
    red, blue = np.array([0.9, 0.0, 0.0]), np.array([0.0, 0.0, 0.9])
    scene.sphere(np.array([0.0, 0.0, 2.0]), 1.0, red)
    scene.sphere(np.array([0.0, 0.0, 0.0]), 1.4, blue)
    scene.rod(np.array([-3.0, 0.0, 0.0]), np.array([3.0, 0.0, 0.0]), 0.1, np.full(3, 0.2))
    image = scene.render(101)
    assert image.shape == (101, 101, 3)
    assert image.min() >= 0
    assert image.max() <= 1
    assert image[50, 50].argmax() == 0
    assert image[50, 50, 0] > 0.4
    assert image[50 - 20, 50].argmax() == 2  # 1.24 up: past the red ball, still on the blue one
    assert np.all(image[5, 5] == 1)
    assert image[50, 5].max() < 0.6  # the rod, dark


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
