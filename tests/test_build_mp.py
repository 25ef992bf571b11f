"""scripts/build_mp.py: a clone of the public repository to the data set mp_52."""

from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from conftest import demo_crystals, load_script
from pymatgen.core import Structure

from chemeleon.config.schema import DataConfig
from chemeleon.crystals.batch import Crystal
from chemeleon.crystals.convert import to_structures
from chemeleon.data.dataset import load_split
from chemeleon.evaluation.matching.pairs import match_pairs

# atoms of mp-1003313 as the repository has them (Materials Project, CC BY 4.0): a doubled cell
MONOCLINIC = (2.88156900, 10.34564617, 7.45278340, 79.13191724, 101.14910003, 89.99944907)
ATOMS = """Li .817597 .036152 .635460
Li .817593 .536156 .635450
Li .181985 .463897 .364443
Li .181983 .963900 .364434
Mn .000041 .000032 .000124
Mn .351091 .774876 .702054
Mn .649030 .225138 .298041
Mn .000134 .500021 .000155
Mn .350994 .274874 .702078
Mn .649009 .725142 .298018
O .571148 .059773 .142253
O .571153 .559776 .142252
O .428826 .440173 .857570
O .428824 .940170 .857565
O .091084 .335803 .182094
O .091075 .835802 .182084
O .908967 .164178 .817912
O .908992 .664176 .817910
O .226771 .133590 .453437
O .226763 .633590 .453420
O .773282 .366390 .546626
O .773299 .866383 .546619"""
BONDS = """loop_
_geom_bond_atom_site_label_1
_geom_bond_atom_site_label_2
_geom_bond_distance
_geom_bond_site_symmetry_2
Li0 Li1 1.986296 1_545
Li0 Li1 2.052647
"""  # the last line is short, so a CIF reader would refuse the file
PRIMITIVE = (7.452724, 7.452724, 5.172823, 100.86828, 100.86828, 22.29357)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = load_script("build_mp")
    # worker processes find it where a script's own folder is
    monkeypatch.syspath_prepend(str(Path(str(module.__file__)).parent))
    monkeypatch.setenv("CHEMELEON_WORKERS", "1")
    return module


def write_file(path: Path, parameters, atoms: list[str], bonds: str = BONDS) -> None:
    names = ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")
    head = ["# generated using pymatgen", "data_X", "_symmetry_space_group_name_H-M   'P 1'"]
    head += [f"_cell_{name}   {value:.8f}" for name, value in zip(names, parameters, strict=True)]
    head += ["loop_", " _symmetry_equiv_pos_site_id", " _symmetry_equiv_pos_as_xyz"]
    head += ["  1  'x, y, z'", "loop_", " _atom_site_type_symbol", " _atom_site_label"]
    head += [" _atom_site_symmetry_multiplicity"]
    head += [f" _atom_site_fract_{x}" for x in "xyz"] + [" _atom_site_occupancy"]
    for i, line in enumerate(atoms):
        element, *at = line.split()
        head.append(f"  {element}  {element}{i}  1  {' '.join(f'{float(x):.8f}' for x in at)}  1")
    path.write_text("\n".join(head) + "\n" + bonds)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """Doubled cells of ten demo crystals, and one real file."""
    folder = tmp_path / "clone"
    (folder / "cif").mkdir(parents=True)
    for i, structure in enumerate(to_structures(demo_crystals("val"))[:10]):
        double = structure.copy().make_supercell([1, 1, 2])
        lines = [f"{s.specie} {' '.join(map(str, s.frac_coords % 1))}" for s in double]
        write_file(folder / "cif" / f"mp-{i}.cif", double.lattice.parameters, lines)
    write_file(folder / "cif" / "mp-1003313.cif", MONOCLINIC, ATOMS.splitlines())
    return folder


def arrays(structure: Structure) -> Crystal:
    numbers = np.array(structure.atomic_numbers)
    return Crystal(numbers, structure.frac_coords, structure.lattice.matrix)


def run(script: ModuleType, monkeypatch, *words: object) -> None:
    monkeypatch.setattr(sys, "argv", ["build_mp.py", *map(str, words)])
    script.main()


def ids(folder: Path, *names: str) -> Path:
    path = folder / "ids.txt"
    path.write_text("\n".join(names))
    return path


def test_a_clone_becomes_a_data_set(script, clone, tmp_path, monkeypatch, capsys):
    names = ["mp-1003313", *(f"mp-{i}" for i in range(10))]
    words = ["-o", tmp_path / "mp_52", "--ids", ids(tmp_path, *names)]
    run(script, monkeypatch, clone, *words)
    said = capsys.readouterr().out
    assert "11 crystals of 11 ids, 0 problems" in said
    assert "not at 9fd8ac744: crystals may differ" in said
    assert [p.name for p in (tmp_path / "mp_52").iterdir()] == ["train.csv.gz"]
    table = pd.read_csv(tmp_path / "mp_52" / "train.csv.gz")
    assert table["material_id"].tolist() == names
    assert table["spacegroup.number"][0] == 12
    monkeypatch.setenv("CHEMELEON_DATA", str(tmp_path))
    config = DataConfig(name="mp_52", targets=["spacegroup.number"], niggli=False)
    found = to_structures(load_split(config, "train"))
    assert found[0].composition.formula == "Li2 Mn3 O6"
    np.testing.assert_allclose(found[0].lattice.parameters, PRIMITIVE, atol=2e-5)
    demo = to_structures(demo_crystals("val"))[:10]
    small = [s.get_primitive_structure() for s in demo]
    assert [len(s) for s in found[1:]] == [len(s) for s in small]
    same = [(arrays(a), arrays(b)) for a, b in zip(demo, found[1:], strict=True)]
    assert match_pairs(same, jobs=1).matched.all()


def test_a_cell_that_is_primitive_stays_as_it_is(script, tmp_path):
    # unique axis a, which spglib's standard setting would turn
    atoms = ["Li 0.1 0.2 0.3", "Li 0.6 0.8 0.7", "O 0.15 0.55 0.85", "O 0.65 0.45 0.15"]
    write_file(tmp_path / "mp-1.cif", (5, 6, 7, 74.5, 90, 90), atoms)
    row = script.read_row(tmp_path, "mp-1")
    assert row.group == 4
    assert "_cell_angle_alpha 74.50000" in row.cif
    assert row.cif.endswith("O O3 0.650000 0.450000 0.150000\n")


def test_coordinates_are_wrapped_after_they_are_rounded(script):
    crystal = script.Crystal(np.array([11, 17]), np.array([[-1e-9] * 3, [0.5] * 3]), np.eye(3) * 3)
    assert "Na Na0 0.000000 0.000000 0.000000" in script.write_cif("x", crystal)


def test_problems_are_named_and_counted_and_the_rest_is_written(
    script, clone, tmp_path, monkeypatch, capsys
):
    (clone / "cif" / "mp-1.cif").write_bytes(b"\xff\xfe")
    (clone / "cif" / "mp-2.cif").write_text("version https://git-lfs.github.com/spec/v1\n")
    (clone / "cif" / "mp-3.cif").unlink()
    (clone / "cif" / "mp-4.cif").unlink()
    (clone / "cif" / "mp-4.cif").mkdir()
    half = (clone / "cif" / "mp-5.cif").read_text().partition("_atom_site_fract_x")[0]
    (clone / "cif" / "mp-5.cif").write_text(half)
    path = ids(tmp_path, *(f"mp-{i}" for i in range(10)))
    with pytest.raises(SystemExit, match=r"problems\.csv lists 5 problems"):
        run(script, monkeypatch, clone, "-o", tmp_path / "set", "--ids", path)
    said = capsys.readouterr()
    assert "5 crystals of 10 ids, 5 problems" in said.out
    assert "cif/mp-3.cif: no such file" in said.err
    problems = pd.read_csv(tmp_path / "set" / "problems.csv")
    assert problems["material_id"].tolist() == [f"mp-{i}" for i in range(1, 6)]
    assert problems["reason"].notna().all()
    written = pd.read_csv(tmp_path / "set" / "train.csv.gz")["material_id"]
    assert written.tolist() == ["mp-0", "mp-6", "mp-7", "mp-8", "mp-9"]


def test_nothing_is_left_of_a_run_that_ends_early(script, clone, tmp_path, monkeypatch):
    def stopped():
        yield script.read_row(clone / "cif", "mp-0")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        script.write(stopped(), tmp_path / "out" / "set")
    assert not any((tmp_path / "out").iterdir())
    path = ids(tmp_path, "mp-77")
    with pytest.raises(SystemExit, match=r"nothing is written: cif/mp-77\.cif: no such file"):
        run(script, monkeypatch, clone, "-o", tmp_path / "out" / "set", "--ids", path)
    assert not any((tmp_path / "out").iterdir())


def test_what_cannot_be_a_clone_or_a_list_is_refused(script, clone, tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match="no folder cif"):
        run(script, monkeypatch, tmp_path, "-o", tmp_path / "set")
    with pytest.raises(SystemExit, match="exists already"):
        run(script, monkeypatch, clone, "-o", tmp_path)
    for text, told in (("../x", "is no id"), ("", "empty"), ("mp-1\nmp-1", "occurs twice")):
        path = ids(tmp_path, text)
        with pytest.raises(SystemExit, match=told):
            run(script, monkeypatch, clone, "-o", tmp_path / "set", "--ids", path)


def test_the_commit_of_a_clone_is_read(script, clone, tmp_path, monkeypatch):
    assert script.checked_out(clone) == ""
    git = ["git", "-C", str(clone), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "x"]):
        subprocess.run([*git, *words], check=True)
    assert len(script.checked_out(clone)) == 40


def test_the_list_is_that_of_the_data_set(script):
    path = Path(str(script.__file__)).with_name("mp_52_ids.txt.gz")
    names = script.read_ids(path)
    assert len(names) == 42_487
    assert names == sorted(names)
    assert all(name.startswith("mp-") for name in names)
    assert gzip.decompress(path.read_bytes())[:9] == b"mp-10006\n"
