"""The demo data set holds the structures that it says it holds."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import demo_crystals, load_script

from chemeleon.config.presets import load, load_data
from chemeleon.crystals.batch import Crystals
from chemeleon.data.dataset import load_split
from chemeleon.errors import ConfigError, DataError

SPACE_GROUPS = {
    "fcc": 225, "bcc": 229, "hcp": 194, "diamond": 227, "rocksalt": 225, "nitride": 225,
    "CsCl": 221, "B2": 221, "CuAu": 123, "Cu3Au": 221, "A15": 223, "Laves": 227, "AlB2": 191,
    "zincblende": 216, "wurtzite": 186, "chalcopyrite": 122, "NiAs": 194, "CdI2": 164,
    "MoS2": 194, "fluorite": 225, "antifluorite": 225, "rutile": 136, "pyrite": 205, "ReO3": 221,
    "perovskite": 221, "antiperovskite": 221, "halfHeusler": 216, "Heusler": 225, "NaFeO2": 166,
    "ThCr2Si2": 139, "K2NiF4": 139, "K2PtCl6": 225, "elpasolite": 225, "spinel": 227,
}  # fmt: skip


def _everything() -> Crystals:
    parts = [demo_crystals(split) for split in ("train", "val", "test")]
    return Crystals(
        torch.cat([p.atomic_numbers for p in parts]),
        torch.cat([p.frac_coords for p in parts]),
        torch.cat([p.lattice for p in parts]),
        torch.cat([p.num_atoms for p in parts]),
        {name: torch.cat([p.targets[name] for p in parts]) for name in parts[0].targets},
        [name for p in parts for name in p.ids],
    )


def _cell(crystals: Crystals, i: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    atoms = slice(int(crystals.starts[i]), int(crystals.starts[i] + crystals.num_atoms[i]))
    return (
        crystals.lattice[i].double().numpy(),
        crystals.frac_coords[atoms].double().numpy(),
        crystals.atomic_numbers[atoms].numpy(),
    )


def _parameters(lattice: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(lattice, axis=1)
    metric = lattice @ lattice.T / np.outer(lengths, lengths)
    return np.array([*lengths, *np.degrees(np.arccos([metric[1, 2], metric[0, 2], metric[0, 1]]))])


def test_sizes_splits_and_ranges() -> None:
    crystals = _everything()
    assert 2000 <= len(crystals) <= 5000
    assert len(set(crystals.ids)) == len(crystals)
    assert abs(len(demo_crystals("train")) / len(crystals) - 0.8) < 0.01
    assert int(crystals.num_atoms.max()) == 14
    assert crystals.frac_coords.dtype == torch.float32
    assert float(crystals.frac_coords.min()) >= 0
    assert float(crystals.frac_coords.max()) < 1
    assert {name.split("-")[1] for name in crystals.ids} == set(SPACE_GROUPS)
    assert "demo-rocksalt-NaCl-0" in crystals.ids
    with pytest.raises(DataError, match="no split 'dev'"):
        demo_crystals("dev")


def test_space_groups_of_every_prototype() -> None:
    spglib = pytest.importorskip("spglib")
    crystals = _everything()
    seen: dict[str, int] = {}
    for i, name in enumerate(crystals.ids):
        prototype = name.split("-")[1]
        seen[prototype] = seen.get(prototype, 0) + 1
        if seen[prototype] > 3:
            continue
        data = spglib.get_symmetry_dataset(_cell(crystals, i), symprec=1e-3)
        assert data.number == SPACE_GROUPS[prototype], name
        primitive = spglib.find_primitive(_cell(crystals, i), symprec=1e-3)
        assert len(primitive[2]) == int(crystals.num_atoms[i]), f"{name} is not primitive"


def test_cells_are_niggli_with_c_along_z() -> None:
    spglib = pytest.importorskip("spglib")
    crystals = _everything()
    assert float(crystals.lattice[:, 2, :2].abs().max()) == 0
    assert float(torch.linalg.det(crystals.lattice).min()) > 0
    for i, name in enumerate(crystals.ids):
        lattice = _cell(crystals, i)[0]
        reduced = spglib.niggli_reduce(lattice, eps=1e-4)
        np.testing.assert_allclose(
            _parameters(lattice), _parameters(reduced), atol=2e-3, err_msg=name
        )


def test_atoms_keep_their_distance_and_densities_agree() -> None:
    from pymatgen.core import Structure

    crystals = _everything()
    images = np.array(list(np.ndindex(3, 3, 3))) - 1
    for i, name in enumerate(crystals.ids):
        lattice, frac, _ = _cell(crystals, i)
        delta = frac[:, None] - frac[None] - np.round(frac[:, None] - frac[None])
        vectors = (delta[:, :, None] + images) @ lattice
        distances = np.linalg.norm(vectors, axis=-1)
        assert distances[distances > 1e-3].min() > 1.35, name
    for i in range(0, len(crystals), 200):
        lattice, frac, numbers = _cell(crystals, i)
        structure = Structure(lattice, numbers.tolist(), frac)
        assert float(crystals.targets["density"][i]) == pytest.approx(structure.density, rel=1e-3)
        assert float(crystals.targets["volume_per_atom"][i]) == pytest.approx(
            structure.volume / len(structure), rel=1e-4
        )


@pytest.mark.parametrize(
    ("name", "measured"),
    [
        ("rocksalt-NaCl", 2.17), ("zincblende-GaAs", 5.32), ("perovskite-SrTiO3", 5.12),
        ("fluorite-CaF2", 3.18), ("rutile-TiO2", 4.25), ("MoS2-MoS2", 5.06), ("fcc-Al", 2.70),
        ("NaFeO2-LiCoO2", 5.05), ("pyrite-FeS2", 5.02), ("antifluorite-Li2O", 2.01),
    ],
)  # fmt: skip
def test_densities_are_near_experiment(name: str, measured: float) -> None:
    crystals = _everything()
    found = [i for i, full in enumerate(crystals.ids) if full.startswith(f"demo-{name}-")]
    assert found
    assert float(crystals.targets["density"][found].mean()) == pytest.approx(measured, rel=0.15)


# sha256 of names, elements, coordinates, sizes and targets in float32; sum of the cells in angstrom
FACTS = {
    "train": ("00d4fe3ed325fd98ae5cf18f9812da7e2962ff3af4a042a2e4dc3bb1e6308156", 51456.5007),
    "val": ("94771bdc1640534416cd68df3ed2eb6370989e5f8c2505bd7fb9510b53ed2be9", 6437.6632),
    "test": ("aacd3aafc45263b7dd1f3bfd38089231411b60d476ca3505ba26eaaffd25898c", 6603.97),
}


@pytest.mark.parametrize("split", FACTS)
def test_the_set_stays_as_it_is(split: str) -> None:
    found = demo_crystals(split)
    content = hashlib.sha256("\n".join(found.ids).encode())
    for tensor in (found.atomic_numbers, found.frac_coords, found.num_atoms):
        content.update(tensor.numpy().tobytes())
    for name, values in found.targets.items():
        content.update(name.encode() + values.numpy().tobytes())
    digest, cells = FACTS[split]
    assert content.hexdigest() == digest
    assert float(found.lattice.double().sum()) == pytest.approx(cells, rel=1e-8)


def test_the_script_makes_the_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wanted = demo_crystals("val")
    monkeypatch.setattr(sys, "argv", ["build_demo.py", "-o", str(tmp_path / "demo")])
    load_script("build_demo").main()
    found = load_split(load_data("demo").model_copy(update={"root": str(tmp_path)}), "val")
    assert found.ids == wanted.ids
    assert torch.equal(found.atomic_numbers, wanted.atomic_numbers)
    torch.testing.assert_close(found.frac_coords, wanted.frac_coords, rtol=0, atol=1e-6)
    torch.testing.assert_close(found.lattice, wanted.lattice, rtol=1e-6, atol=1e-6)


def test_runs_that_say_where_the_set_is_from_can_be_resumed() -> None:
    assert load("vae", "demo/dng", overrides=["data.source=demo"]).config.data.name == "demo"
    with pytest.raises(ConfigError, match=r"data\.source: unknown key"):
        load("vae", "demo/dng", overrides=["data.source=tabel"])


def test_radii_are_the_tabulated_ones() -> None:
    from pymatgen.core import Element, Species

    shapes = load_script("demo_shapes")
    for symbol, charge, number, roman in (
        ("Na", 1, 6, "VI"), ("Ca", 2, 8, "VIII"), ("Ti", 4, 6, "VI"), ("O", -2, 6, "VI"),
    ):  # fmt: skip
        expected = Species(symbol, charge).get_shannon_radius(roman)
        assert shapes.ionic_radius(f"{symbol}{charge}", number) == pytest.approx(expected)
    assert shapes.bonded_radius("Ga") == pytest.approx(float(Element("Ga").atomic_radius or 0))
