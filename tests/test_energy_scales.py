"""Total energies come onto a hull only where they belong, corrected as pymatgen corrects them."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from energy_helpers import lennard_jones, rocksalt, val_rows
from pymatgen.core import Lattice, Structure
from typer.testing import CliRunner

import chemeleon
from chemeleon.cli.app import app
from chemeleon.crystals.convert import from_structures, to_structures
from chemeleon.data.parse import Crystal
from chemeleon.energy.corrections import corrections
from chemeleon.energy.hull import Hull
from chemeleon.energy.hull_sources import Ground, default_hull, find_hull, hull_for
from chemeleon.energy.potentials import load_potential
from chemeleon.energy.scales import MP2020, OWN, RAW
from chemeleon.errors import ConfigError

HUBBARD_EV = {"Co": 3.32, "Cr": 3.7, "Fe": 5.3, "Mn": 3.9, "Mo": 4.38, "Ni": 6.2, "V": 3.25}
HUBBARD_EV["W"] = 6.2


def mace_like() -> object:
    """An ASE calculator whose energies have no corrections."""
    calculator = lennard_jones()
    calculator.energy_scale = RAW
    return calculator


def wrongly_stated() -> object:
    calculator = lennard_jones()
    calculator.energy_scale = "mp2021"
    return calculator


def arrays(structure: Structure) -> Crystal:
    numbers = np.array(structure.atomic_numbers)
    return Crystal(numbers, structure.frac_coords, structure.lattice.matrix)


def pymatgens(structure: Structure) -> float:
    """Return eV/atom, everything found out by pymatgen from the structure."""
    from pymatgen.entries.compatibility import MaterialsProject2020Compatibility
    from pymatgen.entries.computed_entries import ComputedStructureEntry

    symbols = {e.symbol for e in structure.composition}
    has_u = bool(symbols & {"O", "F"} and symbols & HUBBARD_EV.keys())
    hubbards = {s: HUBBARD_EV.get(s, 0) for s in symbols} if has_u else {}
    parameters = {"run_type": "GGA+U" if has_u else "GGA", "hubbards": hubbards}
    entry = ComputedStructureEntry(structure, 0.0, parameters=parameters)
    scheme = MaterialsProject2020Compatibility(check_potcar=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return sum(a.value for a in scheme.get_adjustments(entry)) / len(structure)


def peroxide(cation: str, length: float) -> Structure:
    """Two oxygen atoms of one bond."""
    ends = [[0.5, 0.5, 0.5 + sign * length / 10] for sign in (-1, 1)]
    return Structure(Lattice.cubic(5.0), [cation, "O", "O"], [[0, 0, 0], *ends])


def test_corrections_are_pymatgens():
    real = to_structures(val_rows().crystals.subset(torch.arange(0, 9047, 60)))
    made = [
        *(peroxide("Na", length) for length in (1.28, 1.45, 1.52, 2.4)),
        Structure(
            Lattice.cubic(4), [*"OHO", "Na"],
            [[0, 0, 0], [0, 0, 0.24], [0.5, 0, 0], [0.5] * 3],
        ),
        Structure(Lattice.cubic(6), ["S", *"OOOO", "Ba"],
                  [[0, 0, 0], [0.14] * 3, [-0.14, -0.14, 0.14], [0.14, -0.14, -0.14],
                   [-0.14, 0.14, -0.14], [0.5] * 3]),
        rocksalt(4.2, "Fe", "O"), rocksalt(4.4, "Mn", "F"), rocksalt(5.2, "Mn", "S"),
        Structure(Lattice.cubic(3), ["Fe"], [[0, 0, 0]]), rocksalt(4.0, "Si", "Cu"),
        rocksalt(4.0, "Cu", "Si"),
    ]  # fmt: skip
    found, reasons = corrections([arrays(s) for s in [*real, *made]])
    wanted = [pymatgens(s) for s in [*real, *made]]
    np.testing.assert_allclose(found, wanted, atol=1e-12)
    assert reasons == [None] * len(wanted)
    assert np.ptp(found[-12:-8]) > 0.1  # kinds of oxide
    assert (found < -0.3).any()


def test_what_cannot_be_corrected_has_a_reason():
    broken = Crystal(np.array([8, 8, 11]), np.full((3, 3), np.nan), np.zeros((3, 3)))
    found, reasons = corrections([arrays(rocksalt()), None, broken])
    assert np.isfinite(found).tolist() == [True, False, False]
    assert reasons[:2] == [None, "there is no crystal"]
    assert "no MP2020 correction" in (reasons[2] or "")


def test_processes_give_the_same(monkeypatch):
    monkeypatch.setenv("CHEMELEON_WORKERS", "2")
    crystals = [arrays(peroxide("Na", 1.45)), arrays(rocksalt(4.2, "Fe", "O")), None] * 40
    alone = corrections(crystals)
    monkeypatch.setattr("chemeleon.energy.corrections._WORTH", {False: 100, True: 100})
    spread = corrections(crystals)
    np.testing.assert_array_equal(spread[0], alone[0])
    assert spread[1] == alone[1]


# --- which pairs go together


def table(folder: Path, **manifest: str) -> Hull:
    """A hull of NaCl and FeO as from a table of formation energies; old ones stated no scale."""
    references: dict[str, float | None] = {"Na": -1.3, "Cl": -1.8, "Fe": -8.5, "O": -4.9}
    phases = [(("Cl", 0.5), ("Na", 0.5)), (("Fe", 0.5), ("O", 0.5))]
    Hull(phases, [-2.1, -1.4], references, manifest).save(folder / "hull.json")
    return Hull.load(folder / "hull.json")


PAIRS = {  # scale of the hull, potential; whether corrections are added, or part of the refusal
    "corrected on corrected": ({"energy_scale": MP2020}, "chgnet", False),
    "written in capitals": ({"energy_scale": "MP2020"}, "chgnet", False),
    "corrected on an old table": ({}, "chgnet", False),
    "raw on corrected": ({"energy_scale": MP2020}, f"{__name__}:mace_like", True),
    "raw on an old table": ({}, f"{__name__}:mace_like", True),
    "raw on raw": ({"energy_scale": RAW}, f"{__name__}:mace_like", False),
    "own on its own": ({"potential": "chgnet r2scan", "energy_scale": OWN}, "chgnet:r2scan", False),
    "own on its own, an old file": ({"potential": "chgnet r2scan"}, "chgnet:r2scan", False),
    "corrected on its own": ({"potential": "chgnet 0.3.0"}, "chgnet", False),
    "unknown on an old table": ({}, "energy_helpers:lennard_jones", "states none that others"),
    "own on corrected": ({"energy_scale": MP2020}, "chgnet:r2scan", "'mp2020', and chgnet r2scan"),
    "corrected on raw": (
        {"energy_scale": RAW},
        "chgnet",
        "'raw', but those of chgnet 0.3.0 are on",
    ),
    "raw on another's": ({"potential": "chgnet 0.3.0"}, f"{__name__}:mace_like", "of chgnet 0.3.0"),
    "a version on another's": ({"potential": "chgnet 0.3.0"}, "chgnet:0.2.0", "of chgnet 0.3.0"),
    "own on a table of another": ({"energy_scale": OWN}, "chgnet", "on the scale 'own'"),
    "an unheard-of scale": ({"energy_scale": "r2SCAN"}, "chgnet", "on the scale 'r2scan'"),
}


@pytest.mark.parametrize("name", PAIRS)
def test_pairs_of_hull_and_potential(tmp_path, name):
    manifest, asked, wanted = PAIRS[name]
    hull, potential = table(tmp_path, **manifest), load_potential(asked, "cpu")
    if isinstance(wanted, bool):
        assert hull.corrects(potential, "hull.json", asked) is wanted
        return
    with pytest.raises(ConfigError) as refused:
        hull.corrects(potential, "hull.json", asked)
    said = str(refused.value)
    assert wanted in said
    assert said.endswith(f"chemeleon data hull mp --split all --potential {asked} -o hull.json.gz")


def test_raw_energies_are_corrected_for_everyone(tmp_path, caplog):
    """Evaluation and reward put a raw potential where pymatgen puts it."""
    from reward_helpers import mix, score

    crystals = [rocksalt(4.3, "Fe", "O"), rocksalt()]
    asked = f"{__name__}:mace_like"
    raw = load_potential(asked).energies(crystals).per_atom_ev
    hull = find_hull("mp").load()
    totals = raw + [pymatgens(s) for s in crystals]
    formulas = ["FeO", "NaCl"]
    above = hull.above(formulas, hull.formation_energies(formulas, totals)).e_above_hull_ev
    report = chemeleon.evaluate(crystals, potential=asked)
    np.testing.assert_allclose(report.crystals["e_above_hull_ev"], above, atol=1e-9)
    told = report.summary["manifest"]
    assert told["potential"]["energy_scale"] == RAW
    assert told["potential"]["mp2020_corrections_added"] is True
    assert told["hull"]["file"] == "mp"
    options = {"potential": asked, "lowest": -100.0, "highest": 100.0}
    flat = from_structures(crystals)
    made = mix(None, energy={"reward": "energy", "options": options})
    np.testing.assert_allclose(score(made, flat).facts["e_hull"], above, rtol=1e-5)
    relaxed = chemeleon.evaluate(crystals, potential=asked, relax_steps=2)
    last = relaxed.crystals["relaxed_energy_ev_per_atom"].to_numpy()
    totals = last + [pymatgens(s) for s in relaxed.relaxed]
    above = hull.above(formulas, hull.formation_energies(formulas, totals)).e_above_hull_ev
    np.testing.assert_allclose(relaxed.crystals["relaxed_e_above_hull_ev"], above, atol=1e-9)
    made = mix(None, energy={"reward": "energy", "options": {**options, "relax_steps": 2}})
    np.testing.assert_allclose(score(made, flat).facts["e_hull"], above, rtol=1e-4)


def test_the_default_hull_and_what_is_stated():
    raw = load_potential(f"{__name__}:mace_like")
    assert default_hull(raw) == "mp"
    ground = hull_for(raw, None, "x")
    assert isinstance(ground, Ground)
    assert ground.corrected
    with pytest.raises(ConfigError, match=r"'mp2021' is no scale.*did you mean 'mp2020'"):
        load_potential(f"{__name__}:wrongly_stated")


def test_the_command_states_the_scale(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("e.csv").write_text("formula,e_form\nNaCl,-2\n")
    for given, wanted in (([], MP2020), (["--energy-scale", "raw"], RAW)):
        words = ["data", "hull", "e.csv", "-o", "h.json", "--overwrite", *given]
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, done.output
        assert json.loads(Path("h.json").read_text())["manifest"]["energy_scale"] == wanted
    words = ["data", "hull", "e.csv", "-o", "x.json", "--energy-scale", "pbe"]
    assert "is no scale" in str(CliRunner().invoke(app, words).exception)
    words = [
        "data",
        "hull",
        "demo",
        "-o",
        "x.json",
        "--potential",
        "chgnet",
        "--energy-scale",
        "raw",
    ]
    assert "--energy-scale is of tables" in str(CliRunner().invoke(app, words).exception)
    assert not Path("x.json").exists()


def test_training_settings_do_not_reach_energies(monkeypatch):
    """TF32 and autocast are the process's; energies are always those of full precision."""
    potential = load_potential("chgnet", "cpu")
    wanted = potential.energies([rocksalt()]).per_atom_ev
    seen = []
    inner = type(potential).slopes

    def slopes(self, *words):
        seen.append((torch.get_float32_matmul_precision(), torch.is_autocast_enabled("cpu")))
        return inner(self, *words)

    monkeypatch.setattr(type(potential), "slopes", slopes)
    torch.set_float32_matmul_precision("high")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = potential.energies([rocksalt()]).per_atom_ev
            assert torch.get_float32_matmul_precision() == "high"
            assert torch.is_autocast_enabled("cpu")
    finally:
        torch.set_float32_matmul_precision("highest")
    assert seen == [("highest", False)]
    np.testing.assert_array_equal(found, wanted)
